"""Sequences cut into tiles, which tiles of keys each tile of queries has to look at, and loops over tiles."""

from collections.abc import Callable
from typing import Any

from keras import backend, ops

from keras_tfm.ops.positions import Visibility
from keras_tfm.types import Tensor

_FAR = 2**30  # beyond any position or document id


def tile_size(length: int | Tensor, largest: int) -> int | Tensor:
    """The size of a tile: `largest`, or the whole length if that is shorter. A number where the length is known."""
    if isinstance(length, int):
        return max(1, min(length, largest))
    return ops.maximum(1, ops.minimum(length, largest))


def num_tiles(length: int | Tensor, size: int | Tensor) -> int | Tensor:
    """How many tiles of `size` cover `length`."""
    return (length + size - 1) // size


def pad_axis(x: Tensor, axis: int, length: int | Tensor, value: int = 0) -> Tensor:
    """`x` with `value` after its end on one axis, up to `length`."""
    missing = length - ops.shape(x)[axis]
    if isinstance(missing, int) and missing == 0:
        return x
    shape = [missing if i == axis % len(x.shape) else size for i, size in enumerate(ops.shape(x))]
    return ops.concatenate([x, ops.cast(ops.broadcast_to(ops.convert_to_tensor(value), shape), x.dtype)], axis=axis)


def to_tiles(x: Tensor, size: int | Tensor) -> Tensor:
    """(B, N, T, H) -> (tiles, B, N, size, H), zeros after the end."""
    count = num_tiles(ops.shape(x)[2], size)
    x = pad_axis(x, 2, count * size)  # (B, N, tiles * size, H)
    x = ops.reshape(x, (-1, x.shape[1], count, size, x.shape[3]))  # (B, N, tiles, size, H)
    return ops.transpose(x, (2, 0, 1, 3, 4))  # (tiles, B, N, size, H)


def from_tiles(x: Tensor, like: Any) -> Tensor:
    """(tiles, B, N, size, H) -> (B, N, T, H), in the shape and dtype of `like`."""
    count, _, num_heads, size, width = ops.shape(x)
    x = ops.transpose(x, (1, 2, 0, 3, 4))  # (B, N, tiles, size, H)
    x = ops.reshape(x, (-1, num_heads, count * size, width))  # (B, N, tiles * size, H)
    return ops.cast(ops.reshape(x[:, :, : ops.shape(like)[2]], ops.shape(like)), like.dtype)  # (B, N, T, H)


def matrix_tile(matrix: Tensor, i: Tensor, j: Tensor, query_size: int | Tensor, key_size: int | Tensor) -> Tensor:
    """Tile (i, j) of (B, N, T, S), whose T and S are whole numbers of tiles."""
    shape = (*ops.shape(matrix)[:2], query_size, key_size)
    return ops.slice(matrix, (0, 0, i * query_size, j * key_size), shape)


class TiledVisibility:
    """A `Visibility` cut into tiles: `first` and `end` bound the tiles of keys that a tile of queries looks at.

    They come from the positions themselves, so that causal, windowed, packed and padded sequences all skip what is
    hidden, whatever hides it. (The caller's own mask is not searched.)
    """

    def __init__(self, visible: Visibility, query_size: int | Tensor, key_size: int | Tensor):
        visible = visible.checked()
        self.visible, self.query_size, self.key_size = visible, query_size, key_size
        num_queries, num_keys = ops.shape(visible.query_positions)[1], ops.shape(visible.key_positions)[1]
        self.num_query_tiles = num_tiles(num_queries, query_size)
        self.num_key_tiles = num_tiles(num_keys, key_size)
        self.query_positions = self._tiled(visible.query_positions, query_size, self.num_query_tiles, -1)
        self.key_positions = self._tiled(visible.key_positions, key_size, self.num_key_tiles, -1)
        self.query_documents = self.key_documents = None
        if visible.query_documents is not None:
            self.query_documents = self._tiled(visible.query_documents, query_size, self.num_query_tiles, 0)
            self.key_documents = self._tiled(visible.key_documents, key_size, self.num_key_tiles, 0)
        self.mask = None
        if visible.mask is not None:
            self.mask = pad_axis(visible.mask, 2, self.num_query_tiles * query_size, False)
            self.mask = pad_axis(self.mask, 3, self.num_key_tiles * key_size, False)
        needed, self.whole = self._needed(), self._whole()
        self.first = ops.cast(ops.argmax(needed, axis=1), "int32")
        after = self.num_key_tiles - ops.cast(ops.argmax(ops.flip(needed, axis=1), axis=1), "int32")
        self.end = ops.where(ops.any(needed, axis=1), after, 0)

    @staticmethod
    def _tiled(x, size, count, value):
        """(B, T) -> (tiles, B, size), `value` after the end."""
        x = ops.reshape(pad_axis(x, 1, count * size, value), (-1, count, size))  # (B, tiles, size)
        return ops.transpose(x, (1, 0, 2))  # (tiles, B, size)

    def _needed(self):
        """bool (query tiles, key tiles): whether any query might see any key, over all rows of the batch."""
        query_low, query_high = _range(self.query_positions, self.query_positions >= 0)  # (query tiles,)
        key_low, key_high = _range(self.key_positions, self.key_positions >= 0)  # (key tiles,)
        query_low, query_high = query_low[:, None], query_high[:, None]  # (query tiles, 1)
        needed = ops.logical_and(query_high >= 0, key_high >= 0)
        if self.visible.causal:
            needed = ops.logical_and(needed, key_low <= query_high)
        if self.visible.window is not None:
            needed = ops.logical_and(needed, query_low - key_high < self.visible.window)
            if not self.visible.causal:
                needed = ops.logical_and(needed, key_low - query_high < self.visible.window)
        if self.query_documents is not None:
            query_low, query_high = _range(self.query_documents, self.query_positions >= 0)
            key_low, key_high = _range(self.key_documents, self.key_positions >= 0)
            needed = ops.logical_and(needed, query_low[:, None] <= key_high)
            needed = ops.logical_and(needed, key_low <= query_high[:, None])
        return needed

    def _whole(self):
        """bool (query tiles, key tiles): whether every query sees every key, in all rows; the mask left aside."""
        extremes = (ops.min, ops.max)
        query_low, query_high = (f(self.query_positions, axis=(1, 2))[:, None] for f in extremes)  # (query tiles, 1)
        key_low, key_high = (f(self.key_positions, axis=(1, 2)) for f in extremes)  # (key tiles,)
        whole = ops.logical_and(query_low >= 0, key_low >= 0)
        if self.visible.causal:
            whole = ops.logical_and(whole, key_high <= query_low)
        if self.visible.window is not None:
            whole = ops.logical_and(whole, query_high - key_low < self.visible.window)
            if not self.visible.causal:
                whole = ops.logical_and(whole, key_high - query_low < self.visible.window)
        if self.query_documents is not None:
            for queries in extremes:
                for keys in extremes:
                    same = queries(self.query_documents, axis=(1, 2))[:, None] == keys(self.key_documents, axis=(1, 2))
                    whole = ops.logical_and(whole, same)
        return whole

    def hide(self, scores: Tensor, i: Tensor, j: Tensor, hidden_score: float) -> Tensor:
        """The scores (B, N, queries, keys) of tile (i, j), `hidden_score` where a query may not look."""

        def hidden():
            return ops.where(self.tile(i, j), scores, hidden_score)

        # Most tiles of a causal sequence are seen whole: leaving them alone saves a tenth of the time.
        return hidden() if self.mask is not None else ops.cond(self.whole[i, j], lambda: scores, hidden)

    def tile(self, i: Tensor, j: Tensor) -> Tensor:
        """bool (B, 1 or N, queries, keys) of tile (i, j)."""
        tile = self.visible._replace(query_positions=self.query_positions[i], key_positions=self.key_positions[j])
        if self.query_documents is not None and self.key_documents is not None:
            tile = tile._replace(query_documents=self.query_documents[i], key_documents=self.key_documents[j])
        if self.mask is not None:
            tile = tile._replace(mask=matrix_tile(self.mask, i, j, self.query_size, self.key_size))
        return tile.matrix()


