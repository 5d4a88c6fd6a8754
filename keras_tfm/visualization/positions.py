"""What a position layer tells a model, as a picture: sinusoids, learned vectors, rotary angles, ALiBi, T5's buckets."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.arguments import as_integer
from keras_tfm.layers import AlibiBias, PositionEmbedding, RelativePositionBias, RotaryEmbedding, SinusoidalEmbedding
from keras_tfm.optional import required
from keras_tfm.types import PathLike
from keras_tfm.visualization.figures import new_figure, save


def plot_positions(layer: keras.layers.Layer, path: PathLike, num_positions: int = 128, head_dim: int = 64) -> None:
    """Draws what a position layer computes, by calling it.

    Args:
        layer: `SinusoidalEmbedding` or `PositionEmbedding` (their vectors), `RotaryEmbedding` (its angles, and what
            they do to the product of a query and a key), `AlibiBias` (its slopes), or `RelativePositionBias` (its
            buckets and what it has learned for each); of a model, for example `model.stack.position_bias`.
        path: where to write; the ending chooses the format (.png, .svg, .pdf).
        num_positions: int, positions or distances from 0 on.
        head_dim: int, the width of the heads that a `RotaryEmbedding` turns.

    Raises:
        TypeError: for another layer. ImportError: without matplotlib.

    Example:
        >>> plot_positions(RotaryEmbedding(), "rotary.png")

    Reference:
        Vaswani et al. 2017, section 3.5, https://arxiv.org/abs/1706.03762; Su et al. 2021,
        https://arxiv.org/abs/2104.09864; Press et al. 2021, https://arxiv.org/abs/2108.12409; Raffel et al. 2019,
        section 2.1, https://arxiv.org/abs/1910.10683
    """
    draw = next((draw for kind, draw in _PICTURES.items() if isinstance(layer, kind)), None)
    if draw is None:
        names = ", ".join(f"`{kind.__name__}`" for kind in _PICTURES)
        raise TypeError(f"`layer` must be one of {names}. Received: {layer!r:.80}.")
    num_positions = as_integer("num_positions", num_positions, 2)
    if isinstance(layer, PositionEmbedding):
        num_positions = min(num_positions, layer.max_sequence_length)
    save(draw(layer, num_positions, as_integer("head_dim", head_dim, 2)), path)


def _vectors(layer, num_positions, _):
    positions = np.arange(num_positions, dtype="int32")[None]
    vectors = ops.convert_to_numpy(ops.cast(layer(positions), "float32"))[0]  # (T, D)
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    limit = float(np.abs(vectors).max()) or 1.0
    image = axes.imshow(vectors, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="value")
    kind = "Sinusoids" if isinstance(layer, SinusoidalEmbedding) else "Learned vectors"
    axes.set(xlabel="feature", ylabel="position", title=f"{kind}: what is added to the token at each position")
    return figure


def _rotary(layer, num_positions, head_dim):
    positions = np.arange(num_positions, dtype="int32")[None]
    width = layer.rotary_dim or head_dim
    unit = np.zeros((1, 1, num_positions, head_dim), "float32")  # each pair at angle 0
    firsts = slice(0, width, 2) if layer.interleaved else slice(0, width // 2)
    unit[..., firsts] = 1
    turned = ops.convert_to_numpy(layer(unit, positions=positions))[0, 0]  # (T, H)
    figure = new_figure(10, 4.2)
    angles, products = figure.subplots(1, 2, width_ratios=(3, 2))
    image = angles.imshow(turned[:, firsts], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=angles, label="cosine of the angle")
    angles.set(xlabel="pair of features", ylabel="position", title="Rotary: how far each pair has turned")
    products.plot(turned @ turned[0] / np.sum(turned[0] ** 2))
    products.axhline(0, color="gray", linewidth=0.8)
    products.set(xlabel="distance", ylabel="query · key", title="Product of two equal vectors")
    products.grid(alpha=0.3)
    return figure


def _alibi(layer, num_positions, _):
    positions = np.array([[num_positions - 1]], "int32")
    keys = np.arange(num_positions, dtype="int32")[None]
    bias = ops.convert_to_numpy(layer(positions, key_positions=keys))[0, :, 0, ::-1]  # (N, S) by distance
    figure = new_figure(7.5, 4.5)
    axes = figure.add_subplot()
    for head, slope in enumerate(tfm_ops.alibi_slopes(layer.num_heads)):
        axes.plot(bias[head], color=_shade(head, layer.num_heads), label=f"head {head}: {slope:.2g}")
    axes.set(xlabel="distance to the key", ylabel="added to the score", title="ALiBi: a slope for each head")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, title="slope")
    return figure


def _relative(layer, num_positions, _):
    if not layer.built:
        layer.build()
    last = num_positions if layer.bidirectional else 0  # a causal model sees no keys of the future
    distances = np.arange(-num_positions, last + 1, dtype="int32")  # key - query
    buckets = ops.convert_to_numpy(
        tfm_ops.relative_position_buckets(distances, layer.num_buckets, layer.max_distance, layer.bidirectional)
    )
    table = ops.convert_to_numpy(ops.cast(layer.embeddings, "float32"))  # (buckets, N)
    figure = new_figure(10, 4.2)
    steps, biases = figure.subplots(1, 2)
    steps.step(distances, buckets, where="mid")
    steps.set(xlabel="key position - query position", ylabel="bucket", title="T5: which distances share a bucket")
    for head in range(layer.num_heads):
        biases.plot(distances, table[buckets, head], color=_shade(head, layer.num_heads), label=f"head {head}")
    biases.set(xlabel="key position - query position", ylabel="added to the score", title="What is learned for each")
    for axes in (steps, biases):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _shade(i: int, number: int) -> Any:
    """A color of one scale: heads have an order, and may be many."""
    return required("matplotlib", "visualization", "Pictures").colormaps["viridis"](0.9 * i / max(1, number - 1))


_PICTURES = {
    SinusoidalEmbedding: _vectors,
    PositionEmbedding: _vectors,
    RotaryEmbedding: _rotary,
    AlibiBias: _alibi,
    RelativePositionBias: _relative,
}
