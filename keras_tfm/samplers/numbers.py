"""Samplers and processors as data: their numbers apart from their structure.

A compiled loop is made once for a structure; the numbers (temperatures, penalties, ids) enter it as tensors, so that
other numbers never compile anew. A field that sizes of tensors depend on is declared with `static(default)`.
"""

import dataclasses
from typing import Any

import numpy as np


def static(default):
    """A dataclass field whose numbers are compiled in, for example how many beams there are."""
    return dataclasses.field(default=default, metadata={"static": True})


def split_numbers(part) -> tuple[Any, list[np.ndarray]]:
    """Takes a sampler or processor apart.

    Args:
        part: a frozen dataclass. Its int and float fields, tuples of ints or floats, and arrays are numbers; tuples
            and dataclasses in it are searched; everything else, and what is `static`, belongs to the structure.

    Returns:
        The pair (structure, numbers): a hashable description, and the numbers in field order.
    """
    numbers: list[np.ndarray] = []
    return _structure(part, numbers), numbers


def with_numbers(part, numbers: list):
    """A copy of `part` that holds `numbers`, typically tensors, where `split_numbers` found its own."""
    return _rebuild(part, iter(numbers))


def _structure(value, numbers):
    if dataclasses.is_dataclass(value):
        parts = tuple(
            getattr(value, field.name) if _is_static(field) else _structure(getattr(value, field.name), numbers)
            for field in dataclasses.fields(value)
        )
        return (type(value), parts)
    if _is_number(value):
        numbers.append(np.asarray(value, "float32" if isinstance(value, float) else "int32"))
        return float if isinstance(value, float) else int
    if isinstance(value, np.ndarray):
        numbers.append(value)
        return (value.dtype.name, value.shape)
    if _is_vector(value):
        dtype = "float32" if any(isinstance(item, float) for item in value) else "int32"
        numbers.append(np.asarray(value, dtype))
        return (dtype, len(value))
    if isinstance(value, tuple):
        return tuple(_structure(item, numbers) for item in value)
    return value


def _rebuild(value, numbers):
    if dataclasses.is_dataclass(value):
        changed = {
            field.name: _rebuild(getattr(value, field.name), numbers)
            for field in dataclasses.fields(value)
            if not _is_static(field)
        }
        copy = object.__new__(type(value))  # not the constructor: it checks values, and tensors have none yet
        copy.__dict__.update(value.__dict__, **changed)
        return copy
    if _is_number(value) or isinstance(value, np.ndarray) or _is_vector(value):
        return next(numbers)
    if isinstance(value, tuple):
        items = [_rebuild(item, numbers) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _is_static(field) -> bool:
    return field.metadata.get("static", False)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_vector(value) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(_is_number(item) for item in value)
