"""Writing a piece into a tensor, in place wherever that is possible."""

from keras import backend, ops

from keras_tfm import compat
from keras_tfm.ops.graph import is_compiled_by_xla
from keras_tfm.ops.sizes import size


def slice_update(x, start, piece):
    """`keras.ops.slice_update` that runs without XLA, too, as in a server that switches XLA off.

    Keras' own is an operation of XLA on TensorFlow, which fails there, and in plain graphs copies all of `x`.

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
