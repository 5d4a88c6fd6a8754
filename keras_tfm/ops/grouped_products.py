"""The matrix products of grouped-query attention: G = N / K query heads share a key head. A KV cache is not copied."""

from keras import backend, ops

from keras_tfm.ops.tensors import batch_size, size


def query_key_products(rows, columns):
    """Q K^T: queries (B, N, T, H) and keys (B, K, S, H) -> (B, N, T, S)."""
    scores = _product(*_by_shared_head(rows, columns), transpose_y=True)
    return ops.reshape(scores, (batch_size(rows), size(rows, 1), size(rows, 2), size(columns, 2)))


def weighted_values(weights, columns):
    """A V: weights (B, N, T, S) and values (B, K, S, H) -> (B, N, T, H)."""
    sums = ops.matmul(*_by_shared_head(weights, columns))
    return ops.reshape(sums, (batch_size(weights), size(weights, 1), size(weights, 2), columns.shape[3]))


def transposed_sums(weights, rows, columns):
    """A^T X: weights (B, N, T, S) and (B, N, T, H) -> (B, K, S, H), float32, sums over heads that share a key head."""
    num_columns, shared, width = size(weights, 3), columns.shape[1], columns.shape[3]
    group = weights.shape[1] // shared * size(weights, 2)
    weights, rows = (ops.reshape(x, (-1, group, number)) for x, number in ((weights, num_columns), (rows, width)))
    sums = _product(weights, rows, transpose_x=True)
    return ops.cast(ops.reshape(sums, (batch_size(columns), shared, num_columns, width)), "float32")


def _by_shared_head(rows, columns):
    """(B, N, T, X) and (B, K, S, H) -> (BK, GT, X) and (BK, S, H): what shares a head is one matrix, without a copy.

    One axis before the matrices, not two: a compiled decoding step would take an axis of 1 (a single prompt) away by a
    reshape, and copy the whole cache for it.
    """
    num_columns = size(columns, 2)
    group = rows.shape[1] // columns.shape[1] * size(rows, 2)
    width = num_columns if rows.shape[3] is None else rows.shape[3]
    return ops.reshape(rows, (-1, group, width)), ops.reshape(columns, (-1, num_columns, columns.shape[3]))


def _product(x, y, transpose_x=False, transpose_y=False):
    """Matrix products (Z, ., .), reading a transposed one as it lies: Keras' operations on TensorFlow copy it first."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    x = ops.swapaxes(x, 1, 2) if transpose_x else x
    return ops.matmul(x, ops.swapaxes(y, 1, 2) if transpose_y else y)
