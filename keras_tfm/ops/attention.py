"""Scaled dot-product attention: plain, with all scores at once, or lean, tile by tile with scores computed twice."""

from typing import Any

from keras import backend, ops

from keras_tfm.ops.positions import Visibility
from keras_tfm.ops.random import AttentionDropout
from keras_tfm.ops.tensors import batch_size, size
from keras_tfm.ops.tile_bias import tile_bias
from keras_tfm.ops.tiles import TileBuffer, TiledVisibility, from_tiles, tile_size, to_tiles, while_loop
from keras_tfm.types import Tensor

# Measured on 2 cores: from about 1,024 x 1,024 positions on the lean path is faster, and memory begins to matter.
LEAN_FROM = 1024 * 1024
METHODS = ("auto", "plain", "lean")
# Far below any score, yet finite, so that neither the softmax nor its gradient meets inf - inf.
HIDDEN_SCORE = -1e30
# Measured on 2 cores; smaller tiles cost more operations, larger ones leave the caches.
QUERY_TILE, KEY_TILE = 512, 512


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Any,
    bias: Any = None,
    scale: float | None = None,
    logit_cap: float | None = None,
    sink: Tensor | None = None,
    dropout: AttentionDropout | None = None,
    method: str = "auto",
    return_attention_scores: bool = False,
) -> Any:
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


def softmax_with_sink(scores: Tensor, sink: Tensor | None = None) -> Tensor:
    """softmax over the keys (B, N, T, S); a sink (N,) takes its share of each row's 1 and is left out."""
    if sink is not None:
        extra = ops.broadcast_to(
            ops.cast(sink, scores.dtype)[:, None, None], (*ops.shape(scores)[:3], 1)
        )  # (B, N, T, 1)
        return ops.softmax(ops.concatenate([scores, extra], axis=-1), axis=-1)[..., :-1]
    # Keras warns of a softmax over a single key, which is what the first token of a sequence sees.
    return ops.softmax(scores, axis=-1) if scores.shape[-1] != 1 else ops.ones_like(scores)


def query_key_products(query: Tensor, key: Tensor) -> Tensor:
    """Q K^T: queries (B, N, T, H) and keys (B, K, S, H) -> (B, N, T, S)."""
    rows, keys = _by_shared_head(query, key)  # (BK, GT, H), (BK, S, H)
    scores = _product(rows, keys, transpose_y=True)  # (BK, GT, S)
    return ops.reshape(scores, (batch_size(query), size(query, 1), size(query, 2), size(key, 2)))  # (B, N, T, S)


def weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """A V: weights (B, N, T, S) and values (B, K, S, H) -> (B, N, T, H)."""
    sums = ops.matmul(*_by_shared_head(weights, value))  # (BK, GT, H)
    return ops.reshape(sums, (batch_size(weights), size(weights, 1), size(weights, 2), value.shape[3]))  # (B, N, T, H)


def transposed_sums(weights: Tensor, x: Tensor, key: Tensor) -> Tensor:
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


def lean_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Visibility,
    bias: Any = None,
    logit_cap: float | None = None,
    sink: Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """What `scaled_dot_product_attention` computes, without its matrix of scores.

    For each tile of queries a running softmax goes over the tiles of keys that it may see: the greatest score so far,
    the sum of exponentials and the weighted sum of values. The backward pass computes the scores of a tile again, from
    queries, keys and the logarithm of each query's sum of exponentials. Both are loops in the graph: of any length,
    with and without jit.

    Args:
        query: float (B, N, T, H), scaled.
        key, value, visible, bias, logit_cap, sink, dropout: see `scaled_dot_product_attention`.

    Returns:
        (B, N, T, H) in the dtype of `query`.

    Reference:
        Rabe and Staats 2021, https://arxiv.org/abs/2112.05682; Dao et al. 2022, "FlashAttention", algorithms 1 and 4,
        https://arxiv.org/abs/2205.14135
    """
    sizes = tile_size(ops.shape(query)[2], QUERY_TILE), tile_size(ops.shape(key)[2], KEY_TILE)
    tiled = TiledVisibility(visible, *sizes)
    make_bias, bias_parameters = tile_bias(bias, tiled)
    sinks = () if sink is None else (sink,)

    # What can learn is an argument: gradients flow through the arguments of a custom gradient only.
    @ops.custom_gradient
    def attend(query, key, value, *learned):
        bias = make_bias(learned[: len(bias_parameters)])
        scores = _Scores(query, key, sizes, tiled, bias, logit_cap)
        values = to_tiles(value, sizes[1])
        sink = learned[-1] if sinks else None  # (N,)
        output, log_sums = _forward(scores, values, sink, dropout)

        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            upstream = to_tiles(ops.cast(upstream, "float32"), sizes[0])
            delta = ops.sum(upstream * output, axis=-1, keepdims=True)  # (tiles, B, N, size, 1)
            upstream = ops.cast(upstream, value.dtype)
            totals = _backward(scores, values, dropout, log_sums, upstream, delta)
            gradients = [from_tiles(total, x) for total, x in zip(totals[:3], (query, key, value), strict=True)]
            gradients += bias.finish(totals[3])
            if sink is not None:
                shares = ops.exp(ops.cast(sink, "float32")[:, None, None] - log_sums) * delta
                gradients.append(ops.cast(-ops.sum(shares, axis=(0, 1, 3, 4)), sink.dtype))
            return tuple(gradients)

        return from_tiles(output, query), gradient

    return attend(query, key, value, *bias_parameters, *sinks)


