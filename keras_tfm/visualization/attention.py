"""Attention as pictures: the heads of a block, all heads of a model, and what comes through all blocks."""

import math
from collections.abc import Sequence

import numpy as np

from keras_tfm.arguments import require
from keras_tfm.types import PathLike, Tensor
from keras_tfm.visualization.figures import heads_of, labels_of_both, new_figure, save

_COLORS = "Blues"


def plot_attention(
    weights: Tensor,
    tokens: Sequence[str],
    path: PathLike,
    key_tokens: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws who looks at whom: a heat map for each head, a row for each token that looks.

    Args:
        weights: float (N, T, S), one block's weights of one text, such as `inspection.attention_weights[3][0]`; or
            (T, S), such as a head's, or a rollout.
        tokens: T str, those that look (queries).
        path: where to write; the ending chooses the format (.png, .svg, .pdf).
        key_tokens: S str, those that are looked at. Default: `tokens`. For cross-attention the source's.
        title: of the picture.

    Raises:
        ValueError: if tokens and weights do not fit. ImportError: without matplotlib.

    Example:
        >>> inspection = model.inspect([token_ids])
        >>> plot_attention(inspection.attention_weights[0][0], tokens, "block_0.png")
        >>> translation = translator.inspect({"encoder_token_ids": [source_ids], "decoder_token_ids": [target_ids]})
        >>> weights = translation.cross_attention_weights[-1][0].mean(axis=0)
        >>> plot_attention(weights, target_tokens, "translation.png", key_tokens=source_tokens)
    """
    weights = heads_of(weights)
    num_heads, num_queries, num_keys = weights.shape
    rows, columns = labels_of_both(tokens, key_tokens, weights)
    num_columns = min(num_heads, 4)
    num_rows = math.ceil(num_heads / num_columns)
    longest = max(map(len, (*rows, *columns)))
    width, height = (max(1.6, 0.19 * number) for number in (num_keys, num_queries))
    margin = 0.09 * longest + 0.5  # the words at the sides
    figure = new_figure(num_columns * (width + 0.15) + margin + 0.9, num_rows * (height + 0.35) + margin + 0.3)
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[num_heads:]:
        axes.set_visible(False)
    for head, axes in enumerate(grid.flat[:num_heads]):
        image = axes.imshow(weights[head], cmap=_COLORS, vmin=0, vmax=max(float(weights.max()), 1e-9), aspect="auto")
        if num_heads > 1:
            axes.set_title(f"head {head}", fontsize=9)
        axes.set_xticks(range(num_keys), columns, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(num_queries), rows, fontsize=8, parse_math=False)
        axes.tick_params(length=0)
        is_lowest = head + num_columns >= num_heads
        axes.tick_params(labelbottom=is_lowest)
    figure.colorbar(image, ax=grid, label="weight", fraction=0.05, aspect=30)
    figure.supxlabel("looked at", fontsize=9)
    figure.supylabel("looks", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    save(figure, path)


def plot_heads(attention_weights: Sequence[Tensor], path: PathLike, title: str = "") -> None:
    """Draws all heads of a model in one picture: a row for each block, a small heat map for each head.

    Args:
        attention_weights: for each block the weights of one text, float (N, T, S), as in
            `[block[0] for block in inspection.attention_weights]`.
        path: where to write.
        title: of the picture.

    Raises:
        ValueError: if there is nothing to draw. ImportError: without matplotlib.
    """
    blocks = blocks_of(attention_weights)
    num_columns = max(len(block) for block in blocks)
    side = 0.62 if len(blocks) * num_columns > 64 else 0.95
    figure = new_figure(side * num_columns + 0.7, side * len(blocks) + (0.8 if title else 0.45))
    grid = figure.subplots(len(blocks), num_columns, squeeze=False)
    for i, row in enumerate(grid):
        for head, axes in enumerate(row):
            axes.set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(str(head), fontsize=8)
            if head == 0:
                axes.set_ylabel(str(i), rotation=0, ha="right", va="center", fontsize=8)
            if head < len(blocks[i]):
                # Each by its own greatest weight: patterns are what can be told apart at this size.
                axes.imshow(blocks[i][head], cmap=_COLORS, vmin=0, aspect="auto", interpolation="nearest")
            else:
                axes.axis("off")
    figure.supxlabel("head", fontsize=9)
    figure.supylabel("block", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    save(figure, path)


def attention_rollout(attention_weights: Sequence[Tensor]) -> np.ndarray:
    """How much of each token reaches each position through all blocks, residual connections among them.

    The heads of a block are averaged, half of what a position holds is taken to be its own, and the blocks' matrices
    are multiplied. It is an estimate: neither values nor feed-forwards are looked at.

    Args:
        attention_weights: for each block float (..., N, T, T), such as `inspection.attention_weights`.

    Returns:
        float32 (..., T, T): a row for each position of the last block, over the tokens of the first; it sums to 1.

    Raises:
        ValueError: without blocks, or for weights over another sequence.

    Example:
        >>> attention_rollout([np.array([[[1.0, 0.0], [0.5, 0.5]]])])
        [[1.0, 0.0], [0.25, 0.75]]

    Reference:
        Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3, https://arxiv.org/abs/2005.00928
    """
    _check_any(attention_weights)
    arrays = [np.asarray(weights, "float32") for weights in attention_weights]
    shapes = [array.shape for array in arrays]
    is_square = all(len(shape) >= 3 and shape[-1] == shape[-2] for shape in shapes)
    require(is_square, "`attention_weights` must have shape (..., N, T, T), over the sequence itself", shapes=shapes)
    own = np.eye(shapes[0][-1], dtype="float32")
    rollout = own
    for array in arrays:
        mixed = array.mean(axis=-3) + own  # (..., T, T)
        rollout = mixed / mixed.sum(axis=-1, keepdims=True) @ rollout
    return rollout


def blocks_of(attention_weights: Sequence[Tensor]) -> list[np.ndarray]:
    """The weights of one text as float32 (N, T, S) for each block; raises for none, or for those of several texts."""
    _check_any(attention_weights)
    return [heads_of(block, f"attention_weights[{i}]") for i, block in enumerate(attention_weights)]


def _check_any(attention_weights) -> None:
    require(len(attention_weights), "`attention_weights` must hold a block's at least", attention_weights=[])
