"""Damaged texts are those of a plain NumPy version, can be mended from their targets, and follow from (seed, epoch)."""

import doctest
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_tfm
from keras_tfm.data import denoising, denoising_dataset, span_corruption_dataset
from keras_tfm.data.denoising import SpanCorruption, TextInfilling
from keras_tfm.tokenizers import CharacterTokenizer, Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SENTINELS = [f"<{i}>" for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return CharacterTokenizer(LETTERS + " .!", ["<|endoftext|>", "<mask>", "<s>", *SENTINELS])


class Framing(Tokenizer):
    """One that puts "<s>" before each text and the end of text after it."""

    def __init__(self, inner):
        tokens = [inner.id_to_token(i) for i in range(inner.vocabulary_size)]
        frame = {"begin_tokens": ["<s>"], "end_tokens": ["<|endoftext|>"]}
        super().__init__(tokens, special_tokens=tokens[:43], end_of_text="<|endoftext|>", **frame)
        self.inner = inner

    def tokenize_rows(self, texts):
        return self.inner.tokenize_rows(texts)


@pytest.fixture(scope="module")
def documents():
    random = np.random.default_rng(0)
    words = ["".join(random.choice([*LETTERS], random.integers(1, 8))) for _ in range(40)]
    return [
        "".join(f"{' '.join(random.choice(words, 5))}{random.choice(['.', '!', '...'])} " for _ in range(9))
        for _ in range(30)
    ]


def key_of(seed):
    return tf.constant([seed, 7], tf.int64)


# ---- T5


def t5_noise_mask(length, num_noise, num_spans, noise_scores, text_scores):
    """`random_spans_noise_mask` of T5's code for one row, with draws that are given."""

    def segmentation(num_items, scores):
        first = np.zeros(num_items, int)
        first[1 + np.argsort(scores, kind="stable")[: num_spans - 1]] = 1  # a shuffle of `num_spans - 1` ones
        return np.bincount(np.cumsum(first), minlength=num_spans)

    interleaved = np.stack(
        [segmentation(length - num_noise, text_scores), segmentation(num_noise, noise_scores)], axis=1
    ).ravel()
    indicator = np.zeros(length, int)
    indicator[np.cumsum(interleaved)[:-1]] = 1
    return np.cumsum(indicator) % 2 == 1


def t5_spans_to_sentinels(tokens, is_noise, sentinels, end):
    """`noise_span_to_unique_sentinel`, and the end."""
    row, number = [], 0
    for place, token in enumerate(tokens):
        if not is_noise[place]:
            row.append(token)
        elif place == 0 or not is_noise[place - 1]:
            row.append(sentinels[number])
            number += 1
    return [*row, end]


@settings(max_examples=8, deadline=None)
@given(
    sequence_length=st.integers(4, 70),
    density=st.floats(0.02, 0.9),
    mean=st.floats(1, 9),
    seed=st.integers(0, 2**31),
)
def test_spans_are_taken_out_as_t5s_code_does(sequence_length, density, mean, seed):
    sentinels = range(1000, 900, -1)
    damage = SpanCorruption(sequence_length, 1, sentinels, density, mean)
    tokens = np.random.default_rng(seed).integers(2, 800, (3, damage.num_tokens))
    source, mask, target = damage(tf.constant(tokens, tf.int32), key_of(seed))
    noise_key, text_key = tf.unstack(tf.random.split(key_of(seed), 2, alg="philox"))
    num_texts = damage.num_tokens - damage.num_noise
    scores = [
        tf.random.stateless_uniform([3, total - 1], key, alg="philox").numpy()
        for total, key in ((damage.num_noise, noise_key), (num_texts, text_key))
    ]
    assert np.all(mask)
    assert source.shape[1] <= sequence_length
    for row in range(3):
        is_noise = t5_noise_mask(damage.num_tokens, damage.num_noise, damage.num_spans, scores[0][row], scores[1][row])
        assert source[row].numpy().tolist() == t5_spans_to_sentinels(tokens[row], is_noise, sentinels, 1)
        assert target[row].numpy().tolist() == t5_spans_to_sentinels(tokens[row], ~is_noise, sentinels, 1)


@pytest.mark.parametrize(
    ("sequence_length", "num_tokens", "target_length"), [(512, 568, 114), (256, 284, 58), (1024, 1137, 229)]
)
def test_lengths_are_those_of_t5(sequence_length, num_tokens, target_length):
    damage = SpanCorruption(sequence_length, 1, range(100, 0, -1), 0.15, 3.0)
    tokens = tf.zeros([1, damage.num_tokens], tf.int32)
    source, _, target = damage(tokens, key_of(0))
    assert (damage.num_tokens, source.shape[1], target.shape[1]) == (num_tokens, sequence_length, target_length)


def test_a_text_is_mended_from_source_and_target(tokenizer, documents):
    documents = documents[:8]
    dataset = span_corruption_dataset(documents, tokenizer, 60, 8, range(3, 43), shuffle=False)
    text = "".join(documents)
    windows = []
    for inputs, labels in dataset:
        assert inputs["decoder_token_ids"].numpy()[:, 0].tolist() == [0] * len(labels)
        np.testing.assert_array_equal(inputs["decoder_token_ids"][:, 1:], labels[:, :-1])
        assert inputs["encoder_padding_mask"].numpy().all()
        assert inputs["decoder_padding_mask"].numpy().all()
        sides = inputs["encoder_token_ids"].numpy(), labels.numpy()
        for source, target in zip(*sides, strict=True):
            assert source[-1] == target[-1] == tokenizer.end_of_text_id
            starts = [*np.flatnonzero((target >= 3) & (target < 43)), len(target) - 1]
            spans = {target[begin]: target[begin + 1 : end] for begin, end in itertools.pairwise(starts)}
            assert list(spans) == [*range(3, 3 + len(spans))]
            windows.append(tokenizer.decode(np.concatenate([spans.get(token, [token]) for token in source[:-1]])))
    assert text.startswith("".join(windows))
    assert len(text) - len("".join(windows)) < len(windows[0])


# ---- BART


def infilled(tokens, lengths, scores, mask_id):
    """NumPy's version for one row: a span of each length in its gap, masks in their places."""
    lengths = [length for length in lengths if length >= 0]
    num_kept = len(tokens) - sum(lengths)
    gaps = np.argsort(scores[: num_kept + 1], kind="stable")[: len(lengths)]
    span_at = dict(zip(gaps.tolist(), lengths, strict=True))
    row, place = [], 0
    for gap in range(num_kept + 1):
        if gap in span_at:
            row.append(mask_id)
            place += span_at[gap]
        if gap < num_kept:
            row.append(tokens[place])
            place += 1
    assert place == len(tokens)
    return row


def permuted(tokens, is_end, scores):
    """NumPy's version for one row: sentences in the order of their scores."""
    sentences, sentence = [], []
    for place, token in enumerate(tokens):
        sentence.append(token)
        if is_end[token] and not (place + 1 < len(tokens) and is_end[tokens[place + 1]]):
            sentences.append(sentence)
            sentence = []
    if sentence:
        sentences.append(sentence)
    order = np.argsort(scores[: len(sentences)], kind="stable")
    return [token for number in order for token in sentences[number]]


@settings(max_examples=8, deadline=None)
@given(
    sequence_length=st.integers(6, 50),
    rate=st.floats(0.02, 0.9),
    mean=st.floats(1, 6),
    permute=st.booleans(),
    framed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_spans_become_masks_as_in_plain_numpy(tokenizer, sequence_length, rate, mean, permute, framed, seed):
    tokenizer = Framing(tokenizer) if framed else tokenizer
    damage = TextInfilling(sequence_length, tokenizer, 1, rate, mean, permute)
    width, end, mask_id = damage.num_tokens, tokenizer.end_of_text_id, 1
    tokens = np.random.default_rng(seed).choice([*range(60, 72), 0], (3, width))
    source, mask, target = (np.array(x) for x in damage(tf.constant(tokens, tf.int32), key_of(seed)))

    order_key, length_key, place_key = tf.unstack(tf.random.split(key_of(seed), 3, alg="philox"))
    most = min(damage.num_hidden, width - damage.num_hidden + 1)
    draws = tf.random.stateless_poisson([3, most - 1], length_key, mean, tf.int32).numpy()
    order_scores = tf.random.stateless_uniform([3, width], order_key, alg="philox").numpy()
    place_scores = tf.random.stateless_uniform([3, damage.num_kept + 1], place_key, alg="philox").numpy()
    is_end = [token in (end, *map(tokenizer.token_to_id, ".!")) for token in range(tokenizer.vocabulary_size)]
    first = [2] if framed else []
    for row in range(3):
        lengths, hidden = [], 0
        for draw in [*draws[row], width]:
            if hidden < damage.num_hidden:
                lengths.append(min(draw, damage.num_hidden - hidden))
                hidden += lengths[-1]
        shown = permuted(tokens[row], is_end, order_scores[row]) if permute else tokens[row]
        expected = [*first, *infilled(shown, lengths, place_scores[row], mask_id), end]
        assert source[row, mask[row]].tolist() == expected
        assert mask[row].tolist() == [True] * len(expected) + [False] * (sequence_length - len(expected))
        assert target[row].tolist() == [*first, *tokens[row], end]


def test_rates_and_lengths_are_those_asked_for(tokenizer):
    damage = TextInfilling(201, tokenizer, 1, 0.3, 3.0, False)
    tokens = np.full((400, 200), 50, "int32")
    source, mask, _ = (np.array(x) for x in damage(tf.constant(tokens), key_of(3)))
    masks, kept = ((source == token) & mask for token in (1, 50))
    assert (200 - kept.sum(1) == 60).all()
    assert not (masks[:, 1:] & masks[:, :-1]).any()  # no neighbours
    # 60 tokens in spans of 3 on average: some 20.5, as the last one is cut short.
    assert abs(masks.sum(1).mean() - 20.5) < 0.5
    places = masks[:, :150].mean(0)
    assert abs(places - places.mean()).max() < 5 * (places.mean() / 400) ** 0.5


def test_sentences_are_moved_whole_and_targets_are_the_text(tokenizer, documents):
    dataset = denoising_dataset(documents, Framing(tokenizer), 120, 8, 1, 0, mask_rate=0.001, shuffle=False)
    text = "".join(f"{document}<|endoftext|>" for document in documents)
    targets = []
    for inputs, labels in dataset:
        np.testing.assert_array_equal(inputs["decoder_token_ids"][:, 1:], labels[:, :-1])
        assert inputs["encoder_token_ids"].shape[1] == labels.shape[1] == 120
        for row, mask, label in zip(
            *(inputs[f"encoder_{name}"].numpy() for name in ("token_ids", "padding_mask")), labels.numpy(), strict=True
        ):
            assert row[0] == label[0] == 2
            targets.append(tokenizer.decode(label[1:-1]))
            assert (row[mask] == 1).sum() in (1, 2)
            # One token or none was hidden: what is left are the same letters, in another order.
            left = sorted(row[1 : mask.sum() - 1][row[1 : mask.sum() - 1] != 1])
            assert len(label) - 3 <= len(left) <= len(label) - 2
    assert text.startswith("".join(targets))


# ---- both


def batches(tokenizer, documents, kind, **options):
    if kind == "spans":
        return span_corruption_dataset(documents, tokenizer, 60, 8, range(3, 43), **options)
    return denoising_dataset(documents, tokenizer, 60, 8, 1, 0, **options)


def sources(dataset):
    return [inputs["encoder_token_ids"].numpy().tolist() for inputs, _ in dataset]


@pytest.mark.parametrize("kind", ["spans", "masks"])
def test_each_epoch_draws_anew_and_seed_and_epoch_decide(tokenizer, documents, kind):
    documents = documents[:6]
    counting = batches(tokenizer, documents, kind, seed=3)
    epochs = [sources(counting) for _ in range(2)]
    assert epochs[0] != epochs[1]
    repeated = batches(tokenizer, documents, kind, seed=3, repeat=True, initial_epoch=1).take(len(counting))
    assert sources(repeated) == epochs[1]
    fixed = batches(tokenizer, documents, kind, seed=4, shuffle=False, dynamic=False)
    assert sources(fixed) == sources(fixed) != epochs[0]
    assert len({str(batch) for batch in sources(fixed)}) == len(fixed) > 2


def test_every_window_is_there_once_in_each_epoch(tokenizer, documents):
    orders = [batches(tokenizer, documents[:6], "masks", shuffle=shuffle) for shuffle in (True, False)]
    shuffled, plain = ([row.tolist() for _, labels in order for row in labels.numpy()] for order in orders)
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("spans", {"sentinel_ids": (3,)}, r"`sentinel_ids` must be \d or more, one for each span.*1 of them"),
        ("spans", {"noise_density": 0}, "`noise_density` must be between 0 and 1. Received: noise_density=0"),
        ("spans", {"mean_span_length": 0.5}, "`mean_span_length` must be at least 1. Received: mean_span_length=0.5"),
        ("masks", {"mask_rate": 1.5}, "`mask_rate` must be between 0 and 1. Received: mask_rate=1.5"),
        ("masks", {"mask_rate": "a"}, "`mask_rate` must be a finite number. Received: mask_rate='a'"),
        ("spans", {"sentinel_ids": range(3, 99)}, r"`sentinel_ids` must be less than the \d+ tokens.*sentinel_ids=98"),
        ("spans", {"start_token_id": 99}, r"`start_token_id` must be less than the \d+ tokens.*start_token_id=99"),
        ("masks", {"start_token_id": 99}, r"`start_token_id` must be less than the \d+ tokens.*start_token_id=99"),
        ("masks", {"mask_token_id": 99}, r"`mask_token_id` must be less than the \d+ tokens.*mask_token_id=99"),
        ("masks", {"mask_token_id": None}, "`mask_token_id` must be an integer.*mask_token_id=None"),
        (
            "masks",
            {"sequence_length": 2},
            "`sequence_length` must be at least 2 more than the tokens that the tokenizer",
        ),
        ("masks", {"texts_or_files": "abc"}, "There must be 59 tokens or more.*Received: 4 tokens"),
        ("masks", {"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ("masks", {"seed": -1}, "`seed` must be an integer of at least 0"),
        ("spans", {"tokenizer": CharacterTokenizer("ab", [])}, "`tokenizer` must have an end of text.*None"),
        ("masks", {"tokenizer": CharacterTokenizer("ab", [])}, "`tokenizer` must have an end of text.*None"),
    ],
)
def test_wrong_arguments_are_refused(tokenizer, kind, options, message):
    arguments = {"texts_or_files": "abc. " * 50, "tokenizer": tokenizer, "sequence_length": 60, "batch_size": 2}
    if kind == "spans":
        arguments["sentinel_ids"] = range(3, 43)
    else:
        arguments |= {"mask_token_id": 1, "start_token_id": 0}
    make = span_corruption_dataset if kind == "spans" else denoising_dataset
    with pytest.raises(ValueError, match=message):
        make(**{**arguments, **options})


def test_the_examples_of_the_docstrings_run():
    result = doctest.testmod(denoising, extraglobs={"keras_tfm": keras_tfm})
    assert result.failed == 0
    assert result.attempted > 6
