"""What all pictures share: a figure without a window, its file, and how tokens are written beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_tfm.arguments import require
from keras_tfm.files import local_path
from keras_tfm.optional import required
from keras_tfm.types import PathLike, Tensor


def new_figure(width: float, height: float) -> Any:
    """A `matplotlib.figure.Figure` of this size in inches; matplotlib is imported here, not with the library."""
    # No pyplot: it would keep a global list of figures.
    figure = required("matplotlib.figure", "visualization", "Pictures")
    return figure.Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: PathLike) -> None:
    """Writes the figure; the ending of the path chooses the format (.png, .svg, .pdf)."""
    figure.savefig(local_path(path), dpi=120)


def labels_of(name: str, tokens: Sequence[str], number: int) -> list[str]:
    """Tokens as they are written in a picture, in one line each; raises unless there are so many."""
    require(
        not isinstance(tokens, str) and len(tokens) == number,
        f"`{name}` must hold a str for each of the {number} places; cut padding off the weights before",
        **{name: tokens},
    )
    return [str(token).replace("\n", "⏎").replace("\t", "⇥") for token in tokens]


def labels_of_both(
    tokens: Sequence[str], key_tokens: Sequence[str] | None, weights: np.ndarray
) -> tuple[list[str], list[str]]:
    """The labels of those that look and of those that are looked at, for weights (..., T, S)."""
    keys = ("tokens", tokens) if key_tokens is None else ("key_tokens", key_tokens)
    return labels_of("tokens", tokens, weights.shape[-2]), labels_of(*keys, weights.shape[-1])


def heads_of(weights: Tensor, name: str = "weights") -> np.ndarray:
    """Attention weights of one text as float32 (N, T, S); those of one head, (T, S), are one of one."""
    weights = np.asarray(weights, "float32")
    weights = weights[None] if weights.ndim == 2 else weights
    require(
        weights.ndim == 3 and weights.size,
        f"`{name}` must have shape (N, T, S) or (T, S): one block's weights of one text, as in "
        "`inspection.attention_weights[0][0]`",
        shape=weights.shape,
    )
    return weights
