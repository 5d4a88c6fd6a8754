"""Sizes of tensors in few graph operations: of all that a decoding step is traced to, they were the most."""

from keras import backend, ops


def size(x, axis: int):
    """The size of an axis: int, or int32 () where it is unknown while traced; `ops.shape` cuts out all unknown ones."""
    known = x.shape[axis]
    if known is not None or backend.backend() != "tensorflow":
        return known if known is not None else ops.shape(x)[axis]
    import tensorflow as tf

    return tf.shape(x)[axis] if tf.is_tensor(x) else ops.shape(x)[axis]


def batch_size(x):
    """The size of the first axis as a reshape takes it: int, or -1 where it is unknown while traced."""
    return -1 if x.shape[0] is None else x.shape[0]


def next_power_of_two(number: int) -> int:
    """The least power of two that is at least `number`; 1 for numbers below."""
    return 1 << max(0, number - 1).bit_length()
