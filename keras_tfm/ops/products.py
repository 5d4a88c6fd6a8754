"""The matrix products of attention, of which heads share columns; a cache is read as it lies, never copied."""

from keras import backend, ops


def products(rows, columns):
    """(B, N, T, H) and (B, K, S, H) -> (B, N, T, S): each row with each column of its shared head."""
    batch, num_heads, length, _ = ops.shape(rows)
    scores = _product(*_by_shared_head(rows, columns), transpose_y=True)
    return ops.reshape(scores, (batch, num_heads, length, ops.shape(columns)[2]))


def gathered(weights, columns):
    """(B, N, T, S) and (B, K, S, H) -> (B, N, T, H): sums of columns."""
    batch, num_heads, length, _ = ops.shape(weights)
    sums = ops.matmul(*_by_shared_head(weights, columns))
    return ops.reshape(sums, (batch, num_heads, length, columns.shape[3]))


def scattered(weights, rows, columns):
    """(B, N, T, S) and (B, N, T, H) -> (B, K, S, H), float32: sums of rows, over the heads that share a column."""
    num_heads, length, num_columns = ops.shape(weights)[1:]
    batch, shared, _, width = ops.shape(columns)
    group = num_heads // shared * length
    weights, rows = (ops.reshape(x, (-1, group, size)) for x, size in ((weights, num_columns), (rows, width)))
    sums = _product(weights, rows, transpose_x=True)
    return ops.cast(ops.reshape(sums, (batch, shared, num_columns, width)), "float32")


def _by_shared_head(rows, columns):
    """(B, N, T, X) and (B, K, S, H) -> (BK, GT, X) and (BK, S, H): what shares a head is one matrix, without a copy.

    One axis before the matrices, not two: a compiled decoding step would take an axis of 1 (a single prompt) away by a
    reshape, and copy the whole cache for it.
    """
    num_heads, length, width = ops.shape(rows)[1:]
    shared, num_columns, depth = ops.shape(columns)[1:]
    rows = ops.reshape(rows, (-1, num_heads // shared * length, width))
    return rows, ops.reshape(columns, (-1, num_columns, depth))


def _product(x, y, transpose_x=False, transpose_y=False):
    """Matrix products (Z, ., .), reading a transposed one as it lies: Keras' operations on TensorFlow copy it first."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    x = ops.swapaxes(x, 1, 2) if transpose_x else x
    return ops.matmul(x, ops.swapaxes(y, 1, 2) if transpose_y else y)
