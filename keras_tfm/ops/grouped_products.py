"""The matrix products of grouped-query attention: G = N / K query heads share a key head. A KV cache is not copied."""

from keras import backend, ops

from keras_tfm.ops.tensors import batch_size, size


def query_key_products(query, key):
    """Q K^T: queries (B, N, T, H) and keys (B, K, S, H) -> (B, N, T, S)."""
    scores = _product(*_by_shared_head(query, key), transpose_y=True)  # (BK, GT, S)
    return ops.reshape(scores, (batch_size(query), size(query, 1), size(query, 2), size(key, 2)))  # (B, N, T, S)


def weighted_values(weights, value):
    """A V: weights (B, N, T, S) and values (B, K, S, H) -> (B, N, T, H)."""
    sums = ops.matmul(*_by_shared_head(weights, value))  # (BK, GT, H)
    return ops.reshape(sums, (batch_size(weights), size(weights, 1), size(weights, 2), value.shape[3]))  # (B, N, T, H)


def transposed_sums(weights, x, key):
    """A^T X: weights (B, N, T, S) and x (B, N, T, H) -> (B, K, S, H), the shape of `key`, in float32.

    Query heads that share a key head are summed.
    """
    num_keys, num_key_heads, width = size(weights, 3), key.shape[1], key.shape[3]
    group = weights.shape[1] // num_key_heads * size(weights, 2)  # G * T
    weights = ops.reshape(weights, (-1, group, num_keys))  # (BK, GT, S)
    x = ops.reshape(x, (-1, group, width))  # (BK, GT, H)
    sums = _product(weights, x, transpose_x=True)  # (BK, S, H)
    return ops.cast(ops.reshape(sums, (batch_size(key), num_key_heads, num_keys, width)), "float32")  # (B, K, S, H)


def _by_shared_head(x, key):
    """(B, N, T, X) and (B, K, S, H) -> (BK, GT, X) and (BK, S, H): what shares a key head is one matrix.

    Both are reshapes without a copy, to one axis before the matrices, not two: a compiled decoding step for a single
    prompt would take an axis of 1 away by a reshape, and copy the whole cache for it.
    """
    num_keys = size(key, 2)
    group = x.shape[1] // key.shape[1] * size(x, 2)  # G * T
    width = num_keys if x.shape[3] is None else x.shape[3]
    x = ops.reshape(x, (-1, group, width))  # (BK, GT, X)
    return x, ops.reshape(key, (-1, num_keys, key.shape[3]))  # (BK, S, H)


def _product(x, y, transpose_x=False, transpose_y=False):
    """Batched matrix products (Z, ., .) that read a transposed operand as it lies: Keras' own copy it first."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    x = ops.swapaxes(x, 1, 2) if transpose_x else x
    return ops.matmul(x, ops.swapaxes(y, 1, 2) if transpose_y else y)
