"""Blocks that are alike share one graph while TensorFlow traces, and compute what they compute by themselves."""

import keras
import numpy as np
import pytest

from keras_tfm.layers import FeedForward, MultiHeadSelfAttention, RotaryEmbedding, TransformerBlock, TransformerStack
from keras_tfm.layers.traced_once import traced_once

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow traces graphs")
WIDTH = 16


def block(window=None, activation="gelu"):
    attention = MultiHeadSelfAttention(2, causal=True, window=window, rotary=RotaryEmbedding())
    return TransformerBlock(attention, FeedForward(32, activation=activation))


def stack_of(*blocks, **arguments):
    stack = TransformerStack(list(blocks), **arguments)
    stack.build((None, None, WIDTH))
    generator = np.random.default_rng(0)
    for weight in stack.trainable_weights:
        weight.assign(generator.normal(size=weight.shape, scale=0.3))
    return stack


def answers(stack, dtype="float32"):
    """(eagerly, in a graph): what the stack says to 5 positions, then to one more, and the caches after that."""
    import tensorflow as tf

    x = np.random.default_rng(1).normal(size=(2, 6, WIDTH)).astype("float32")
    x = tf.cast(x, dtype)

    def read(x):
        first, cache = stack(x[:, :5], cache=stack.init_cache(2, 8))
        second, cache = stack(x[:, 5:], cache=cache)
        return first, second, cache

    return read(x), tf.function(read, autograph=False)(x)


def assert_equal(stack, dtype="float32", atol=1e-5):  # answers reach 9, of which float32 knows 1e-6
    import tensorflow as tf

    for eager, graph in zip(*map(tf.nest.flatten, answers(stack, dtype)), strict=True):
        np.testing.assert_allclose(tf.cast(eager, "float32"), tf.cast(graph, "float32"), atol=atol)


@pytest.fixture
def calls(monkeypatch):
    """The names of the blocks that were called."""
    names = []
    call = TransformerBlock.call

    def noted(self, *args, **kwargs):
        names.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(TransformerBlock, "call", noted)
    return names


def traced(stack, calls):
    """How many different blocks were called while a graph was made of the stack."""
    import tensorflow as tf

    calls.clear()
    spec = tf.TensorSpec((1, 1, WIDTH))
    tf.function(lambda x: stack(x, cache=stack.init_cache(1, 4))[0], autograph=False).get_concrete_function(spec)
    return len(set(calls))


def test_blocks_that_are_alike_are_traced_once_and_keep_their_own_weights(calls):
    stack = stack_of(*(block() for _ in range(4)))
    assert traced(stack, calls) == 1
    assert_equal(stack)


def test_each_configuration_is_traced(calls):
    stack = stack_of(block(), block(window=3), block(), block(activation="relu"), block(window=3))
    assert traced(stack, calls) == 3
    assert_equal(stack)


@pytest.mark.parametrize("change", ["part", "lora", "int8"])
def test_a_block_that_was_changed_is_no_longer_alike(change, calls):
    stack = stack_of(*(block() for _ in range(3)))
    dense = stack.blocks[1].self_attention.query_dense
    if change == "part":
        dense.activation = keras.activations.tanh
    elif change == "lora":
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    else:
        dense.to_int8()
    assert traced(stack, calls) == 2
    assert_equal(stack)


def test_one_block_used_twice_answers_twice(calls):
    shared = block()
    stack = stack_of(shared, shared)
    assert traced(stack, calls) == 1
    assert_equal(stack)


def test_layers_without_a_configuration_are_called_one_by_one():
    import tensorflow as tf

    class Scaled(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return self.factor(x)

    layers = [Scaled(lambda x: 2 * x), Scaled(lambda x: 3 * x)]
    graph = tf.function(lambda x: [call(x) for call in traced_once(layers, lambda layer, x: layer(x))])
    assert [float(y) for y in graph(tf.constant(1.0))] == [2.0, 3.0]


@pytest.fixture
def _bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("_bfloat16")
def test_variables_of_parts_in_another_precision_are_not_rounded():
    def with_float32_inside():
        return TransformerBlock(MultiHeadSelfAttention(2, causal=True), FeedForward(32, dtype="float32"))

    assert_equal(stack_of(with_float32_inside(), with_float32_inside()), "bfloat16", atol=0)


def test_training_with_a_cache_is_traced_block_by_block(calls):
    import tensorflow as tf

    stack = stack_of(block(), block())
    calls.clear()
    tf.function(lambda x: stack(x, cache=stack.init_cache(1, 4), training=True)[0], autograph=False)(
        tf.ones((1, 1, WIDTH))
    )
    assert len(set(calls)) == 2


def test_weights_may_change_after_tracing():
    import tensorflow as tf

    stack = stack_of(block(), block())
    graph = tf.function(lambda x: stack(x, cache=stack.init_cache(1, 4))[0], autograph=False)
    x = np.random.default_rng(1).normal(size=(1, 3, WIDTH)).astype("float32")
    before = graph(x)
    for weight in stack.blocks[1].trainable_weights:
        weight.assign(weight * 0.5)
    assert np.abs(graph(x) - before).max() > 1e-3
    np.testing.assert_allclose(stack(x), graph(x), atol=1e-6)
