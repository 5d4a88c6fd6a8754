"""Processors for draws: temperature, and what cuts off unlikely tokens."""

import dataclasses

from keras import ops

from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.samplers.sampler import Processor
from keras_tfm.samplers.state import BANNED
from keras_tfm.types import Tensor

# Sums of probabilities in float32 are off by less.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Temperature(Processor):
    """Divides logits by `temperature`: below 1 sharpens, above 1 flattens, 0 leaves the best token only (greedy).

    Args:
        temperature: float >= 0.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(
            number_of("temperature", self.temperature) >= 0,
            "`temperature` must be at least 0 (0 = greedy)",
            temperature=self.temperature,
        )
        object.__setattr__(self, "temperature", float(self.temperature))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        temperature = ops.cast(self.temperature, "float32")
        best = ops.argmax(logits, axis=-1, keepdims=True)
        is_best = ops.arange(logits.shape[-1], dtype="int32")[None] == ops.cast(best, "int32")
        greedy = ops.where(is_best, logits, BANNED)
        return ops.where(temperature > 0, logits / ops.where(temperature > 0, temperature, 1.0), greedy)


@dataclasses.dataclass(frozen=True)
class TopK(Processor):
    """Keeps the `k` most likely tokens, and those equally likely as the last of them; 0 keeps all.

    Args:
        k: int >= 0.

    Reference: Fan et al. 2018, "Hierarchical Neural Story Generation", https://arxiv.org/abs/1805.04833
    """

    k: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", as_integer("k", self.k, 0, " (0 = off)"))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        def enough(kept):
            return ops.sum(ops.cast(kept, "int32"), axis=-1, keepdims=True) >= self.k

        return ops.where(ops.logical_or(_above_threshold(logits, enough), ops.equal(self.k, 0)), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class TopP(Processor):
    """Nucleus: keeps the fewest most likely tokens whose probabilities reach `p`; 1 keeps all.

    Tokens that are equally likely as the last of them are kept with it. A sum that rounding leaves 1e-6 short of `p`
    reaches it.

    Args:
        p: float in (0, 1].

    Reference: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751
    """

    p: float = 0.95

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "`p` must be greater than 0 and at most 1", p=self.p)
        object.__setattr__(self, "p", float(self.p))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        probabilities = ops.softmax(logits, axis=-1)

        def enough(kept):
            return ops.sum(ops.where(kept, probabilities, 0.0), axis=-1, keepdims=True) >= self.p - _ROUNDING

        kept = _above_threshold(probabilities, enough)
        return ops.where(ops.logical_or(kept, ops.greater_equal(self.p, 1.0)), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class MinP(Processor):
    """Keeps the tokens that are at least `p` times as likely as the most likely one; 0 keeps all.

    Args:
        p: float in [0, 1].

    Reference: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling", https://arxiv.org/abs/2407.01082
    """

    p: float = 0.05

    def __post_init__(self) -> None:
        require(0 <= self.p <= 1, "`p` must be in [0, 1]", p=self.p)
        object.__setattr__(self, "p", float(self.p))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        probabilities = ops.softmax(logits, axis=-1)
        return ops.where(probabilities >= self.p * ops.max(probabilities, axis=-1, keepdims=True), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class Typical(Processor):
    """Keeps the tokens whose surprise is closest to the expected one, until their probabilities reach `p`.

    Args:
        p: float in (0, 1]; 1 keeps all.

    Reference: Meister et al. 2022, "Locally Typical Sampling", https://arxiv.org/abs/2202.00666
    """

    p: float = 0.9

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "`p` must be greater than 0 and at most 1", p=self.p)
        object.__setattr__(self, "p", float(self.p))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        logs = ops.log_softmax(logits, axis=-1)
        probabilities = ops.exp(logs)
        strangeness = ops.abs(-logs - _entropy(probabilities, logs))

        def enough(kept):
            return ops.sum(ops.where(kept, probabilities, 0.0), axis=-1, keepdims=True) >= self.p - _ROUNDING

        kept = _above_threshold(-strangeness, enough)
        return ops.where(ops.logical_or(kept, ops.greater_equal(self.p, 1.0)), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class EpsilonCutoff(Processor):
    """Keeps the tokens with a probability of at least `epsilon`, and always the most likely; 0 keeps all.

    Args:
        epsilon: float in [0, 1).

    Reference: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing",
    https://arxiv.org/abs/2210.15191
    """

    epsilon: float = 3e-4

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < 1, "`epsilon` must be at least 0 and less than 1", epsilon=self.epsilon)
        object.__setattr__(self, "epsilon", float(self.epsilon))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return _at_least(logits, ops.softmax(logits, axis=-1), self.epsilon)


@dataclasses.dataclass(frozen=True)
class EtaCutoff(EpsilonCutoff):
    """`EpsilonCutoff` that is milder where the model is unsure: min(epsilon, sqrt(epsilon) exp(-entropy)).

    Args:
        epsilon: float in [0, 1).

    Reference: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing",
    https://arxiv.org/abs/2210.15191
    """

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        logs = ops.log_softmax(logits, axis=-1)
        probabilities = ops.exp(logs)
        eta = ops.minimum(self.epsilon, ops.sqrt(self.epsilon) * ops.exp(-_entropy(probabilities, logs)))
        return _at_least(logits, probabilities, eta)


def _entropy(probabilities, logs):
    """(B, 1): the expected surprise; tokens of probability 0 do not count."""
    return -ops.sum(ops.where(probabilities > 0, probabilities * logs, 0.0), axis=-1, keepdims=True)


def _at_least(logits, probabilities, threshold):
    """The logits of tokens that reach the threshold, and of the most likely ones."""
    best = ops.max(probabilities, axis=-1, keepdims=True)
    return ops.where(ops.logical_or(probabilities >= threshold, probabilities >= best), logits, BANNED)


def _above_threshold(values, enough):
    """bool (B, V): the values at or above the greatest threshold for which `enough(values >= threshold)` holds.

    Found bit by bit, in 32 passes over the values as ordered integers: exact for every float32, and 7 times faster
    than sorting 8 x 50,257 logits in a compiled loop on a CPU.
    """
    bits = ops.view(values, dtype="uint32")
    sign = ops.cast(2**31, "uint32")
    # Floats in order as unsigned integers: flip all bits of the negative ones, the sign bit of the others.
    ordered = ops.where(bits >= sign, ops.bitwise_not(bits), ops.bitwise_or(bits, sign))

    def try_bit(i, threshold):
        bit = ops.left_shift(ops.cast(1, "uint32"), ops.cast(31 - i, "uint32"))
        higher = ops.bitwise_or(threshold, bit)
        return ops.where(enough(ordered >= higher), higher, threshold)

    return ordered >= ops.fori_loop(0, 32, try_bit, ops.zeros_like(ordered[:, :1]))
