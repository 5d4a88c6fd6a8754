"""Kernels of projections for inference only, as processors multiply them fast: in 8 bits, and in bfloat16."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_tfm.ops.int8_products import LARGEST, int8_product, round_rows
from keras_tfm.types import Config, Tensor

_ROWS_OF_A_CALL = 8  # of the inputs that are kept to measure what rounding costs
_WORTH = 0.8  # what is more work must leave less than this share of the squared error


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

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
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
    channel of the inputs by a number that the kernel was divided by.

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

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (rows, inputs) -> (rows, units) in the dtype of x."""
        dtype, x = x.dtype, ops.cast(x, "float32")
        rows, step = round_rows(x if self.spread is None else x * self.spread)
        y = int8_product(rows, self.values, self.scale) * step
        return ops.cast(y if bias is None else y + ops.cast(bias, "float32"), dtype)

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

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (rows, inputs) -> (rows, units)."""
        rows = ops.convert_to_numpy(ops.cast(x, "float32"))
        chosen = np.linspace(0, len(rows) - 1, _ROWS_OF_A_CALL).astype("int32")  # special tokens, at the ends, too
        self.rows.append(rows[chosen])
        self.num_rows += len(rows)
        self.squares += np.square(rows).sum(axis=0)
        y = ops.matmul(x, ops.cast(self.kernel, x.dtype))
        return y if bias is None else y + bias

    def rounded(self) -> Int8Kernel:
        """The kernel in 8 bits, with outliers spread if that pays."""
        return Int8Kernel.of(self.kernel, self.spread())

    def spread(self) -> np.ndarray | None:
        """float32 (inputs,), what to multiply the inputs with before they are rounded; None if that does not pay."""
        rows = np.concatenate(self.rows)
        exact = rows @ self.kernel

        def loss(spread):
            kernel = Int8Kernel.of(self.kernel, spread)
            return np.square(ops.convert_to_numpy(kernel.product(ops.convert_to_tensor(rows), None)) - exact).sum()

        spread = _spread(np.sqrt(self.squares / self.num_rows), np.abs(self.kernel).max(axis=1))
        return spread if loss(spread) < _WORTH * loss(None) else None


def kernel_from_config(config: Config, inputs: int, units: int) -> Int8Kernel | Bfloat16Kernel:
    """A kernel of zeros with the parts that another's `config` names, to be filled by loading."""
    kernel = np.zeros((inputs, units), "float32")
    if config["dtype"] == "bfloat16":
        return Bfloat16Kernel.of(kernel)
    return Int8Kernel.of(kernel, np.ones(inputs, "float32") if config["has_spread"] else None)


def _spread(sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 (inputs,), 1 in the geometric mean: channels so large are as far above 1 afterwards as their weights.

    sizes: root mean squares. SmoothQuant's greatest magnitudes are those of few tokens, such as the first of a text,
    and change with the texts: with them SmolLM2 loses more, with some texts as much as without a calibration.
    """
    factor = 0.5 * (np.log(np.maximum(weights, 1e-5)) - np.log(np.maximum(sizes, 1e-5)))
    return np.exp(factor - factor.mean()).astype("float32")
