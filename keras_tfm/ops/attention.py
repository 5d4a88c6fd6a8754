"""Scaled dot-product attention, with all scores at once or tile by tile."""

from keras import backend, ops

from keras_tfm.ops.grouped_products import query_key_products, weighted_values
from keras_tfm.ops.lean_attention import HIDDEN_SCORE, lean_attention
from keras_tfm.ops.masks import Visibility

# Measured on 2 cores: from about 1,024 x 1,024 positions on the lean path is faster, and memory begins to matter.
LEAN_FROM = 1024 * 1024
METHODS = ("auto", "plain", "lean")


def scaled_dot_product_attention(
    query,
    key,
    value,
    visible,
    bias=None,
    scale: float | None = None,
    logit_cap: float | None = None,
    sink=None,
    dropout=None,
    method: str = "auto",
    return_attention_scores=False,
):
    """softmax(query key^T * scale + bias) value, over the keys that each query may see.

    Query heads share key heads in order: query head n uses key head n // (N / K), so N = K is multi-head, K = 1 is
    multi-query and anything between is grouped-query attention. Keys are never repeated in memory.

    Two methods give the same answer. "plain" computes all scores at once; "lean" computes them tile by tile, again in
    the backward pass, and needs memory for T + S positions rather than T x S scores. "auto" is lean from 2^20 scores
    a head on (1,024 queries and keys), and where the number of queries is unknown while the function is traced. On JAX
    and torch "auto" is the backend's fused kernel, by `keras.ops.dot_product_attention`, wherever that computes the
    same: without bias, cap, sink, dropout and scores.

    Args:
        query: float (B, N, T, H).
        key, value: float (B, K, S, H), K a divisor of N.
        visible: `Visibility`, the rule of who may look at whom; or bool (B, 1 or N, T, S), True = may look.
        bias: float (B or 1, N or 1, T, S), added to the scaled scores; or a rule (query positions, key positions) ->
            bias as `AlibiBias` and `RelativePositionBias` make, which never becomes a matrix on the lean path; or
            None. A rule needs `visible` to be a `Visibility`.
        scale: factor on the scores. Default: 1 / sqrt(H).
        logit_cap: scores become cap * tanh(scores / cap) before the bias is added (Gemma 2), or None.
        sink: float (N,), a learned score per head that takes part in the softmax and has no value (gpt-oss), or None.
        dropout: `AttentionDropout` of the weights, or None.
        method: "auto", "plain" or "lean".
        return_attention_scores: also return the weights (before dropout); always by the plain method.

    Returns:
        (B, N, T, H) in the dtype of `query`, and if asked the weights, float32 (B, N, T, S). A query that may see
        nothing gets exactly 0, in output, weights and gradients.

    Raises:
        ValueError: for an unknown method, or the lean one together with `return_attention_scores`.

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1, https://arxiv.org/abs/1706.03762;
        Ainslie et al. 2023, "GQA", https://arxiv.org/abs/2305.13245; Rabe and Staats 2021, "Self-attention Does Not
        Need O(n^2) Memory", https://arxiv.org/abs/2112.05682; Dao et al. 2022, "FlashAttention",
        https://arxiv.org/abs/2205.14135
    """
    check_method(method, return_attention_scores)
    if not isinstance(visible, Visibility):
        visible = _rule_of(visible)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    # Scaling the query rather than the scores is cheaper and keeps float16 scores in range.
    query = query * ops.cast(scale, query.dtype)
    if not all(isinstance(size, int | None) for size in (query.shape[2], key.shape[2])):
        method = "plain"  # JAX asks for the output's shape with sizes that are symbols and cannot be compared
    chosen_here = method == "auto" and not return_attention_scores
    simple = all(option is None for option in (bias, logit_cap, sink, dropout))
    if chosen_here and simple and _has_fused_kernel(query, key):
        return _fused_attention(query, key, value, visible.matrix())
    if method == "lean" or (chosen_here and _is_long(query, key)):
        return lean_attention(query, key, value, visible, bias, logit_cap, sink, dropout)
    bias = bias(visible.query_positions, visible.key_positions) if callable(bias) else bias
    output, weights = _plain_attention(query, key, value, visible.matrix(), bias, logit_cap, sink, dropout)
    return (output, weights) if return_attention_scores else output