class _Scores:
    """The scores of one tile of queries and keys: capped, biased, hidden where a query may not look."""

    def __init__(self, query: Tensor, key: Tensor, sizes, visible: Any, bias: Any, logit_cap):
        self.queries, self.keys = to_tiles(query, sizes[0]), to_tiles(key, sizes[1])
        self.visible, self.bias, self.logit_cap = visible, bias, logit_cap

    def tile(self, i, j):
        """(float32 (B, N, queries, keys), slope of the cap or None)."""
        scores = ops.cast(query_key_products(self.queries[i], self.keys[j]), "float32")
        slope = None
        if self.logit_cap is not None:
            capped = ops.tanh(scores / self.logit_cap)
            scores, slope = self.logit_cap * capped, 1 - ops.square(capped)
        scores = self.bias.add(scores, i, j)
        return self.visible.hide(scores, i, j, HIDDEN_SCORE), slope


def _forward(scores, values, sink, dropout):
    """(output, log of the sums of exponentials), float32 (tiles, B, N, size, H) and (tiles, B, N, size, 1)."""
    visible = scores.visible

    def query_tile(i, outputs, log_sums):
        query = ops.cast(scores.queries[i], "float32")  # (B, N, size, H)
        if sink is None:
            greatest, total = (
                ops.full_like(query[..., :1], HIDDEN_SCORE),
                ops.zeros_like(query[..., :1]),
            )  # (B, N, size, 1)
        else:  # a score that is there from the start, with a value of 0
            total = ops.ones_like(query[..., :1])
            greatest = total * ops.cast(sink, "float32")[:, None, None]

        def key_tile(j, greatest, total, output):
            tile, _ = scores.tile(i, j)  # (B, N, queries, keys)
            new_greatest = ops.maximum(greatest, ops.max(tile, axis=-1, keepdims=True))  # (B, N, queries, 1)
            weights = ops.exp(tile - new_greatest)  # (B, N, queries, keys)
            shrink = ops.exp(greatest - new_greatest)  # (B, N, queries, 1)
            total = total * shrink + ops.sum(weights, axis=-1, keepdims=True)
            weights = _dropped(weights, dropout, visible, i, j)
            values_of_tile = weighted_values(ops.cast(weights, values.dtype), values[j])  # (B, N, queries, H)
            output = output * shrink + ops.cast(values_of_tile, "float32")
            return j + 1, new_greatest, total, output

        start = visible.first[i], greatest, total, ops.zeros_like(query)
        _, greatest, total, output = while_loop(lambda j, *_: j < visible.end[i], key_tile, start)
        # A query that saw nothing: weights of exactly 0 here, and in the backward pass, where 0 is its log sum.
        sees_something = greatest > HIDDEN_SCORE / 2
        output = ops.where(sees_something, output / total, 0.0)
        log_sum = ops.where(sees_something, greatest + ops.log(total), 0.0)
        return i + 1, TileBuffer.set(outputs, i, output), TileBuffer.set(log_sums, i, log_sum)

    start = ops.zeros((), "int32"), TileBuffer.zeros(scores.queries), TileBuffer.zeros(scores.queries[..., :1])
    _, outputs, log_sums = while_loop(lambda i, *_: i < visible.num_query_tiles, query_tile, start)
    return TileBuffer.tiles(outputs), TileBuffer.tiles(log_sums)


def _backward(scores, values, dropout, log_sums, upstream, delta):
    """Gradients of query, key, value (in tiles, float32) and of the bias' parameters."""
    visible, bias = scores.visible, scores.bias

    def query_tile(i, d_query, d_key, d_value, d_bias):
        def key_tile(j, d_query, d_key, d_value, d_bias):
            tile, slope = scores.tile(i, j)  # (B, N, queries, keys), as all of its gradients
            weights = ops.exp(tile - log_sums[i])
            dropped = ops.cast(_dropped(weights, dropout, visible, i, j), values.dtype)
            d_value = TileBuffer.add(d_value, j, transposed_sums(dropped, upstream[i], values[j]))
            d_weights = ops.cast(query_key_products(upstream[i], values[j]), "float32")
            d_scores = weights * (_dropped(d_weights, dropout, visible, i, j) - delta[i])
            d_bias = bias.add_gradient(d_bias, i, j, d_scores)
            if slope is not None:
                d_scores = d_scores * slope
            d_scores = ops.cast(d_scores, values.dtype)
            d_key = TileBuffer.add(d_key, j, transposed_sums(d_scores, scores.queries[i], scores.keys[j]))
            d_query = d_query + ops.cast(weighted_values(d_scores, scores.keys[j]), "float32")
            return j + 1, d_query, d_key, d_value, d_bias

        start = visible.first[i], ops.zeros_like(scores.queries[i], dtype="float32"), d_key, d_value, d_bias
        _, row, d_key, d_value, d_bias = while_loop(lambda j, *_: j < visible.end[i], key_tile, start)
        return i + 1, TileBuffer.set(d_query, i, row), d_key, d_value, d_bias

    buffers = [TileBuffer.zeros(tiles) for tiles in (scores.queries, scores.keys, values)]
    start = ops.zeros((), "int32"), *buffers, bias.zeros()
    _, *buffers, d_bias = while_loop(lambda i, *_: i < visible.num_query_tiles, query_tile, start)
    return *(TileBuffer.tiles(buffer) for buffer in buffers), d_bias


def _dropped(weights, dropout, visible, i, j):
    if dropout is None:
        return weights
    return dropout(weights, first_query=i * visible.query_size, first_key=j * visible.key_size)
