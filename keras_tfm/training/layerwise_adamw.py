"""Smaller steps for the layers near the input, which know the language already."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_tfm import compat
from keras_tfm.types import Config, Tensor


def layerwise_factors(model: Any, decay: float) -> list[float]:
    """A factor on the learning rate for each trainable variable of a task model: the deeper, the smaller.

    1 for what stands on top of the encoder's stack, `decay` for the last block, `decay`^2 for the one below, and so on;
    the embedding comes after the first block.

    Args:
        model: a task model with an `encoder` (pair models have one, too), or a `Bert`; what is frozen must be so
            already.
        decay: float, in (0, 1]. The paper of ULMFiT has 1 / 2.6; 0.8 to 0.95 is common.

    Returns:
        list of float, in the order of `model.trainable_variables`.

    Raises:
        ValueError: for another decay. TypeError: for a model without a stack of blocks.

    Example:
        >>> optimizer = LayerwiseAdamW(layerwise_factors(model, decay=0.9), learning_rate=1e-4)

    Reference:
        Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.2,
        https://arxiv.org/abs/1801.06146
    """
    if not 0 < decay <= 1:
        raise ValueError(f"`decay` must be greater than 0 and at most 1. Received: decay={decay!r}.")
    encoder = getattr(model, "encoder", model)
    if not (hasattr(encoder, "stack") and hasattr(encoder, "token_embedding")):
        raise TypeError(
            "`model` must be a `Bert` or a task model with one as its `encoder`. "
            f"Received: {str(model)[:60]} of type {type(model).__name__}."
        )
    layers = [*reversed(encoder.stack.blocks), encoder.token_embedding]
    factors = {
        id(variable): decay**depth for depth, layer in enumerate(layers, start=1) for variable in layer.variables
    }
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]


@keras.saving.register_keras_serializable(package="keras_tfm")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with a factor on the learning rate for each variable.

    (A factor on the gradients would do nothing: Adam divides by their size.) The weight decay keeps the rate of all.

    Args:
        factors: list of float, in the order of the model's `trainable_variables`; `layerwise_factors` makes it.
        learning_rate, weight_decay, beta_1, beta_2, epsilon, **kwargs: as in `keras.optimizers.AdamW`.

    Raises:
        ValueError: when built for another number of variables.

    Example:
        >>> model.compile(LayerwiseAdamW(layerwise_factors(model, 0.9), learning_rate=1e-4), loss)

    Reference:
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101; Howard and Ruder 2018, section 3.2,
        https://arxiv.org/abs/1801.06146
    """

    def __init__(
        self,
        factors: Sequence[float],
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, **kwargs)
        self.factors = [float(factor) for factor in factors]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if len(variables) != len(self.factors):
            raise ValueError(
                "`factors` must have one number for each trainable variable. "
                f"Received: {len(self.factors)} factors for {len(variables)} variables. Freeze layers before."
            )
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        factor = self.factors[compat.variable_index(self, variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> Config:
        return {**super().get_config(), "factors": self.factors}
