"""The residual stream: what stands before and after each sublayer of a block."""

from typing import Any

import keras
from keras import ops

from keras_tfm.arguments import check_rate
from keras_tfm.layers.composite import Composite, build_part, clone, serialize
from keras_tfm.types import Config, InitializerLike, LayerLike, Shape, Tensor

NORM_PLACEMENTS = ("pre", "post", "sandwich")


@keras.saving.register_keras_serializable(package="keras_tfm")
class LayerScale(keras.layers.Layer):
    """A learned factor per feature on what a sublayer adds, small at first: deep stacks start close to the identity.

    Args:
        initializer: for the factors. Default: 1e-4 everywhere.

    Call arguments:
        x: float (..., D).

    Returns:
        float (..., D).

    Example:
        >>> TransformerBlock(MultiHeadSelfAttention(4), FeedForward(256), residual_scale=LayerScale())

    Reference:
        Touvron et al. 2021, "Going deeper with Image Transformers", section 2, https://arxiv.org/abs/2103.17239
    """

    def __init__(self, initializer: InitializerLike | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer or keras.initializers.Constant(1e-4))
        self.supports_masking = True

    def build(self, x_shape: Shape) -> None:
        self.factors = self.add_weight(shape=(x_shape[-1],), initializer=clone(self.initializer), name="factors")

    def call(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.factors, x.dtype)

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "initializer": serialize(self.initializer)}


class Residual(Composite):
    """The norms, the scale and the dropouts around one sublayer; a place without one holds an Identity.

    Args:
        norm: a norm layer as a template.
        placement: "pre", "post" or "sandwich"; see `TransformerBlock`.
        scale: `LayerScale` as a template, or None.
        dropout: float, rate at which features of the sublayer's answer are dropped.
        stochastic_depth: float, rate at which a row's whole answer is dropped.
    """

    def __init__(
        self,
        norm: LayerLike,
        placement: str = "pre",
        scale: LayerLike | None = None,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if placement not in NORM_PLACEMENTS:
            raise ValueError(
                f"`norm_placement` must be one of {NORM_PLACEMENTS}. Received: norm_placement={placement!r}."
            )
        check_rate(dropout=dropout, stochastic_depth=stochastic_depth)
        self.norm_before = self._part(norm if placement in ("pre", "sandwich") else None)
        self.norm_branch = self._part(norm if placement == "sandwich" else None)
        self.norm_after = self._part(norm if placement == "post" else None)
        self.scale = self._part(scale)
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        # One draw a row: the same factor for all its positions and features.
        self.row_dropout = keras.layers.Dropout(stochastic_depth, noise_shape=(None, 1, 1), dtype=self.dtype_policy)

    def _part(self, template):
        # In this layer's dtype: under Keras' global policy an Identity would cast a bfloat16 stream to float32.
        part = keras.layers.Identity(dtype=self.dtype_policy) if template is None else clone(template)
        part.supports_masking = True  # Keras' RMSNormalization does not say so, and warns of the mask it passes
        return part

    def build(self, x_shape: Shape) -> None:
        for part in (self.norm_before, self.norm_branch, self.norm_after, self.scale):
            build_part(part, x_shape)

    def before(self, x: Tensor) -> Tensor:
        """What the sublayer reads."""
        return self.norm_before(x)

    def after(self, x: Tensor, y: Tensor, training: bool | None) -> Tensor:
        """The residual sum of the block's stream `x` and the sublayer's answer `y`."""
        y = self.dropout(self.scale(self.norm_branch(y)), training=training)
        return self.norm_after(x + self.row_dropout(y, training=training))
