"""What a model remembers while it writes: how much each row has read, and one memory for each of its parts."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from keras import ops, tree

from keras_tfm.ops.positions import next_positions
from keras_tfm.ops.tensors import batch_size, size, take_rows


class Memory(Protocol):
    """What a part of a model remembers of the tokens that it has read: a NamedTuple of tensors with these methods.

    All are pure: they return a new memory. How tokens get in is between the memory and its layer (`KVCache.append`);
    its layer is told the positions of the tokens, int32 (B, T), and must not remember those at -1, which are padding.
    Every tensor but scalars has the rows first.

    Attributes:
        is_shared: bool, there is one row for each prompt, whatever number of texts is written for it: rows of a prompt
            that change places leave the memory alone. An encoder's output is shared.
        can_forget: bool, whether `keep` can take tokens back. A recurrent state cannot: sessions then read a text
            again where they would have to, and speculative samplers refuse the model.
    """

    is_shared: bool
    can_forget: bool

    def keep(self, num_tokens) -> "Memory":
        """Of all tokens of a row only the first `num_tokens`, int32 (B,), stay; what no row needs then is free."""

    def grow(self, num_slots: int) -> "Memory":
        """With room for at least `num_slots` more tokens; outside of compiled code. Best in few different sizes."""

    def take(self, rows) -> "Memory":
        """The memories of these rows, int32 (R,)."""


class DecodingState(NamedTuple):
    """The state of a model that writes: tensors in, tensors out.

    num_tokens: int32 (R,), real tokens that each row has read, which is the position of its next one. memories: a
    `Memory`, or nested tuples of them.

    Example:
        >>> state = model.init_state(batch_size=1, max_sequence_length=16)
        >>> hidden, state = model.read(np.array([[1, 2, 3]]), state)
        >>> hidden, state = model.read(np.array([[4]]), state.keep(np.array([2])))  # instead of the 3
    """

    num_tokens: Any
    memories: Any

    @property
    def can_forget(self) -> bool:
        """Whether all memories can take tokens back."""
        return all(memory.can_forget for memory in memories_of(self.memories))

    def next_positions(self, mask):
        """int32 (R, T): positions of the next tokens, of which mask, bool (R, T), says which are real; -1 = padding."""
        return next_positions(mask, self.num_tokens)

    def after(self, positions, memories) -> "DecodingState":
        """The state after tokens at these positions have been read into the memories."""
        num_read = ops.sum(ops.cast(positions >= 0, "int32"), axis=1)
        return DecodingState(self.num_tokens + num_read, memories)

    def keep(self, num_tokens) -> "DecodingState":
        """Each row keeps its first `num_tokens`, int32 (R,), or all if it has no more; padding at the end goes."""
        num_tokens = ops.minimum(self.num_tokens, num_tokens)
        return DecodingState(num_tokens, _each(lambda memory: memory.keep(num_tokens), self.memories))

    def grow(self, num_slots: int) -> "DecodingState":
        """The state with room for at least `num_slots` more tokens; outside of compiled code."""
        return self._replace(memories=_each(lambda memory: memory.grow(num_slots), self.memories))

    def take(self, rows) -> "DecodingState":
        """The state of these rows, int32 (R,), each the row of a prompt."""
        return DecodingState(take_rows(self.num_tokens, rows), _each(lambda memory: memory.take(rows), self.memories))

    def reorder(self, parents) -> "DecodingState":
        """Each row goes on from the row `parents`, int32 (R,), of the same prompt; what is shared stays."""

        def reordered(memory):
            return memory if memory.is_shared else memory.take(parents)

        return DecodingState(take_rows(self.num_tokens, parents), _each(reordered, self.memories))


def memories_of(memories) -> list[Memory]:
    """All memories in nested tuples of them."""
    if hasattr(memories, "keep"):
        return [memories]
    return [memory for part in memories for memory in memories_of(part)]


def _each(function: Callable, memories):
    """The same nested tuples of other memories."""
    if hasattr(memories, "keep"):
        return function(memories)
    parts = [_each(function, part) for part in memories]
    return type(memories)(*parts) if hasattr(memories, "_fields") else tuple(parts)


def merge_heads(state):
    """Any state with rows and heads of all caches, (R, K, S, H), as one axis, as attention reads and writes them.

    So a compiled step writes its keys and values in place; with one row it would copy all caches three times, since the
    axis of 1 is reshaped away between writing and reading. Measured: 1.26 times the tokens per second at batch 1.
    """
    return tree.map_structure(lambda x: ops.reshape(x, (-1, size(x, 2), size(x, 3))) if len(x.shape) == 4 else x, state)


def split_heads(merged, like):
    """What `merge_heads` made of a state of the shapes of `like`, in its own shapes again."""

    def split(x, y):
        # (R * K, S, H) -> (R, K, S, H)
        return ops.reshape(y, (batch_size(x), size(x, 1), size(y, 1), size(y, 2))) if len(x.shape) == 4 else y

    return tree.map_structure(split, like, merged)
