"""Weights that are zero stay so in training, and movement counts what moves away from zero."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm.compression import Movement, magnitudes, zero_weights
from keras_tfm.compression.pruning import projections_in
from tests.models.tiny import TINY, VOCABULARY_SIZE

IDS = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (4, 7)).astype("int32")


def kernels_of(model):
    return {path: ops.convert_to_numpy(x.kernel) for path, x in projections_in(model).items()}


def fitted(model, *callbacks, epochs=1):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    model.fit(IDS[:, :-1], IDS[:, 1:], epochs=epochs, batch_size=4, callbacks=[*callbacks], verbose=0)
    return model


def test_the_smallest_weights_are_zero_and_stay_so():
    model = TINY["llama"]()
    before = np.concatenate([np.abs(x).ravel() for x in kernels_of(model).values()])
    callback = zero_weights(model, 0.4)
    after = np.concatenate([x.ravel() for x in kernels_of(model).values()])
    assert np.mean(after == 0) == pytest.approx(0.4, abs=1e-3)
    assert before[after == 0].max() <= before[after != 0].min()
    fitted(model, callback)
    trained = np.concatenate([x.ravel() for x in kernels_of(model).values()])
    np.testing.assert_array_equal(trained == 0, after == 0)
    assert (trained != after).any()


def test_movement_of_plain_gradient_descent_is_weight_times_step():
    model = TINY["llama"]()
    movement, before = Movement(), kernels_of(model)
    fitted(model, movement)
    after = kernels_of(model)
    for path, kernel in before.items():
        np.testing.assert_allclose(movement.scores[path], kernel * (after[path] - kernel), atol=1e-7)
    first = {path: x.copy() for path, x in movement.scores.items()}
    fitted(model, movement)  # goes on counting
    assert any((movement.scores[path] != x).any() for path, x in first.items())
    zero_weights(model, 0.5, movement.scores)


def test_what_cannot_be_zeroed_says_why():
    model = TINY["llama"]()
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\). Received: sparsity=1"):
        zero_weights(model, 1)
    scores = magnitudes(model)
    path = next(iter(scores))
    with pytest.raises(ValueError, match=r"`scores` must be those of.*\(1, 1\), where the kernel is"):
        zero_weights(model, 0.5, {**scores, path: np.ones((1, 1))})
