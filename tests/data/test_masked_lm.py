"""Pretraining batches: pairs, masks and their rates, epochs, and a model that is fitted to them."""

import doctest
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm
from keras_tfm.data import masked_lm, masked_lm_dataset
from keras_tfm.data.token_masking import TokenMasker
from keras_tfm.tokenizers import WordPieceTokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
# Words of one to three pieces: w7, w7x, w7xy; w is the number of the document.
WORDS = [f"{letter}{ending}" for letter in "abcdefghij" for ending in ("", "k", "kl")]


@pytest.fixture(scope="module")
def tokenizer():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *"abcdefghij", "##k", "##l", *map(str, range(10))]
    return WordPieceTokenizer({token: number for number, token in enumerate(tokens)})


@pytest.fixture(scope="module")
def documents():
    """Document d says "d <word> <word> ... ." in each sentence, so that each sentence tells where it is from."""
    random = np.random.default_rng(0)
    return [
        " ".join(
            f"{d % 10} {' '.join(random.choice(WORDS, random.integers(1, 9)))}." for _ in range(random.integers(2, 30))
        )
        for d in range(60)
    ]


def epoch_of(dataset):
    """One epoch as arrays: inputs, labels, weights, and the token ids before they were masked."""
    batches = list(dataset)
    inputs, labels, weights = (
        {key: np.concatenate([batch[part][key] for batch in batches]) for key in batches[0][part]} for part in range(3)
    )
    original = inputs["token_ids"].copy()
    row, slot = np.nonzero(weights["masked_lm"])
    original[row, inputs["mask_positions"][row, slot]] = labels["masked_lm"][row, slot]
    return inputs, labels, weights, original


def parts_of(row):
    """The tokens between [CLS], [SEP] and [SEP]."""
    ends = np.flatnonzero(row == SEP)
    return row[1 : ends[0]], row[ends[0] + 1 : ends[1]]


# ---- structure


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_tell_what_they_hide(tokenizer, documents, whole_word):
    inputs, labels, weights, original = epoch_of(masked_lm_dataset(documents, tokenizer, 40, 16, whole_word=whole_word))
    positions, used = inputs["mask_positions"], weights["masked_lm"] == 1
    assert positions.shape == labels["masked_lm"].shape == used.shape
    assert used.shape == (len(original), 13 if whole_word else 6)  # 15 % of 37, rounded up, and the rest of a word
    assert set(np.unique(weights["masked_lm"])) == {0, 1}
    assert (np.diff(used.astype(int)) <= 0).all()  # unused ones come last
    assert ((np.diff(positions) > 0) | ~used[:, 1:]).all()
    assert not positions[~used].any()
    assert not labels["masked_lm"][~used].any()
    assert (labels["masked_lm"][used] > MASK).all()  # no special token was chosen
    changed = inputs["token_ids"] != original
    chosen = np.zeros_like(changed)
    chosen[np.nonzero(used)[0], positions[used]] = True
    assert not (changed & ~chosen).any()
    assert not (inputs["token_ids"][~chosen] == MASK).any()
    np.testing.assert_array_equal(inputs["padding_mask"], original != PAD)


def test_pairs_are_two_parts_with_their_segments(tokenizer, documents):
    inputs, labels, weights, original = epoch_of(masked_lm_dataset(documents, tokenizer, 40, 16))
    assert (original[:, 0] == CLS).all()
    assert ((original == SEP).sum(1) == 2).all()
    for row, segments in zip(original, inputs["segment_ids"], strict=True):
        first, second = parts_of(row)
        assert len(first) > 0
        assert len(second) > 0
        expected = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert segments.tolist() == expected + [0] * (len(row) - len(expected))
    assert set(labels["next_sentence"]) == {0, 1}
    assert (weights["next_sentence"] == 1).all()
    types = [inputs["token_ids"].dtype, inputs["segment_ids"].dtype, inputs["mask_positions"].dtype]
    assert types == [labels["masked_lm"].dtype, labels["next_sentence"].dtype, np.int32] == [np.int32] * 3
    assert weights["masked_lm"].dtype == weights["next_sentence"].dtype == np.float32


def test_next_parts_follow_and_random_parts_are_from_other_documents(tokenizer, documents):
    texts = [tokenizer.encode(document) for document in documents]

    def place(tokens):
        """(document, place) wherever the tokens stand."""
        sought = tokens.tolist()
        return {(d, i) for d, text in enumerate(texts) for i in range(len(text)) if text[i : i + len(sought)] == sought}

    _, labels, _, original = epoch_of(masked_lm_dataset(documents, tokenizer, 40, 16))
    for row, is_random in zip(original[:150], labels["next_sentence"][:150], strict=True):
        first, second = parts_of(row)
        places, others = place(first), place(second)
        assert places
        assert others  # both are from the text, word by word
        follows = {(d, i + len(first)) for d, i in places}
        if not is_random:
            assert follows & others
        elif len(places) == len(others) == 1:
            assert {d for d, _ in places} != {d for d, _ in others}
        assert row[1] in range(18, 28)  # a first part begins with a sentence, that is, with the number of a document