def method_up_to(length: int) -> str:
    """The method for at most `length` positions: not "auto" where that would take an unknown length for a long one.

    The plain method is traced in a third of the time and is faster up to 1,023 positions. Other backends know their
    lengths, and "auto" has fused kernels there.

    Args:
        length: int, the most queries, and the most keys.

    Returns:
        "plain" or "auto".
    """
    return "plain" if backend.backend() == "tensorflow" and length * length < LEAN_FROM else "auto"


def check_method(method: str, return_attention_scores: bool = False) -> None:
    """Raises a ValueError for an unknown method, or one that cannot return attention scores."""
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}.")
    if method == "lean" and return_attention_scores:
        raise ValueError(
            "`return_attention_scores=True` needs the plain method, which computes them all at once. "
            "Received: method='lean'. Use 'auto' or 'plain'."
        )


def _is_long(query, key) -> bool:
    """Whether the lean method pays; an unknown number of queries may be large, and short ones cost little there."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    if num_queries is None:
        return True
    # With few queries even the whole matrix is linear in the number of keys.
    return num_keys is not None and num_queries * num_keys >= LEAN_FROM


def _has_fused_kernel(query, key) -> bool:
    """Keras' function on TensorFlow is the plain method; on torch it takes one key head for several queries wrongly."""
    name = backend.backend()
    return name == "jax" or (name == "torch" and query.shape[1] == key.shape[1])


def _fused_attention(query, key, value, visible):
    """(B, N, T, H) by the backend's own kernel, which gives a query that sees nothing the mean of all values."""
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, T, N, H)
    output = ops.dot_product_attention(query, key, value, mask=visible, scale=1.0)
    output = ops.transpose(output, (0, 2, 1, 3))  # (B, N, T, H)
    return ops.where(ops.any(visible, axis=-1, keepdims=True), output, ops.zeros_like(output))


def _rule_of(mask) -> Visibility:
    """A matrix as a rule: the positions say nothing, the mask all."""
    mask = ops.convert_to_tensor(mask)
    return Visibility(
        ops.zeros_like(mask[:, 0, :, 0], dtype="int32"), ops.zeros_like(mask[:, 0, 0, :], dtype="int32"), mask=mask
    )


def _plain_attention(query, key, value, visible, bias, logit_cap, sink, dropout):
    """(output (B, N, T, H), weights (B, N, T, S)) from all scores at once."""
    scores = ops.cast(query_key_products(query, key), "float32")  # (B, N, T, S)
    if logit_cap is not None:
        scores = logit_cap * ops.tanh(scores / logit_cap)
    if bias is not None:
        scores = scores + ops.cast(bias, "float32")
    weights = softmax_with_sink(ops.where(visible, scores, HIDDEN_SCORE), sink)  # (B, N, T, S)
    sees_something = ops.any(visible, axis=-1, keepdims=True)  # (B, 1 or N, T, 1)

    kept = weights if dropout is None else dropout(weights)
    output = weighted_values(ops.cast(kept, value.dtype), value)  # (B, N, T, H)
    output = ops.where(sees_something, output, ops.zeros_like(output))
    return output, ops.where(sees_something, weights, ops.zeros_like(weights))


def softmax_with_sink(scores, sink=None):
    """softmax over the keys (B, N, T, S); a sink (N,) takes its share of each row's 1 and is left out."""
    if sink is not None:
        extra = ops.broadcast_to(
            ops.cast(sink, scores.dtype)[:, None, None], (*ops.shape(scores)[:3], 1)
        )  # (B, N, T, 1)
        return ops.softmax(ops.concatenate([scores, extra], axis=-1), axis=-1)[..., :-1]
    # Keras warns of a softmax over a single key, which is what the first token of a sequence sees.
    return ops.softmax(scores, axis=-1) if scores.shape[-1] != 1 else ops.ones_like(scores)
