"""Pairs of texts stay together, are shifted for teacher forcing, weigh nothing where padded, in buckets, by epochs."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

import keras_tfm
from keras_tfm.data import text_pair_dataset, text_pairs
from keras_tfm.tokenizers import CharacterTokenizer, Tokenizer

START, END = 0, 1


@pytest.fixture(scope="module")
def tokenizer():
    return CharacterTokenizer("abcdefghij", ["<pad>", "<|endoftext|>"])


@pytest.fixture(scope="module")
def pairs():
    """Each target is its source in capitals' place: the same letters backwards, and one more."""
    random = np.random.default_rng(0)
    sources = ["".join(random.choice([*"abcdefghij"], random.integers(1, 40))) for _ in range(130)]
    return sources, [source[::-1] + "a" for source in sources]


def plain_batch(sources, targets, tokenizer, widths):
    """NumPy's version: (inputs, labels, weights) of pairs, one token after the other."""
    shape = (len(sources), widths[1])
    encoder = np.zeros((len(sources), widths[0]), "int32")
    encoder_mask = np.zeros(encoder.shape, "bool")
    labels, decoder, decoder_mask, weights = (np.zeros(shape, kind) for kind in ("int32", "int32", "bool", "float32"))
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        for place, token in enumerate([*tokenizer.encode(source), END]):
            encoder[row, place], encoder_mask[row, place] = token, True
        last = START
        for place, token in enumerate([*tokenizer.encode(target), END]):
            decoder[row, place], labels[row, place] = last, token
            decoder_mask[row, place], weights[row, place] = True, 1
            last = token
    inputs = {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": encoder_mask,
        "decoder_token_ids": decoder,
        "decoder_padding_mask": decoder_mask,
    }
    return inputs, labels, weights


def texts_of(rows, tokenizer):
    return tokenizer.decode(rows, skip_special_tokens=True)