def test_without_pairs_rows_are_filled_with_whole_sentences(tokenizer, documents):
    inputs, labels, weights, original = epoch_of(
        masked_lm_dataset(documents, tokenizer, 40, 16, next_sentence=False, shuffle=False)
    )
    assert set(labels) == set(weights) == {"masked_lm"}
    assert not inputs["segment_ids"].any()
    lengths = inputs["padding_mask"].sum(1)
    assert (original[:, 0] == CLS).all()
    assert (original[np.arange(len(original)), lengths - 1] == SEP).all()
    rows = [row[1 : length - 1] for row, length in zip(original, lengths, strict=True)]
    assert all(row[0] != SEP and row[-1] != SEP for row in rows)
    tokens = [token for row in rows for token in row if token != SEP]
    assert tokens == [token for row in tokenizer.encode(documents) for token in row]
    ends = [row[-1] == tokenizer.token_to_id(".") for row in rows]
    assert all(ends)
    assert lengths.mean() > 30
    # A separator wherever a document ends within a row.
    numbers = [[token for token in row if token == SEP or token >= 18] for row in rows]
    for row in numbers:
        for left, right in itertools.pairwise(row):
            if SEP not in (left, right):
                assert left == right


def test_a_sentence_longer_than_a_row_is_cut_and_a_single_one_is_paired_between_words(tokenizer):
    documents = ["akl " * 30, "b c", "d", "ekl fk"]  # "d" cannot be cut in two
    _, labels, _, original = epoch_of(masked_lm_dataset(documents, tokenizer, 16, 4, seed=1))
    assert len(original) == 7 + 1 + 1  # 90 tokens in stretches of 13
    for row, is_random in zip(original, labels["next_sentence"], strict=True):
        first, second = parts_of(row)
        assert tokenizer.begins_word[second[0]]
        assert 1 < len(first) + len(second) <= 13
        assert is_random or tokenizer.token_to_id("d") not in row


