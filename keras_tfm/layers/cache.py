"""What attention remembers between calls: tuples of tensors, passed in and returned, never modified."""

from typing import Any, NamedTuple

from keras import ops

from keras_tfm.layers.parts import known_value


class KVCache(NamedTuple):
    """Keys and values of the tokens read so far, in slots allocated once.

    key, value: (B, K, S, H) in the compute dtype. positions: int32 (B, S), -1 = an empty slot or padding, which is
    thereby invisible with no further mask. index: int32 (), the first free slot, the same for all rows.

    Example:
        >>> cache = KVCache.empty(batch_size=2, max_length=16, num_heads=4, head_dim=8, dtype="float32")
        >>> x, cache = MultiHeadSelfAttention(num_heads=4, head_dim=8, causal=True)(x, cache=cache)
    """

    key: Any
    value: Any
    positions: Any
    index: Any

    @classmethod
    def empty(cls, batch_size, max_length, num_heads: int, head_dim: int, dtype) -> "KVCache":
        """A cache of `max_length` free slots. The dtype must be the layer's compute dtype, or each step casts it."""
        shape = (batch_size, num_heads, max_length, head_dim)
        return cls(
            key=ops.zeros(shape, dtype),
            value=ops.zeros(shape, dtype),
            positions=ops.full((batch_size, max_length), -1, dtype="int32"),
            index=ops.zeros((), "int32"),
        )

    @classmethod
    def of(cls, key, value, positions) -> "KVCache":
        """The memory of a single pass: exactly these keys and values, no room for more."""
        return cls(key, value, positions, index=ops.shape(key)[2])

    def append(self, key, value, positions) -> "KVCache":
        """A new cache with T more tokens. Whoever allocates the cache sees to it that they fit.

        Args:
            key, value: (B, K, T, H).
            positions: int32 (B, T), -1 = padding: it takes a slot, invisible.

        Raises:
            ValueError: if the tokens do not fit, wherever `index` is known (outside of compiled code).
        """
        self._check_room(ops.shape(key)[2])
        return KVCache(
            key=ops.slice_update(self.key, (0, 0, self.index, 0), ops.cast(key, self.key.dtype)),
            value=ops.slice_update(self.value, (0, 0, self.index, 0), ops.cast(value, self.value.dtype)),
            positions=ops.slice_update(self.positions, (0, self.index), positions),
            index=self.index + ops.shape(key)[2],
        )

    def _check_room(self, num_new) -> None:
        capacity, index = self.key.shape[2], known_value(self.index)
        if index is None or not isinstance(num_new, int) or not isinstance(capacity, int):
            return  # traced: the generation loop checks lengths before it starts
        if int(index) + num_new > capacity:
            raise ValueError(
                f"The cache holds {capacity} positions and {int(index)} are used; {num_new} more do not fit. "
                "Pass a larger `max_length` to `init_cache`."
            )


class ContextCache(NamedTuple):
    """The encoder's output as keys and values (B, K, S, H), projected once, and its positions (B, S), -1 = padding."""

    key: Any
    value: Any
    positions: Any


class BlockCache(NamedTuple):
    """What one transformer block remembers; without cross-attention its place holds (), which has no tensors."""

    self_attention: KVCache
    cross_attention: ContextCache | tuple[()] = ()
