"""From hidden states to logits over tokens, as in BERT."""

from typing import Any

import keras

from keras_tfm.arguments import check_rank
from keras_tfm.layers.composite import Composite, as_layer, build_part, clone, serialize
from keras_tfm.layers.weights import Projection
from keras_tfm.ops.activations import activate
from keras_tfm.ops.tensors import gather_positions
from keras_tfm.types import ActivationLike, Config, InitializerLike, LayerLike, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class MaskedLMHead(Composite):
    """norm(activation(x W + b)), projected with the token embedding's own table, plus a bias for each token.

    Args:
        token_embedding: `TokenEmbedding`, which stays part of its model; only its table is used.
        activation: name or function.
        norm: a norm layer. Default: `keras.layers.LayerNormalization(epsilon=1e-12)`.
        kernel_initializer: for W.

    Call arguments:
        x: float (B, T, D).
        mask_positions: int32 (B, M): project these positions alone. Default: all.

    Returns:
        logits (B, M, V), or (B, T, V) without `mask_positions`.

    Raises:
        ValueError: if `x` or `mask_positions` has another rank.

    Example:
        >>> head = MaskedLMHead(TokenEmbedding(vocabulary_size=100, hidden_dim=64))
        >>> head(np.ones((2, 5, 64), "float32"), mask_positions=np.array([[1, 3], [0, 4]])).shape
        (2, 2, 100)

    Reference:
        Devlin et al. 2018, "BERT", appendix A.2, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        token_embedding: LayerLike,
        activation: ActivationLike = "gelu",
        norm: LayerLike | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.token_embedding = as_layer(token_embedding, "token_embedding", "TokenEmbedding(30522, 768)")
        self.activation = keras.activations.get(activation)
        default = keras.layers.LayerNormalization(epsilon=1e-12, dtype=self.dtype_policy)
        self.norm = as_layer(default if norm is None else norm, "norm", "keras.layers.LayerNormalization()")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, x_shape: Shape, mask_positions_shape: Shape | None = None) -> None:
        build_part(self.token_embedding, x_shape[:2])
        self.dense = Projection(
            x_shape[-1],
            kernel_initializer=clone(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(x_shape)
        build_part(self.norm, x_shape)
        self.bias = self.add_weight(shape=(self.token_embedding.vocabulary_size,), initializer="zeros", name="bias")

    def call(self, x: Tensor, mask_positions: Tensor | None = None) -> Tensor:
        check_rank(x, 3, "x", "(B, T, D)")
        if mask_positions is not None:
            check_rank(mask_positions, 2, "mask_positions", "(B, M)")
            x = gather_positions(x, mask_positions)
        x = self.norm(activate(self.activation, self.dense(x)))
        return self.token_embedding(x, reverse=True) + keras.ops.cast(self.bias, self.compute_dtype)

    def compute_output_shape(self, x_shape: Shape, mask_positions_shape: Shape | None = None) -> Shape:
        return (*(mask_positions_shape or x_shape[:2]), self.token_embedding.vocabulary_size)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "token_embedding": serialize(self.token_embedding),
            "activation": keras.activations.serialize(self.activation),
            "norm": serialize(self.norm),
            "kernel_initializer": serialize(self.kernel_initializer),
        }
