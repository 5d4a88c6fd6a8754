"""Activations that Keras does not name."""

from collections.abc import Callable

import keras
from keras import backend, ops

from keras_tfm.types import Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in the tanh form that GPT-2 uses: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Args:
        x: float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.

    Reference:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2, https://arxiv.org/abs/1606.08415
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_tfm")
def gelu_sigmoid(x: Tensor) -> Tensor:
    """GELU in its sigmoid form, x sigmoid(1.702 x): "quick_gelu" in configurations.

    Args:
        x: float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.

    Reference:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2, https://arxiv.org/abs/1606.08415
    """
    return x * ops.sigmoid(1.702 * x)


def activate(activation: Callable, x: Tensor) -> Tensor:
    """activation(x), with Keras' GELU of float32 in the form that TensorFlow computes in a third of the time.

    x (1 + erf(x / sqrt(2))) / 2 rather than x erfc(-x / sqrt(2)) / 2, whose exponentials cost more than some products:
    the two differ by what float32 rounds. With fewer bits they would by more.

    Args:
        activation: a function of one tensor.
        x: float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.
    """
    is_gelu = activation is keras.activations.gelu and backend.standardize_dtype(x.dtype) == "float32"
    if not is_gelu or backend.backend() != "tensorflow":
        return activation(x)
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))
