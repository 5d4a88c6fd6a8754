"""Parts that attention takes as objects: a sink for attention, a gate on its output."""

from typing import Any

import keras

from keras_tfm.arguments import check_positive
from keras_tfm.layers.composite import Composite, clone, serialize
from keras_tfm.layers.weights import Projection
from keras_tfm.ops.attention import softmax_with_sink
from keras_tfm.types import ActivationLike, Config, InitializerLike, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class AttentionSink(keras.layers.Layer):
    """One learned score per head that takes part in the softmax and gathers nothing.

    A head that finds nothing of interest can attend to it, rather than to the first token. Used as
    `MultiHeadSelfAttention(8, sink=AttentionSink(8))`, which reads `scores`.

    Args:
        num_heads: int, query heads N.
        initializer: for the scores.

    Call arguments:
        scores: float (B, N, T, S).

    Returns:
        float (B, N, T, S): the softmax with the sink; rows sum to less than 1.

    Example:
        >>> AttentionSink(num_heads=2)(np.zeros((1, 2, 3, 3), "float32"))[0, 0, 0]
        [0.25, 0.25, 0.25]

    Reference:
        Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", section 3.3,
        https://arxiv.org/abs/2309.17453; OpenAI 2025, gpt-oss model card, https://arxiv.org/abs/2508.10925
    """

    def __init__(self, num_heads: int, initializer: InitializerLike = "zeros", **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(num_heads=num_heads)
        self.num_heads = num_heads
        self.initializer = keras.initializers.get(initializer)

    def build(self, scores_shape: Shape | None = None) -> None:
        self.scores = self.add_weight(shape=(self.num_heads,), initializer=clone(self.initializer), name="scores")

    def call(self, scores: Tensor) -> Tensor:
        return softmax_with_sink(scores, self.scores)

    def compute_output_shape(self, scores_shape: Shape) -> Shape:
        return scores_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "num_heads": self.num_heads, "initializer": serialize(self.initializer)}


@keras.saving.register_keras_serializable(package="keras_tfm")
class OutputGate(Composite):
    """What the heads gathered, times a gate computed from the block's input: it decides what attention may add.

    Args:
        activation: of the gate.
        use_bias: bool, a bias in the gate's projection.
        kernel_initializer: for the gate's projection.

    Call arguments:
        attended: float (B, T, N*H), the heads side by side.
        x: float (B, T, D), what attention read.

    Returns:
        float (B, T, N*H).

    Example:
        >>> MultiHeadSelfAttention(num_heads=4, output_gate=OutputGate())(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Qiu et al. 2025, "Gated Attention for Large Language Models", https://arxiv.org/abs/2505.06708
    """

    def __init__(
        self,
        activation: ActivationLike = "sigmoid",
        use_bias: bool = False,
        kernel_initializer: InitializerLike = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, attended_shape: Shape, x_shape: Shape) -> None:
        self.dense = Projection(
            attended_shape[-1],
            activation=self.activation,
            use_bias=self.use_bias,
            kernel_initializer=clone(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="gate",
        )
        self.dense.build(x_shape)

    def call(self, attended: Tensor, x: Tensor) -> Tensor:
        return attended * self.dense(x)

    def compute_output_shape(self, attended_shape: Shape, x_shape: Shape | None = None) -> Shape:
        return attended_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": serialize(self.kernel_initializer),
        }