def test_texts_files_and_datasets_give_equal_batches(tokenizer, documents, tmp_path):
    files = [tmp_path / f"{number}.txt" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_text(document)
    expected = epoch_of(masked_lm_dataset(documents, tokenizer, 24, 16))[0]["token_ids"]
    for source in (files, tf.data.Dataset.from_tensor_slices(["", *documents])):
        np.testing.assert_array_equal(epoch_of(masked_lm_dataset(source, tokenizer, 24, 16))[0]["token_ids"], expected)


# ---- rates


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("mask_rate", [0.15, 0.4])
def test_rates_are_exact(tokenizer, whole_word, mask_rate):
    mask = TokenMasker(tokenizer, mask_rate, whole_word, max_tokens=60)
    random = np.random.default_rng(0)
    num_rows = 4000
    rows = np.where(np.arange(64) < random.integers(30, 62, num_rows)[:, None], 1, 0)  # 28 to 60 tokens
    words = random.choice([6, 7, 8, 9, 10, 16, 17], rows.shape)  # 16 and 17 go on a word
    token_ids = np.where(rows == 1, words, PAD).astype(np.int32)
    token_ids[:, 0], token_ids[:, 20] = CLS, SEP
    masked, positions, ids, weights = (np.array(x) for x in mask(tf.constant(token_ids), tf.constant([3, 4], tf.int64)))
    num_tokens, num_chosen = (token_ids > MASK).sum(), int(weights.sum())

    # The number in each row is rounded at random: between the two whole numbers, and right on average. With whole
    # words it may be off by the longest word less one token, on either side.
    expected = mask_rate * (token_ids > MASK).sum(1)
    difference = weights.sum(1) - expected
    ends_word = ~np.isin(np.roll(token_ids, -1, axis=1), [16, 17])
    longest = np.diff(np.flatnonzero(ends_word.ravel())).max() if whole_word else 1
    assert abs(difference).max() < longest
    assert abs(num_chosen - mask_rate * num_tokens) < 5 * difference.std() * num_rows**0.5

    row, slot = np.nonzero(weights)
    fate = masked[row, positions[row, slot]]
    is_mask, is_kept = fate == MASK, fate == ids[row, slot]
    ordinary = tokenizer.vocabulary_size - 5
    for rate, share in ((is_mask.mean(), 0.8), (is_kept.mean(), 0.1 + 0.1 / ordinary)):
        assert abs(rate - share) < 5 * (share * (1 - share) / num_chosen) ** 0.5
    # Random tokens are all but the special ones, equally often.
    counts = np.bincount(fate[~is_mask & ~is_kept], minlength=tokenizer.vocabulary_size)
    assert not counts[:5].any()
    assert counts[18:].min() > 0.6 * counts[18:].mean()  # tokens that do not occur in the rows
    # Each place is chosen equally often.
    share = np.zeros(token_ids.shape)
    share[row, positions[row, slot]] = 1
    rates = share[:, 2:20].mean(0)
    assert abs(rates - mask_rate).max() < 5 * (mask_rate / num_rows) ** 0.5

    if whole_word:  # all or nothing
        begins = tokenizer.begins_word[token_ids] & (token_ids > MASK)
        begins[:, [1, 21]] = True
        is_inside = (token_ids > MASK) & ~begins
        assert (share[is_inside] == np.roll(share, 1, axis=1)[is_inside]).all()


def test_whole_words_of_every_length_are_chosen_at_the_rate(tokenizer):
    mask_rate, num_rows = 0.15, 20_000
    # In each row one word of each length from 1 to 8, and single tokens: 64 tokens, so 9.6 are to be chosen.
    lengths = [1] * 14 + [2, 3, 4, 5, 6, 7, 8] + [1] * 15
    row = [token for length in lengths for token in [6] + [16] * (length - 1)]
    token_ids = np.tile(np.array([CLS, *row, SEP], np.int32), (num_rows, 1))
    mask = TokenMasker(tokenizer, mask_rate, True, max_tokens=64)
    _, positions, _, weights = (np.array(x) for x in mask(tf.constant(token_ids), tf.constant([5, 6], tf.int64)))
    chosen = np.zeros(token_ids.shape)
    rows, slots = np.nonzero(weights)
    chosen[rows, positions[rows, slots]] = 1
    # Five standard errors of a share; the whole row's tokens are chosen less independently, but never fewer at random.
    bound = 5 * (mask_rate * (1 - mask_rate) / num_rows) ** 0.5
    assert abs(chosen[:, 1:-1].mean() - mask_rate) < bound
    begins = 1 + np.cumsum([0, *lengths[:-1]])
    for length, begin in zip(lengths, begins, strict=True):
        word = chosen[:, begin : begin + length]
        assert (word == word[:, :1]).all()
        assert abs(word[:, 0].mean() - mask_rate) < bound, length


def test_a_word_longer_than_all_slots_is_never_chosen_and_the_others_are(tokenizer):
    token_ids = np.tile(np.array([CLS, 6, *[16] * 29, *[7] * 10, SEP], np.int32), (2000, 1))
    mask = TokenMasker(tokenizer, 0.15, True, max_tokens=40)
    _, positions, _, weights = (np.array(x) for x in mask(tf.constant(token_ids), tf.constant([1, 2], tf.int64)))
    assert mask.num_masks == 13
    assert (positions[weights > 0] > 30).all()
    assert weights.any(axis=1).mean() > 0.2


def test_half_of_the_pairs_are_random(tokenizer, documents):
    dataset = masked_lm_dataset(documents * 15, tokenizer, 40, 256)
    labels = np.concatenate([labels["next_sentence"] for _, labels, _ in dataset])
    assert len(labels) > 1800
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / len(labels) ** 0.5


# ---- epochs


@pytest.mark.slow
def test_each_epoch_draws_anew_and_seed_and_epoch_decide(tokenizer, documents):
    def rows(**options):
        return masked_lm_dataset(documents, tokenizer, 40, 16, **options)

    dataset = rows(seed=3)
    epochs = [epoch_of(dataset)[0] for _ in range(3)]
    again = {number: epoch_of(rows(seed=3, initial_epoch=number))[0] for number in (2, 0)}
    for key in ("token_ids", "mask_positions", "segment_ids"):
        assert not np.array_equal(epochs[0][key], epochs[1][key])
        assert not np.array_equal(epochs[1][key], epochs[2][key])
        for number, inputs in again.items():
            np.testing.assert_array_equal(inputs[key], epochs[number][key])
    assert not np.array_equal(epoch_of(rows(seed=4))[0]["token_ids"], epochs[0]["token_ids"])
    endless = rows(seed=3, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    steps = len(rows())
    for epoch, batches in enumerate((endless.take(steps), endless.skip(steps).take(steps))):
        np.testing.assert_array_equal(epoch_of(batches)[0]["token_ids"], epochs[epoch]["token_ids"])


def test_masks_of_an_unshuffled_text_change_and_those_of_validation_do_not(tokenizer, documents):
    dynamic = masked_lm_dataset(documents, tokenizer, 40, 16, False, shuffle=False)
    fixed = masked_lm_dataset(documents, tokenizer, 40, 16, False, shuffle=False, dynamic=False)
    first, second = epoch_of(dynamic), epoch_of(dynamic)
    np.testing.assert_array_equal(first[3], second[3])
    assert not np.array_equal(first[0]["mask_positions"], second[0]["mask_positions"])
    for _ in range(2):
        np.testing.assert_array_equal(epoch_of(fixed)[0]["token_ids"], first[0]["token_ids"])


def test_batches_of_an_epoch_draw_on_their_own(tokenizer):
    dataset = masked_lm_dataset(["a b c d e f g h i j. " * 40] * 2, tokenizer, 24, 4, False, shuffle=False)
    masks = [inputs["mask_positions"].numpy().tolist() for inputs, _, _ in dataset]
    assert len({str(mask) for mask in masks}) == len(masks) > 5


# ---- fit


@pytest.mark.slow
def test_a_model_with_the_two_outputs_is_fitted(tokenizer, documents):
    inputs = {key: keras.Input((40,), dtype="int32", name=key) for key in ("token_ids", "segment_ids")}
    inputs["padding_mask"] = keras.Input((40,), dtype="bool", name="padding_mask")
    inputs["mask_positions"] = keras.Input((6,), dtype="int32", name="mask_positions")
    x = keras.layers.Embedding(tokenizer.vocabulary_size, 8)(inputs["token_ids"])
    x += keras.layers.Embedding(2, 8)(inputs["segment_ids"])
    at_masks = keras.ops.take_along_axis(x, inputs["mask_positions"][:, :, None], axis=1)
    outputs = {
        "masked_lm": keras.layers.Dense(tokenizer.vocabulary_size)(at_masks),
        "next_sentence": keras.layers.Dense(2)(x[:, 0]),
    }
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses, metrics = dict.fromkeys(outputs, loss), dict.fromkeys(outputs, "accuracy")
    model.compile("adam", losses, metrics=dict(metrics), weighted_metrics=dict(metrics))
    history = model.fit(masked_lm_dataset(documents, tokenizer, 40, 16), epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["masked_lm_loss"][1] < history["masked_lm_loss"][0]


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(masked_lm, extraglobs={"keras_tfm": keras_tfm})
    assert result.failed == 0
    assert result.attempted > 4


# ---- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokenizer": "bert"}, TypeError, "must be a WordPieceTokenizer. Received: bert of type str"),
        ({"sequence_length": None}, ValueError, "must be an integer.*Received: sequence_length=None"),
        ({"sequence_length": 7}, ValueError, "at least 8. Received: sequence_length=7"),
        ({"batch_size": 0}, ValueError, "at least 1. Received: batch_size=0"),
        ({"seed": -1}, ValueError, "at least 0. Received: seed=-1"),
        ({"initial_epoch": 1.5}, ValueError, "must be an integer.*Received: initial_epoch=1.5"),
        ({"mask_rate": 0}, ValueError, "between 0 and 1. Received: mask_rate=0"),
        ({"mask_rate": 15}, ValueError, "between 0 and 1. Received: mask_rate=15"),
        ({"mask_rate": "0.1"}, ValueError, "between 0 and 1. Received: mask_rate='0.1'"),
        ({"texts_or_files": ["", " \n"]}, ValueError, r"There must be text .* Received: \['', ' \\n'\]"),
        ({"texts_or_files": "a b. c d."}, ValueError, r"two documents or more, .* Received: 1\. A `str` is one"),
        ({"texts_or_files": ["a b", "c"]}, ValueError, r"two documents or more, .* Received: 1\."),
        ({"texts_or_files": 3}, TypeError, "Received: 3 of type int"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message, tokenizer):
    arguments = {"texts_or_files": ["a b", "c d"], "tokenizer": tokenizer, "sequence_length": 8, "batch_size": 2}
    with pytest.raises(error, match=message):
        masked_lm_dataset(**(arguments | options))


@pytest.mark.parametrize("missing", ["[MASK]", "[CLS]", "[SEP]", "[PAD]"])
def test_a_vocabulary_without_a_special_token_is_refused(missing):
    tokens = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b") if token != missing]
    tokenizer = WordPieceTokenizer({token: number for number, token in enumerate(tokens)})
    with pytest.raises(ValueError, match=rf"must hold '\[{missing[1:-1]}\]' for this\. Received: 6 tokens"):
        masked_lm_dataset(["a b", "b a"], tokenizer, 8, 2)


def test_a_vocabulary_of_special_tokens_only_is_refused():
    tokens = {token: number for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))}
    with pytest.raises(ValueError, match=r"not special\. Received: 5 tokens, all special"):
        TokenMasker(WordPieceTokenizer(tokens), 0.15, False, 10)
