"""TransformerBlock and TransformerStack: the wiring, by hand; what blocks share; errors."""

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests import reference
from tests.gradients import outputs_and_gradients
from tests.harness import check_same_structure, float32

T, D = 5, 8
X = np.random.default_rng(0).normal(size=(2, T, D)).astype("float32")
CONTEXT = np.random.default_rng(1).normal(size=(2, 3, 6)).astype("float32")


def make_block(norm_placement="pre", cross_attention=False, **options):
    return layers.TransformerBlock(
        layers.MultiHeadSelfAttention(2, causal=True),
        layers.FeedForward(12),
        norm_placement=norm_placement,
        cross_attention=layers.MultiHeadCrossAttention(2) if cross_attention else None,
        **options,
    )


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("cross_attention", [False, True])
def test_norms_sit_where_the_placement_says(placement, cross_attention):
    block = make_block(placement, cross_attention)
    context = {"context": CONTEXT} if cross_attention else {}
    y = block(X, **context)
    branches = [lambda x: reference.self_attention(block.self_attention, x, np.tile(np.arange(T), (2, 1)))[0]]
    if cross_attention:
        everything = np.ones(CONTEXT.shape[:2], bool)
        branches.append(lambda x: reference.cross_attention(block.cross_attention, x, CONTEXT, everything)[0])
    feed_forward = block.feed_forward
    branches.append(
        lambda x: reference.dense(
            feed_forward.output_dense, np.maximum(reference.dense(feed_forward.intermediate_dense, x), 0)
        )
    )
    norm = reference.layer_norm
    expected = X.astype("float64")
    for branch in branches:
        if placement == "pre":
            expected = expected + branch(norm(expected))
        elif placement == "post":
            expected = norm(expected + branch(expected))
        else:
            expected = expected + norm(branch(norm(expected)))
    np.testing.assert_allclose(y, expected, atol=2e-5)  # float32 against float64


def test_gated_feed_forward_is_a_gated_unit():
    layer = layers.GatedFeedForward(12, use_bias=True)
    y = layer(X)
    gate = reference.dense(layer.gate_dense, X)
    silu = gate / (1 + np.exp(-gate))
    expected = reference.dense(layer.output_dense, silu * reference.dense(layer.intermediate_dense, X))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_each_norm_is_its_own():
    block = make_block(norm=keras.layers.LayerNormalization(epsilon=1e-5))
    block.build(X.shape)
    first, second = block.attention_wrap.norm_before, block.feed_forward_wrap.norm_before
    assert first is not second
    assert first.gamma is not second.gamma
    assert first.epsilon == second.epsilon == 1e-5


def test_residual_dropout_acts_in_training_only():
    block = make_block(dropout=0.5)
    np.testing.assert_array_equal(block(X), block(X, training=False))
    assert np.abs(float32(block(X, training=True)) - float32(block(X))).max() > 1e-2


def test_a_remembered_context_equals_a_passed_one_at_every_step():
    block = make_block(cross_attention=True)
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    expected = float32(block(X, context=CONTEXT, context_mask=mask))
    cache = block.init_cache(2, T)._replace(cross_attention=block.cross_attention.remember(CONTEXT, mask))
    for t in range(T):
        y, cache = block(X[:, t : t + 1], cache=cache)
        np.testing.assert_allclose(float32(y)[:, 0], expected[:, t], atol=1e-5)


def test_blocks_keep_the_dtype_of_their_policy_whatever_the_global_one():
    for dtype in ("mixed_bfloat16", "mixed_float16"):
        attention = layers.MultiHeadSelfAttention(2, dtype=dtype)
        block = layers.TransformerBlock(attention, layers.FeedForward(12, dtype=dtype), dtype=dtype)
        assert keras.backend.standardize_dtype(block(X).dtype) == block.compute_dtype


