"""Blocks that are alike share one graph while TensorFlow traces, and compute what they compute by themselves."""

import keras
import numpy as np
import pytest

from keras_tfm.layers import (
    FeedForward,
    LayerScale,
    MultiHeadSelfAttention,
    RotaryEmbedding,
    TransformerBlock,
    TransformerStack,
)
from keras_tfm.layers.transformer_stack import traced_once

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


def answers(stack):
    """(eagerly, in a graph): what the stack says to 5 positions, then to one more, and the caches after that."""
    import tensorflow as tf

    x = np.random.default_rng(1).normal(size=(2, 6, WIDTH)).astype("float32")

    def read(x):
        first, cache = stack(x[:, :5], cache=stack.init_cache(2, 8))
        second, cache = stack(x[:, 5:], cache=cache)
        return first, second, cache

    return read(x), tf.function(read, autograph=False)(x)


def assert_equal(stack):
    import tensorflow as tf

    for eager, graph in zip(*map(tf.nest.flatten, answers(stack)), strict=True):
        np.testing.assert_allclose(eager, graph, atol=1e-5)  # answers reach 9, of which float32 knows 1e-6


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


class Gained(FeedForward):
    """A user's sublayer: what it does depends on an attribute that its configuration does not tell."""

    gain = 1.0

    def call(self, x):
        return self.gain * super().call(x)


class Named(FeedForward):
    """A user's sublayer that goes by its own name."""

    def call(self, x):
        return super().call(x) * (-1.0 if self.name.endswith("negative") else 1.0)


class Wrapped(keras.layers.Layer):
    """A user's sublayer inside of which another one decides."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.part = part

    def build(self, x_shape):
        self.part.build(x_shape)

    def call(self, x):
        return self.part(x)

    def get_config(self):
        return super().get_config()  # nothing of the part


class Half(TransformerBlock):
    """A user's block."""

    def call(self, x, **arguments):
        y, memory = super().call(x, **arguments) if arguments.get("cache") else (super().call(x, **arguments), None)
        return y / 2 if memory is None else (y / 2, memory)


class Doubling:
    """A user's object among a block's attributes."""

    factor = 1.0

    def __call__(self, x):
        return self.factor * keras.activations.gelu(x)


def _other_gain():
    blocks = [TransformerBlock(MultiHeadSelfAttention(2, causal=True), Gained(32)) for _ in range(2)]
    blocks[1].feed_forward.gain = 5.0
    return blocks


def _other_name():
    names = ("positive", "negative")
    return [TransformerBlock(MultiHeadSelfAttention(2, causal=True), Named(32, name=name)) for name in names]


def _other_inside():
    blocks = [TransformerBlock(MultiHeadSelfAttention(2, causal=True), Wrapped(Gained(32))) for _ in range(2)]
    blocks[1].feed_forward.part.gain = 5.0
    return blocks


def _other_class():
    return [block(), Half(MultiHeadSelfAttention(2, causal=True, rotary=RotaryEmbedding()), FeedForward(32))]


def _other_attribute():
    blocks = [block(), block()]
    blocks[1].self_attention.scale = 3.0
    return blocks


def _other_method():
    import types

    def call(self, x):
        return 2.0 * FeedForward.call(self, x)

    blocks = [block(), block()]
    blocks[1].feed_forward.call = types.MethodType(call, blocks[1].feed_forward)
    return blocks


def _other_object():
    blocks = [block(), block()]
    for i, part in enumerate(blocks):
        part.feed_forward.activation = Doubling()
        part.feed_forward.activation.factor = 1.0 + i
    return blocks


@pytest.mark.parametrize(
    "make",
    [_other_gain, _other_name, _other_inside, _other_class, _other_attribute, _other_method, _other_object],
    ids=lambda make: make.__name__.strip("_"),
)
def test_what_no_configuration_tells_is_kept_apart(make):
    import tensorflow as tf

    stack = stack_of(*make())
    assert_equal(stack)
    x = np.random.default_rng(1).normal(size=(2, 6, WIDTH)).astype("float32")  # as in `answers`
    whole = np.asarray(stack(x))
    np.testing.assert_allclose(tf.function(stack, autograph=False)(tf.constant(x)), whole, atol=1e-5)
    for first, second, _ in answers(stack):
        np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-5)


def test_blocks_with_a_layer_of_the_user_are_traced_by_themselves(calls):
    assert traced(stack_of(*_other_gain()), calls) == 2
    alike = [TransformerBlock(MultiHeadSelfAttention(2, causal=True), Gained(32)) for _ in range(2)]
    assert traced(stack_of(*alike), calls) == 2


class Scaling(keras.layers.Layer):
    """Calls parts of another precision than its own."""

    def __init__(self, parts):
        super().__init__(dtype="mixed_bfloat16")
        self.parts = parts

    def call(self, x):
        first, second = traced_once(self.parts, lambda layer, x: layer(x))
        return first(x), second(x)


def test_variables_of_parts_in_another_precision_are_not_rounded():
    import tensorflow as tf

    parts = [LayerScale(dtype="float32") for _ in range(2)]
    for i, part in enumerate(parts):
        part.build((None, None, 1))
        part.factors.assign([1.0 + (i + 1) * 2.0**-12])  # bfloat16 has 8 bits
    outer = Scaling(parts)
    graph = tf.function(lambda x: outer(x), autograph=False)
    assert [float(y[0, 0, 0]) for y in graph(tf.ones((1, 1, 1)))] == [1.0 + 2.0**-12, 1.0 + 2.0**-11]


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
