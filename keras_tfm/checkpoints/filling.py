"""Models whose variables are made straight from a checkpoint, strictly."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

from keras_tfm.checkpoints.reader import Source
from keras_tfm.checkpoints.tensors import Part, parts_of, skips

_PENDING = "uninitialized_variables"  # Keras' list of variables that were made in a stateless scope
_SHOWN = 8
_ALIGNMENT = 64  # bytes; TensorFlow takes over no other memory


def build_empty(build: Callable[[], keras.Model], dtype=None) -> keras.Model:
    """A model whose variables have shapes and no values yet: it takes no memory, whatever its sizes.

    Args:
        build: makes the model.
        dtype: dtype policy of its layers. Default: Keras' global policy.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy if dtype is None else dtype)
    try:
        with keras.StatelessScope(initialize_variables=False):
            return build()
    finally:
        keras.config.set_dtype_policy(policy)
        global_state.set_global_attribute(_PENDING, [])  # or the next stateless scope would fill them with noise


def fill(
    model: keras.Model,
    tensors: Mapping[str, Any],
    source: Source,
    prefix: str = "",
    copies: Mapping[str, str] | None = None,
) -> None:
    """Makes the variables of an empty model from a checkpoint, one after the other.

    Args:
        model: from `build_empty`.
        tensors: a tensor map.
        source: the checkpoint.
        prefix: beginning of names that the checkpoint may lack.
        copies: tensor that the checkpoint may hold beside another -> that other, which it must equal.

    Raises:
        ValueError: if tensors are left over or missing, variables would get no value, or shapes differ; all are
            listed, before anything is read.
    """
    shapes = source.shapes()
    parts = {_name_in(shapes, part.name, prefix): part for part in parts_of(tensors, model)}
    extra = [name for name in shapes if name not in parts and not skips(tensors, name, prefix)]
    for name in [name for name in extra if name in (copies or {})]:
        original = _name_in(shapes, copies[name], prefix)
        if original in shapes and _equal(source, name, original):
            extra.remove(name)
    _check(model, parts, shapes, extra, source.place)

    values: dict[int, Callable[[], np.ndarray]] = {}
    remembered = _Last(source)
    for name, part in parts.items():
        for index, variable in enumerate(part.variables):
            values[id(variable)] = lambda name=name, part=part, index=index: remembered.split(name, part)[index]
    for variable in model.variables:
        if id(variable) in values:
            variable._initializer = _initializer(values[id(variable)])
        variable._deferred_initialize()  # seeds of dropout have an initializer of their own


class _Last:
    """Reads a tensor and splits it; keeps the last one, since its variables come one after the other."""

    def __init__(self, source: Source):
        self._source = source
        self._name = None
        self._values: list[np.ndarray] = []

    def split(self, name: str, part: Part) -> list[np.ndarray]:
        if len(part.rule.paths) == 1:
            return part.rule.split(self._source.read(name), part.get)  # the caller lets go of it
        if name != self._name:
            self._values = []  # before the next is read: two would be in memory
            self._name, self._values = name, part.rule.split(self._source.read(name), part.get)
        return self._values


def _initializer(value: Callable[[], np.ndarray]):
    return lambda shape, dtype=None: _tensor(value(), dtype)


def _tensor(array: np.ndarray, dtype):
    """The numbers of an array in order, for a variable to take over; TensorFlow copies NumPy arrays twice otherwise."""
    if keras.backend.backend() != "tensorflow" or dtype not in ("float32", "float16"):
        return np.ascontiguousarray(array.astype(dtype, copy=False))
    import tensorflow as tf

    dtype = np.dtype(dtype)
    memory = np.empty(array.size * dtype.itemsize + _ALIGNMENT, "uint8")
    start = -memory.ctypes.data % _ALIGNMENT
    aligned = memory[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    np.copyto(aligned, array, casting="unsafe")
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def _check(model, parts: dict[str, Part], shapes: dict, extra: list[str], place: str) -> None:
    missing = [f"{name} {part.shape}" for name, part in parts.items() if name not in shapes]
    filled = {id(variable) for part in parts.values() for variable in part.variables}
    unfilled = [f"{weight.path} {tuple(weight.shape)}" for weight in model.weights if id(weight) not in filled]
    wrong = [
        f"{name} must be {part.shape}, is {shapes[name]}"
        for name, part in parts.items()
        if name in shapes and shapes[name] != part.shape
    ]
    complaints = [
        (f"{len(missing)} tensors are missing", missing),
        (f"{len(extra)} tensors were not used", [f"{name} {shapes[name]}" for name in extra]),
        (f"{len(unfilled)} variables of the model got no value", unfilled),
        (f"{len(wrong)} tensors have another shape", wrong),
    ]
    told = [f"{title}: {_some(names)}." for title, names in complaints if names]
    if told:
        raise ValueError(
            f"The tensors of a checkpoint must be those of its config, each used once. Received {place}:\n"
            + "\n".join(told)
        )


def _name_in(shapes: Mapping, name: str, prefix: str) -> str:
    """The name with its prefix, or without where the checkpoint has it so."""
    bare = name.removeprefix(prefix)
    return bare if name not in shapes and bare in shapes else name


def _equal(source: Source, name: str, other: str) -> bool:
    return np.array_equal(source.read(name), source.read(other))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f", ... ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
