"""Scaled dot-product attention."""

from keras import ops

# Far below any score, yet finite, so that neither the softmax nor its gradient meets inf - inf.
HIDDEN_SCORE = -1e30


def scaled_dot_product_attention(
    query, key, value, visible, bias=None, scale: float | None = None, dropout=None, return_attention_scores=False
):
    """softmax(query key^T * scale + bias) value, over the keys that each query may see.

    Query heads share key heads in order: query head n uses key head n // (N / K), so N = K is multi-head, K = 1 is
    multi-query and anything between is grouped-query attention. Keys are never repeated in memory.

    Args:
        query: float (B, N, T, H).
        key, value: float (B, K, S, H), K a divisor of N.
        visible: bool (B, 1, T, S) or (B, N, T, S), True = may look.
        bias: float (B or 1, N or 1, T, S), added to the scaled scores, or None.
        scale: factor on the scores. Default: 1 / sqrt(H).
        dropout: a function that drops attention weights, or None.
        return_attention_scores: also return the weights (before dropout).

    Returns:
        (B, N, T, H) in the dtype of `query`, and if asked the weights, float32 (B, N, T, S). A query that may see
        nothing gets exactly 0, in output, weights and gradients.

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1, https://arxiv.org/abs/1706.03762;
        Ainslie et al. 2023, "GQA", https://arxiv.org/abs/2305.13245
    """
    num_heads, head_dim = query.shape[1], query.shape[3]
    num_key_value_heads = key.shape[1]
    length = ops.shape(query)[2]
    grouped = (-1, num_key_value_heads, num_heads // num_key_value_heads * length, head_dim)
    scale = head_dim**-0.5 if scale is None else scale

    # Scaling the query rather than the scores is cheaper and keeps float16 scores in range.
    query = query * ops.cast(scale, query.dtype)
    # An einsum reads the keys as they lie; a product with swapped axes would copy the whole cache at each step.
    scores = ops.einsum("bkth,bksh->bkts", ops.reshape(query, grouped), key)  # (B, K, G*T, S)
    scores = ops.reshape(scores, (-1, num_heads, length, ops.shape(key)[2]))
    scores = ops.cast(scores, "float32")
    if bias is not None:
        scores = scores + ops.cast(bias, "float32")
    weights = _softmax(ops.where(visible, scores, HIDDEN_SCORE))  # (B, N, T, S)
    sees_something = ops.any(visible, axis=-1, keepdims=True)

    kept = ops.cast(weights, value.dtype)
    if dropout is not None:
        kept = dropout(kept)
    kept = ops.reshape(kept, (-1, num_key_value_heads, num_heads // num_key_value_heads * length, ops.shape(key)[2]))
    output = ops.reshape(ops.matmul(kept, value), (-1, num_heads, length, head_dim))
    output = ops.where(sees_something, output, ops.zeros_like(output))
    if return_attention_scores:
        return output, ops.where(sees_something, weights, ops.zeros_like(weights))
    return output


def _softmax(scores):
    # Keras warns of a softmax over a single key, which is what the first token of a sequence sees.
    return ops.softmax(scores, axis=-1) if scores.shape[-1] != 1 else ops.ones_like(scores)
