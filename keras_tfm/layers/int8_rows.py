"""Weights in 8 bits, row by row: a quarter of the memory, and at batch 1 a multiple of the speed."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.ops.graph import is_compiled_by_xla
from keras_tfm.ops.sizes import size
from keras_tfm.ops.slice_update import slice_update

_FEW = 8  # rows for which reading 8 bits anew for each is faster than writing 32 bits once for all
_LARGE = 2**21  # numbers in a matrix for which that is worth compiling a loop; GPT-2 small has 25 of them


class Int8Rows(NamedTuple):
    """A matrix (outputs, inputs) as int8 with one float32 scale for each output.

    In this order a compiled product reads 8 bits and converts as it goes: 24 products of 768 x 3072 take 2.9 ms instead
    of 7.1 in float32 on 2 cores, which is the limit of the memory; in the other order they take 38.
    """

    values: Any
    scale: Any

    @classmethod
    def of(cls, matrix) -> "Int8Rows":
        """Rounds each row to 255 steps between its greatest magnitude and minus that; outside of compiled code."""
        matrix = np.asarray(matrix, "float32")
        scale = np.abs(matrix).max(axis=1, keepdims=True) / 127.0
        values = np.round(matrix / np.where(scale > 0, scale, 1.0))
        return cls(values.astype("int8"), scale[:, 0].astype("float32"))

    def product(self, x):
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        num_outputs, num_inputs = self.values.shape
        if not is_compiled_by_xla():
            return self._plain_product(x)
        if x.shape[1] != 1 or num_outputs * num_inputs < _LARGE:
            return self._product(x)
        num_rows = size(x, 0)
        if isinstance(num_rows, int):
            return self._row_by_row(x) if num_rows <= _FEW else self._product(x)
        return ops.cond(num_rows <= _FEW, lambda: self._row_by_row(x), lambda: self._product(x))

    def _plain_product(self, x):
        return ops.einsum("bti,oi->bto", x, ops.cast(self.values, x.dtype)) * ops.cast(self.scale, x.dtype)

    def _product(self, x):
        # XLA fuses a product of one row with the cheap operations that x is made of, and does them anew for each
        # output, but never a division. So x is divided by 1: GPT-2 small then writes 138 tokens/s, not 64.
        x = x / (1 + _unknown_zero(x) * ops.cast(ops.arange(x.shape[-1]), x.dtype))
        # It would convert the weights once, before the loop, and read 32 bits ever after. So they depend on x.
        values = ops.cast(ops.bitwise_xor(self.values, ops.cast(_unknown_zero(x), "int8")), x.dtype)
        return ops.einsum("bti,oi->bto", x, values) * ops.cast(self.scale, x.dtype)

    def _row_by_row(self, x):
        """x (B, 1, inputs) -> (B, 1, outputs); for several rows at once, the matrix is written in 32 bits first."""
        num_rows, num_outputs = size(x, 0), self.values.shape[0]

        def step(row, y):
            one = self._product(ops.slice(x, (row, 0, 0), (1, 1, x.shape[2])))
            return row + 1, slice_update(y, (row, 0, 0), one)

        start = (ops.zeros((), "int32"), ops.zeros((num_rows, 1, num_outputs), x.dtype))
        return ops.while_loop(lambda row, y: row < num_rows, step, start)[1]


def _unknown_zero(x):
    """0, even if x is not a number, computed from x: XLA does not know that it is."""
    return ops.cast(ops.reshape(x, (-1,))[0] < float("-inf"), x.dtype)


def refuse_rounded(layer: keras.layers.Layer, by: str | None) -> None:
    """Raises if `by`, a name, has quantized the layer already: its integers would be taken for weights."""
    if by is not None:
        raise ValueError(
            "A layer must be quantized once only, by Keras' `quantize` or by `to_int8`. "
            f"Received: {layer.name!r}, quantized already: {by}. Begin with the model that is not."
        )


def replace_weight(layer: keras.layers.Layer, name: str, rows: Int8Rows) -> Int8Rows:
    """Puts rows in the place of the "kernel" or "embeddings" of a built layer; they do not train."""
    compat.remove_weight(layer, name)
    with compat.unlocked(layer):
        values = layer.add_weight(
            name="int8_values", shape=rows.values.shape, dtype="int8", initializer="zeros", trainable=False
        )
        scale = layer.add_weight(
            name="int8_scale", shape=rows.scale.shape, dtype="float32", initializer="ones", trainable=False
        )
    values.assign(rows.values)
    scale.assign(rows.scale)
    return Int8Rows(values, scale)
