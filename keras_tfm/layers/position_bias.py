"""Biases on attention scores that depend on the distance of query and key, as layers and as the rules they make."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.arguments import check_positive
from keras_tfm.layers.composite import clone, serialize
from keras_tfm.ops.tensors import look_up
from keras_tfm.types import Config, InitializerLike, Shape, Tensor


class AlibiRule(NamedTuple):
    """-slope * distance, evaluated for whichever queries and keys attention has at hand. slopes: (N,).

    A rule also says what can learn in it (`parameters`), takes other values for that (`with_parameters`), and turns
    the gradient of its answer into theirs (`gradient`): lean attention computes the rule again in its backward pass.
    """

    slopes: Any

    def __call__(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """int32 (B, T), (B, S) -> float32 (B, N, T, S)."""
        distance = ops.abs(query_positions[:, :, None] - key_positions[:, None, :])  # (B, T, S)
        return -ops.cast(self.slopes, "float32")[:, None, None] * ops.cast(distance, "float32")[:, None]

    @property
    def parameters(self) -> tuple:
        return ()  # the slopes are fixed

    def with_parameters(self, parameters: tuple) -> "AlibiRule":
        return self

    def gradient(self, query_positions: Tensor, key_positions: Tensor, upstream: Tensor) -> tuple:
        return ()


class RelativeRule(NamedTuple):
    """A learned number per head and bucket of distance; methods as in `AlibiRule`.

    table: (buckets, N). lookup: int32 (2 * max_distance + 1,), the bucket of each distance.
    """

    table: Any
    lookup: Any

    def __call__(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """int32 (B, T), (B, S) -> (B, N, T, S)."""
        by_distance = look_up(self.table, self.lookup, self.table.dtype)
        by_distance = ops.transpose(by_distance)  # (N, 2 * max_distance + 1)
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

    def with_parameters(self, parameters: tuple) -> "RelativeRule":
        return self._replace(table=parameters[0])

    def gradient(self, query_positions: Tensor, key_positions: Tensor, upstream: Tensor) -> tuple:
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

    def __init__(self, num_heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(num_heads=num_heads)
        self.num_heads = num_heads

    def rule(self) -> AlibiRule:
        """The bias as a tuple of tensors with `__call__(query_positions, key_positions)`."""
        return AlibiRule(slopes=ops.convert_to_tensor(tfm_ops.alibi_slopes(self.num_heads)))

    def call(self, positions: Tensor, key_positions: Tensor | None = None) -> Tensor:
        return self.rule()(positions, positions if key_positions is None else key_positions)

    def compute_output_shape(self, positions_shape: Shape, key_positions_shape: Shape | None = None) -> Shape:
        return (positions_shape[0], self.num_heads, positions_shape[1], (key_positions_shape or positions_shape)[1])

    def compute_output_spec(self, positions: Tensor, **arguments: Any) -> Any:
        return keras.Operation.compute_output_spec(self, positions, **arguments)  # float32 in every dtype policy

    def get_config(self) -> Config:
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
        embeddings_initializer: InitializerLike = "glorot_uniform",
        **kwargs: Any,
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

    def build(self, positions_shape: Shape | None = None, key_positions_shape: Shape | None = None) -> None:
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

    def call(self, positions: Tensor, key_positions: Tensor | None = None) -> Tensor:
        return self.rule()(positions, positions if key_positions is None else key_positions)

    def compute_output_shape(self, positions_shape: Shape, key_positions_shape: Shape | None = None) -> Shape:
        return (positions_shape[0], self.num_heads, positions_shape[1], (key_positions_shape or positions_shape)[1])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": serialize(self.embeddings_initializer),
        }
