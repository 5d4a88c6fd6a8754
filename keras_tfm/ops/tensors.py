"""Sizes, values, rows and slices of tensors on every backend, and whether they are being traced or compiled.

On TensorFlow, where sizes may be unknown while a function is traced, they are read with few operations: reading them
was most of the graph of a decoding step.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import backend, ops, tree

from keras_tfm import compat
from keras_tfm.types import DTypeLike, Tensor


def size(x: Tensor, axis: int) -> int | Tensor:
    """The size of an axis: int, or int32 () where it is unknown while traced. `ops.shape` reads all of them."""
    known = x.shape[axis]
    if known is not None or backend.backend() != "tensorflow":
        return known if known is not None else ops.shape(x)[axis]
    import tensorflow as tf

    return tf.shape(x)[axis] if tf.is_tensor(x) else ops.shape(x)[axis]


def batch_size(x: Tensor) -> int:
    """The size of the first axis as a reshape takes it: int, or -1 where it is unknown while traced."""
    return -1 if x.shape[0] is None else x.shape[0]


def next_power_of_two(number: int) -> int:
    """The least power of two that is at least `number`; 1 for numbers below."""
    return 1 << max(0, number - 1).bit_length()


def known_value(x: Tensor) -> Any:
    """The tensor as a NumPy array, or None while it is traced and has no value yet, whatever the backend."""
    if backend.backend() == "tensorflow":
        return x.numpy() if hasattr(x, "numpy") else None
    try:
        return ops.convert_to_numpy(x)
    except (TypeError, ValueError, RuntimeError):  # JAX's and torch's answers for a tracer
        return None


def constant_value(variable: Any) -> Any:
    """The NumPy array that a variable holds now, though a TensorFlow graph may be traced: to it, that is a constant."""
    if backend.backend() != "tensorflow":
        return ops.convert_to_numpy(variable)
    import tensorflow as tf

    with tf.init_scope():
        return ops.convert_to_numpy(variable)


def gather_positions(x: Tensor, indices: Tensor) -> Tensor:
    """The vectors of chosen positions, by one lookup of whole rows.

    `keras.ops.take_along_axis` finds each number by itself, which is many times slower forward and backward.

    Args:
        x: float (B, T, D).
        indices: int32 (B, M), in [0, T).

    Returns:
        float (B, M, D).

    Example:
        >>> gather_positions(np.array([[[1.0], [2.0], [3.0]]]), np.array([[2, 0]]))
        [[[3.0], [1.0]]]
    """
    starts = size(x, 1) * ops.arange(size(x, 0), dtype="int32")[:, None]
    return ops.take(ops.reshape(x, (-1, x.shape[-1])), ops.cast(indices, "int32") + starts, axis=0)


def look_up(table: Tensor, ids: Tensor, dtype: DTypeLike) -> Tensor:
    """Rows of a table of weights, cast, with a gradient that is dense.

    TensorFlow's gradient of a lookup lists rows, and an id that was read twice has two, which Keras 3.15 does not sum
    everywhere. Adam squares each by itself, so that its steps for frequent ids are too long. And the check of a scaled
    loss (`LossScaleOptimizer`) sees the last one only: an infinity in another goes into the table, which is NaN for
    good.

    Args:
        table: float (V, D), the weights as they are stored.
        ids: int32 of any shape, in [0, V).
        dtype: of the answer, a name.

    Returns:
        Tensor (..., D).

    Example:
        >>> look_up(np.array([[1.0], [2.0]]), np.array([1, 1, 0]), "float32")
        [[2.0], [2.0], [1.0]]
    """
    table = ops.reshape(table, table.shape)  # whose gradient knows no rows
    return ops.cast(ops.take(table, ids, axis=0), dtype)


def take_rows(tensors: Any, rows: Tensor) -> Any:
    """Nested tensors with the rows first, with these rows of them; scalars stay.

    Args:
        tensors: nested tensors (B, ...).
        rows: int32 (R,), in [0, B).

    Returns:
        The same structure of tensors (R, ...).

    Example:
        >>> take_rows({"x": np.array([[1], [2]])}, np.array([1, 1, 0]))
        {"x": [[2], [2], [1]]}
    """
    return tree.map_structure(lambda x: x if len(x.shape) == 0 else ops.take(x, rows, axis=0), tensors)


def slice_update(x: Tensor, start: Sequence, piece: Tensor) -> Tensor:
    """`keras.ops.slice_update` that also runs without XLA, and in place, as in a server that switches XLA off.

    On TensorFlow, Keras' own is an operation of XLA: a server without XLA fails, a plain graph copies all of `x`.

    Args:
        x: any dtype (...).
        start: sequence of one index for each axis of `x`, ints or int32 () tensors. A piece that would go over the end
            is written at the end.
        piece: of the dtype and rank of `x`.

    Returns:
        `x` with `piece` from `start` on.

    Example:
        >>> slice_update(ops.zeros((4,)), (1,), ops.ones((2,)))
        [0, 1, 1, 0]
    """
    if backend.backend() != "tensorflow" or is_compiled_by_xla():
        return ops.slice_update(x, start, piece)
    sizes = [size(piece, axis) for axis in range(len(x.shape))]

    def clipped(first, axis):
        if isinstance(first, int) and first == 0:
            return 0
        return ops.clip(ops.convert_to_tensor(first, "int32"), 0, size(x, axis) - sizes[axis])

    begin = [clipped(first, axis) for axis, first in enumerate(start)]
    end = [first + number for first, number in zip(begin, sizes, strict=True)]
    return compat.with_slice(x, begin, end, piece)


def is_tracing() -> bool:
    """Whether TensorFlow is tracing a graph of what is computed now."""
    if backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.inside_function()


def graph_function(function: Callable) -> Callable:
    """`function` of nested tensors as a `tf.function`: traced once for all calls with the same shapes."""
    import tensorflow as tf

    return tf.function(function, autograph=False)


def is_compiled_by_xla() -> bool:
    """Whether XLA compiles what is computed now: on TensorFlow, in a function with `jit_compile=True`."""
    if backend.backend() != "tensorflow":
        return backend.backend() == "jax"
    return compat.in_xla_context()
