"""Low-rank adapters: what fine-tuning adds to a dense kernel that stays as it is."""

from typing import Any

import keras
from keras import ops

from keras_tfm.arguments import as_integer, check_rate
from keras_tfm.layers.adapter import Adapter
from keras_tfm.types import Config, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class Lora(Adapter):
    """The change of a dense layer, y + scale * (x down) up, with matrices of a low rank.

    `keras_tfm.adapters.add_lora` puts them beside the projections of a model. `up` begins with zeros, so that at first
    nothing changes.

    Args:
        units: int, number of outputs.
        rank: int, columns of `down` and rows of `up`.
        alpha: float; the scale is alpha / rank.
        dropout: float, rate of dropout of the inputs, for this change alone.
        rslora: bool, the scale is alpha / sqrt(rank) (Kalajdzievski 2023).
        dora: bool, the changed kernel has columns of learned lengths, which begin with those of the kernel (Liu et al.
            2024).
        share, merged, **kwargs: as in `Adapter`.

    Call arguments:
        x: float (B, T, inputs).
        training: bool.

    Returns:
        float (B, T, units), the change without DoRA's lengths.

    Raises:
        ValueError: for a rank that is not positive, or a rate outside [0, 1).

    Example:
        >>> lora = Lora(units=8, rank=2)
        >>> lora(np.ones((1, 3, 4), "float32")).shape
        (1, 3, 8)

    Reference:
        Hu et al. 2021, "LoRA", section 4.1, https://arxiv.org/abs/2106.09685; Kalajdzievski 2023, "A Rank Stabilization
        Scaling Factor", https://arxiv.org/abs/2312.03732; Liu et al. 2024, "DoRA", section 4.1,
        https://arxiv.org/abs/2402.09353
    """

    is_linear = True

    def __init__(
        self,
        units: int,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        rslora: bool = False,
        dora: bool = False,
        share: float = 1.0,
        merged: bool = False,
        **kwargs: Any,
    ):
        super().__init__(share, merged, **kwargs)
        self.units: int = as_integer("units", units, 1)
        self.rank: int = as_integer("rank", rank, 1)
        check_rate(dropout=dropout)
        self.alpha = float(alpha)
        self.dropout = dropout
        self.rslora = rslora
        self.dora = dora
        self.reads_kernel = dora
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    @property
    def whole_scale(self) -> float:
        """The factor of the change where all of it counts."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def scale(self) -> float:
        """The factor of the change."""
        return self.share * self.whole_scale

    def build(self, x_shape: Shape) -> None:
        inputs: Any = x_shape[-1]
        bound = inputs**-0.5  # torch's `kaiming_uniform_(a=sqrt(5))`, as peft draws it
        draw = keras.initializers.RandomUniform(-bound, bound)
        self.down = self.add_weight(shape=(inputs, self.rank), initializer=draw, name="down")
        self.up = self.add_weight(shape=(self.rank, self.units), initializer="zeros", name="up")
        self.magnitude: Any = None
        if self.dora:
            self.magnitude = self.add_weight(shape=(self.units,), initializer="ones", name="magnitude")

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        x = self.dropout_layer(x, training=training)
        down, up = (ops.cast(matrix, self.compute_dtype) for matrix in (self.down, self.up))
        return ops.matmul(ops.matmul(x, down), up) * self.scale

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return (*x_shape[:-1], self.units)

    def changed(self, y: Tensor, x: Tensor, kernel: Any = None, training: bool | None = None) -> Tensor:
        """Outputs of the dense layer, without its bias, with this change.

        Args:
            y: float (B, T, units), what the layer gives.
            x: float (B, T, inputs), what it was given.
            kernel: float (inputs, units), read by DoRA only.
            training: bool.
        """
        if not self.dora:
            return y + self(x, training=training)
        if training and self.dropout:
            x = self.dropout_layer(x, training=True)  # as peft has it: of the whole
            y = ops.matmul(x, ops.cast(kernel, y.dtype))
            training = False
        return (y + self(x, training=training)) * ops.cast(self.factor(kernel), y.dtype)

    def factor(self, kernel: Tensor) -> Tensor:
        """float32 (units,): by what DoRA multiplies each output. It is no function of the kernel to the gradient."""
        changed = ops.cast(kernel, "float32") + self.product()
        return ops.cast(self.magnitude, "float32") / ops.stop_gradient(column_lengths(changed))

    def product(self) -> Tensor:
        """float32 (inputs, units): the change of the kernel, without DoRA's lengths."""
        down, up = ops.cast(self.down, "float32"), ops.cast(self.up, "float32")
        return ops.matmul(down, up) * self.scale

    def merged_with(self, kernel: Tensor, bias: Any) -> tuple[Tensor, Any]:
        changed = ops.cast(kernel, "float32") + self.product()
        return changed * self.factor(kernel) if self.dora else changed, bias

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "rslora": self.rslora,
            "dora": self.dora,
        }


def column_lengths(kernel: Tensor) -> Tensor:
    """float32 (units,): how long the columns of a kernel (inputs, units) are."""
    return ops.sqrt(ops.sum(ops.square(ops.cast(kernel, "float32")), axis=0))
