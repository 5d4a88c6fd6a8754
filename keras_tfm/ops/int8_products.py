"""Products of rows and a matrix that are both in 8 bits: by oneDNN where it is there, else in floats, equal numbers."""

import contextlib
from collections.abc import Iterator

from keras import ops

from keras_tfm import compat
from keras_tfm.ops.tensors import is_compiled_by_xla, is_tracing
from keras_tfm.types import Tensor

LARGEST = 127.0  # of 8 bits with a sign; -128 is left unused, so that minus a number is there if the number is
_portable = False


@contextlib.contextmanager
def portable_products() -> Iterator[None]:
    """In this scope, graphs are traced that every TensorFlow runs: without the product of oneDNN, and no faster."""
    global _portable
    before, _portable = _portable, True
    try:
        yield
    finally:
        _portable = before


def is_by_onednn() -> bool:
    """Whether `int8_product` is oneDNN's now: in a graph of TensorFlow that XLA does not compile."""
    if _portable or not is_tracing() or is_compiled_by_xla() or compat.in_stateless_scope():
        return False
    return compat.has_int8_product()


def int8_product(x: Tensor, weights: Tensor, scale: Tensor, transposed: bool = False) -> Tensor:
    """x @ (weights * scale), in floats.

    Args:
        x: int8 (rows, inputs), -127 to 127.
        weights: int8 (inputs, outputs), likewise. In a graph, oneDNN keeps them as they are at the first call.
        scale: float32 (outputs,), positive.
        transposed: whether `weights` are (outputs, inputs).

    Returns:
        float32 (rows, outputs). Without oneDNN the sums are those of floats: exact up to 1,040 inputs.
    """
    x, weights, scale = map(ops.convert_to_tensor, (x, weights, scale))
    if is_by_onednn():
        return compat.int8_product(x, weights, scale, transposed)
    weights = ops.transpose(weights) if transposed else weights
    return ops.matmul(ops.cast(x, "float32"), ops.cast(weights, "float32")) * scale


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in 255 steps between its greatest magnitude and minus that.

    It multiplies rather than divides: TensorFlow shares even a small division out to threads, and waits for them.

    Args:
        x: float32 (rows, inputs).

    Returns:
        (int8 (rows, inputs), float32 (rows, 1), what 1 of it stands for).
    """
    x = ops.convert_to_tensor(x)
    largest = ops.max(ops.abs(x), axis=1, keepdims=True)
    if not is_by_onednn():  # there, as on JAX, the maximum of what is no number may be one; the sum never is
        largest = ops.where(ops.isnan(ops.sum(x, axis=1, keepdims=True)), float("nan"), largest)
    largest = largest + 1e-30  # a row of zeros stays one
    return ops.cast(ops.round(x * (LARGEST / largest)), "int8"), largest / LARGEST
