"""Checks of labels and of the lists that come with them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers import SentencePacker, WordPieceTokenizer


def class_ids(labels: Any, class_names: Sequence[str] | None) -> np.ndarray:
    """Labels as int32 (N,).

    Args:
        labels: names, or integers from 0 on.
        class_names: the names in the order of their ids. Needed for names.

    Raises:
        ValueError: if a label is unknown or out of range.
        TypeError: if labels are no names and no integers.
    """
    names = None if class_names is None else _checked_names(class_names)
    labels = np.asarray(labels)
    if labels.ndim == 1 and all(isinstance(label, str) for label in labels.tolist()):
        if names is None:
            raise ValueError(
                f"`class_names` must be given for labels that are names. Received: {str(labels[0])!r}, label 0."
            )
        known = {name: number for number, name in enumerate(names)}
        for place, label in enumerate(labels.tolist()):
            if label not in known:
                raise ValueError(
                    f"Each label must be one of `class_names`, {names}. Received: {label!r}, label {place}."
                )
        return np.array([known[label] for label in labels.tolist()], np.int32)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise TypeError(
            "Labels must be names or integers, one for each. "
            f"Received: {str(labels)[:60]} (dtype={labels.dtype}, shape={labels.shape})."
        )
    limit = np.iinfo(np.int32).max if names is None else len(names)
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        wanted = "at least 0" if names is None else f"0 to {limit - 1}, the places of `class_names`, {names}"
        raise ValueError(f"Labels must be {wanted}. Received: {labels[wrong[0]]}, label {wrong[0]}.")
    return labels.astype(np.int32)


def check_equally_many(**lists: Any) -> int:
    """The number of elements of each list, or an error that tells their names and numbers."""
    for name, values in lists.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise TypeError(
                f"`{name}` must be a list or an array. Received: {repr(values)[:60]} of type {type(values).__name__}."
            )
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        names = ", ".join(f"`{name}`" for name in counts)
        received = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"{names} must be equally many, one or more. Received: {received}.")
    return next(iter(counts.values()))


def finite_floats(name: str, values: Any, ranks: tuple[int, ...] = (1,)) -> np.ndarray:
    """Numbers as float32, (N,), or of another rank of `ranks`; an error for others and for what is not finite."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must be numbers. Received: {str(values)[:60]} (dtype={array.dtype}).")
    if array.ndim not in ranks or not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite floats{', (N,) or (N, targets)' if 2 in ranks else ', one for each'}. "
            f"Received: shape={array.shape}, {np.count_nonzero(~np.isfinite(array))} of them not finite."
        )
    return array.astype(np.float32)


def packer_of(tokenizer: WordPieceTokenizer, sequence_length: int, smallest: int = 4) -> SentencePacker:
    """A packer for rows of a known length."""
    packer = SentencePacker(tokenizer, sequence_length)
    as_integer("sequence_length", sequence_length, smallest)  # a packer alone may have None
    return packer


def warn_of_cut(count: int, total: int, length: int, what: str, name: str = "sequence_length") -> None:
    """Tells the caller of the function that calls this one that texts are longer than a row, and whose limit it is."""
    if count:
        warnings.warn(
            f"{count} of {total} {what} do not fit `{name}={length}` and lose their ends.",
            stacklevel=3,
        )


def _checked_names(class_names: Sequence[str]) -> list[str]:
    names = list(class_names)
    if isinstance(class_names, str) or len(set(names)) < len(names) or not names:
        raise ValueError(f"`class_names` must be different names in a list. Received: {class_names!r}.")
    return names
