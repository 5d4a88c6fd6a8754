"""Models whose variables are made straight from a checkpoint, strictly."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_tfm import compat
from keras_tfm.checkpoints.reader import Source
from keras_tfm.checkpoints.tensors import Part, num_elements, parts_of, skips

_SHOWN = 8
_ALIGNMENT = 64  # bytes; TensorFlow takes over no other memory
_BLOCK = 2**19  # numbers that are read at a time


def build_empty(build: Callable[[], keras.Model], dtype=None) -> keras.Model:
    """A model whose variables have shapes and no values yet: it takes no memory, whatever its sizes.

    Args:
        build: makes the model.
        dtype: dtype policy of its layers. Default: Keras' global policy.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy if dtype is None else dtype)
    try:
        with compat.variables_without_values():
            return build()
    finally:
        keras.config.set_dtype_policy(policy)


def fill(
    model: keras.Model,
    tensors: Mapping[str, Any],
    source: Source,
    prefix: str = "",
    copies: Mapping[str, str] | None = None,
    older: Mapping[str, str] | None = None,
    stand_ins: Mapping[str, str] | None = None,
) -> None:
    """Makes the variables of an empty model from a checkpoint, one after the other.

    Args:
        model: from `build_empty`.
        tensors: a tensor map.
        source: the checkpoint.
        prefix: beginning of names that the checkpoint may lack.
        copies: tensor that the checkpoint may hold beside another -> that other, which it must equal.
        older: end of a name -> what older files have in its place.
        stand_ins: tensor that the checkpoint may lack -> the one that it equals then.

    Raises:
        ValueError: if tensors are left over, missing or of a type that is no weight, variables would get no value, or
            shapes differ; all are listed, before anything is read.
    """
    shapes = source.shapes()
    parts = {_name_in(shapes, part.name, prefix, older or {}): part for part in parts_of(tensors, model)}
    extra = [name for name in shapes if name not in parts and not skips(tensors, name, prefix)]
    source.check_types(name for name in parts if name in shapes)
    copies, differing = copies or {}, []
    for name in [name for name in extra if name in copies]:
        original = _name_in(shapes, copies[name], prefix, older or {})
        if original in shapes:
            extra.remove(name)
            differing += [] if _equal(source, name, original) else [f"{name} and {original}"]
    held = {name: name if name in shapes else (stand_ins or {}).get(name, name) for name in parts}
    _check(model, parts, held, shapes, extra, differing, source.place)

    values: dict[int, Callable[[], Any]] = {}
    for name, part in parts.items():
        tensor = _Filling(source, held[name], part)
        for variable in part.variables:
            values[id(variable)] = functools.partial(tensor.value_of, variable)
    for variable in model.variables:
        compat.initialize(variable, values.pop(id(variable), None))  # seeds of dropout have their own initializer


class _Filling:
    """The values of the variables that one tensor fills, read when the first of them is asked for.

    The memory that the rows are written to is what the variables take over: nothing but a block is there twice.
    """

    def __init__(self, source: Source, name: str, part: Part):
        self._source, self._name, self._part = source, name, part
        self._values: dict[int, np.ndarray] = {}

    def value_of(self, variable) -> Any:
        """The value of one of the variables, for it to keep."""
        if not self._values:
            self._values = {id(one): _aligned(one.shape, one.dtype) for one in self._part.variables}
            self._read()
        return _tensor(self._values.pop(id(variable)))

    def _read(self) -> None:
        rule, get = self._part.rule, self._part.get
        num_rows, unit = self._part.shape[0], rule.unit(get)
        step = max(1, _BLOCK * num_rows // num_elements(self._part.shape) // unit) * unit
        values = [np.moveaxis(value, rule.axis, 0) for value in self._values.values()]
        filled = [0] * len(values)
        for start in range(0, num_rows, step):
            blocks = rule.split(self._source.rows(self._name, start, min(start + step, num_rows)), get)
            for i, block in enumerate(blocks):
                rows = np.moveaxis(block, rule.axis, 0)
                np.copyto(values[i][filled[i] : filled[i] + len(rows)], rows, casting="unsafe")
                filled[i] += len(rows)


def _aligned(shape, dtype: str) -> np.ndarray:
    """Memory for an array that TensorFlow can take over."""
    num_bytes = num_elements(shape) * np.dtype(dtype).itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, "uint8")
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def _tensor(array: np.ndarray):
    """The array, for a variable to keep; TensorFlow would copy it twice."""
    return compat.tensor_over(array) if keras.backend.backend() == "tensorflow" else array


def _check(
    model,
    parts: dict[str, Part],
    held: dict[str, str],
    shapes: dict,
    extra: list[str],
    differing: list[str],
    place: str,
) -> None:
    missing = [f"{name} {part.shape}" for name, part in parts.items() if held[name] not in shapes]
    filled = {id(variable) for part in parts.values() for variable in part.variables}
    unfilled = [f"{weight.path} {tuple(weight.shape)}" for weight in model.weights if id(weight) not in filled]
    wrong = [
        f"{held[name]} must be {part.shape}, is {shapes[held[name]]}"
        for name, part in parts.items()
        if held[name] in shapes and shapes[held[name]] != part.shape
    ]
    complaints = [
        (f"{len(missing)} tensors are missing", missing),
        (f"{len(extra)} tensors were not used", [f"{name} {shapes[name]}" for name in extra]),
        (f"{len(unfilled)} variables of the model got no value", unfilled),
        (f"{len(wrong)} tensors have another shape", wrong),
        ('Tensors differ that are one in the config; with "tie_word_embeddings": false in it they are two', differing),
    ]
    told = [f"{title}: {_some(names)}." for title, names in complaints if names]
    if told:
        raise ValueError(
            f"The tensors of a checkpoint must be those of its config, each used once. Received {place}:\n"
            + "\n".join(told)
        )


def _name_in(shapes: Mapping, name: str, prefix: str, older: Mapping[str, str]) -> str:
    """The name as the checkpoint has it: with its prefix or without, or with an older end."""
    names = [name, name.removeprefix(prefix)]
    for end, old in older.items():
        names += [given.removesuffix(end) + old for given in names[:2] if given.endswith(end)]
    return next((given for given in names if given in shapes), name)


def _equal(source: Source, name: str, other: str) -> bool:
    shape = source.shapes()[name]
    if shape != source.shapes()[other]:
        return False
    step = max(1, _BLOCK * shape[0] // max(1, num_elements(shape)))
    blocks = [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
    return all(np.array_equal(source.rows(name, *block), source.rows(other, *block)) for block in blocks)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f", ... ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
