"""Activations that Keras does not name."""

import keras
from keras import ops

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
