"""A bias on attention scores, one tile at a time: none, a rule over positions, or a matrix."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_tfm.ops.tensors import slice_update
from keras_tfm.ops.tiles import matrix_tile, pad_axis
from keras_tfm.types import Tensor


def tile_bias(bias: Any, visible: Any) -> tuple[Callable, tuple]:
    """What `lean_attention` asks of a bias.

    Args:
        bias: None; a rule, which is a tuple with `__call__(query_positions, key_positions)`, `parameters`,
            `with_parameters` and `gradient` (see `AlibiRule`); or float (B or 1, N or 1, T or 1, S or 1).
        visible: `TiledVisibility`.

    Returns:
        The pair (make, parameters): the tensors that can learn, and a function of them that gives the bias, as this
        module's classes describe it.
    """
    if bias is None:
        return (lambda parameters: _NoBias()), ()
    if callable(bias):
        return (lambda parameters: _RuleBias(bias.with_parameters(parameters), visible)), tuple(bias.parameters)
    shape = ops.shape(visible.visible.query_positions)[1], ops.shape(visible.visible.key_positions)[1]
    matrix = ops.broadcast_to(bias, (*ops.shape(bias)[:2], *shape))
    return (lambda parameters: _MatrixBias(parameters[0], visible)), (matrix,)


class _NoBias:
    def add(self, scores: Tensor, i, j):
        return scores

    def zeros(self):
        return ()

    def add_gradient(self, totals: Tensor, i, j, d_scores):
        return totals

    def finish(self, totals: Tensor):
        return []


class _RuleBias:
    """Computed from the positions of the tile at hand."""

    def __init__(self, rule, visible: Any):
        self.rule, self.visible = rule, visible

    def _positions(self, i, j):
        return self.visible.query_positions[i], self.visible.key_positions[j]

    def add(self, scores: Tensor, i, j):
        return scores + ops.cast(self.rule(*self._positions(i, j)), "float32")

    def zeros(self):
        return tuple(ops.zeros_like(parameter, dtype="float32") for parameter in self.rule.parameters)

    def add_gradient(self, totals: Tensor, i, j, d_scores):
        if not totals:
            return totals
        gradients = self.rule.gradient(*self._positions(i, j), d_scores)
        return tuple(total + gradient for total, gradient in zip(totals, gradients, strict=True))

    def finish(self, totals: Tensor):
        return [ops.cast(total, x.dtype) for total, x in zip(totals, self.rule.parameters, strict=True)]


class _MatrixBias:
    """Cut out of a matrix that the caller holds."""

    def __init__(self, matrix: Tensor, visible: Any):
        self.matrix, self.visible = matrix, visible
        padded = pad_axis(matrix, 2, visible.num_query_tiles * visible.query_size)
        self.padded = pad_axis(padded, 3, visible.num_key_tiles * visible.key_size)

    def add(self, scores: Tensor, i, j):
        tile = matrix_tile(self.padded, i, j, self.visible.query_size, self.visible.key_size)
        return scores + ops.cast(tile, "float32")

    def zeros(self):
        return (ops.zeros_like(self.padded, dtype="float32"),)

    def add_gradient(self, totals: Tensor, i, j, d_scores):
        # The axes along which one number served many.
        for axis in (0, 1):
            if self.padded.shape[axis] == 1:
                d_scores = ops.sum(d_scores, axis=axis, keepdims=True)
        start = (0, 0, i * self.visible.query_size, j * self.visible.key_size)
        return (slice_update(totals[0], start, d_scores),)

    def finish(self, totals: Tensor):
        _, _, length, num_keys = ops.shape(self.matrix)
        return [ops.cast(totals[0][:, :, :length, :num_keys], self.matrix.dtype)]
