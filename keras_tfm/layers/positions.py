"""How a model knows where a token stands: positions themselves, embeddings of them, and biases on the scores."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.layers.parts import check_positive, check_rank, clone, serialize


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenPositions(keras.layers.Layer):
    """Numbers the real tokens of each row and document: 0, 1, 2, ..., -1 at padding, going on after a cache.

    Call arguments:
        token_ids: int32 (B, T).
        padding_mask: bool (B, T), True = a real token. Default: all are.
        document_ids: int32 (B, T): positions start anew where the number changes; or None.
        remembered_positions: int32 (B, S) of a cache, or None.

    Returns:
        int32 (B, T).

    Raises:
        ValueError: for other ranks or shapes. TypeError: for a float mask.

    Example:
        >>> TokenPositions()(np.array([[7, 8, 9]]), padding_mask=np.array([[False, True, True]]))
        [[-1, 0, 1]]
    """

    def call(self, token_ids, padding_mask=None, document_ids=None, remembered_positions=None):
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        if padding_mask is None:
            mask = ops.ones_like(token_ids, dtype="bool")
        else:
            mask = tfm_ops.padding_mask(padding_mask, token_ids.shape, "padding_mask")
        return tfm_ops.next_positions(mask, remembered_positions, document_ids)


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

    def __init__(self, max_sequence_length: int, hidden_dim: int, embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        check_positive(max_sequence_length=max_sequence_length, hidden_dim=hidden_dim)
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, positions_shape):
        self.embeddings = self.add_weight(
            shape=(self.max_sequence_length, self.hidden_dim),
            initializer=clone(self.embeddings_initializer),
            name="embeddings",
        )

    def call(self, positions):
        check_rank(positions, 2, "positions", "(B, T)")
        length = positions.shape[1]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                f"The sequence must not be longer than `max_sequence_length`={self.max_sequence_length} learned "
                f"positions. Received: {length} tokens. Shorten it, or build the model with more positions."
            )
        return ops.take(ops.cast(self.embeddings, self.compute_dtype), ops.maximum(positions, 0), axis=0)

    def compute_output_shape(self, positions_shape):
        return (*positions_shape, self.hidden_dim)

    def get_config(self):
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

    def __init__(self, hidden_dim: int, max_wavelength: float = 10_000.0, interleaved: bool = True, **kwargs):
        super().__init__(**kwargs)
        check_positive(hidden_dim=hidden_dim)
        if hidden_dim % 2:
            raise ValueError(f"`hidden_dim` must be even. Received: hidden_dim={hidden_dim}.")
        self.hidden_dim = hidden_dim
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved

    def call(self, positions):
        check_rank(positions, 2, "positions", "(B, T)")
        encoding = tfm_ops.sinusoidal_encoding(positions, self.hidden_dim, self.max_wavelength, self.interleaved)
        return ops.cast(encoding, self.compute_dtype)

    def compute_output_shape(self, positions_shape):
        return (*positions_shape, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
        }


class AlibiRule(NamedTuple):
    """-slope * distance, evaluated for whichever queries and keys attention has at hand. slopes: (N,).

    A rule also says what can learn in it (`parameters`), takes other values for that (`with_parameters`), and turns
    the gradient of its answer into theirs (`gradient`): lean attention computes the rule again in its backward pass.
    """

    slopes: Any

    def __call__(self, query_positions, key_positions):
        """int32 (B, T), (B, S) -> float32 (B, N, T, S)."""
        distance = ops.abs(query_positions[:, :, None] - key_positions[:, None, :])  # (B, T, S)
        return -ops.cast(self.slopes, "float32")[:, None, None] * ops.cast(distance, "float32")[:, None]

    @property
    def parameters(self) -> tuple:
        return ()  # the slopes are fixed

    def with_parameters(self, parameters) -> "AlibiRule":
        return self

    def gradient(self, query_positions, key_positions, upstream) -> tuple:
        return ()


class RelativeRule(NamedTuple):
    """A learned number per head and bucket of distance; methods as in `AlibiRule`.

    table: (buckets, N). lookup: int32 (2 * max_distance + 1,), the bucket of each distance.
    """

    table: Any
    lookup: Any

    def __call__(self, query_positions, key_positions):
        """int32 (B, T), (B, S) -> (B, N, T, S)."""
        by_distance = ops.transpose(ops.take(self.table, self.lookup, axis=0))  # (N, 2 * max_distance + 1)
        bias = ops.take(by_distance, self._distances(query_positions, key_positions), axis=1)
        return ops.swapaxes(bias, 0, 1)  # (N, B, T, S) -> (B, N, T, S)

    def _distances(self, query_positions, key_positions):
        """int32 (B, T, S): 0 for the farthest past, 2 * max_distance for the farthest future."""
        max_distance = self.lookup.shape[0] // 2
        distance = key_positions[:, None, :] - query_positions[:, :, None]
        return ops.clip(distance, -max_distance, max_distance) + max_distance

    @property
    def parameters(self) -> tuple:
        return (self.table,)

    def with_parameters(self, parameters) -> "RelativeRule":
        return self._replace(table=parameters[0])

    def gradient(self, query_positions, key_positions, upstream) -> tuple:
        """upstream: (B, N, T, S) -> the table's, (buckets, N)."""
        num_heads, num_distances = self.table.shape[1], self.lookup.shape[0]
        upstream = ops.reshape(ops.transpose(upstream, (0, 2, 3, 1)), (-1, num_heads))
        distances = ops.reshape(self._distances(query_positions, key_positions), (-1,))
        by_distance = ops.segment_sum(upstream, distances, num_segments=num_distances)
        return (ops.segment_sum(by_distance, self.lookup, num_segments=self.table.shape[0]),)


