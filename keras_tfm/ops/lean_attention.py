"""Attention in memory that grows with the length, not with its square: scores tile by tile, computed twice."""

from keras import ops

from keras_tfm.ops.grouped_products import query_key_products, transposed_sums, weighted_values
from keras_tfm.ops.masks import Visibility
from keras_tfm.ops.tile_bias import tile_bias
from keras_tfm.ops.tiles import TileBuffer, TiledVisibility, from_tiles, tile_size, to_tiles, while_loop

# Far below any score, yet finite, so that neither the softmax nor its gradient meets inf - inf.
HIDDEN_SCORE = -1e30
# Measured on 2 cores; smaller tiles cost more operations, larger ones leave the caches.
QUERY_TILE, KEY_TILE = 512, 512


def lean_attention(query, key, value, visible: Visibility, bias=None, logit_cap=None, sink=None, dropout=None):
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
    visible = TiledVisibility(visible, *sizes)
    make_bias, bias_parameters = tile_bias(bias, visible)
    sinks = () if sink is None else (sink,)

    # What can learn is an argument: gradients flow through the arguments of a custom gradient only.
    @ops.custom_gradient
    def attend(query, key, value, *learned):
        bias = make_bias(learned[: len(bias_parameters)])
        scores = _Scores(query, key, sizes, visible, bias, logit_cap)
        values = to_tiles(value, sizes[1])
        sink = learned[-1] if sinks else None
        output, log_sums = _forward(scores, values, sink, dropout)

        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            upstream = to_tiles(ops.cast(upstream, "float32"), sizes[0])
            delta = ops.sum(upstream * output, axis=-1, keepdims=True)  # (tiles, B, N, size, 1)
            upstream = ops.cast(upstream, value.dtype)
            totals = _backward(scores, values, dropout, log_sums, upstream, delta)
            gradients = [from_tiles(total, x) for total, x in zip(totals[:3], (query, key, value), strict=True)]
            gradients += bias.finish(totals[3])
            if sinks:
                shares = ops.exp(ops.cast(sink, "float32")[:, None, None] - log_sums) * delta
                gradients.append(ops.cast(-ops.sum(shares, axis=(0, 1, 3, 4)), sink.dtype))
            return tuple(gradients)

        return from_tiles(output, query), gradient

    return attend(query, key, value, *bias_parameters, *sinks)


class _Scores:
    """The scores of one tile of queries and keys: capped, biased, hidden where a query may not look."""

    def __init__(self, query, key, sizes, visible, bias, logit_cap):
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
