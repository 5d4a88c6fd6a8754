"""What arguments must be, said in one way: what holds, what was received, by the name that the caller used."""

import math
import operator
from collections.abc import Iterable
from typing import Any

from keras_tfm.types import Tensor


def require(holds: Any, statement: str, **received: Any) -> None:
    """Raises a ValueError that says what must hold and what was received, unless it holds."""
    if not holds:
        listed = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise ValueError(f"{statement}. Received: {listed}.")


def as_integer(name: str, value: Any, least: int | None = None, note: str = "") -> int:
    """The value as an int, for anything that `operator.index` takes, NumPy's integers among them; no bool.

    Args:
        name: of the argument.
        value: what the caller gave.
        least: int, the smallest value that is allowed; None for any.
        note: what the error adds to the rule.

    Raises:
        ValueError: if it is no integer, or too small.
    """
    try:
        number: Any = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    rule = "" if least is None else f" of at least {least}"
    holds = number is not None and (least is None or number >= least)
    require(holds, f"`{name}` must be an integer{rule}{note}", **{name: value})
    return number


def number_of(name: str, value: Any) -> float:
    """The value as a finite float; raises a ValueError that names the argument."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    require(math.isfinite(number), f"`{name}` must be a finite number", **{name: value})
    return number


def token_ids_of(name: str, token_ids: Any, least: int = 1) -> tuple[int, ...]:
    """The ids as a tuple of at least so many integers >= 0; raises a ValueError for anything else, one id alone too."""
    is_several = isinstance(token_ids, Iterable) and not isinstance(token_ids, str | bytes)
    require(is_several, f"`{name}` must hold ids, as in (5, 7)", **{name: token_ids})
    token_ids = tuple(token_ids)
    try:
        numbers = tuple(operator.index(token_id) for token_id in token_ids)
    except TypeError:
        numbers = (-1,)
    holds = len(numbers) >= least and min(numbers, default=0) >= 0
    require(holds, f"`{name}` must hold {'ids' if not least else 'at least one id, all'} >= 0", **{name: token_ids})
    return numbers


def check_in_vocabulary(vocabulary_size: int, **token_ids: int) -> None:
    """Raises a ValueError that names the argument unless each id is that of a token."""
    for name, token_id in token_ids.items():
        statement = f"`{name}` must be less than the {vocabulary_size} tokens of the vocabulary"
        require(token_id < vocabulary_size, statement, **{name: token_id})


def sequences_of(name: str, sequences: Any) -> tuple[tuple[int, ...], ...]:
    """Several sequences of ids; raises a ValueError for anything else, one sequence alone too."""
    is_several = isinstance(sequences, Iterable) and not isinstance(sequences, str | bytes)
    sequences = tuple(sequences) if is_several else sequences
    is_several = is_several and all(isinstance(sequence, Iterable) for sequence in sequences)
    require(is_several, f"`{name}` must hold sequences of ids, as in ((5, 7),)", **{name: sequences})
    return tuple(token_ids_of(name, sequence) for sequence in sequences)


def refuse_ragged(x: Tensor, name: str) -> None:
    """Raises for TensorFlow's ragged tensors, which layers would take for rows of one length."""
    if hasattr(x, "row_splits"):
        raise TypeError(
            f"`{name}` must be a dense tensor. Received: a ragged one. Make it dense with `x.to_tensor()`, and say "
            "which tokens are real with a mask: `tf.sequence_mask(x.row_lengths())`."
        )


def check_rank(x: Tensor, rank: int, name: str, letters: str) -> None:
    """Raises unless `x` is dense with `rank` axes; `letters` names them, for example "(B, T, D)"."""
    refuse_ragged(x, name)
    if len(x.shape) != rank:
        raise ValueError(f"`{name}` must have shape {letters}. Received: shape={tuple(x.shape)}.")


def check_positive(**numbers: Any) -> None:
    """Raises unless every named number is an integer of at least 1."""
    for name, number in numbers.items():
        as_integer(name, number, 1)


def check_rate(**rates: float) -> None:
    """Raises unless every named rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"`{name}` must be at least 0 and less than 1. Received: {name}={rate!r}.")


def _is_bool(value: Any) -> bool:
    """Whether it is Python's bool or an array library's, which have an index as well."""
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "name", "") == "bool"
