"""What a block adds to its stream: parallel sublayers, scales, stochastic depth."""

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests.harness import float32

T, D = 5, 8
X = np.random.default_rng(0).normal(size=(4, T, D)).astype("float32")


def parts():
    return layers.MultiHeadSelfAttention(2, causal=True), layers.FeedForward(12)


@pytest.mark.parametrize("shared_norm", [False, True])
def test_a_parallel_block_adds_both_sublayers_to_the_same_stream(shared_norm):
    block = layers.ParallelTransformerBlock(*parts(), shared_norm=shared_norm)
    y = block(X)
    first = block.attention_wrap.norm_before
    second = first if shared_norm else block.feed_forward_wrap.norm_before
    if not shared_norm:
        second.gamma.assign(np.linspace(0.5, 1.5, D))
        y = block(X)
    expected = X + float32(block.self_attention(first(X))) + float32(block.feed_forward(second(X)))
    np.testing.assert_allclose(float32(y), expected, atol=1e-5)
    assert sum("gamma" in weight.path for weight in block.weights) == (1 if shared_norm else 2)


def test_a_parallel_block_reads_in_pieces_as_in_one_pass():
    block = layers.ParallelTransformerBlock(*parts())
    expected = float32(block(X))
    cache, pieces = block.init_cache(4, T), []
    for start, end in ((0, 2), (2, 3), (3, T)):
        y, cache = block(X[:, start:end], cache=cache)
        pieces.append(float32(y))
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected, atol=1e-5)


def test_layer_scale_multiplies_what_each_sublayer_adds():
    scale = layers.LayerScale(keras.initializers.Constant(0.25))
    block = layers.TransformerBlock(*parts(), residual_scale=scale)
    y = float32(block(X))
    x = X + 0.25 * float32(block.self_attention(block.attention_wrap.norm_before(X)))
    x = x + 0.25 * float32(block.feed_forward(block.feed_forward_wrap.norm_before(x)))
    np.testing.assert_allclose(y, x, atol=1e-5)
    assert sum("factors" in weight.path for weight in block.trainable_weights) == 2


@pytest.mark.parametrize("make", [layers.TransformerBlock, layers.ParallelTransformerBlock])
def test_stochastic_depth_leaves_out_whole_answers_row_by_row_in_training_only(make):
    block = make(*parts(), stochastic_depth=0.5)
    np.testing.assert_array_equal(float32(block(X)), float32(block(X, training=False)))
    x = np.tile(X[:1], (64, 1, 1))
    rows = float32(block(x, training=True))
    # Two sublayers, each there (doubled, to keep the mean) or not: four kinds of rows.
    kinds = np.unique(rows.round(4), axis=0)
    assert len(kinds) == 4
    assert any(np.abs(kind - X[0]).max() < 1e-3 for kind in kinds)


def test_wrong_rates_and_placements_are_refused():
    with pytest.raises(ValueError, match="`stochastic_depth` must be at least 0 and less than 1.*stochastic_depth=1.0"):
        layers.TransformerBlock(*parts(), stochastic_depth=1.0)
