"""Prompts as callers give them: texts and token ids in any container, or an error that names the argument."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def texts_of(name: str, texts: Any) -> list[str]:
    """Texts as a list: one str is one text.

    Args:
        name: str, of the caller's argument.
        texts: str, or a list, array or tensor (N,) of them.

    Raises:
        TypeError: for anything else; bytes are no text.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, tf.Tensor) and texts.dtype == tf.string and texts.shape.rank == 1:
        return [text.decode("utf-8", errors="replace") for text in texts.numpy()]
    is_several = isinstance(texts, Iterable) and not isinstance(texts, bytes | Mapping)
    rows = list(texts) if is_several and getattr(texts, "ndim", 1) == 1 else [texts]
    for row in rows:
        if not isinstance(row, str):
            raise TypeError(
                f"`{name}` must be a str, or a list of str. Received: {str(row)[:60]} of type {type(row).__name__}."
            )
    return rows


def text_of(name: str, text: Any) -> str:
    """A text where only one is meant; raises a TypeError for several."""
    if not isinstance(text, str):
        raise TypeError(f"`{name}` must be one str. Received: {str(text)[:60]} of type {type(text).__name__}.")
    return text


def prompts_of(token_ids: Any, vocabulary_size: int, name: str = "token_ids", least_length: int = 0) -> tf.RaggedTensor:
    """Prompts in any of the accepted forms as an int32 ragged tensor (B, None).

    Args:
        token_ids: integers (B, T) or (T,), or a list of rows of any lengths.
        vocabulary_size: int, all ids are less.
        name: str, of the caller's argument.
        least_length: int, tokens that each row must have.

    Raises:
        ValueError: for anything else, ids outside the vocabulary, or rows that are too short.
    """
    if isinstance(token_ids, tf.RaggedTensor):
        token_ids = token_ids.to_list()
    rows = token_ids if isinstance(token_ids, list | tuple) else np.asarray(token_ids)
    is_several = isinstance(rows, list | tuple) or rows.ndim > 0
    if is_several and len(rows) and _array_of(rows[0]).ndim == 0:
        rows = [rows]
    rows = [_array_of(row) for row in rows] if is_several else [rows]
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must be integers of shape (B, T) or (T,), or a list of lists; `TextGenerator` takes text. "
                f"Received: {str(token_ids)[:60]} of type {type(token_ids).__name__}, with row {i} of shape "
                f"{row.shape} and dtype {row.dtype}."
            )
        if len(row) < least_length:
            raise ValueError(
                f"Each row of `{name}` must have at least {least_length} token: an encoder-decoder writes of a source. "
                f"Received: row {i} without any. A text that is empty has its end token, if the tokenizer adds it."
            )
        if row.size and (row.min() < 0 or row.max() >= vocabulary_size):
            raise ValueError(
                f"`{name}` must be in [0, {vocabulary_size}). Received: ids from {row.min()} to {row.max()} in row "
                f"{i}. Use the tokenizer that the model was trained with."
            )
    flat = np.concatenate([*rows, np.zeros(0, "int32")]).astype("int32")
    return tf.RaggedTensor.from_row_lengths(flat, np.array([len(row) for row in rows], "int64"))


def check_fits(model: Any, prompts: tf.RaggedTensor, max_new_tokens: int, num_remembered: int = 0) -> None:
    """Raises unless the longest prompt and its new tokens fit the model's positions."""
    limit, longest = model.max_sequence_length, max([1, *prompts.row_lengths().numpy()]) + num_remembered
    if limit is not None and max_new_tokens > model.most_new_tokens(longest, limit):
        raise ValueError(
            f"{model.what_must_fit} fit the model's {limit} positions. Received: a prompt of {longest} tokens "
            f"and max_new_tokens={max_new_tokens}. Shorten the prompt or ask for fewer tokens."
        )


def _array_of(row: Any) -> np.ndarray:
    """A row as an array; without ids it is of integers, too."""
    try:
        array = np.asarray(row)
    except ValueError:  # rows of rows of different lengths
        array = np.asarray(row, dtype=object)
    return array.astype("int32") if array.ndim == 1 and array.size == 0 else array
