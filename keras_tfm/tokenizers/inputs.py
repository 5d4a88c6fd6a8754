"""What callers give to tokenizers: texts and ids in any container, as tensors, and texts and files to train on."""

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.files import local_path
from keras_tfm.tokenizers.vocabulary import check_encodable

_BLOCK = 2**24  # characters of a file that are read at once


class ChatText(str):
    """A text that brings the tokens at its begin and end with it, as chat templates write them.

    Tokenizers put none of their own around it, as transformers does with chats. What is written behind one (`+`)
    belongs to it.
    """

    def __add__(self, text: str) -> "ChatText":
        return ChatText(super().__add__(text))


def are_chats(texts: Any) -> list[bool]:
    """For each text, or for all alike, whether it is a `ChatText`."""
    return (
        [isinstance(text, ChatText) for text in texts]
        if isinstance(texts, list | tuple)
        else [isinstance(texts, ChatText)]
    )


def as_string_tensor(texts: Any, name: str = "texts") -> tf.Tensor:
    """The texts as a dense string tensor of rank 0 or 1, or an error that says what is wrong with the argument."""
    if isinstance(texts, tf.RaggedTensor | tf.SparseTensor):
        raise TypeError(f"`{name}` must be a dense tensor. Received: {type(texts).__name__} of shape {texts.shape}.")
    try:
        texts = tf.convert_to_tensor(texts, tf.string)
    except (TypeError, ValueError) as error:
        for text in np.ravel(np.array(texts, dtype=object)):
            if isinstance(text, str):
                check_encodable(text)
        raise TypeError(
            f"`{name}` must be a string, or a list, array or tensor of strings. Received: {str(texts)[:60]} of type "
            f"{type(texts).__name__}."
        ) from error
    if texts.shape.rank not in (0, 1):
        raise ValueError(f"`{name}` must have a known rank, 0 or 1. Received: shape={texts.shape}.")
    return texts


def as_id_rows(token_ids: Any) -> tuple[tf.RaggedTensor, bool]:
    """The ids as (B, tokens), and whether they came as several rows."""
    if isinstance(token_ids, tf.RaggedTensor):
        token_ids = token_ids.to_list()
    if isinstance(token_ids, list | tuple):
        is_batch = any(isinstance(row, list | tuple) or getattr(row, "ndim", 0) for row in token_ids)
    else:
        token_ids = np.asarray(token_ids)
        is_batch = token_ids.ndim > 1
    rows = [_as_id_array(row) for row in token_ids] if is_batch else [_as_id_array(token_ids)]
    values = np.concatenate([np.zeros(0, np.int64), *rows])
    return tf.RaggedTensor.from_row_lengths(values, [row.size for row in rows], validate=False), is_batch


def as_id_tensor(token_ids: Any) -> tf.Tensor | tf.RaggedTensor:
    """The ids as a tensor (T,) or (B, T), or rows of any lengths; in graphs as well."""
    if not isinstance(token_ids, tf.RaggedTensor):
        try:
            token_ids = tf.convert_to_tensor(token_ids)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "`token_ids` must be integers of shape (T,) or (B, T). "
                f"Received: {str(token_ids)[:60]} of type {type(token_ids).__name__}."
            ) from error
    if not token_ids.dtype.is_integer or token_ids.shape.rank not in (1, 2):
        raise ValueError(
            "`token_ids` must be integers of shape (T,) or (B, T). "
            f"Received: dtype={token_ids.dtype.name}, shape={token_ids.shape}."
        )
    return token_ids


def check_ids(token_ids: Any, vocabulary_size: int) -> None:
    """Raises a ValueError for the first id that is not in [0, vocabulary_size)."""
    ids = np.atleast_1d(token_ids)
    if (wrong := ids[(ids < 0) | (ids >= vocabulary_size)]).size:
        raise ValueError(f"Token ids must be 0 to {vocabulary_size - 1} with this vocabulary. Received: {wrong[0]}.")


def as_lists(ids: tf.Tensor | tf.RaggedTensor) -> list:
    """Ids (T,) as a list, rows of ids as a list of lists; outside of graphs."""
    if not isinstance(ids, tf.RaggedTensor):
        return ids.numpy().tolist()
    values, splits = ids.values.numpy().tolist(), ids.row_splits.numpy().tolist()
    return [values[start:end] for start, end in itertools.pairwise(splits)]


def characters_at(text: bytes, starts: list[int], ends: list[int]) -> list[tuple[int, int]]:
    """The characters that bytes of a text stand for, as pairs of first and last + 1; parts of one count as the whole.

    Args:
        text: in UTF-8; what is none counts as U+FFFD.
        starts, ends: bytes.
    """
    data = np.frombuffer(text.decode("utf-8", "replace").encode(), np.uint8)
    before = np.cumsum(np.append(0, (data & 0xC0) != 0x80))  # characters that begin before each byte
    after = np.append(before[1:], before[-1] + 1)  # and at it
    places = np.stack([after[np.asarray(starts, int)] - 1, before[np.asarray(ends, int)]], axis=1)
    return list(map(tuple, places.tolist()))


def _as_id_array(row: Any) -> np.ndarray:
    """One row of ids as int64 (T,)."""
    try:
        array = np.asarray(row)
    except ValueError:  # rows of rows of different lengths
        array = np.asarray(row, dtype=object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            "`token_ids` must be integers of shape (T,) or (B, T), or rows of integers. "
            f"Received: {str(row)[:60]} (dtype={array.dtype}, shape={array.shape})."
        )
    return array.astype(np.int64)


class TrainingTexts:
    """Iterates over what stands between special tokens, so that nothing is learned from these, and counts."""

    def __init__(self, texts_or_files: str | Path | Iterable[str | Path], special_tokens: Iterable[str]):
        if isinstance(texts_or_files, bytes) or not isinstance(texts_or_files, Iterable | Path):
            raise TypeError(
                "`texts_or_files` must be a str (text), a pathlib.Path (file) or an iterable of these. "
                f"Received: {texts_or_files!r}."
            )
        self._sources = [texts_or_files] if isinstance(texts_or_files, str | Path) else texts_or_files
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self.num_texts = 0
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            self.num_texts += 1
            for text in _blocks(source):
                for piece in self._special.split(text) if self._special else [text]:
                    self.num_characters += len(piece)
                    yield piece


def _blocks(source: str | Path) -> Iterator[str]:
    """A text as it is, or a file in blocks of lines, so that a corpus need not fit into memory."""
    if isinstance(source, str):
        check_encodable(source)
        yield source
    elif isinstance(source, Path):
        with local_path(source).open(encoding="utf-8", errors="replace", newline="") as file:
            while lines := file.readlines(_BLOCK):
                yield "".join(lines)
    else:
        raise TypeError(f"Each text must be a str (text) or a pathlib.Path (file). Received: {source!r}.")
