"""Pools see real tokens only, wherever padding is; picked positions are those asked for."""

import keras
import numpy as np
import pytest

from keras_tfm import layers, ops
from tests.harness import float32

X = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
POSITIONS = np.array([[0, 1, -1, -1], [-1, 0, 1, 2]], "int32")


def test_first_token_pooling_takes_the_first_real_token():
    np.testing.assert_array_equal(float32(layers.FirstTokenPooling()(X, positions=POSITIONS)), X[[0, 1], [0, 1]])
    np.testing.assert_array_equal(float32(layers.FirstTokenPooling()(X)), X[:, 0])


def test_mean_pooling_is_the_mean_of_the_real_tokens():
    expected = np.stack([X[0, :2].mean(0), X[1, 1:].mean(0)])
    np.testing.assert_allclose(float32(layers.MeanPooling()(X, positions=POSITIONS)), expected, atol=1e-6)
    np.testing.assert_allclose(float32(layers.MeanPooling()(X)), X.mean(1), atol=1e-6)


def test_mean_pooling_of_large_vectors_does_not_overflow_in_float16():
    x = np.full((1, 512, 3), 300.0, "float16")  # the sum is 153,600, more than the 65,504 of float16
    y = layers.MeanPooling(dtype="float16")(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_array_equal(float32(y), 300)


@pytest.mark.parametrize("pooling", [layers.FirstTokenPooling, layers.MeanPooling])
def test_pools_read_the_mask_of_an_upstream_layer(pooling):
    ids = np.array([[5, 6, 0, 0], [7, 8, 9, 3]])
    embedding, pool = keras.layers.Embedding(11, 3, mask_zero=True), pooling()
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, pool(embedding(inputs)))
    np.testing.assert_allclose(float32(model(ids))[0], float32(pool(embedding(ids[:1, :2])))[0], atol=1e-6)


def test_a_row_of_padding_has_a_mean_of_zero():
    nothing = np.full((2, 4), -1, "int32")
    np.testing.assert_array_equal(float32(layers.MeanPooling()(X, positions=nothing)), 0)


def test_pools_refuse_another_rank():
    for pool in (layers.FirstTokenPooling(), layers.MeanPooling()):
        with pytest.raises(ValueError, match=r"`x` must have shape \(B, T, D\). Received: shape=\(4, 3\)"):
            pool.call(X[0])


def test_gathered_positions_are_those_asked_for():
    indices = np.array([[3, 0, 3], [1, 1, 2]])
    np.testing.assert_array_equal(
        float32(ops.gather_positions(X, indices)), np.take_along_axis(X, indices[..., None], 1)
    )


def test_the_masked_lm_head_refuses_another_rank():
    head = layers.MaskedLMHead(layers.TokenEmbedding(11, 3))
    head.build((None, None, 3))
    with pytest.raises(ValueError, match=r"`mask_positions` must have shape \(B, M\). Received: shape=\(2,\)"):
        head(X, mask_positions=np.array([1, 2]))


def test_segments_without_a_table_are_refused():
    ids = np.ones((1, 3), "int32")
    with pytest.raises(ValueError, match=r"`segment_ids` need `num_segments`.*shape \(1, 3\), num_segments=0"):
        layers.TokenEmbedding(11, 3)(ids, segment_ids=ids)
    with pytest.raises(ValueError, match="`num_segments` must be an integer of at least 1. Received: num_segments=-1"):
        layers.TokenEmbedding(11, 3, num_segments=-1)
