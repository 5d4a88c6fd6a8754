"""How rotary frequencies are changed so that a model reads longer sequences than it was trained on."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm.ops import rotary_inverse_frequencies
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """The base: a frozen dataclass with `inverse_frequencies`. `RotaryEmbedding(scaling=...)` takes one.

    Scalings that look at the sequence's length (`DynamicNtkScaling`, `LongRopeScaling`) take it row by row: what a row
    gives does not depend on the rows beside it. Keys in a cache keep the turn they got when they were written.
    """

    @property
    def attention_factor(self) -> float:
        """Turned queries and keys are multiplied by this."""
        return 1.0

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        """Radians per position of each of the dim / 2 pairs.

        Args:
            dim: int, number of features that turn.
            max_wavelength: float, the rotary base.
            positions: int32 (B, T), -1 = padding.

        Returns:
            float32 (dim / 2,), or (B, 1, 1, dim / 2) where it depends on a row's length.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "RotaryScaling":
        """The scaling with these arguments."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_tfm")
@dataclasses.dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    """Positions are divided by `factor`.

    Args:
        factor: float, how many times longer sequences get.

    Reference:
        Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation",
        https://arxiv.org/abs/2306.15595
    """

    factor: float

    def __post_init__(self) -> None:
        _check_at_least_one(factor=self.factor)

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        return rotary_inverse_frequencies(dim, max_wavelength) / np.float32(self.factor)


@keras.saving.register_keras_serializable(package="keras_tfm")
@dataclasses.dataclass(frozen=True)
class DynamicNtkScaling(RotaryScaling):
    """The base grows with the sequence, once it is longer than in training: slow pairs slow down, fast ones stay.

    Args:
        factor: float, how steeply the base grows.
        original_max_sequence_length: int, the longest sequence in training; up to it nothing changes.

    Reference:
        Peng et al. 2023, "YaRN", section 3.1 and appendix B ("Dynamic NTK"), https://arxiv.org/abs/2309.00071
    """

    factor: float
    original_max_sequence_length: int

    def __post_init__(self) -> None:
        _check_at_least_one(factor=self.factor, original_max_sequence_length=self.original_max_sequence_length)

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        length = ops.maximum(_lengths(positions), float(self.original_max_sequence_length))  # (B, 1, 1, 1)
        growth = self.factor * length / self.original_max_sequence_length - (self.factor - 1)
        # (base * growth^(dim / (dim - 2)))^(-2i / dim), the growth apart: the base is a number, the growth a tensor.
        exponents = np.arange(0, dim, 2) / max(dim - 2, 1)
        slowing = ops.power(growth, (-exponents).astype("float32"))
        return ops.multiply(rotary_inverse_frequencies(dim, max_wavelength), slowing)


@keras.saving.register_keras_serializable(package="keras_tfm")
@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """Slow pairs are slowed by `factor`, fast ones stay, those between are blended; scores are sharpened a little.

    Args:
        factor: float, how many times longer sequences get.
        original_max_sequence_length: int, the longest sequence in training.
        beta_fast: float, pairs that turn more often than this in the original length stay.
        beta_slow: float, pairs that turn less often than this are slowed by the whole factor.
        magnitude: float, scores' factor is 0.1 magnitude ln(factor) + 1, for queries and keys each ("mscale").
        magnitude_all_dims: float, the same expression with this number divides it ("mscale_all_dim"), or None.
        fixed_attention_factor: float, replaces what the two give, or None.
        truncate: bool, round the borders of the blended pairs outwards to whole pairs.

    Reference:
        Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models", section 3,
        https://arxiv.org/abs/2309.00071
    """

    factor: float
    original_max_sequence_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float = 1.0
    magnitude_all_dims: float | None = None
    fixed_attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _check_at_least_one(factor=self.factor, original_max_sequence_length=self.original_max_sequence_length)
        if not self.beta_fast > self.beta_slow > 0:
            raise ValueError(
                "`beta_fast` must be greater than `beta_slow`, and both positive. "
                f"Received: beta_fast={self.beta_fast}, beta_slow={self.beta_slow}."
            )

    @property
    def attention_factor(self) -> float:
        if self.fixed_attention_factor is not None:
            return self.fixed_attention_factor

        def magnified(magnitude):
            return 0.1 * magnitude * math.log(self.factor) + 1.0

        if self.magnitude_all_dims is None:
            return magnified(self.magnitude)
        return magnified(self.magnitude) / magnified(self.magnitude_all_dims)

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        def pair_that_turns(times):
            """Index, not whole, of the pair that turns so often within the original length."""
            turns = self.original_max_sequence_length / (times * 2 * math.pi)
            return dim * math.log(turns) / (2 * math.log(max_wavelength))

        first, last = pair_that_turns(self.beta_fast), pair_that_turns(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        ramp = (np.arange(dim // 2) - first) / max(last - first, 0.001)
        slowed = np.clip(ramp, 0, 1)  # 0 = stays, 1 = slowed by the whole factor
        frequencies = rotary_inverse_frequencies(dim, max_wavelength)
        return (frequencies * (1 - slowed) + frequencies / self.factor * slowed).astype("float32")


@keras.saving.register_keras_serializable(package="keras_tfm")
@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Llama 3.1's: wavelengths beyond the original length are stretched, short ones stay, those between are blended.

    Args:
        factor: float, how much long wavelengths are stretched.
        original_max_sequence_length: int, the longest sequence in training.
        low_frequency_factor: float, wavelengths above original length / this are stretched by the whole factor.
        high_frequency_factor: float, wavelengths below original length / this stay.

    Reference:
        Grattafiori et al. 2024, "The Llama 3 Herd of Models", https://arxiv.org/abs/2407.21783
    """

    factor: float = 8.0
    original_max_sequence_length: int = 8192
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0

    def __post_init__(self) -> None:
        _check_at_least_one(factor=self.factor, original_max_sequence_length=self.original_max_sequence_length)
        if not self.high_frequency_factor > self.low_frequency_factor > 0:
            raise ValueError(
                "`high_frequency_factor` must be greater than `low_frequency_factor`, and both positive. Received: "
                f"high_frequency_factor={self.high_frequency_factor}, low_frequency_factor={self.low_frequency_factor}."
            )

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        frequencies = rotary_inverse_frequencies(dim, max_wavelength).astype("float64")
        turns = self.original_max_sequence_length * frequencies / (2 * math.pi)  # within the original length
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)  # 1 = stays, 0 = slowed by the whole factor
        return (kept * frequencies + (1 - kept) * frequencies / self.factor).astype("float32")


