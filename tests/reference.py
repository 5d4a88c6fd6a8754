"""NumPy versions of what the library computes, as plain as the papers: loops over rows, heads, positions; float64."""

import math

import numpy as np


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def attention(query, key, value, visible, bias=None, scale=None):
    """(output (B, N, T, H), weights (B, N, T, S)): for each query, a softmax over the keys it may see, or zeros.

    query (B, N, T, H); key, value (B, K, S, H); visible bool (B, N, T, S); bias (B, N, T, S).
    """
    num_rows, num_heads, num_queries, head_dim = query.shape
    group = num_heads // key.shape[1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    output = np.zeros(query.shape)
    weights = np.zeros((num_rows, num_heads, num_queries, key.shape[2]))
    for b, n, t in np.ndindex(num_rows, num_heads, num_queries):
        seen = np.flatnonzero(visible[b, n, t])
        if not len(seen):
            continue
        scores = np.array([float(np.dot(query[b, n, t], key[b, n // group, s])) * scale for s in seen])
        if bias is not None:
            scores = scores + bias[b, n, t, seen]
        weights[b, n, t, seen] = softmax(scores)
        output[b, n, t] = sum(weights[b, n, t, s] * value[b, n // group, s].astype("float64") for s in seen)
    return output, weights


def visibility(query_positions, key_positions, causal=False, window=None):
    """bool (B, T, S): which query may look at which key."""
    visible = np.zeros((*query_positions.shape, key_positions.shape[1]), bool)
    for b, t, s in np.ndindex(visible.shape):
        query, key = query_positions[b, t], key_positions[b, s]
        visible[b, t, s] = query >= 0 and key >= 0
        if causal and key > query:
            visible[b, t, s] = False
        if window is not None and abs(query - key) >= window:
            visible[b, t, s] = False
    return visible


def rotary(x, positions, max_wavelength=10_000.0, rotary_dim=None, interleaved=False):
    """Turns each pair of features as a complex number: RoFormer, section 3.2. x (B, N, T, H), positions (B, T)."""
    rotary_dim = x.shape[-1] if rotary_dim is None else rotary_dim
    half = rotary_dim // 2
    turned = x.astype("float64").copy()
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        angle = positions[:, None, :] / max_wavelength ** (2 * i / rotary_dim)
        pair = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle)
        turned[..., first], turned[..., second] = pair.real, pair.imag
    return turned


def sinusoidal(position, dim, max_wavelength=10_000.0):
    """The vector of one position: Vaswani et al., section 3.5."""
    vector = np.zeros(dim)
    for i in range(dim // 2):
        vector[2 * i] = math.sin(position / max_wavelength ** (2 * i / dim))
        vector[2 * i + 1] = math.cos(position / max_wavelength ** (2 * i / dim))
    return vector


def self_attention(layer, x, positions, attention_mask=None, bias=None):
    """`MultiHeadSelfAttention` with the weights of `layer`: (y (B, T, D), weights (B, N, T, S))."""
    query = _heads(layer.query_dense, x, layer.num_heads)
    key = _heads(layer.key_dense, x, layer.num_key_value_heads)
    value = _heads(layer.value_dense, x, layer.num_key_value_heads)
    if layer.rotary is not None:
        turn = (layer.rotary.max_wavelength, layer.rotary.rotary_dim, layer.rotary.interleaved)
        query, key = rotary(query, positions, *turn), rotary(key, positions, *turn)
    visible = visibility(positions, positions, layer.causal, layer.window)[:, None]
    if attention_mask is not None:
        visible = visible & (attention_mask if attention_mask.ndim == 4 else attention_mask[:, None])
    visible = np.broadcast_to(visible, (len(x), layer.num_heads, *visible.shape[2:]))
    y, weights = attention(query, key, value, visible, bias, layer.scale)
    return _merge(layer.output_dense, y), weights


def cross_attention(layer, x, context, context_mask):
    """`MultiHeadCrossAttention` with the weights of `layer`: (y (B, T, D), weights (B, N, T, S))."""
    query = _heads(layer.query_dense, x, layer.num_heads)
    key = _heads(layer.key_dense, context, layer.num_key_value_heads)
    value = _heads(layer.value_dense, context, layer.num_key_value_heads)
    visible = np.broadcast_to(context_mask[:, None, None], (len(x), layer.num_heads, x.shape[1], context.shape[1]))
    y, weights = attention(query, key, value, visible, scale=layer.scale)
    return _merge(layer.output_dense, y), weights


def dense(layer, x):
    """x W + b with the weights of a Dense layer."""
    y = x @ np.asarray(layer.kernel, "float64")
    return y + np.asarray(layer.bias, "float64") if layer.use_bias else y


def layer_norm(x, epsilon=1e-3):
    """With gain 1 and offset 0."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)


def _heads(projection, x, num_heads):
    y = dense(projection, x)  # (B, T, N*H)
    return np.stack(np.split(y, num_heads, axis=-1), axis=1)  # (B, N, T, H)


def _merge(projection, y):
    return dense(projection, np.concatenate([y[:, n] for n in range(y.shape[1])], axis=-1))
