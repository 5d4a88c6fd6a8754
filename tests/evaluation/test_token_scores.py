"""The scores of the last tokens of rows are those of all their logits, whatever else is in the batch."""

import sys

import numpy as np
import pytest
from scipy.special import log_softmax

from keras_tfm.evaluation import token_scores

ROWS = [[5, 7, 3, 9, 250], [1, 2], [8], [4, 4, 4, 4, 4, 4, 4], []]
NUM_SCORED = [2, 1, 0, 6, 0]


def test_scores_are_those_of_a_forward_pass_over_each_row_alone(tiny_writer, monkeypatch):
    model = tiny_writer.model
    monkeypatch.setattr(sys.modules["keras_tfm.evaluation.token_scores"], "_PROJECTED", 2)
    for batch_size in (1, 2, 8):
        scores = token_scores(model, ROWS, NUM_SCORED, batch_size)
        for row, number, score in zip(ROWS, NUM_SCORED, scores, strict=True):
            assert len(score.log_probs) == len(score.is_greedy) == number
            if number:
                logits = np.asarray(model(np.array([row])))[0, -number - 1 : -1].astype("float64")
                expected = log_softmax(logits, axis=-1)[np.arange(number), row[-number:]]
                np.testing.assert_allclose(score.log_probs, expected, atol=1e-5)  # sums of float32 of size 1 to 10
                assert score.is_greedy.tolist() == (logits.argmax(axis=-1) == row[-number:]).tolist()


def test_what_greedy_decoding_writes_is_greedy(tiny_writer):
    row = [5, 7, 3]
    for _ in range(4):
        row.append(int(np.asarray(tiny_writer.model(np.array([row])))[0, -1].argmax()))
    (score,) = token_scores(tiny_writer.model, [row], [4])
    assert score.is_greedy.all()
    other = [*row[:-1], (row[-1] + 1) % 300]
    assert token_scores(tiny_writer.model, [other], [4])[0].is_greedy.tolist() == [True, True, True, False]


@pytest.mark.parametrize("numbers", [[2], [1, 1], [-1]])
def test_a_first_token_is_predicted_from_nothing(tiny_writer, numbers):
    with pytest.raises(ValueError, match=r"`num_scored` must have a number for each row .* lengths=\[2\]"):
        token_scores(tiny_writer.model, [[5, 7]], numbers)