@pytest.mark.parametrize(("shuffle", "length_buckets"), [(True, True), (False, False)])
def test_batches_are_those_of_plain_numpy(tokenizer, pairs, shuffle, length_buckets):
    dataset = text_pair_dataset(
        *pairs, tokenizer, tokenizer, 48, 56, 16, START, shuffle=shuffle, length_buckets=length_buckets
    )
    seen = []
    for batch in dataset:
        inputs, labels, _ = batch
        sources = texts_of(inputs["encoder_token_ids"], tokenizer)
        targets = texts_of(labels, tokenizer)
        seen += zip(sources, targets, strict=True)
        widths = inputs["encoder_token_ids"].shape[1], labels.shape[1]
        longest = [max(map(len, texts)) + 1 for texts in (sources, targets)]
        assert widths == (tuple(-(-length // 8) * 8 for length in longest) if length_buckets else (48, 56))
        expected = plain_batch(sources, targets, tokenizer, widths)
        for found, right in zip(tf.nest.flatten(batch), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(found, right)
            assert found.dtype == right.dtype
    assert sorted(seen) == sorted(zip(*pairs, strict=True))
    assert (seen == list(zip(*pairs, strict=True))) is not shuffle
    assert len(dataset) == 9


def test_pairs_of_about_equal_lengths_go_together(tokenizer, pairs):
    def padding(length_buckets):
        dataset = text_pair_dataset(*pairs, tokenizer, tokenizer, 48, 56, 8, START, length_buckets=length_buckets)
        return np.mean([1 - weights.numpy().mean() for _, _, weights in dataset])

    assert padding(True) < 0.25 < 0.5 < padding(False)


def test_orders_differ_between_epochs_and_seed_and_epoch_decide(tokenizer, pairs):
    def rows(dataset):
        return [labels.numpy().tolist() for _, labels, _ in dataset]

    def dataset(**options):
        return text_pair_dataset(*pairs, tokenizer, tokenizer, 48, 56, 16, START, **options)

    counting = dataset(seed=3)
    epochs = [rows(counting) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert rows(dataset(seed=3, repeat=True, initial_epoch=1).take(9)) == epochs[1]
    assert rows(dataset(seed=4)) != epochs[0]
    fixed = dataset(shuffle=False)
    assert rows(fixed) == rows(fixed)


def test_long_texts_are_cut_before_their_end_with_a_warning(tokenizer):
    with pytest.warns(UserWarning, match="do not fit") as record:
        dataset = text_pair_dataset(["abcde", "abc"], ["abcd", ""], tokenizer, tokenizer, 4, 3, 2, START, shuffle=False)
    assert [str(warning.message) for warning in record] == [
        "1 of 2 sources do not fit `source_length=4` and lose their ends.",
        "1 of 2 targets do not fit `target_length=3` and lose their ends.",
    ]
    assert {warning.filename for warning in record} == {__file__}
    inputs, labels, _ = next(iter(dataset))
    assert inputs["encoder_token_ids"].numpy().tolist() == [[2, 3, 4, END], [2, 3, 4, END]]
    assert labels.numpy().tolist() == [[2, 3, END], [END, 0, 0]]


class Framing(Tokenizer):
    """One that puts a token before each text and two after it, the end of text first."""

    def __init__(self):
        tokens = ["<pad>", "</s>", *"abc", "<s>", "<en>"]
        frame = {"begin_tokens": ["<s>"], "end_tokens": ["</s>", "<en>"]}
        super().__init__(tokens, special_tokens=tokens[:2] + tokens[5:], end_of_text="</s>", **frame)
        self.inner = CharacterTokenizer("abc", ["<pad>", "<|endoftext|>"])

    def tokenize_rows(self, texts):
        return self.inner.tokenize_rows(texts)


def test_what_a_tokenizer_puts_around_texts_stays_and_is_not_put_there_twice():
    with pytest.warns(UserWarning, match="1 of 2 sources do not fit"):
        dataset = text_pair_dataset(["a", "abc"], ["", "bb"], Framing(), Framing(), 5, 8, 2, START, shuffle=False)
    inputs, labels, _ = next(iter(dataset))
    assert inputs["encoder_token_ids"].numpy().tolist() == [[5, 2, END, 6, 0], [5, 2, 3, END, 6]]
    assert inputs["decoder_token_ids"].numpy()[:, :5].tolist() == [[START, 5, END, 0, 0], [START, 5, 3, 3, END]]
    assert labels.numpy()[:, :5].tolist() == [[5, END, 6, 0, 0], [5, 3, 3, END, 6]]


def test_sources_of_a_tokenizer_without_an_end_have_none(tokenizer):
    endless = CharacterTokenizer("abc", [])
    dataset = text_pair_dataset(["ab"], ["ab"], endless, tokenizer, 4, 4, 1, START)
    inputs, _, _ = next(iter(dataset))
    assert inputs["encoder_padding_mask"].numpy().tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["a"]}, "equally many, one or more. Received: 2 sources, 1 targets"),
        ({"sources": [], "targets": []}, "Received: 0 sources, 0 targets"),
        ({"source_length": 1}, "`source_length` must be an integer of at least 2. Received: source_length=1"),
        ({"target_length": None}, "`target_length` must be an integer.*target_length=None"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"start_token_id": -1}, "`start_token_id` must be an integer of at least 0"),
        ({"start_token_id": 99}, r"`start_token_id` must be less than the \d+ tokens.* Received: start_token_id=99"),
        ({"initial_epoch": -1}, "`initial_epoch` must be an integer of at least 0"),
        (
            {"target_tokenizer": Framing(), "target_length": 2},
            "`target_length` must be more than the 2 tokens that end",
        ),
        (
            {"target_tokenizer": CharacterTokenizer("ab", [])},
            "`target_tokenizer` must have an end of text.*Received: <CharacterTokenizer.*end_of_text_id=None",
        ),
        (
            {"source_tokenizer": CharacterTokenizer("ab", []), "sources": ["a", ""]},
            "Each source must have a token, or `source_tokenizer` an end of text. Received: '', source 1",
        ),
    ],
)
def test_wrong_pairs_are_refused(tokenizer, change, message):
    arguments = {
        "sources": ["a", "b"],
        "targets": ["a", "b"],
        "source_tokenizer": tokenizer,
        "target_tokenizer": tokenizer,
        "source_length": 8,
        "target_length": 8,
        "batch_size": 2,
        "start_token_id": 0,
    }
    with pytest.raises(ValueError, match=message):
        text_pair_dataset(**{**arguments, **change})


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(text_pairs, extraglobs={"keras_tfm": keras_tfm})
    assert result.failed == 0
    assert result.attempted > 4
