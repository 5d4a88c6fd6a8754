"""A tiny encoder-decoder whose texts are lively, and the slow, certain ways to write with it."""

import numpy as np
from keras import ops

from keras_tfm.models import build_t5
from keras_tfm.ops.decoding_state import DecodingState
from tests.generation.lively import VOCABULARY_SIZE, Tokens, best, lively


def lively_seq2seq(seed=0, **options):
    """A T5 of 29 tokens, of which each source makes another text."""
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 8, "hidden_dim": 24, "intermediate_dim": 32}
    return lively(build_t5(**{"vocabulary_size": VOCABULARY_SIZE, **sizes, **options}), seed)


def slow_greedy(model, source, num_new, first=()):
    """A full forward pass per token: nothing remembered, nothing padded."""
    tokens = [model.start_token_id, *first]
    for _ in range(num_new - len(first)):
        inputs = {"encoder_token_ids": np.array([source]), "decoder_token_ids": np.array([tokens])}
        tokens.append(best(np.asarray(model(inputs)[0, -1])))
    return tokens[1:]


class Uncached:
    """The model, remembering tokens, of the source and of the target, and reading all of them anew each time."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def begin(self, token_ids, padding_mask, num_slots, dtype=None):
        num_rows = ops.shape(token_ids)[0]
        memories = (
            Tokens(token_ids, ops.where(padding_mask, 0, -1), ops.zeros((), "int32")),
            Tokens(
                ops.zeros((num_rows, num_slots + 1), "int32"),
                ops.full((num_rows, num_slots + 1), -1, dtype="int32"),
                ops.zeros((), "int32"),
            ),
        )
        start = ops.full((num_rows, 1), self.model.start_token_id, dtype="int32")
        return start, ops.ones((num_rows, 1), "bool"), DecodingState(ops.zeros((num_rows,), "int32"), memories)

    def read(self, token_ids, state, padding_mask):
        model, (source, target) = self.model, state.memories
        new_positions = state.next_positions(padding_mask)
        index, length = target.index, ops.shape(token_ids)[1]
        ids = ops.slice_update(target.ids, (0, index), token_ids)
        positions = ops.slice_update(target.positions, (0, index), new_positions)
        context, context_mask = model.encode(source.ids, source.positions >= 0)
        x = model.decoder_embedding(ids, positions=positions)
        hidden = model.decoder(x, positions=positions, context=context, context_mask=context_mask)
        hidden = ops.slice(hidden, (0, index, 0), (ops.shape(ids)[0], length, hidden.shape[-1]))
        return hidden, state.after(new_positions, (source, Tokens(ids, positions, index + length)))
