"""The position-wise half of a transformer block."""

from typing import Any

import keras

from keras_tfm.arguments import check_positive
from keras_tfm.layers.composite import Composite, clone, serialize
from keras_tfm.layers.weights import Projection
from keras_tfm.ops.activations import activate
from keras_tfm.types import ActivationLike, Config, InitializerLike, Shape, Tensor


class _FeedForward(Composite):
    """What plain and gated feed-forward share: arguments and the way a projection is made."""

    def __init__(
        self,
        intermediate_dim: int,
        activation: ActivationLike = "relu",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        output_kernel_initializer: InitializerLike | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive(intermediate_dim=intermediate_dim)
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_kernel_initializer = keras.initializers.get(output_kernel_initializer or kernel_initializer)
        self.supports_masking = True

    def _dense(self, name, units, input_shape, kernel_initializer):
        dense = Projection(
            units,
            use_bias=self.use_bias,
            kernel_initializer=clone(kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        return dense

    def build(self, x_shape: Shape) -> None:
        wide = (*x_shape[:-1], self.intermediate_dim)
        self.intermediate_dense = self._dense("intermediate", self.intermediate_dim, x_shape, self.kernel_initializer)
        self.output_dense = self._dense("output", x_shape[-1], wide, self.output_kernel_initializer)

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": serialize(self.kernel_initializer),
            "output_kernel_initializer": serialize(self.output_kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class FeedForward(_FeedForward):
    """activation(x W1 + b1) W2 + b2, at each position by itself.

    Args:
        intermediate_dim: int, width between the two projections; customarily four times the width of `x`.
        activation: name or function. The paper's is "relu"; BERT's "gelu"; GPT-2's `keras_tfm.ops.gelu_tanh`.
        use_bias: bool.
        kernel_initializer: for both projections.
        output_kernel_initializer: for the second. Default: `kernel_initializer`.

    Call arguments:
        x: float (B, T, D).

    Returns:
        float (B, T, D).

    Example:
        >>> FeedForward(256, activation="gelu")(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.3, https://arxiv.org/abs/1706.03762
    """

    def call(self, x: Tensor) -> Tensor:
        return self.output_dense(activate(self.activation, self.intermediate_dense(x)))


@keras.saving.register_keras_serializable(package="keras_tfm")
class GatedFeedForward(_FeedForward):
    """(activation(x W_gate) * (x W)) W2: the gated unit of Llama ("silu", SwiGLU), T5 v1.1 and Gemma ("gelu", GEGLU).

    Args:
        intermediate_dim: int, width between the projections; customarily 8/3 times the width of `x`.
        activation: of the gate, name or function.
        use_bias: bool.
        kernel_initializer: for the projections.
        output_kernel_initializer: for the last. Default: `kernel_initializer`.

    Call arguments:
        x: float (B, T, D).

    Returns:
        float (B, T, D).

    Example:
        >>> GatedFeedForward(172)(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Shazeer 2020, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202
    """

    def __init__(
        self,
        intermediate_dim: int,
        activation: ActivationLike = "silu",
        use_bias: bool = False,
        kernel_initializer: InitializerLike = "glorot_uniform",
        output_kernel_initializer: InitializerLike | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            intermediate_dim, activation, use_bias, kernel_initializer, output_kernel_initializer, **kwargs
        )

    def build(self, x_shape: Shape) -> None:
        super().build(x_shape)
        self.gate_dense = self._dense("gate", self.intermediate_dim, x_shape, self.kernel_initializer)

    def call(self, x: Tensor) -> Tensor:
        return self.output_dense(activate(self.activation, self.gate_dense(x)) * self.intermediate_dense(x))
