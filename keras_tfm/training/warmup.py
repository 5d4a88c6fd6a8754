"""BERT's learning rate: up in a line, down in a line."""

import keras
from keras import ops

from keras_tfm.arguments import check_positive
from keras_tfm.types import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises from 0 in `warmup_steps`, then falls to 0 at `total_steps`, and stays there.

    Args:
        peak: float, the highest learning rate.
        total_steps: int.
        warmup_steps: int, less than `total_steps`. Default: a tenth of them, as BERT's fine-tuning has it.

    Call arguments:
        step: int, the optimizer's.

    Returns:
        float.

    Raises:
        ValueError: if the numbers do not fit.

    Example:
        >>> optimizer = keras.optimizers.AdamW(WarmupLinearDecay(5e-5, total_steps=1000))

    Reference:
        Devlin et al. 2018, appendix A.2, https://arxiv.org/abs/1810.04805
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int | None = None):
        check_positive(total_steps=total_steps)
        warmup_steps = total_steps // 10 if warmup_steps is None else warmup_steps
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: Tensor) -> Tensor:
        # The first step is number 0, and shall not be for nothing.
        step = ops.cast(step, "float32") + 1
        rise = step / max(1, self.warmup_steps + 1)
        fall = (self.total_steps + 1 - step) / (self.total_steps - self.warmup_steps)
        return self.peak * ops.maximum(0.0, ops.minimum(rise, fall))

    def get_config(self) -> Config:
        return {"peak": self.peak, "total_steps": self.total_steps, "warmup_steps": self.warmup_steps}
