"""A recurrent block: a memory of one vector, which knows neither slots nor how to forget."""

from typing import Any, NamedTuple

import keras
from keras import ops

import keras_tfm as ktfm
from keras_tfm.ops import take_rows
from keras_tfm.ops.tensors import size, slice_update
from tests.generation.lively import VOCABULARY_SIZE, lively


class GatedMemory(NamedTuple):
    """state: float32 (R, D)."""

    state: Any

    is_shared = False
    can_forget = False

    def keep(self, num_tokens):
        return self

    def grow(self, num_slots):
        return self

    def take(self, rows):
        return take_rows(self, rows)


@keras.saving.register_keras_serializable(package="tests")
class GatedRecurrence(keras.layers.Layer):
    """h = z h + (1 - z) tanh(W x), one gate z = sigmoid(U x) for each feature; x + h goes on."""

    def build(self, x_shape):
        self.gate = keras.layers.Dense(x_shape[-1])
        self.candidate = keras.layers.Dense(x_shape[-1])
        self.gate.build(x_shape)
        self.candidate.build(x_shape)

    def init_cache(self, batch_size, max_sequence_length, dtype=None):
        return GatedMemory(ops.zeros((batch_size, self.gate.units)))

    def call(self, x, positions=None, cache=None, **unused):
        keep = ops.where(positions[..., None] >= 0, ops.sigmoid(self.gate(x)), 1.0)  # padding leaves the state alone
        new = (1.0 - keep) * ops.tanh(self.candidate(x))

        def step(t, state, states):
            state = ops.take(keep, t, axis=1) * state + ops.take(new, t, axis=1)
            return t + 1, state, slice_update(states, (0, t, 0), state[:, None])

        state = ops.zeros_like(x[:, 0]) if cache is None else cache.state
        length = size(x, 1)
        _, state, states = ops.while_loop(
            lambda t, state, states: t < length, step, (ops.zeros((), "int32"), state, ops.zeros_like(x))
        )
        return x + states if cache is None else (x + states, GatedMemory(state))


def recurrent_model(**options):
    """A recurrent block between two of attention."""

    def attention():
        return ktfm.layers.TransformerBlock(
            ktfm.layers.MultiHeadSelfAttention(2, causal=True, rotary=ktfm.layers.RotaryEmbedding()),
            ktfm.layers.FeedForward(48),
        )

    options = {"vocabulary_size": VOCABULARY_SIZE, "hidden_dim": 32, **options}
    embedding = ktfm.layers.TokenEmbedding(**options)
    stack = ktfm.layers.TransformerStack([attention(), GatedRecurrence(), attention()])
    return lively(ktfm.models.CausalLM(embedding, stack))
