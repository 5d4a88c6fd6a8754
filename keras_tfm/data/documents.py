"""Documents from texts, files and tf.data, tokenized into one row."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_BLOCK = 2**22  # characters of text that are tokenized in one call, or one document if that is longer


def tokenize_documents(texts_or_files: Any, tokenizer: Callable[[list], tf.RaggedTensor]) -> tuple[np.ndarray, int]:
    """All documents' tokens in one row, and the number of documents that are not empty; see `pack` for the arguments.

    Returns:
        int32 array (num_tokens,), and int.
    """
    if not callable(tokenizer):
        raise TypeError(f"`tokenizer` must be callable on a list of strings. Received: {_shown(tokenizer)}.")
    pieces, num_documents = [np.zeros(0, np.int32)], 0
    for documents in blocks(read_documents(texts_or_files)):
        num_documents += len(documents)
        pieces.append(token_ids_of(documents, tokenizer))
    token_ids = np.concatenate(pieces)
    if not token_ids.size:
        raise ValueError(f"There must be text in `texts_or_files`. Received: {_shown(texts_or_files)}.")
    return token_ids, num_documents


def read_documents(texts_or_files: Any) -> Iterator[str | bytes]:
    """The documents, one at a time, those that are empty left out."""
    if isinstance(texts_or_files, tf.data.Dataset):
        yield from filter(None, _dataset_documents(texts_or_files))
        return
    if isinstance(texts_or_files, str | Path):
        texts_or_files = [texts_or_files]
    if isinstance(texts_or_files, bytes | Mapping) or not isinstance(texts_or_files, Iterable):
        raise TypeError(
            "`texts_or_files` must be a str (text), a pathlib.Path (file), an iterable of these or a tf.data.Dataset. "
            f"Received: {_shown(texts_or_files)}."
        )
    for source in texts_or_files:
        if isinstance(source, Path):
            if not source.is_file():
                raise FileNotFoundError(
                    f"Each `Path` in `texts_or_files` must be a file. Received: {str(source)!r}. A `str` would be text."
                )
            source = source.read_bytes()
        elif not isinstance(source, str):
            raise TypeError(f"Each text must be a str (text) or a pathlib.Path (file). Received: {_shown(source)}.")
        if source:
            yield source


def _dataset_documents(dataset: tf.data.Dataset) -> Iterator[bytes]:
    spec = dataset.element_spec
    is_dict = isinstance(spec, Mapping)
    text = spec.get("text") if is_dict else spec
    if not (isinstance(text, tf.TensorSpec) and text.dtype == tf.string and text.shape.rank == 0):
        raise TypeError(
            'A tf.data.Dataset must give scalar strings, or dicts with a scalar string "text". '
            f"Received: element_spec={spec}."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("A tf.data.Dataset of texts must end. Received: one of infinite cardinality (`repeat`?).")
    for element in dataset.as_numpy_iterator():
        yield element["text"] if is_dict else element


def blocks(documents: Iterator[str | bytes]) -> Iterator[list[str | bytes]]:
    """Whole documents in lists of some million characters, so that many of them need not be in memory."""
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document)
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def token_ids_of(
    documents: list[str | bytes], tokenizer: Callable[[list], tf.RaggedTensor], ends: bool = True
) -> np.ndarray:
    """int32 (T,): the documents' tokens, each document's followed by the end of text, which some tokenizers add.

    Args:
        documents: texts.
        tokenizer: see `pack`.
        ends: bool, False if the last document goes on elsewhere, and gets no end here.
    """
    rows = tokenizer(documents)
    if not (isinstance(rows, tf.RaggedTensor) and rows.shape.rank == 2 and rows.dtype.is_integer):
        raise TypeError(
            "`tokenizer` must map a list of n strings to an integer RaggedTensor (n, tokens). "
            f"Received: {type(rows).__name__} of shape {getattr(rows, 'shape', None)}."
        )
    end_of_text_id = getattr(tokenizer, "end_of_text_id", None)
    # Anywhere among them: mBART's "</s>" is followed by the code of the language.
    adds_end = getattr(tokenizer, "end_of_text", None) in getattr(tokenizer, "end_tokens", ())
    if end_of_text_id is not None and not adds_end:
        rows = tf.concat([rows, tf.fill([len(documents), 1], tf.cast(end_of_text_id, rows.dtype))], axis=1)
        if not ends:
            return rows.values.numpy()[:-1].astype(np.int32, copy=False)
    return rows.values.numpy().astype(np.int32, copy=False)


def _shown(value: Any) -> str:
    return f"{repr(value)[:60]} of type {type(value).__name__}"
