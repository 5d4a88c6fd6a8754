"""A tiny model whose texts are lively: weights large enough that greedy text is not one token for ever."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

import keras_tfm as ktfm
from keras_tfm.ops import take_rows
from keras_tfm.ops.decoding_state import DecodingState

VOCABULARY_SIZE = 29
# Texts are compared by ids. Two orders of float32 sums move logits of size 10 by some 1e-5 at most, so ids are equal on
# all processors if no choice was nearer to a tie than this.
NO_TIE = 1e-4


def lively(model, seed=0):
    """The model with large random weights."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        is_gain = len(weight.shape) == 1
        weight.assign(generator.normal(size=weight.shape, scale=0.3) + is_gain)
    return model


def lively_model(seed=0, **options):
    """A Llama of 29 tokens."""
    sizes = {"num_layers": 2, "num_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48}
    return lively(ktfm.models.build_llama(**{"vocabulary_size": VOCABULARY_SIZE, **sizes, **options}), seed)


def best(scores):
    """The token of the greatest score; fails at a near tie, where a processor's order of sums would decide."""
    second, first = np.sort(scores)[-2:]
    assert first - second > NO_TIE, "a near tie: change the prompt or the seed"
    return int(np.argmax(scores))


def slow_greedy(model, prompt, num_new):
    """A full forward pass per token: nothing remembered, nothing padded."""
    tokens = list(prompt)
    for _ in range(num_new):
        tokens.append(best(np.asarray(model(np.array([tokens]))[0, -1])))
    return tokens[len(prompt) :]


class Uncached:
    """A model that remembers tokens, not keys and values: it reads all of them anew each time."""

    def __init__(self, model):
        self.model = model
        self.vocabulary_size = model.vocabulary_size
        self.max_sequence_length = model.max_sequence_length
        self.project = model.project

    begin = ktfm.models.CausalLM.begin

    def init_state(self, batch_size, max_sequence_length, dtype=None):
        tokens = Tokens(
            ops.zeros((batch_size, max_sequence_length), "int32"),
            ops.full((batch_size, max_sequence_length), -1, dtype="int32"),
            ops.zeros((), "int32"),
        )
        return DecodingState(ops.zeros((batch_size,), "int32"), tokens)

    def read(self, token_ids, state, padding_mask=None):
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        new_positions, memory = state.next_positions(padding_mask), state.memories
        index, length = memory.index, ops.shape(token_ids)[1]
        ids = ops.slice_update(memory.ids, (0, index), token_ids)
        positions = ops.slice_update(memory.positions, (0, index), new_positions)
        hidden = self.model.stack(self.model.token_embedding(ids, positions=positions), positions=positions)
        hidden = ops.slice(hidden, (0, index, 0), (ops.shape(ids)[0], length, hidden.shape[-1]))
        return hidden, state.after(new_positions, Tokens(ids, positions, index + length))


class Tokens(NamedTuple):
    """A memory of the tokens themselves: ids and positions int32 (R, S), -1 = none, and the first free place."""

    ids: Any
    positions: Any
    index: Any

    is_shared = False
    can_forget = True

    def keep(self, num_tokens):
        positions = ops.where(self.positions < num_tokens[:, None], self.positions, -1)
        places = ops.arange(1, ops.shape(positions)[1] + 1, dtype="int32")
        return self._replace(positions=positions, index=ops.max(ops.where(positions >= 0, places, 0)))

    def take(self, rows):
        return take_rows(self, rows)