def _range(numbers, real):
    """The least and the greatest of the real `numbers` (tiles, B, size) of each tile; an empty range without any."""
    lowest = ops.min(ops.where(real, numbers, _FAR), axis=(1, 2))
    return lowest, ops.max(ops.where(real, numbers, -_FAR), axis=(1, 2))


def while_loop(condition: Tensor, body: Callable, state: tuple) -> tuple:
    """`keras.ops.while_loop`, of which TensorFlow has at most two iterations under way at any time.

    By default it begins ten at once wherever it can, and keeps the memory of all: lean attention over 8,192 positions
    then takes 1.2 GB rather than 0.3 GB, and not less time.

    Args:
        condition: state -> bool.
        body: state -> the next state.
        state: tuple of nested tensors, or of `TileBuffer` contents.

    Returns:
        The last state.
    """
    if backend.backend() != "tensorflow":
        return ops.while_loop(condition, body, state)
    import tensorflow as tf

    return tf.while_loop(condition, body, state, parallel_iterations=2)


class TileBuffer:
    """Tiles to be written or summed up one at a time in a loop, whose state holds the `contents`.

    On TensorFlow they are a TensorArray: `scatter_update` copies all tiles for each one that is written, which at
    32,768 positions takes longer than the products.
    """

    @staticmethod
    def zeros(tiles: Tensor) -> Any:
        """Contents of zeros, float32, in the shape of `tiles` (count, ...)."""
        zeros = ops.zeros_like(tiles, dtype="float32")
        if backend.backend() != "tensorflow":
            return zeros
        import tensorflow as tf

        array = tf.TensorArray(tf.float32, tf.shape(zeros)[0], element_shape=zeros.shape[1:], clear_after_read=False)
        return array.unstack(zeros)

    @staticmethod
    def unwritten(count: int, shape: tuple[int, ...]) -> Any:
        """Contents of `count` float32 tiles, each of which is going to be set; no memory is taken for them before."""
        if backend.backend() != "tensorflow":
            return ops.zeros((count, *shape), "float32")
        import tensorflow as tf

        return tf.TensorArray(tf.float32, count, element_shape=shape)

    @staticmethod
    def set(contents: Any, i: Tensor, tile: Tensor) -> Any:
        """Contents with tile i replaced."""
        if backend.backend() != "tensorflow":
            return ops.scatter_update(contents, [[i]], tile[None])
        return contents.write(i, tile)

    @staticmethod
    def add(contents: Any, i: Tensor, tile: Tensor) -> Any:
        """Contents with `tile` added to tile i."""
        if backend.backend() != "tensorflow":
            return TileBuffer.set(contents, i, ops.take(contents, i, axis=0) + tile)
        return contents.write(i, contents.read(i) + tile)

    @staticmethod
    def tiles(contents: Any) -> Tensor:
        """The tiles as a tensor (count, ...)."""
        return contents if backend.backend() != "tensorflow" else contents.stack()
