"""What arguments must be, said in one way: what holds, what was received, by the name that the caller used."""

import operator
from typing import Any


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
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        rule = "" if least is None else f" of at least {least}"
        raise ValueError(f"`{name}` must be an integer{rule}{note}. Received: {name}={value!r}.")
    return number


def _is_bool(value: Any) -> bool:
    """Whether it is Python's bool or an array library's, which have an index as well."""
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "name", "") == "bool"
