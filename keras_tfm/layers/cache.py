"""KV caches, the memories of attention: tuples of tensors, passed in and returned, never modified."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_tfm.ops.tensors import batch_size, known_value, next_power_of_two, size, slice_update, take_rows
from keras_tfm.types import DTypeLike, Tensor

# The most tokens of one prefill step: `CausalLM` reads longer prompts in pieces of this size (chunked prefill). A
# `RollingKVCache` has so many slots beside its window, since the first query of a piece still needs all of its window.
LONGEST_APPEND = 512


class Int8Array(NamedTuple):
    """Numbers in 8 bits: values int8 (..., H), and one float32 scale (..., 1) for each vector."""

    values: Any
    scale: Any

    @classmethod
    def of(cls, x: Tensor) -> "Int8Array":
        """Rounds each vector to 255 steps between its greatest magnitude and minus that."""
        x = ops.cast(x, "float32")
        scale = ops.max(ops.abs(x), axis=-1, keepdims=True) / 127.0
        values = ops.round(x / ops.where(scale > 0, scale, 1.0))
        return cls(ops.cast(values, "int8"), scale)

    def to(self, dtype: DTypeLike) -> Tensor:
        """The numbers again, as far as 8 bits hold them."""
        return ops.cast(ops.cast(self.values, "float32") * self.scale, dtype)


class KVCache(NamedTuple):
    """A KV cache: keys and values of the tokens read so far, in S slots that are allocated once.

    key, value: (B, K, S, H) in the compute dtype, or `Int8Array`s. positions: int32 (B, S), -1 = an empty slot or
    padding, which no query sees: ragged batches need no further mask. index: int32 (), the first free slot, the same
    for all rows.

    Example:
        >>> cache = KVCache.empty(batch_size=2, max_sequence_length=16, num_heads=4, head_dim=8, dtype="float32")
        >>> x = np.ones((2, 3, 32), "float32")
        >>> x, cache = MultiHeadSelfAttention(num_heads=4, head_dim=8, causal=True)(x, cache=cache)
    """

    key: Any
    value: Any
    positions: Any
    index: Any

    @property
    def is_shared(self) -> bool:
        """Whether one row serves all sequences of a prompt."""
        return False

    @property
    def can_forget(self) -> bool:
        """Whether `keep` takes tokens back."""
        return True

    @classmethod
    def empty(
        cls,
        batch_size: int | Tensor,
        max_sequence_length: int | Tensor,
        num_heads: int,
        head_dim: int,
        dtype: DTypeLike,
    ) -> "KVCache":
        """A cache of `max_sequence_length` free slots.

        The dtype must be the layer's compute dtype, or each step casts the cache; "int8" takes a quarter of float32's
        memory and rounds.
        """
        shape = (batch_size, num_heads, max_sequence_length, head_dim)

        def zeros():
            if dtype == "int8":
                return Int8Array(ops.zeros(shape, "int8"), ops.zeros((*shape[:3], 1), "float32"))
            return ops.zeros(shape, dtype)

        return cls(
            key=zeros(),
            value=zeros(),
            positions=ops.full((batch_size, max_sequence_length), -1, dtype="int32"),
            index=ops.zeros((), "int32"),
        )

    @classmethod
    def of(cls, key: Tensor, value: Tensor, positions: Tensor) -> "KVCache":
        """The cache of a forward pass without one: exactly these keys and values, no free slots."""
        return cls(key, value, positions, index=size(key, 2))

    def append(self, key: Tensor, value: Tensor, positions: Tensor) -> "KVCache":
        """A new cache with T more tokens, which must fit: the generation loop checks lengths before it starts.

        Args:
            key, value: (B, K, T, H).
            positions: int32 (B, T), -1 = padding: it takes a slot, invisible.

        Raises:
            ValueError: if the tokens do not fit, wherever `index` is known (outside of compiled code).
        """
        num_new = size(key, 2)
        capacity, index = self.positions.shape[1], known_value(self.index)
        # While traced, the index has no value yet, and nothing can be checked.
        known = index is not None and isinstance(num_new, int) and isinstance(capacity, int)
        if known and int(index) + num_new > capacity:
            raise ValueError(
                f"The cache holds {capacity} positions and {int(index)} are used; {num_new} more do not fit. "
                "Make it with a larger `max_sequence_length`."
            )

        num_slots = size(self.positions, 1)

        def write(slots, new):
            # Batch and heads as one axis, as attention reads them: see `query_key_products`.
            merged = ops.reshape(slots, (-1, num_slots, slots.shape[3]))  # (B * K, S, H)
            new = ops.reshape(new, (-1, num_new, new.shape[3]))  # (B * K, T, H)
            written = slice_update(merged, (0, self.index, 0), new)
            return ops.reshape(written, (batch_size(slots), slots.shape[1], num_slots, slots.shape[3]))

        return KVCache(
            key=tree.map_structure(write, self.key, _stored(key, self.key)),
            value=tree.map_structure(write, self.value, _stored(value, self.value)),
            positions=slice_update(self.positions, (0, self.index), positions),
            index=self.index + num_new,
        )

    def read(self, dtype: DTypeLike) -> tuple[Tensor, Tensor]:
        """The pair (keys, values), (B, K, S, H) each, as attention takes them."""
        return _as_numbers(self.key, dtype), _as_numbers(self.value, dtype)

    def keep(self, num_tokens: Tensor) -> "KVCache":
        """Rewinds each row to its first `num_tokens`, int32 (B,). Slots after the last that any row keeps are free."""
        positions = _kept(self.positions, num_tokens)
        slots = ops.arange(1, size(positions, 1) + 1, dtype="int32")
        return self._replace(positions=positions, index=ops.max(ops.where(positions >= 0, slots, 0), initial=0))

    def grow(self, num_slots: int) -> "KVCache":
        """With at least `num_slots` free slots, in buckets of powers of two: a growing chat compiles few loops."""
        capacity = self.positions.shape[1]
        return _moved(self, next_power_of_two(max(int(self.index) + num_slots, capacity)))

    def take(self, rows: Tensor) -> "KVCache":
        """The caches of these rows, int32 (R,)."""
        return take_rows(self, rows)


class RollingKVCache(NamedTuple):
    """A `KVCache` for sliding-window attention, a ring buffer: slots are reused once their tokens have left the window.

    The fields of `KVCache`, and window: int32 (). Token number i lies in slot i modulo S.
    """

    key: Any
    value: Any
    positions: Any
    index: Any
    window: Any

    @property
    def is_shared(self) -> bool:
        """Whether one row serves all sequences of a prompt."""
        return False

    @property
    def can_forget(self) -> bool:
        """Whether `keep` takes tokens back."""
        return True

    @classmethod
    def empty(
        cls,
        batch_size: int | Tensor,
        max_sequence_length: int | Tensor,
        num_heads: int,
        head_dim: int,
        dtype: DTypeLike,
        window: int,
    ) -> "RollingKVCache":
        """A cache of as many slots as the window needs for any number of tokens, `max_sequence_length` at most."""
        least = min if isinstance(max_sequence_length, int) else ops.minimum
        num_slots = least(max_sequence_length, window + LONGEST_APPEND)
        key, value, positions, index = KVCache.empty(batch_size, num_slots, num_heads, head_dim, dtype)
        return cls(key, value, positions, index, window=ops.full((), window, dtype="int32"))

    def append(self, key: Tensor, value: Tensor, positions: Tensor) -> "RollingKVCache":
        """A new cache with T more tokens, in the place of the oldest.

        Args:
            key, value: (B, K, T, H).
            positions: int32 (B, T), -1 = padding.

        Raises:
            ValueError: if they would take the place of tokens that the first of them still sees, wherever `index` is
                known.
        """
        num_new, num_slots = size(key, 2), size(self.positions, 1)
        self._check_room(num_new, num_slots)
        first = self.index % num_slots

        def write(axis):
            def one(slots, new):
                if new.shape[axis] == 1:
                    start = [first if i == axis else 0 for i in range(len(slots.shape))]
                    return slice_update(slots, start, new)
                # The piece may go over the end: each slot takes the new token that falls on it, or stays.
                place = (ops.arange(num_slots, dtype="int32") - first) % num_slots
                source = ops.where(place < num_new, num_slots + place, ops.arange(num_slots, dtype="int32"))
                return ops.take(ops.concatenate([slots, new], axis=axis), source, axis=axis)

            return one

        return self._replace(
            key=tree.map_structure(write(2), self.key, _stored(key, self.key)),
            value=tree.map_structure(write(2), self.value, _stored(value, self.value)),
            positions=write(1)(self.positions, positions),
            index=self.index + num_new,
        )

    def _check_room(self, num_new, num_slots) -> None:
        index, window = known_value(self.index), known_value(self.window)
        if index is None or not isinstance(num_new, int) or not isinstance(num_slots, int):
            return
        if index + num_new > num_slots and window - 1 + num_new > num_slots:
            raise ValueError(
                f"The rolling cache has {num_slots} slots, {window - 1} of which the first new token still sees. "
                f"Received: {num_new} tokens at once after {index}. Make it with a larger `max_sequence_length`, or "
                "append fewer tokens at once."
            )

    def read(self, dtype: DTypeLike) -> tuple[Tensor, Tensor]:
        """The pair (keys, values), (B, K, S, H) each, as attention takes them; their order does not matter."""
        return _as_numbers(self.key, dtype), _as_numbers(self.value, dtype)

    def keep(self, num_tokens: Tensor) -> "RollingKVCache":
        """As `KVCache.keep`; what the forgotten tokens took the place of had left the window before them."""
        positions = _kept(self.positions, num_tokens)
        num_slots = size(positions, 1)
        age = (self.index - 1 - ops.arange(num_slots, dtype="int32")) % num_slots  # 0 = the newest slot
        num_free = ops.min(ops.where(positions >= 0, age, num_slots), initial=num_slots)
        return self._replace(positions=positions, index=ops.maximum(self.index - num_free, 0))

    def grow(self, num_slots: int) -> "RollingKVCache":
        """As `KVCache.grow`, no further than the window needs for any number of tokens."""
        capacity, enough = self.positions.shape[1], int(self.window) + LONGEST_APPEND
        if capacity >= enough:
            return self
        return _moved(self, min(next_power_of_two(max(int(self.index) + num_slots, capacity)), enough))

    def take(self, rows: Tensor) -> "RollingKVCache":
        """The caches of these rows, int32 (R,)."""
        return take_rows(self, rows)


class ContextCache(NamedTuple):
    """The cache of cross-attention: the encoder's output as keys and values (B, K, S, H), and its positions (B, S).

    They are projected once. There is one row for each prompt, however many sequences are generated for it.
    """

    key: Any
    value: Any
    positions: Any

    @property
    def is_shared(self) -> bool:
        """Whether one row serves all sequences of a prompt."""
        return True

    @property
    def can_forget(self) -> bool:
        """Whether `keep` takes tokens back."""
        return True

    @classmethod
    def of(cls, key: Tensor, value: Tensor, positions: Tensor, dtype: str | None = None) -> "ContextCache":
        """The memory of these keys and values; "int8" takes a quarter of float32's memory and rounds."""
        if dtype == "int8":
            key, value = Int8Array.of(key), Int8Array.of(value)
        return cls(key, value, positions)

    def keep(self, num_tokens: Tensor) -> "ContextCache":
        """Itself: generated tokens are not in it."""
        return self

    def grow(self, num_slots: int) -> "ContextCache":
        """Itself."""
        return self

    def take(self, rows: Tensor) -> "ContextCache":
        """The contexts of these prompts, int32 (R,)."""
        return take_rows(self, rows)

    def read(self, dtype: DTypeLike) -> tuple[Tensor, Tensor]:
        """The pair (keys, values)."""
        return _as_numbers(self.key, dtype), _as_numbers(self.value, dtype)


