"""One vector for a whole sequence."""

import keras
from keras import ops

from keras_tfm.arguments import check_rank
from keras_tfm.ops.tensors import gather_positions
from keras_tfm.types import Shape, Tensor


class _Pooling(keras.layers.Layer):
    """What pools share: a mask is taken where Keras passes one, positions where the model knows them."""

    def _positions(self, x, positions, mask):
        check_rank(x, 3, "x", "(B, T, D)")
        if positions is not None:
            return positions
        mask = ops.ones_like(x[..., 0], dtype="bool") if mask is None else ops.cast(mask, "bool")
        return ops.where(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, -1)

    def compute_mask(self, x: Tensor, previous: Tensor | None = None) -> None:
        return None

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return (x_shape[0], x_shape[2])


@keras.saving.register_keras_serializable(package="keras_tfm")
class FirstTokenPooling(_Pooling):
    """The vector of the first real token: BERT's [CLS], wherever padding is.

    Call arguments:
        x: float (B, T, D).
        positions: int32 (B, T), -1 = padding. Default: made from `mask`.
        mask: bool (B, T), True = a real token; Keras fills it in from an upstream layer if `x` is the only tensor.

    Returns:
        float (B, D). A row without real tokens gives the vector of its first slot.

    Example:
        >>> FirstTokenPooling()(np.ones((2, 5, 64), "float32")).shape
        (2, 64)

    Reference:
        Devlin et al. 2018, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    def call(self, x: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        positions = self._positions(x, positions, mask)
        first = ops.argmax(ops.cast(ops.equal(positions, 0), "int32"), axis=1)
        return gather_positions(x, ops.cast(first, "int32")[:, None])[:, 0]


@keras.saving.register_keras_serializable(package="keras_tfm")
class MeanPooling(_Pooling):
    """The mean of the vectors of the real tokens.

    Call arguments:
        x: float (B, T, D).
        positions: int32 (B, T), -1 = padding. Default: made from `mask`.
        mask: bool (B, T), True = a real token; Keras fills it in from an upstream layer if `x` is the only tensor.

    Returns:
        float (B, D). A row without real tokens gives 0.

    Example:
        >>> MeanPooling()(np.ones((2, 5, 64), "float32")).shape
        (2, 64)

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3, https://arxiv.org/abs/1908.10084
    """

    def call(self, x: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        # In float32: a sum over many tokens may be more than float16 can hold.
        real = ops.cast(self._positions(x, positions, mask) >= 0, "float32")
        total = ops.einsum("btd,bt->bd", ops.cast(x, "float32"), real)
        return ops.cast(total / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1), x.dtype)
