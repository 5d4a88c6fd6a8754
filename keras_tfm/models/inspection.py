"""What a model computes on its way: the hidden states of each block, and the weights of each head."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_tfm.layers.observation import StackRecord, observation
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a model computed of some inputs, as float32 arrays.

    A model of one stack is read by the names below. An encoder-decoder has two stacks: these are the decoder's, and
    `encoder` has the source's under the same names.

    Attributes:
        outputs: what the model returned, its tensors as arrays.
        stacks: a `StackRecord` for each call of a `TransformerStack`, in the order of the calls.
    """

    outputs: Any
    stacks: tuple[StackRecord, ...]

    @property
    def encoder(self) -> StackRecord:
        """The record of the stack that was called first: the encoder's, where there are two."""
        return self.stacks[0]

    @property
    def hidden_states(self) -> list[np.ndarray]:
        """L + 1 arrays (B, T, D): the embedding, and what each of the L blocks returned, before any final norm.

        Positions of padding have numbers without a meaning.
        """
        return self.stacks[-1].hidden_states

    @property
    def last_hidden_state(self) -> np.ndarray | None:
        """(B, T, D), after the final norm, if there is one: what the head reads."""
        return self.stacks[-1].last_hidden_state

    @property
    def attention_weights(self) -> list[np.ndarray]:
        """L arrays (B, N, T, S): how much of each of S keys a query gathers, for each of N heads.

        A row sums to 1, or to less beside an `AttentionSink`; that of padding is 0.
        """
        return self.stacks[-1].attention_weights

    @property
    def cross_attention_weights(self) -> list[np.ndarray]:
        """L arrays (B, N, T, S) over the S tokens of the source; none in a model without cross-attention."""
        return self.stacks[-1].cross_attention_weights


def inspect(model: keras.layers.Layer, inputs: Tensor | dict[str, Tensor]) -> Inspection:
    """Calls a model, and tells what its stacks and its attention computed; the model stays as it is.

    For models of your own: whatever `TransformerStack` stands in it, however deep, shows its states, and whatever
    `MultiHeadSelfAttention` or `MultiHeadCrossAttention` its weights. The models of this library have a method of this
    name.

    The call is eager and without dropout, and attention computes all T x S weights of each head, which for long texts
    takes memory that `model(inputs)` does not: L x B x N x T x S x 4 bytes.

    `transformers` says the same with `output_hidden_states` and `output_attentions`, except that its last hidden state
    has been through the final norm: it is `last_hidden_state` here.

    Args:
        model: a Keras model or layer with a `TransformerStack` or attention of this library in it.
        inputs: what it is called with.

    Returns:
        `Inspection`.

    Raises:
        ValueError: if nothing in the model can be inspected. RuntimeError: if the model calls its layers in a
            `tf.function`.

    Example:
        >>> x = keras.Input((None, 64))
        >>> stack = TransformerStack([TransformerBlock(MultiHeadSelfAttention(num_heads=4), FeedForward(256))])
        >>> inspect(keras.Model(x, stack(x)), np.ones((2, 5, 64), "float32")).attention_weights[0].shape
        (2, 4, 5, 5)
    """
    with observation() as records:
        outputs = model(inputs, training=False)
    if not records:
        raise ValueError(
            "`model` must have a `TransformerStack`, or attention of this library, in it, and call it. "
            f"Received: {model!r:.80}."
        )
    return Inspection(tree.map_structure(ops.convert_to_numpy, outputs), tuple(records))


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token ids as (int32 (R, T), bool (R, T), True = a real token), padded on the right."""
    lengths = [len(row) for row in rows]
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]  # (R, T)
    token_ids = np.zeros(mask.shape, "int32")
    token_ids[mask] = np.concatenate(rows)
    return token_ids, mask