@pytest.mark.parametrize("norm", [keras.layers.RMSNormalization, keras.layers.LayerNormalization])
def test_a_keras_mask_reaches_all_blocks_and_the_output(norm):
    ids = np.array([[0, 0, 3, 4], [1, 2, 3, 4]])
    stack = layers.TransformerStack([make_block(norm=norm()) for _ in range(2)], final_norm=norm())
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5, D, mask_zero=True)(inputs)
    embedded, y = keras.Model(inputs, [x, stack(x)])(ids)
    np.testing.assert_allclose(y, stack(float32(embedded), mask=ids != 0), atol=1e-5)
    alone = stack(float32(embedded)[:1, 2:])
    np.testing.assert_allclose(y[0, 2:], alone[0], atol=1e-5)


def make_stack(position_bias=None, depth=3):
    return layers.TransformerStack(
        [make_block() for _ in range(depth)], position_bias, keras.layers.LayerNormalization()
    )


def test_a_stack_is_its_blocks_in_a_row_and_the_final_norm():
    stack = make_stack()
    x = X
    y = stack(X)
    for block in stack.blocks:
        x = block(x)
    np.testing.assert_allclose(y, stack.final_norm(x), atol=1e-6)  # the same operations


@pytest.mark.parametrize("bias", [layers.RelativePositionBias, layers.AlibiBias])
def test_all_blocks_share_one_position_bias(bias):
    stack = make_stack(bias(2))
    y, x = stack(X), X
    matrix = stack.position_bias(np.arange(T)[None])
    for block in stack.blocks:
        x = block(x, attention_bias=matrix)
    np.testing.assert_allclose(y, stack.final_norm(x), atol=1e-5)
    assert np.abs(float32(y) - float32(make_bare(stack)(X))).max() > 1e-3


def make_bare(stack):
    """The same weights without the position bias."""
    bare = make_stack()
    bare.build(X.shape)
    shared = {id(weight) for weight in stack.position_bias.weights}
    bare.set_weights([weight for weight in stack.weights if id(weight) not in shared])
    return bare


def test_the_gradient_of_the_shared_bias_arrives_from_every_block():
    stack = make_stack(layers.RelativePositionBias(2, num_buckets=8, max_distance=16, bidirectional=False))
    stack.build(X.shape)
    table = stack.position_bias.embeddings
    assert sum(weight is table for weight in stack.trainable_weights) == 1

    def read(values):
        with keras.StatelessScope(state_mapping=[(table, values)]):
            return stack(X)

    _, (gradient,) = outputs_and_gradients(read, float32(table))
    seen = 5  # buckets of the distances 0 to 4; with 8 buckets, 4 and 5 share one
    assert (np.abs(gradient[:seen]).max(1) > 0).all()
    assert not gradient[seen:].any()


def test_a_stack_reads_in_pieces_as_in_one_pass_and_leaves_its_cache_alone():
    stack = make_stack(layers.RelativePositionBias(2, bidirectional=False))
    expected = float32(stack(X))
    cache, pieces = stack.init_cache(2, T + 1), []
    before = keras.tree.map_structure(float32, cache)
    for start, end in ((0, 2), (2, 3), (3, T)):
        y, new_cache = stack(X[:, start:end], cache=cache)
        if start == 0:
            check_same_structure(before, cache, 0)
        cache = new_cache
        pieces.append(float32(y))
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected, atol=1e-5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`norm_placement` must be one of .*Received: norm_placement='middle'"):
        make_block("middle")
    with pytest.raises(ValueError, match="`dropout` must be at least 0 and less than 1. Received: dropout=1.5"):
        make_block(dropout=1.5)
    with pytest.raises(ValueError, match=r"Received: context of shape \(2, 3, 6\) and cross_attention=None"):
        make_block()(X, context=CONTEXT)
    with pytest.raises(ValueError, match=r"`blocks` must hold at least one layer. Received: blocks=\[\]"):
        layers.TransformerStack([])
    stack = make_stack()
    stack.build(X.shape)
    with pytest.raises(ValueError, match=r"each of the 3 blocks. Received: 2. Make it with `init_cache`"):
        stack(X, cache=stack.init_cache(2, T)[:2])
    for layer in (layers.FeedForward, layers.GatedFeedForward):
        with pytest.raises(
            ValueError, match="`intermediate_dim` must be an integer of at least 1. .*intermediate_dim=0"
        ):
            layer(0)
