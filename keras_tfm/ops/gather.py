"""Picking positions out of sequences, and rows out of batches."""

from keras import ops, tree

from keras_tfm.ops.sizes import size


def gather_positions(x, indices):
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


def look_up(table, ids, dtype):
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


def take_rows(tensors, rows):
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
