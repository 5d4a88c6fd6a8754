"""Pairs stay together, in a new order each epoch, padded to the longest of each side."""

import numpy as np
import pytest

from keras_tfm.data import sentence_pair_dataset
from keras_tfm.tokenizers import WordPieceTokenizer

FIRST = ["a cat", "the hat on the cat", "hat", "cat cat"]
SECOND = ["cat", "hat hat hat hat hat hat", "a hat", "cat a cat"]


@pytest.fixture(scope="module")
def tokenizer():
    tokens = "[PAD] [UNK] [CLS] [SEP] a cat the hat on"
    return WordPieceTokenizer({token: i for i, token in enumerate(tokens.split(" "))})


def pairs_of(dataset, tokenizer):
    """Each batch as a list of (first, second, label)."""
    for inputs, labels in dataset:
        texts = []
        for side in ("first", "second"):
            mask = inputs[side]["padding_mask"].numpy()
            assert mask.any(axis=0).all()
            np.testing.assert_array_equal(mask, inputs[side]["token_ids"].numpy() != 0)
            assert inputs[side]["segment_ids"].numpy().max() == 0
            texts.append(tokenizer.decode(inputs[side]["token_ids"], skip_special_tokens=True))
        yield list(zip(*texts, labels.numpy().tolist(), strict=True))


def test_pairs_stay_together_and_labels_count_the_rows_of_a_batch(tokenizer):
    dataset = sentence_pair_dataset(FIRST, SECOND, tokenizer, 16, batch_size=3)
    assert int(dataset.cardinality()) == 2
    epochs = [list(pairs_of(dataset, tokenizer)) for _ in range(3)]
    for batches in epochs:
        assert [[label for *_, label in batch] for batch in batches] == [[0, 1, 2], [0]]
        assert sorted(row[:2] for batch in batches for row in batch) == sorted(zip(FIRST, SECOND, strict=True))
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_scores_stay_with_their_pairs(tokenizer):
    scores = [0.0, 0.25, 0.5, 1.0]
    dataset = sentence_pair_dataset(FIRST, SECOND, tokenizer, 16, batch_size=2, scores=scores)
    rows = [row for batch in pairs_of(dataset, tokenizer) for row in batch]
    assert sorted(rows) == sorted(zip(FIRST, SECOND, scores, strict=True))


def test_long_sentences_are_cut_with_a_warning(tokenizer):
    with pytest.warns(UserWarning, match="1 of 4 texts do not fit `sequence_length=7`") as record:
        dataset = sentence_pair_dataset(FIRST, SECOND, tokenizer, 7, batch_size=4, shuffle=False)
    inputs, _ = next(iter(dataset))
    assert inputs["second"]["token_ids"].shape == (4, 7)
    assert [warning.filename for warning in record] == [__file__]


def test_wrong_pairs_are_refused(tokenizer):
    with pytest.raises(ValueError, match="equally many, one or more. Received: 4 texts, 3 pairs"):
        sentence_pair_dataset(FIRST, SECOND[:3], tokenizer, 8, 2)
    with pytest.raises(ValueError, match="Received: 4 texts, 4 pairs, 1 scores"):
        sentence_pair_dataset(FIRST, SECOND, tokenizer, 8, 2, scores=[1.0])
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1. Received: batch_size=0"):
        sentence_pair_dataset(FIRST, SECOND, tokenizer, 8, 0)
    with pytest.raises(ValueError, match="`sequence_length` must be an integer.*Received: sequence_length=None"):
        sentence_pair_dataset(FIRST, SECOND, tokenizer, None, 2)
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0. Received: seed=-1"):
        sentence_pair_dataset(FIRST, SECOND, tokenizer, 8, 2, seed=-1)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([0, 1, np.nan, 1], ValueError, "`scores` must be finite floats, one for each.*1 of them not finite"),
        ([[0], [1], [0], [1]], ValueError, r"one for each. Received: shape=\(4, 1\)"),
        (["0", "1", "0", "1"], TypeError, r"`scores` must be numbers. Received: \['0', '1'"),
    ],
)
def test_scores_that_are_no_finite_numbers_are_refused(tokenizer, scores, error, message):
    with pytest.raises(error, match=message):
        sentence_pair_dataset(FIRST, SECOND, tokenizer, 8, 2, scores=scores)


def test_whole_numbers_are_scores(tokenizer):
    _, labels = next(iter(sentence_pair_dataset(FIRST, SECOND, tokenizer, 8, 4, scores=[0, 1, 0, 1], shuffle=False)))
    assert labels.dtype == np.float32
    assert labels.numpy().tolist() == [0, 1, 0, 1]
