"""Kernels of projections for inference only, as processors multiply them fast: in 8 bits, and in bfloat16."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_tfm.ops.int8_products import LARGEST, int8_product, round_rows
from keras_tfm.types import Config, Tensor

_ROWS_OF_A_CALL = 8  # of the inputs that are kept to measure what rounding costs
_WORTH = 0.8  # what is more work must leave less than this share of the squared error


class RoundedRows:
    """Rows of inputs in 8 bits, for all kernels that have their spread. No tuple: Keras would cast what is in one.

    Args:
        values: int8 (rows, inputs).
        step: float32 (rows, 1), what 1 of a row stands for.
        spread: float32 (inputs,), what the rows were multiplied with before, or None: 1.
    """

    def __init__(self, values: Tensor, step: Tensor, spread: Any):
        self.values, self.step, self.spread = values, step, spread


class Bfloat16Kernel(NamedTuple):
    """A kernel in bfloat16; products are those of bfloat16, with sums in float32.

    Args:
        values: bfloat16 (inputs, units).
    """

    values: Any

    @classmethod
    def of(cls, kernel: np.ndarray) -> "Bfloat16Kernel":
        """The kernel, float (inputs, units), rounded."""
        return cls(ops.convert_to_numpy(ops.cast(kernel, "bfloat16")))

    def round(self, x: Tensor) -> None:
        """Nothing that other kernels could use."""

    def product(self, x: Tensor, bias: Tensor | None, rounded: RoundedRows | None = None) -> Tensor:
        """x (rows, inputs) -> (rows, units) in the dtype of x."""
        y = ops.matmul(ops.cast(x, "bfloat16"), ops.convert_to_tensor(self.values))
        y = y if bias is None else ops.add(y, ops.cast(bias, "bfloat16"))  # which TensorFlow fuses with the product
        return ops.cast(y, x.dtype)

    def floats(self) -> Tensor:
        """float32 (inputs, units)."""
        return ops.cast(self.values, "float32")

    def config(self) -> Config:
        """Which of the parts there are; see `kernel_from_config`."""
        return {"dtype": "bfloat16"}


class Int8Kernel(NamedTuple):
    """A kernel in 8 bits with one scale for each unit; rows of inputs are rounded as they come, each by its own scale.

    A channel that is far larger than the others in all rows would take their steps away. So `spread` multiplies each
    channel of the inputs by a number that the kernel was divided by. Kernels of the same inputs have one spread
    together, so that what one has rounded serves the others.

    Args:
        values: int8 (inputs, units).
        scale: float32 (units,).
        spread: float32 (inputs,), or None: 1.

    Reference:
        Xiao et al. 2022, "SmoothQuant", https://arxiv.org/abs/2211.10438
    """

    values: Any
    scale: Any
    spread: Any = None

    @classmethod
    def of(cls, kernel: np.ndarray, spread: np.ndarray | None = None) -> "Int8Kernel":
        """The kernel, float32 (inputs, units), rounded for inputs that are multiplied by `spread` first."""
        if spread is not None:
            kernel = kernel / spread[:, None]
        scale = np.maximum(np.abs(kernel).max(axis=0) / LARGEST, 1e-30).astype("float32")
        return cls(np.round(kernel / scale).astype("int8"), scale, spread)

    def round(self, x: Tensor) -> RoundedRows:
        """x (rows, inputs), as it is multiplied with this kernel and with all that have its spread."""
        rows = ops.cast(x, "float32")
        return RoundedRows(*round_rows(rows if self.spread is None else rows * self.spread), self.spread)

    def product(self, x: Tensor, bias: Tensor | None, rounded: RoundedRows | None = None) -> Tensor:
        """x (rows, inputs) -> (rows, units) in the dtype of x; `rounded` is x as another kernel has rounded it."""
        if rounded is None or rounded.spread is not self.spread:
            rounded = self.round(x)
        y = int8_product(rounded.values, self.values, self.scale) * rounded.step
        return ops.cast(y if bias is None else y + ops.cast(bias, "float32"), x.dtype)

    def floats(self) -> Tensor:
        """float32 (inputs, units)."""
        kernel = ops.cast(self.values, "float32") * self.scale
        return kernel if self.spread is None else kernel * ops.expand_dims(self.spread, 1)

    def config(self) -> Config:
        """Which of the parts there are; see `kernel_from_config`."""
        return {"dtype": "int8", "has_spread": self.spread is not None}


class ObservedKernel:
    """A kernel in floats that notes what it is multiplied with, and keeps some rows of it, to choose how to round it.

    Args:
        kernel: float32 (inputs, units).
    """

    def __init__(self, kernel: np.ndarray):
        self.kernel = kernel
        self.rows: list[np.ndarray] = []
        self.num_rows = 0
        self.squares = np.zeros(len(kernel), "float32")  # of each channel, their sum over all rows

    def round(self, x: Tensor) -> None:
        """Nothing: what is observed is not rounded."""

    def product(self, x: Tensor, bias: Tensor | None, rounded: RoundedRows | None = None) -> Tensor:
        """x (rows, inputs) -> (rows, units)."""
        rows = ops.convert_to_numpy(ops.cast(x, "float32"))
        chosen = np.linspace(0, len(rows) - 1, _ROWS_OF_A_CALL).astype("int32")  # special tokens, at the ends, too
        self.rows.append(rows[chosen])
        self.num_rows += len(rows)
        self.squares += np.square(rows).sum(axis=0)
        y = ops.matmul(x, ops.cast(self.kernel, x.dtype))
        return y if bias is None else y + bias

    def has_seen_what(self, other: "ObservedKernel") -> bool:
        """Whether another was multiplied with the same rows."""
        return self.num_rows == other.num_rows and np.array_equal(self.squares, other.squares)

    def sizes(self) -> np.ndarray:
        """float32 (inputs,), the root mean square of each channel."""
        return np.sqrt(self.squares / self.num_rows)

    def loss(self, spread: np.ndarray | None) -> float:
        """What rounding with this spread loses on the rows that were kept, to what the product is."""
        rows = np.concatenate(self.rows)
        exact = rows @ self.kernel
        y = Int8Kernel.of(self.kernel, spread).product(ops.convert_to_tensor(rows), None)
        return float(np.square(ops.convert_to_numpy(y) - exact).sum() / np.maximum(np.square(exact).sum(), 1e-30))


def rounded_kernels(observed: Sequence[ObservedKernel]) -> list[Int8Kernel]:
    """The kernels in 8 bits, with outliers spread if that pays; those that have seen the same rows share a spread."""
    groups: list[list[ObservedKernel]] = []
    for kernel in observed:
        group = next((group for group in groups if group[0].has_seen_what(kernel)), None)
        groups.append([kernel]) if group is None else group.append(kernel)
    spreads = {id(kernel): spread for group in groups for spread in [_spread_of(group)] for kernel in group}
    return [Int8Kernel.of(kernel.kernel, spreads[id(kernel)]) for kernel in observed]


def _spread_of(group: Sequence[ObservedKernel]) -> np.ndarray | None:
    """float32 (inputs,), what to multiply the inputs with before they are rounded; None if that does not pay."""
    logs = [np.log(np.maximum(np.abs(kernel.kernel).max(axis=1), 1e-5)) for kernel in group]
    weights = np.exp(np.mean(logs, axis=0))  # geometric: those of a kernel with small weights count as much
    spread = _spread(group[0].sizes(), weights)
    spread_loss, plain_loss = (sum(kernel.loss(way) for kernel in group) for way in (spread, None))
    return spread if spread_loss < _WORTH * plain_loss else None


def kernel_from_config(config: Config, inputs: int, units: int, spread: Any = None) -> Int8Kernel | Bfloat16Kernel:
    """A kernel of zeros with the parts that another's `config` names, to be filled by loading.

    Args:
        spread: another kernel's variable, if this one shares it.
    """
    kernel = np.zeros((inputs, units), "float32")
    if config["dtype"] == "bfloat16":
        return Bfloat16Kernel.of(kernel)
    spread = np.ones(inputs, "float32") if config["has_spread"] and spread is None else spread
    return Int8Kernel.of(kernel, None)._replace(spread=spread)


def _spread(sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 (inputs,), 1 in the geometric mean: channels so large are as far above 1 afterwards as their weights.

    sizes: root mean squares. SmoothQuant's greatest magnitudes are those of few tokens, such as the first of a text,
    and change with the texts: with them SmolLM2 loses more, with some texts as much as without a calibration.
    """
    factor = 0.5 * (np.log(np.maximum(weights, 1e-5)) - np.log(np.maximum(sizes, 1e-5)))
    return np.exp(factor - factor.mean()).astype("float32")
