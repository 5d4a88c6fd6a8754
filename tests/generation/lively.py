"""A tiny model whose texts are lively: weights large enough that greedy text is not one token for ever."""

import numpy as np
from keras import ops

import keras_tfm as ktfm

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

    def init_cache(self, batch_size, max_length, dtype=None):
        return {
            "ids": ops.zeros((batch_size, max_length), "int32"),
            "mask": ops.zeros((batch_size, max_length), "bool"),
            "index": ops.zeros((), "int32"),
        }

    def read(self, token_ids, cache, padding_mask=None):
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        ids = ops.slice_update(cache["ids"], (0, cache["index"]), token_ids)
        mask = ops.slice_update(cache["mask"], (0, cache["index"]), padding_mask)
        positions = self.model.token_positions(ids, padding_mask=mask)
        hidden = self.model.stack(self.model.token_embedding(ids, positions=positions), positions=positions)
        length = ops.shape(token_ids)[1]
        hidden = ops.slice(hidden, (0, cache["index"], 0), (ops.shape(ids)[0], length, hidden.shape[-1]))
        return hidden, {"ids": ids, "mask": mask, "index": cache["index"] + length}

    def rewind(self, cache, num_read, kept):
        start = cache["index"] - num_read
        offset = ops.arange(ops.shape(cache["ids"])[1], dtype="int32")[None] - start
        forgotten = ops.logical_and(offset >= kept[:, None], offset < num_read)
        return {**cache, "mask": ops.logical_and(cache["mask"], ~forgotten), "index": start + ops.max(kept)}
