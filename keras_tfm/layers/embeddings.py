"""From token ids to vectors and back to logits: tokens, where they stand, and which segment they belong to."""

from typing import Any

import keras
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.arguments import check_positive, check_rank, check_rate
from keras_tfm.layers.composite import Composite, as_layer, build_part, clone, revive, serialize
from keras_tfm.layers.weights import TokenTable
from keras_tfm.ops.tensors import known_value, look_up
from keras_tfm.types import Config, InitializerLike, LayerLike, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenPositions(keras.layers.Layer):
    """Positions of the real tokens of each row and document: 0, 1, 2, ... after those in the cache, -1 at padding.

    Call arguments:
        token_ids: int32 (B, T).
        padding_mask: bool (B, T), True = a real token. Default: all are.
        document_ids: int32 (B, T): positions start anew where the number changes; or None.
        num_tokens: int32 (B,), real tokens of each row that have been read before, or None.

    Returns:
        int32 (B, T).

    Raises:
        ValueError: for other ranks or shapes. TypeError: for a float mask.

    Example:
        >>> TokenPositions()(np.array([[7, 8, 9]]), padding_mask=np.array([[False, True, True]]))
        [[-1, 0, 1]]
    """

    def call(
        self,
        token_ids: Tensor,
        padding_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        num_tokens: Tensor | None = None,
    ) -> Tensor:
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        if padding_mask is None:
            mask = ops.ones_like(token_ids, dtype="bool")
        else:
            mask = tfm_ops.padding_mask(padding_mask, token_ids.shape, "padding_mask")
        return tfm_ops.next_positions(mask, num_tokens, document_ids)

    def compute_output_shape(self, token_ids_shape: Shape) -> Shape:
        return token_ids_shape

    def compute_output_spec(self, token_ids: Tensor, **arguments: Any) -> Any:
        return keras.Operation.compute_output_spec(self, token_ids, **arguments)  # integers, and other errors