@keras.saving.register_keras_serializable(package="keras_tfm")
class AlibiBias(keras.layers.Layer):
    """Attention with linear biases: the farther a key, the lower its score, with a fixed slope per head.

    A stack shares one bias among its blocks: `TransformerStack(blocks, position_bias=AlibiBias(num_heads))`. What is
    passed to attention is a rule, (query positions, key positions) -> bias, never a stored matrix.

    Args:
        num_heads: int, query heads N; any number.

    Call arguments:
        positions: int32 (B, T) of the queries.
        key_positions: int32 (B, S). Default: `positions`.

    Returns:
        float (B, N, T, S): -slope * |query position - key position|.

    Example:
        >>> AlibiBias(num_heads=8)(np.array([[0, 1, 2]])).shape
        (1, 8, 3, 3)

    Reference:
        Press et al. 2021, "Train Short, Test Long", https://arxiv.org/abs/2108.12409
    """

    def __init__(self, num_heads: int, **kwargs):
        super().__init__(**kwargs)
        check_positive(num_heads=num_heads)
        self.num_heads = num_heads

    def rule(self) -> AlibiRule:
        """The bias as a tuple of tensors with `__call__(query_positions, key_positions)`."""
        return AlibiRule(slopes=ops.convert_to_tensor(tfm_ops.alibi_slopes(self.num_heads)))

    def call(self, positions, key_positions=None):
        return self.rule()(positions, positions if key_positions is None else key_positions)

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="keras_tfm")
class RelativePositionBias(keras.layers.Layer):
    """T5's relative bias: a learned number per head for each bucket of distances, shared by all blocks of a stack.

    Args:
        num_heads: int, query heads N.
        num_buckets: int, how many buckets of distances.
        max_distance: int, distances from here on share the last bucket.
        bidirectional: bool, tell keys in the future from keys in the past (encoders); causal models say False.
        embeddings_initializer: for the table.

    Call arguments:
        positions: int32 (B, T) of the queries.
        key_positions: int32 (B, S). Default: `positions`.

    Returns:
        float (B, N, T, S).

    Example:
        >>> RelativePositionBias(num_heads=8)(np.array([[0, 1, 2]])).shape
        (1, 8, 3, 3)

    Reference:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1, https://arxiv.org/abs/1910.10683
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(num_heads=num_heads, num_buckets=num_buckets, max_distance=max_distance)
        smallest = 4 if bidirectional else 2
        if num_buckets < smallest or num_buckets % smallest or max_distance <= num_buckets // smallest:
            raise ValueError(
                f"`num_buckets` must be a multiple of {smallest} and `max_distance` greater than num_buckets / "
                f"{smallest}. Received: num_buckets={num_buckets}, max_distance={max_distance}."
            )
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, positions_shape=None, key_positions_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.num_buckets, self.num_heads),
            initializer=clone(self.embeddings_initializer),
            name="embeddings",
        )

    def rule(self) -> RelativeRule:
        """The bias as a tuple of tensors with `__call__(query_positions, key_positions)`; the layer must be built."""
        distances = ops.arange(-self.max_distance, self.max_distance + 1, dtype="int32")
        return RelativeRule(
            table=ops.cast(self.embeddings, self.compute_dtype),
            lookup=tfm_ops.relative_position_buckets(
                distances, self.num_buckets, self.max_distance, self.bidirectional
            ),
        )

    def call(self, positions, key_positions=None):
        return self.rule()(positions, positions if key_positions is None else key_positions)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": serialize(self.embeddings_initializer),
        }
