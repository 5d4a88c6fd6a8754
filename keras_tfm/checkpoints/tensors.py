"""How a tensor of a checkpoint becomes variables of a model, and back: the invertible objects of a family map.

Paths name variables by attributes, as in Python: "stack.blocks.{i}.self_attention.query_dense.kernel". `{i}` runs over
the list before it. Methods are given `get`, which looks a path up in the model for the layer at hand.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

_QUERY_KEY_VALUE = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Same:
    """The tensor is the variable. In a family map, a bare string says the same."""

    path: str
    axis: ClassVar[int] = 0  # of the variables, along which blocks of the tensor's rows stand

    @property
    def paths(self) -> tuple[str, ...]:
        """The variables that the tensor fills."""
        return (self.path,)

    def unit(self, get: Callable[[str], Any]) -> int:
        """How many rows of the tensor belong together: blocks are multiples of it."""
        return 1

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        return tuple(get(self.path).shape)

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        """The values of the variables, given the tensor or a block of its rows."""
        return [tensor]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        """The tensor, given the values of the variables: the inverse of `split`."""
        return values[0]


class Transposed(Same):
    """torch keeps a linear layer as (outputs, inputs), Keras as (inputs, outputs)."""

    axis: ClassVar[int] = -1

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        return tuple(get(self.path).shape)[::-1]

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        return [tensor.T]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        return values[0].T


class OneRow(Same):
    """The tensor is (1, n), the variable (n,): BART's `final_logits_bias`."""

    def shape(self, get):
        return (1, *get(self.path).shape)

    def split(self, tensor, get):
        return [tensor[0]]

    def join(self, values, get):
        return values[0][None]


class OneMore(Same):
    """The variable is one more than the tensor: Gemma's norms multiply by 1 + weight."""

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        return [tensor.astype("float32") + 1]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        return values[0].astype("float32") - 1


@dataclasses.dataclass(frozen=True)
class Fused:
    """Several variables side by side in one tensor, along its outputs: GPT-2's `c_attn`.

    Args:
        paths: the variables, in order.
    """

    paths: tuple[str, ...]
    axis: ClassVar[int] = 0

    def unit(self, get: Callable[[str], Any]) -> int:
        *inputs, outputs = self.shape(get)
        return 1 if inputs else outputs

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        shapes = [tuple(get(path).shape) for path in self.paths]
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        ends = np.cumsum([get(path).shape[-1] for path in self.paths])
        return np.split(tensor, ends[:-1], axis=-1)

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        return np.concatenate(values, axis=-1)


@dataclasses.dataclass(frozen=True)
class FusedByHead:
    """Query, key and value of the first head, then those of the second, ...: GPT-NeoX's and BLOOM's `query_key_value`.

    Args:
        attention: path of the attention layer; it has as many key heads as query heads.
        part: "kernel" or "bias". The tensor is (N * 3 * H, D) or (N * 3 * H,).
    """

    attention: str
    part: str
    axis: ClassVar[int] = -1

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(f"{self.attention}.{name}_dense.{self.part}" for name in _QUERY_KEY_VALUE)

    def unit(self, get: Callable[[str], Any]) -> int:
        return self.shape(get)[0] // get(f"{self.attention}.num_heads")

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        *inputs, outputs = get(self.paths[0]).shape
        return (3 * outputs, *inputs)

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        by_head = tensor.reshape(-1, 3, self.unit(get) // 3, *tensor.shape[1:])  # (N, 3, H, D)
        return [by_head[:, j].reshape(-1, *tensor.shape[1:]).T for j in range(3)]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        num_heads = get(f"{self.attention}.num_heads")
        by_head = np.stack([value.T.reshape(num_heads, -1, *value.shape[:-1]) for value in values], axis=1)
        return by_head.reshape(-1, *by_head.shape[3:])


class Part(NamedTuple):
    """One tensor of a checkpoint and the variables of the model that it fills."""

    name: str
    rule: Any
    get: Callable[[str], Any]

    @property
    def variables(self) -> list:
        return [self.get(path) for path in self.rule.paths]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rule.shape(self.get)


def parts_of(tensors: Mapping[str, Any], model: Any) -> Iterator[Part]:
    """The tensors that a checkpoint of this model has: the map with `{i}` run through, without what the model lacks.

    A path that meets None on its way (no bias, no norm, a tied head) names nothing; its tensor is not expected either.
    Names mapped to None are not ours to fill.
    """
    for name, rule in tensors.items():
        if rule is None:
            continue
        rule = Same(rule) if isinstance(rule, str) else rule
        owner, numbered, _ = rule.paths[0].partition(".{i}")
        for i in range(len(look_up(model, owner)) if numbered else 1):
            part = Part(name.replace("{i}", str(i)), rule, _getter(model, i))
            if all(variable is not None for variable in part.variables):
                yield part


def skips(tensors: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    """Whether the map says None to a tensor of this name, with the prefix or without."""
    patterns = (re.escape(pattern).replace(r"\{i\}", r"\d+") for pattern, rule in tensors.items() if rule is None)
    return any(re.fullmatch(pattern, given) for pattern in patterns for given in (name, prefix + name))


def look_up(thing: Any, path: str) -> Any:
    """The attribute or list item at the end of a path; None as soon as anything on its way is None."""
    for step in path.split("."):
        if thing is None:
            return None
        thing = thing[int(step)] if step.isdigit() else getattr(thing, step)
    return thing


def num_elements(shape: Iterable[int]) -> int:
    """How many numbers a tensor of this shape holds."""
    return math.prod(shape)


def _getter(model, i: int) -> Callable[[str], Any]:
    return lambda path: look_up(model, path.replace("{i}", str(i)))
