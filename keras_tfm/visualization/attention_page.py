"""All heads of a text as one page of HTML that one can click through, without a network."""

import base64
import importlib.resources
import json
from collections.abc import Sequence

import numpy as np

from keras_tfm.arguments import require
from keras_tfm.files import local_path, replace_file
from keras_tfm.types import PathLike, Tensor
from keras_tfm.visualization.attention import blocks_of
from keras_tfm.visualization.figures import labels_of_both

_PLACE = "ATTENTION_AS_JSON"  # in the page, where the data go


def write_attention_page(
    attention_weights: Sequence[Tensor],
    tokens: Sequence[str],
    path: PathLike,
    key_tokens: Sequence[str] | None = None,
    title: str = "Attention",
) -> None:
    """Writes a page on which one chooses a head of a block and a token, and sees what the token looks at.

    One file for any browser, which asks nothing of a network; weights are kept in 8 bits, a byte for each.

    Args:
        attention_weights: for each block the weights of one text, float (N, T, S), as in
            `[block[0] for block in inspection.attention_weights]`.
        tokens: T str, those that look (queries).
        path: where to write, such as "attention.html".
        key_tokens: S str, those that are looked at. Default: `tokens`.
        title: of the page.

    Raises:
        ValueError: if tokens and weights do not fit.

    Example:
        >>> inspection = model.inspect([token_ids])
        >>> write_attention_page([block[0] for block in inspection.attention_weights], tokens, "attention.html")
    """
    blocks = blocks_of(attention_weights)
    shapes = [block.shape for block in blocks]
    require(
        len({shape[1:] for shape in shapes}) == 1,
        "All blocks of `attention_weights` must have weights over the same tokens",
        shapes=shapes,
    )
    queries, keys = labels_of_both(tokens, key_tokens, blocks[0])
    data = {
        "title": title,
        "tokens": queries,
        "keys": keys,
        "blocks": [[_encoded(head) for head in block] for block in blocks],
    }
    page = importlib.resources.files("keras_tfm.visualization").joinpath("attention_page.html").read_text("utf-8")
    # "<" as an escape: no token can end the script that the data stand in.
    text = page.replace(_PLACE, json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"))
    replace_file(local_path(path), text)


def _encoded(weights) -> str:
    """(T, S) in [0, 1] as bytes in base64, row by row."""
    return base64.b64encode(np.rint(255 * np.clip(weights, 0, 1)).astype("uint8").tobytes()).decode()