class BlockCache(NamedTuple):
    """What one transformer block remembers; without cross-attention its place holds (), which has no tensors."""

    self_attention: KVCache | RollingKVCache
    cross_attention: ContextCache | tuple[()] = ()


def _stored(x, slots):
    """Keys or values in the form that the slots hold."""
    return Int8Array.of(x) if isinstance(slots, Int8Array) else ops.cast(x, slots.dtype)


def _kept(positions, num_tokens):
    """Positions int32 (B, S) without those of the tokens after the first `num_tokens`, (B,)."""
    num_tokens = ops.convert_to_tensor(num_tokens, "int32")
    return ops.where(positions < num_tokens[:, None], positions, -1)


def _moved(cache, capacity: int):
    """The cache with `capacity` slots: token number i lies in slot i modulo S, before and after."""
    num_slots, index = cache.positions.shape[1], int(cache.index)
    number = index - 1 - (index - 1 - np.arange(capacity)) % capacity  # of the newest that belongs into each slot
    is_there = np.logical_and(number >= 0, number >= index - num_slots)
    source = ops.convert_to_tensor(number % num_slots, "int32")

    def move(slots):
        return slots if len(slots.shape) == 0 else ops.take(slots, source, axis=2 if len(slots.shape) == 4 else 1)

    moved = tree.map_structure(move, cache)
    return moved._replace(positions=ops.where(is_there[None], moved.positions, -1))


def _as_numbers(slots, dtype):
    return slots.to(dtype) if isinstance(slots, Int8Array) else slots
