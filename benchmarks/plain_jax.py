"""A GPT-2 that trains and a Llama that writes, in JAX alone: what `accelerator.py` compares with."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.sizes import Shape


def random_weights(shape: Shape, dtype: str = "float32") -> dict[str, Any]:
    """Weights of a GPT-2 or a Llama; those of all blocks are stacked, so that one loop goes over them."""
    wide, inner, depth = shape.hidden_dim, shape.intermediate_dim, shape.num_layers
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*sizes: int) -> jax.Array:
        return (0.02 * jax.random.normal(next(keys), sizes)).astype(dtype)

    heads = wide + 2 * shape.key_value_dim
    blocks = {
        "norms": jnp.ones((depth, 2, wide), dtype),
        "heads": normal(depth, wide, heads),
        "output": normal(depth, wide, wide),
        "up": normal(depth, wide, (2 if shape.is_gated else 1) * inner),
        "down": normal(depth, inner, wide),
    }
    weights = {"tokens": normal(shape.vocabulary_size, wide), "norm": jnp.ones((wide,), dtype), "blocks": blocks}
    if not shape.is_gated:
        sizes = {"norms_bias": (2, wide), "heads_bias": (heads,), "output_bias": (wide,)}
        sizes |= {"up_bias": (inner,), "down_bias": (wide,)}
        blocks |= {name: jnp.zeros((depth, *size), dtype) for name, size in sizes.items()}
        weights |= {"positions": normal(shape.sequence_length, wide), "norm_bias": jnp.zeros((wide,), dtype)}
    return weights


def _layer_norm(x, scale, bias):
    wide = x.astype("float32")
    wide = (wide - wide.mean(-1, keepdims=True)) * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)
    return (wide * scale + bias).astype(x.dtype)


def _rms_norm(x, scale):
    wide = x.astype("float32")
    return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * scale).astype(x.dtype)


def _heads(x, shape: Shape):
    """(B, T, D + 2 KH) -> queries (B, T, N, H), keys and values (B, T, K, H)."""
    ends = shape.hidden_dim, shape.hidden_dim + shape.key_value_dim
    width = shape.hidden_dim // shape.num_heads
    return [part.reshape(*x.shape[:2], -1, width) for part in jnp.split(x, ends, axis=-1)]


# Training


def _kernel(dtype: str) -> str | None:
    """The fastest attention of JAX: on GPUs cuDNN's, of half precision, which JAX does not choose by itself."""
    return "cudnn" if jax.default_backend() == "gpu" and dtype == "bfloat16" else None


def gpt_loss(weights, ids, shape: Shape, dtype: str):
    """Mean cross-entropy of the next tokens: ids (B, T + 1)."""
    weights = jax.tree.map(lambda w: w.astype(dtype), weights)
    token_ids, next_ids = ids[:, :-1], ids[:, 1:]
    x = weights["tokens"][token_ids] + weights["positions"][: token_ids.shape[1]]

    def block(x, w):
        y = _layer_norm(x, w["norms"][0], w["norms_bias"][0])
        heads = _heads(y @ w["heads"] + w["heads_bias"], shape)
        y = jax.nn.dot_product_attention(*heads, is_causal=True, implementation=_kernel(dtype))
        x = x + y.reshape(x.shape) @ w["output"] + w["output_bias"]
        y = _layer_norm(x, w["norms"][1], w["norms_bias"][1])
        return x + jax.nn.gelu(y @ w["up"] + w["up_bias"]) @ w["down"] + w["down_bias"], None

    x, _ = jax.lax.scan(block, x, weights["blocks"])
    logits = (_layer_norm(x, weights["norm"], weights["norm_bias"]) @ weights["tokens"].T).astype("float32")
    picked = jnp.take_along_axis(logits, next_ids[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - picked).mean()


@partial(jax.jit, static_argnames=("shape", "dtype"), donate_argnums=0)
def train_step(state, ids, shape: Shape, dtype: str):
    """A step of AdamW: state is (weights, first moments, second moments, number of the step)."""
    weights, first, second, step = state
    loss, gradients = jax.value_and_grad(gpt_loss)(weights, ids, shape, dtype)
    step = step + 1
    rate = 3e-4 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradients)
    weights = jax.tree.map(
        lambda w, m, v: w - 3e-4 * 0.004 * w - rate * m / (jnp.sqrt(v) + 1e-7), weights, first, second
    )
    return (weights, first, second, step), loss


def begin_training(shape: Shape):
    """The state before the first step."""
    weights = random_weights(shape)
    return weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2)), jnp.zeros((), "float32")


# Writing


def _turned(x, positions):
    """Rotary positions: x (B, T, N, H)."""
    half = x.shape[-1] // 2
    angles = positions[:, None] / 10000.0 ** (jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
    one, other = jnp.split(x.astype("float32"), 2, axis=-1)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)


def _read(weights, token_ids, start, cache, shape: Shape):
    """Logits of the last token, and the caches (L, B, S, K, H) with the tokens from slot `start` on."""
    positions = start + jnp.arange(token_ids.shape[1])
    visible = jnp.arange(cache[0].shape[2]) <= positions[:, None]

    def block(x, layer):
        w, keys, values = layer
        query, key, value = _heads(_rms_norm(x, w["norms"][0]) @ w["heads"], shape)
        keys = jax.lax.dynamic_update_slice_in_dim(keys, _turned(key, positions), start, 1)
        values = jax.lax.dynamic_update_slice_in_dim(values, value, start, 1)
        y = jax.nn.dot_product_attention(_turned(query, positions), keys, values, mask=visible[None, None])
        x = x + y.reshape(x.shape) @ w["output"]
        gate, wide = jnp.split(_rms_norm(x, w["norms"][1]) @ w["up"], 2, axis=-1)
        return x + (jax.nn.silu(gate) * wide) @ w["down"], (keys, values)

    x, cache = jax.lax.scan(block, weights["tokens"][token_ids], (weights["blocks"], *cache))
    return _rms_norm(x[:, -1], weights["norm"]) @ weights["tokens"].T, cache


@partial(jax.jit, static_argnames=("shape", "new_tokens"))
def write(weights, prompt, shape: Shape, new_tokens: int):
    """The most likely tokens after prompts (B, P) of equal length: (B, new_tokens)."""
    num_rows, length = prompt.shape
    width = shape.hidden_dim // shape.num_heads
    slots = (shape.num_layers, num_rows, length + new_tokens, shape.num_key_value_heads, width)
    empty = tuple(jnp.zeros(slots, weights["tokens"].dtype) for _ in range(2))
    logits, cache = _read(weights, prompt, 0, empty, shape)

    def step(state, place):
        newest, cache = state
        logits, cache = _read(weights, newest[:, None], place, cache, shape)
        return (logits.argmax(-1), cache), newest

    places = length + jnp.arange(new_tokens)
    _, written = jax.lax.scan(step, (logits.argmax(-1), cache), places)
    return written.T
