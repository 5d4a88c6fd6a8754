"""Logits processors: pure, fixed-shape functions (B, V) -> (B, V), applied in the order given.

Each is a frozen dataclass called with `logits` (float32, (B, V)), `tokens` (int32 (B, L): prompt and new tokens, -1
where there is none) and `step` (int32 (): how many new tokens there are). A token that must not come gets `BANNED`.
"""

import dataclasses

from keras import ops

# Lower than any logit; finite, so that differences of two banned logits are 0 and not NaN.
BANNED = -1e30


class Processor:
    """Base class of processors: a frozen dataclass with `__call__(logits, tokens, step) -> logits`."""

    def __call__(self, logits, tokens, step):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(logits, tokens, step)`.")


@dataclasses.dataclass(frozen=True)
class Temperature(Processor):
    """Divides logits by `value`: below 1 sharpens, above 1 flattens, 0 leaves the best token only (greedy).

    Args:
        value: float >= 0.
    """

    value: float = 1.0

    def __post_init__(self):
        _require(self.value >= 0, "`value` must be at least 0 (0 = greedy)", value=self.value)
        object.__setattr__(self, "value", float(self.value))

    def __call__(self, logits, tokens, step):
        value = ops.cast(self.value, "float32")
        best = ops.argmax(logits, axis=-1, keepdims=True)
        is_best = ops.arange(logits.shape[-1], dtype="int32")[None] == ops.cast(best, "int32")
        greedy = ops.where(is_best, logits, BANNED)
        return ops.where(value > 0, logits / ops.where(value > 0, value, 1.0), greedy)


@dataclasses.dataclass(frozen=True)
class TopK(Processor):
    """Keeps the `k` most likely tokens, and those equally likely as the last of them; 0 keeps all.

    Args:
        k: int >= 0.

    Reference: Fan et al. 2018, "Hierarchical Neural Story Generation", https://arxiv.org/abs/1805.04833
    """

    k: int = 50

    def __post_init__(self):
        _require(self.k >= 0 and int(self.k) == self.k, "`k` must be an integer of at least 0 (0 = off)", k=self.k)

    def __call__(self, logits, tokens, step):
        def enough(kept):
            return ops.sum(ops.cast(kept, "int32"), axis=-1, keepdims=True) >= self.k

        return ops.where(ops.logical_or(_above_threshold(logits, enough), ops.equal(self.k, 0)), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class TopP(Processor):
    """Nucleus: keeps the fewest most likely tokens whose probabilities reach `p`; 1 keeps all.

    Args:
        p: float in (0, 1].

    Reference: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751
    """

    p: float = 0.95

    def __post_init__(self):
        _require(0 < self.p <= 1, "`p` must be greater than 0 and at most 1", p=self.p)
        object.__setattr__(self, "p", float(self.p))

    def __call__(self, logits, tokens, step):
        probabilities = ops.softmax(logits, axis=-1)

        def enough(kept):
            return ops.sum(ops.where(kept, probabilities, 0.0), axis=-1, keepdims=True) >= self.p

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

    def __post_init__(self):
        _require(0 <= self.p <= 1, "`p` must be in [0, 1]", p=self.p)
        object.__setattr__(self, "p", float(self.p))

    def __call__(self, logits, tokens, step):
        probabilities = ops.softmax(logits, axis=-1)
        return ops.where(probabilities >= self.p * ops.max(probabilities, axis=-1, keepdims=True), logits, BANNED)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty(Processor):
    """Makes tokens of the prompt and the text so far less likely: positive logits / penalty, negative * penalty.

    Args:
        penalty: float > 0; 1 changes nothing, more than 1 discourages, less than 1 encourages.

    Reference: Keskar et al. 2019, "CTRL", section 4.1, https://arxiv.org/abs/1909.05858
    """

    penalty: float = 1.1

    def __post_init__(self):
        _require(self.penalty > 0, "`penalty` must be greater than 0", penalty=self.penalty)
        object.__setattr__(self, "penalty", float(self.penalty))

    def __call__(self, logits, tokens, step):
        penalised = ops.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return ops.where(_occurs(tokens, logits), penalised, logits)


@dataclasses.dataclass(frozen=True)
class BanTokens(Processor):
    """Tokens that never come.

    Args:
        token_ids: tuple of ids of the vocabulary.
    """

    token_ids: tuple[int, ...]

    def __post_init__(self):
        token_ids = tuple(int(token_id) for token_id in self.token_ids)
        _require(len(token_ids) > 0 and min(token_ids) >= 0, "`token_ids` must hold ids >= 0", token_ids=token_ids)
        object.__setattr__(self, "token_ids", token_ids)

    def __call__(self, logits, tokens, step):
        ids = ops.convert_to_tensor(self.token_ids, dtype="int32")
        banned = ops.any(ops.arange(logits.shape[-1], dtype="int32")[:, None] == ids[None], axis=-1)
        return ops.where(banned, BANNED, logits)


def _occurs(tokens, logits):
    """bool (B, V): which tokens stand in each row of `tokens` (B, L)."""
    batch, vocabulary_size = ops.shape(logits)[0], logits.shape[-1]
    rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], ops.shape(tokens))
    columns = ops.where(tokens < 0, vocabulary_size, tokens)  # one column too many takes the padding
    places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    seen = ops.zeros((batch, vocabulary_size + 1), "int32")
    seen = ops.scatter_update(seen, places, ops.ones_like(places[:, 0]))
    return seen[:, :vocabulary_size] > 0


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


def _require(holds, statement: str, **received) -> None:
    if not holds:
        listed = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise ValueError(f"{statement}. Received: {listed}.")