@keras.saving.register_keras_serializable(package="keras_tfm")
@dataclasses.dataclass(frozen=True)
class LongRopeScaling(RotaryScaling):
    """A searched divisor for each pair: one set up to the original length, another beyond it.

    Args:
        short_factor: numbers (dim / 2,), divisors for sequences within the original length.
        long_factor: numbers (dim / 2,), divisors for longer ones.
        original_max_sequence_length: int, the longest sequence in training.
        factor: float, how many times longer sequences get: sharpens the scores.
        fixed_attention_factor: float, replaces what `factor` gives, or None.

    Reference:
        Ding et al. 2024, "LongRoPE", https://arxiv.org/abs/2402.13753
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_sequence_length: int
    factor: float = 1.0
    fixed_attention_factor: float | None = None

    def __post_init__(self) -> None:
        _check_at_least_one(original_max_sequence_length=self.original_max_sequence_length)
        for name in ("short_factor", "long_factor"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list when read from JSON
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                "`short_factor` and `long_factor` must have one number for each pair of features. "
                f"Received: {len(self.short_factor)} and {len(self.long_factor)} numbers."
            )

    @property
    def attention_factor(self) -> float:
        if self.fixed_attention_factor is not None:
            return self.fixed_attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_sequence_length))

    def inverse_frequencies(self, dim: int, max_wavelength: float, positions: Tensor) -> Tensor:
        if len(self.short_factor) != dim // 2:
            raise ValueError(
                f"`short_factor` and `long_factor` must have one number for each of the {dim // 2} pairs of features "
                f"that turn. Received: {len(self.short_factor)} numbers."
            )
        frequencies = rotary_inverse_frequencies(dim, max_wavelength)
        short, long = (frequencies / np.array(f, "float32") for f in (self.short_factor, self.long_factor))
        return ops.where(_lengths(positions) > self.original_max_sequence_length, long, short)

    def get_config(self) -> dict:
        config = super().get_config()
        return {**config, "short_factor": list(self.short_factor), "long_factor": list(self.long_factor)}


ROTARY_SCALINGS = {
    "linear": LinearScaling,
    "dynamic": DynamicNtkScaling,
    "yarn": YarnScaling,
    "llama3": Llama3Scaling,
    "longrope": LongRopeScaling,
}


def get_rotary_scaling(name: str, **numbers: Any) -> RotaryScaling:
    """The scaling of that name with these numbers.

    Args:
        name: "linear", "dynamic", "yarn", "llama3" or "longrope", as in Hugging Face's configurations.
        **numbers: the scaling's arguments.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> rotary = RotaryEmbedding(scaling=get_rotary_scaling("linear", factor=4.0))
    """
    if name not in ROTARY_SCALINGS:
        raise ValueError(f"The name of a rotary scaling must be one of {tuple(ROTARY_SCALINGS)}. Received: {name!r}.")
    return ROTARY_SCALINGS[name](**numbers)


def _lengths(positions):
    """float32 (B, 1, 1, 1): one more than each row's greatest position."""
    return ops.cast(ops.max(positions, axis=1) + 1, "float32")[:, None, None, None]


def _check_at_least_one(**numbers) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={number!r}.")
