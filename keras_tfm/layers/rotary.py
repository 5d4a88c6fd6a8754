"""Rotary position embedding."""

from typing import Any

import keras

from keras_tfm import ops as tfm_ops
from keras_tfm.arguments import check_rank
from keras_tfm.layers.composite import revive, serialize
from keras_tfm.layers.rotary_scaling import RotaryScaling
from keras_tfm.types import Config, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class RotaryEmbedding(keras.layers.Layer):
    """Turns pairs of query or key features by an angle that grows with the position (RoPE).

    The product of a turned query and a turned key depends on their distance only. The layer has no weights and is
    handed to attention: `MultiHeadSelfAttention(rotary=RotaryEmbedding())`.

    Args:
        max_wavelength: float, the rotary base (`rope_theta` elsewhere).
        rotary_dim: int, how many of the H features turn (partial rotation). Default: all.
        interleaved: bool, pair features (0, 1), (2, 3), ... as in the paper and GPT-J. Default: feature i is paired
            with i + rotary_dim / 2, as in GPT-NeoX, Llama and Hugging Face.
        scaling: `LinearScaling`, `DynamicNtkScaling`, `YarnScaling`, `Llama3Scaling` or `LongRopeScaling`, to read
            longer sequences than in training, or None.

    Call arguments:
        x: float (B, N, T, H), heads first.
        positions: int32 (B, T).

    Returns:
        float (B, N, T, H).

    Raises:
        ValueError: if `rotary_dim` is odd or greater than H, or `max_wavelength` is not positive.

    Example:
        >>> rotary = RotaryEmbedding()
        >>> x = np.ones((1, 2, 3, 4), "float32")
        >>> rotary(x, positions=np.array([[0, 1, 2]])).shape
        (1, 2, 3, 4)

    Reference:
        Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", section 3,
        https://arxiv.org/abs/2104.09864
    """

    def __init__(
        self,
        max_wavelength: float = 10_000.0,
        rotary_dim: int | None = None,
        interleaved: bool = False,
        scaling: RotaryScaling | Config | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_wavelength <= 0:
            raise ValueError(f"`max_wavelength` must be positive. Received: max_wavelength={max_wavelength}.")
        if rotary_dim is not None and (rotary_dim < 2 or rotary_dim % 2):
            raise ValueError(f"`rotary_dim` must be even and at least 2. Received: rotary_dim={rotary_dim}.")
        self.max_wavelength = max_wavelength
        self.rotary_dim = rotary_dim
        self.interleaved = interleaved
        self.scaling = revive(scaling)

    def call(self, x: Tensor, positions: Tensor) -> Tensor:
        check_rank(x, 4, "x", "(B, N, T, H)")
        head_dim = x.shape[-1]
        rotary_dim = self.rotary_dim or head_dim
        if rotary_dim > head_dim or rotary_dim % 2:
            raise ValueError(
                f"`rotary_dim` must be even and at most `head_dim`. "
                f"Received: rotary_dim={rotary_dim}, head_dim={head_dim}."
            )
        if self.scaling is None:
            frequencies, factor = tfm_ops.rotary_inverse_frequencies(rotary_dim, self.max_wavelength), 1.0
        else:
            frequencies = self.scaling.inverse_frequencies(rotary_dim, self.max_wavelength, positions)
            factor = self.scaling.attention_factor
        return tfm_ops.apply_rotary(x, positions, frequencies, self.interleaved, factor)

    def compute_output_shape(self, x_shape: Shape, positions_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "rotary_dim": self.rotary_dim,
            "interleaved": self.interleaved,
            "scaling": serialize(self.scaling),
        }
