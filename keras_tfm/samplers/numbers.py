"""Samplers and processors as data: numbers, which are tensors in the compiled loop, apart from static structure.

The loop is compiled once for a structure; other numbers (temperatures, penalties, ids) never retrace it. A field that
sizes of tensors depend on is declared with `static(default)`; a tuple of token ids of any length with `bucketed()`,
which pads it.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_tfm.ops.tensors import next_power_of_two
from keras_tfm.types import Tensor

_SMALLEST_BUCKET = 2
_ID_FIELDS = ("phrases", "token_id")  # fields of token ids, besides those that are `bucketed`


def static(default: Any) -> Any:
    """A dataclass field whose numbers are compiled in, for example the number of beams: other numbers retrace."""
    return dataclasses.field(default=default, metadata={"static": True})


def bucketed(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with a tuple of numbers, or of tuples, of any length, of which few lengths retrace.

    In the compiled loop, and by `as_arrays`, it is padded to a bucket: the next power of two.
    """
    return dataclasses.field(default=default, metadata={"bucketed": True})


def as_arrays(value: Tensor) -> Any:
    """The value of a `bucketed` field as arrays; those of the compiled loop, which are tensors, pass.

    Args:
        value: a tuple of integers -> int32 (n,), filled up with -1; of floats -> float32 (n,), filled up with 0; of
            tuples of integers -> int32 (n, m), shorter ones after -1; of tuples otherwise -> a tuple with what becomes
            of their first items, of their second items, ...

    Example:
        >>> as_arrays((5, 7, 9))
        array([ 5,  7,  9, -1], dtype=int32)
    """
    if _is_vector(value, least=0):
        is_float = any(map(_is_float, value))
        array = np.full(_bucket(len(value)), 0.0 if is_float else -1, "float32" if is_float else "int32")
        array[: len(value)] = value
        return array
    if not isinstance(value, tuple) or not all(isinstance(item, tuple) for item in value):
        return value
    if not all(_is_vector(item) and not any(map(_is_float, item)) for item in value):
        return tuple(map(as_arrays, zip(*value, strict=True)))
    matrix = np.full((_bucket(len(value)), _bucket(max(map(len, value)))), -1, "int32")
    for row, item in zip(matrix, value, strict=False):
        row[-len(item) :] = item
    return matrix


def split_numbers(part: Any) -> tuple[Any, list[np.ndarray]]:
    """Takes a sampler or processor apart.

    Args:
        part: a frozen dataclass. Its int and float fields (NumPy's too), tuples of ints or floats, and arrays are
            numbers; tuples and dataclasses in it are searched; everything else, and what is `static`, belongs to the
            structure.

    Returns:
        The pair (structure, numbers): a hashable description, and the numbers in field order.

    Raises:
        TypeError: for a field that can be neither, for example a list.
    """
    numbers: list[np.ndarray] = []
    return _structure(part, numbers, type(part).__name__), numbers


def with_numbers(part: Any, numbers: list) -> Any:
    """A copy of `part` that holds `numbers`, typically tensors, where `split_numbers` found its own."""
    return _rebuild(part, iter(numbers))


def models_in(part: Any) -> list[keras.Model]:
    """The models that a sampler or processor holds, for example a draft model."""
    if isinstance(part, keras.Model):
        return [part]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        part = tuple(getattr(part, field.name) for field in dataclasses.fields(part))
    return [model for item in part for model in models_in(item)] if isinstance(part, tuple) else []


def greatest_id(part) -> int:
    """The greatest token id that a sampler or a processor names in `bucketed` fields or in `_ID_FIELDS`; -1 if none."""
    if isinstance(part, tuple):
        return max(map(greatest_id, part), default=-1)
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return -1
    return max((_greatest_id(getattr(part, field.name), field) for field in dataclasses.fields(part)), default=-1)


def _greatest_id(value, field) -> int:
    if not _is(field, "bucketed") and field.name not in _ID_FIELDS:
        return greatest_id(value)
    arrays = as_arrays(value)
    arrays = [np.asarray(array) for array in (arrays if isinstance(arrays, tuple) else (arrays,))]
    return max((int(array.max()) for array in arrays if array.dtype.kind == "i"), default=-1)


def _structure(value, numbers, name):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = tuple(_field_structure(value, field, numbers) for field in dataclasses.fields(value))
        return (type(value), parts)
    if _is_number(value):
        numbers.append(np.asarray(value, "float32" if _is_float(value) else "int32"))
        return float if _is_float(value) else int
    if isinstance(value, np.ndarray):
        numbers.append(value)
        return (value.dtype.name, value.shape)
    if _is_vector(value):
        dtype = "float32" if any(map(_is_float, value)) else "int32"
        numbers.append(np.asarray(value, dtype))
        return (dtype, len(value))
    if isinstance(value, tuple):
        return (type(value), *(_structure(item, numbers, name) for item in value))
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be something that a compiled loop can be made for: a number, a string, a tuple of such, an "
            f"array, a frozen dataclass. Received: {value!r} of type {type(value).__name__}. Make a tuple of it in "
            "`__post_init__`."
        ) from None
    return (type(value), value)  # with the type, since 1 == True == 1.0


def _field_structure(value, field, numbers):
    part, name = getattr(value, field.name), f"{type(value).__name__}.{field.name}"
    if not _is(field, "static"):
        return _structure(as_arrays(part) if _is(field, "bucketed") else part, numbers, name)
    return _structure(part, [], name), part


def _rebuild(value, numbers):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for field in dataclasses.fields(value):
            if not _is(field, "static"):
                part = getattr(value, field.name)
                changed[field.name] = _rebuild(as_arrays(part) if _is(field, "bucketed") else part, numbers)
        copy = object.__new__(type(value))  # not the constructor: it checks values, and tensors have none yet
        copy.__dict__.update(value.__dict__, **changed)
        return copy
    if _is_number(value) or isinstance(value, np.ndarray) or _is_vector(value):
        return next(numbers)
    if isinstance(value, tuple):
        items = [_rebuild(item, numbers) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _bucket(size: int) -> int:
    """The next power of two."""
    return next_power_of_two(max(_SMALLEST_BUCKET, size))


def _is(field, kind: str) -> bool:
    return field.metadata.get(kind, False)


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_float(value) -> bool:
    return isinstance(value, float | np.floating)


def _is_vector(value, least: int = 1) -> bool:
    return isinstance(value, tuple) and len(value) >= least and all(_is_number(item) for item in value)