@keras.saving.register_keras_serializable(package="keras_tfm")
class PositionEmbedding(keras.layers.Layer):
    """One learned vector for each position (GPT-2, BERT); padding reads position 0's, which nobody looks at.

    Args:
        max_sequence_length: int, number of positions.
        hidden_dim: int, width of the vectors.
        embeddings_initializer: for the table.

    Call arguments:
        positions: int32 (B, T), -1 = padding.

    Returns:
        float (B, T, hidden_dim).

    Raises:
        ValueError: if T exceeds `max_sequence_length`.

    Example:
        >>> PositionEmbedding(max_sequence_length=128, hidden_dim=64)(np.array([[0, 1, 2]])).shape
        (1, 3, 64)

    Reference:
        Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1,
        https://arxiv.org/abs/1705.03122
    """

    def __init__(
        self,
        max_sequence_length: int,
        hidden_dim: int,
        embeddings_initializer: InitializerLike = "uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive(max_sequence_length=max_sequence_length, hidden_dim=hidden_dim)
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, positions_shape: Shape) -> None:
        self.embeddings = self.add_weight(
            shape=(self.max_sequence_length, self.hidden_dim),
            initializer=clone(self.embeddings_initializer),
            name="embeddings",
            autocast=False,  # gradients of a position that many rows have are summed in float32
        )

    def call(self, positions: Tensor) -> Tensor:
        check_rank(positions, 2, "positions", "(B, T)")
        length = positions.shape[1]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                f"The sequence must not be longer than `max_sequence_length`={self.max_sequence_length} learned "
                f"positions. Received: {length} tokens. Shorten it, or build the model with more positions."
            )
        return look_up(self.embeddings, ops.maximum(positions, 0), self.compute_dtype)

    def compute_output_shape(self, positions_shape: Shape) -> Shape:
        return (*positions_shape, self.hidden_dim)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "hidden_dim": self.hidden_dim,
            "embeddings_initializer": serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class SinusoidalEmbedding(keras.layers.Layer):
    """Sines and cosines of the position at geometrically spaced wavelengths: no weights, no longest sequence.

    Args:
        hidden_dim: int, width of the vectors, even.
        max_wavelength: float, the longest wavelength in units of 2 pi positions.
        interleaved: bool, feature 2i is a sine and 2i + 1 the cosine of the same angle, as in the paper; otherwise
            all sines come first, then all cosines, as in tensor2tensor and Marian.

    Call arguments:
        positions: int32 (B, T), -1 = padding (gives zeros).

    Returns:
        float (B, T, hidden_dim).

    Raises:
        ValueError: if `hidden_dim` is odd.

    Example:
        >>> SinusoidalEmbedding(hidden_dim=64)(np.array([[0, 1, 2]])).shape
        (1, 3, 64)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, hidden_dim: int, max_wavelength: float = 10_000.0, interleaved: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(hidden_dim=hidden_dim)
        if hidden_dim % 2:
            raise ValueError(f"`hidden_dim` must be even. Received: hidden_dim={hidden_dim}.")
        self.hidden_dim = hidden_dim
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved

    def call(self, positions: Tensor) -> Tensor:
        check_rank(positions, 2, "positions", "(B, T)")
        encoding = tfm_ops.sinusoidal_encoding(positions, self.hidden_dim, self.max_wavelength, self.interleaved)
        return ops.cast(encoding, self.compute_dtype)

    def compute_output_shape(self, positions_shape: Shape) -> Shape:
        return (*positions_shape, self.hidden_dim)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenEmbedding(Composite):
    """A vector for each token, plus one for its position and one for its segment; normalized, if a norm is given.

    The same table projects back to logits (`reverse=True`).

    Args:
        vocabulary_size: int, number of tokens V.
        hidden_dim: int, width D.
        position: `PositionEmbedding`, `SinusoidalEmbedding` or any layer (B, T) -> (B, T, D), added, or None.
        scale: float, factor on the token vectors before positions are added. The paper has sqrt(D), so that sinusoids,
            whose size is 1, do not drown them.
        num_segments: int, number of segments, each with a learned vector (BERT has 2); 0 = none.
        norm: a norm layer on the sum, before the dropout (BERT, BLOOM), or None.
        logit_cap: float, projected logits become cap * tanh(logits / cap) (Gemma 2), or None.
        dropout: float, rate of the dropout on the sum.
        embeddings_initializer: for the table.
        logit_scale: float, factor on the projected logits (T5 has D^-0.5).
        logit_bias: bool, a learned number for each token, zero at first, is added to the projected logits (Marian).
        table: the `embedding` of another `TokenEmbedding` of the same sizes, to share it: what is learned here is
            learned there. Default: a table of its own.

    Call arguments:
        inputs: int32 (B, T) token ids, or float (B, T, D) vectors in their place, which `scale` leaves alone; with
            `reverse` float (B, T, D), states.
        positions: int32 (B, T), -1 = padding. Default: 0, 1, 2, ...
        segment_ids: int32 (B, T), which segment a token belongs to. Default: all to segment 0.
        reverse: bool, project to logits with the transposed table.
        training: bool.

    Returns:
        float (B, T, D); with `reverse` logits (B, T, V).

    Raises:
        ValueError: for another rank, for segments without `num_segments`, and for ids outside the vocabulary or the
            segments where their values are known (called eagerly; in `fit` TensorFlow's own gather says it on a CPU).

    Example:
        >>> embedding = TokenEmbedding(vocabulary_size=100, hidden_dim=64)
        >>> x = embedding(np.array([[1, 2, 3]]))
        >>> embedding(x, reverse=True).shape
        (1, 3, 100)

    Reference:
        Press and Wolf 2016, "Using the Output Embedding to Improve Language Models" (the tied projection),
        https://arxiv.org/abs/1608.05859
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int,
        position: LayerLike | None = None,
        scale: float = 1.0,
        num_segments: int = 0,
        norm: LayerLike | None = None,
        logit_cap: float | None = None,
        dropout: float = 0.0,
        embeddings_initializer: InitializerLike = "uniform",
        logit_scale: float = 1.0,
        logit_bias: bool = False,
        table: LayerLike | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive(vocabulary_size=vocabulary_size, hidden_dim=hidden_dim)
        if num_segments:
            check_positive(num_segments=num_segments)
        check_rate(dropout=dropout)
        if logit_cap is not None and logit_cap <= 0:
            raise ValueError(f"`logit_cap` must be positive. Received: logit_cap={logit_cap}.")
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.position = as_layer(position, "position", f"PositionEmbedding(512, {hidden_dim})", optional=True)
        self.scale = scale
        self.num_segments = num_segments
        self.norm = as_layer(norm, "norm", "keras.layers.LayerNormalization()", optional=True)
        self.logit_cap = logit_cap
        self.dropout = dropout
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.shares_table = table is not None
        self.embedding = revive(table) if self.shares_table else self._table(vocabulary_size, "tokens")
        self._check_table()
        self.segment = self._table(num_segments, "segments") if num_segments else None
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def _table(self, num_rows, name):
        return TokenTable(
            num_rows,
            self.hidden_dim,
            embeddings_initializer=clone(self.embeddings_initializer),
            dtype=self.dtype_policy,
            name=name,
        )

    def _check_table(self):
        sizes = getattr(self.embedding, "input_dim", None), getattr(self.embedding, "output_dim", None)
        if sizes != (self.vocabulary_size, self.hidden_dim):
            raise ValueError(
                "`table` must be the `embedding` of a `TokenEmbedding` of the same sizes. Received: one of "
                f"{sizes[0]} tokens and width {sizes[1]}, for vocabulary_size={self.vocabulary_size} and "
                f"hidden_dim={self.hidden_dim}."
            )

    def build(
        self, inputs_shape: Shape, positions_shape: Shape | None = None, segment_ids_shape: Shape | None = None
    ) -> None:
        for table in (self.embedding, self.position, self.segment):
            if table is not None:
                build_part(table, inputs_shape)
        if self.norm is not None:
            build_part(self.norm, (*inputs_shape, self.hidden_dim))
        self.bias = None
        if self.logit_bias:
            self.bias = self.add_weight(shape=(self.vocabulary_size,), initializer="zeros", name="logit_bias")

    def call(
        self,
        inputs: Tensor,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        reverse: bool = False,
        training: bool | None = None,
    ) -> Tensor:
        if reverse:
            return self._logits(inputs)
        if len(inputs.shape) == 3 and keras.backend.is_float_dtype(inputs.dtype):
            x, places = inputs, ops.zeros_like(inputs[..., 0], dtype="int32")
        else:
            check_rank(inputs, 2, "token_ids", "(B, T)")
            check_token_ids(inputs, self.vocabulary_size)
            x, places = self.embedding(inputs) * self.scale, inputs
        if self.position is not None:
            if positions is None:
                positions = ops.cumsum(ops.ones_like(places, dtype="int32"), axis=1) - 1
            x = x + self.position(positions)
        if self.segment is not None:
            x = x + self.segment(ops.zeros_like(places) if segment_ids is None else self._checked_segments(segment_ids))
        elif segment_ids is not None:
            raise ValueError(
                "`segment_ids` need `num_segments` of at least 1. "
                f"Received: segment_ids of shape {tuple(segment_ids.shape)}, num_segments=0. Leave them out."
            )
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout_layer(x, training=training)

    def _logits(self, states):
        if self.logit_scale != 1.0:
            states = states * self.logit_scale
        logits = self.embedding.logits(states)
        if self.bias is not None:
            logits = logits + ops.cast(self.bias, logits.dtype)
        return logits if self.logit_cap is None else self.logit_cap * ops.tanh(logits / self.logit_cap)

    def _checked_segments(self, segment_ids):
        check_rank(segment_ids, 2, "segment_ids", "(B, T)")
        _check_range(segment_ids, self.num_segments, "Segment ids", "Make the model with more `num_segments`.")
        return segment_ids

    def compute_output_spec(
        self,
        inputs: Tensor,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        reverse: bool = False,
        training: bool | None = None,
    ) -> Any:
        # Said, not traced: JAX and torch trace with a made-up length, which may exceed the learned positions.
        width = self.vocabulary_size if reverse else self.hidden_dim
        return keras.KerasTensor((*inputs.shape[:2], width), dtype=self.compute_dtype)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        # Ids (B, T) to vectors; states (B, T, D) to logits.
        return (*inputs_shape[:2], self.vocabulary_size if len(inputs_shape) == 3 else self.hidden_dim)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "position": serialize(self.position),
            "scale": self.scale,
            "num_segments": self.num_segments,
            "norm": serialize(self.norm),
            "logit_cap": self.logit_cap,
            "dropout": self.dropout,
            "embeddings_initializer": serialize(self.embeddings_initializer),
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "table": serialize(self.embedding) if self.shares_table else None,
        }


def check_token_ids(token_ids: Tensor, vocabulary_size: int) -> None:
    """Raises for ids outside [0, vocabulary_size), wherever their values are known (outside of traced code)."""
    advice = (
        "Use the tokenizer that the model was trained with; padding takes any id of the vocabulary and a False in "
        "`padding_mask`."
    )
    _check_range(token_ids, vocabulary_size, "Token ids", advice)


def _check_range(ids, number: int, what: str, advice: str) -> None:
    values = known_value(ids)
    if values is None or not values.size:
        return
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= number:
        raise ValueError(f"{what} must be in [0, {number}). Received: ids from {lowest} to {highest}. {advice}")
