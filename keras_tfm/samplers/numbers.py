"""Samplers and processors as data: their numbers apart from their structure.

A compiled loop is made once for a structure; the numbers (temperatures, penalties, ids) enter it as tensors, so that
other numbers never compile anew.
"""

import dataclasses
from typing import Any

import numpy as np


def split_numbers(part) -> tuple[Any, list[np.ndarray]]:
    """Takes a sampler or processor apart.

    Args:
        part: a frozen dataclass. Its int and float fields, and tuples of ints or floats, are numbers; tuples of
            dataclasses are searched; everything else belongs to the structure.

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
        fields = dataclasses.fields(value)
        return (type(value), tuple(_structure(getattr(value, field.name), numbers) for field in fields))
    if _is_number(value):
        numbers.append(np.asarray(value, "float32" if isinstance(value, float) else "int32"))
        return float if isinstance(value, float) else int
    if isinstance(value, tuple) and value and all(_is_number(item) for item in value):
        dtype = "float32" if any(isinstance(item, float) for item in value) else "int32"
        numbers.append(np.asarray(value, dtype))
        return (dtype, len(value))
    if isinstance(value, tuple):
        return tuple(_structure(item, numbers) for item in value)
    return value


def _rebuild(value, numbers):
    if dataclasses.is_dataclass(value):
        changed = {field.name: _rebuild(getattr(value, field.name), numbers) for field in dataclasses.fields(value)}
        copy = object.__new__(type(value))  # not the constructor: it checks values, and tensors have none yet
        copy.__dict__.update(value.__dict__, **changed)
        return copy
    if _is_number(value) or (isinstance(value, tuple) and value and all(_is_number(item) for item in value)):
        return next(numbers)
    if isinstance(value, tuple):
        return tuple(_rebuild(item, numbers) for item in value)
    return value


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
