"""Processors that look at the text so far: what was said before becomes less likely, or impossible."""

import dataclasses

from keras import ops

from keras_tfm.arguments import as_integer, number_of, require, token_ids_of
from keras_tfm.samplers.numbers import bucketed
from keras_tfm.samplers.sampler import Processor
from keras_tfm.samplers.state import BANNED
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty(Processor):
    """Makes tokens of the prompt and the text so far less likely: positive logits / penalty, negative * penalty.

    Args:
        penalty: float > 0; 1 changes nothing, more than 1 discourages, less than 1 encourages.

    Reference: Keskar et al. 2019, "CTRL", section 4.1, https://arxiv.org/abs/1909.05858
    """

    penalty: float = 1.1

    def __post_init__(self) -> None:
        require(number_of("penalty", self.penalty) > 0, "`penalty` must be greater than 0", penalty=self.penalty)
        object.__setattr__(self, "penalty", float(self.penalty))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        penalised = ops.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return ops.where(_counts(tokens, logits) > 0, penalised, logits)


@dataclasses.dataclass(frozen=True)
class PresencePenalty(Processor):
    """Subtracts `penalty` from the logits of tokens of the prompt and the text so far, however often they occur.

    Args:
        penalty: float; 0 changes nothing, negative numbers encourage.
    """

    penalty: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", number_of("penalty", self.penalty))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return logits - self.penalty * ops.cast(_counts(tokens, logits) > 0, "float32")


@dataclasses.dataclass(frozen=True)
class FrequencyPenalty(Processor):
    """Subtracts `penalty` from the logits of a token for each time it occurs in the prompt and the text so far.

    Args:
        penalty: float; 0 changes nothing, negative numbers encourage.
    """

    penalty: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", number_of("penalty", self.penalty))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return logits - self.penalty * ops.cast(_counts(tokens, logits), "float32")


@dataclasses.dataclass(frozen=True)
class NoRepeatNgram(Processor):
    """No `n` tokens in a row come twice, the prompt included.

    Args:
        n: int >= 1; 1 bans every token that has occurred.

    Reference: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5,
    https://arxiv.org/abs/1705.04304
    """

    n: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", as_integer("n", self.n, 1))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        history, lengths = compact(tokens)
        places = ops.arange(ops.shape(history)[1], dtype="int32")[None]  # (1, L)
        lengths = lengths[:, None]

        def also_equal(state):
            """Whether the token `back` places before each place is the one `back` places before the next token."""
            back, equal = state
            before = ops.take(history, ops.maximum(places[0] - back, 0), axis=1)
            newest = ops.take_along_axis(history, ops.maximum(lengths - back, 0), axis=1)
            possible = ops.logical_and(places >= back, lengths >= back)
            return back + 1, ops.logical_and(equal, ops.logical_and(possible, before == newest))

        start = (ops.ones((), "int32"), ops.broadcast_to(places < lengths, ops.shape(history)))
        _, repeats = ops.while_loop(lambda state: state[0] < self.n, lambda state: (also_equal(state),), (start,))[0]
        return ops.where(_counts(ops.where(repeats, history, -1), logits) > 0, BANNED, logits)


@dataclasses.dataclass(frozen=True)
class ExponentialLengthDecay(Processor):
    """From `start` new tokens on, ends become likelier: an end's logit grows by |logit| (factor^(step - start) - 1).

    Args:
        start: int >= 0, new tokens before which nothing happens.
        factor: float >= 1.
        stop_token_ids: tuple of ids that end a text.
    """

    start: int
    factor: float
    stop_token_ids: tuple[int, ...] = bucketed()

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_integer("start", self.start, 0))
        require(number_of("factor", self.factor) >= 1, "`factor` must be at least 1", factor=self.factor)
        object.__setattr__(self, "factor", float(self.factor))
        object.__setattr__(self, "stop_token_ids", token_ids_of("stop_token_ids", self.stop_token_ids))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        late = ops.cast(ops.maximum(step - self.start, 0), "float32")
        growth = ops.abs(logits) * (ops.power(ops.cast(self.factor, "float32"), late) - 1.0)
        return ops.where(one_of(self.stop_token_ids, logits), logits + growth, logits)


def one_of(token_ids: Tensor, logits: Tensor) -> Tensor:
    """bool (1, V): which tokens are among the ids."""
    token_ids = ops.convert_to_tensor(token_ids, dtype="int32")
    return ops.any(ops.arange(logits.shape[-1], dtype="int32")[:, None] == token_ids[None], axis=-1)[None]


def compact(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens of each row in their order, without the gaps: (history (B, L), -1 at the end; lengths (B,))."""
    order = ops.argsort(ops.where(tokens < 0, 1, 0) * ops.shape(tokens)[1] + ops.arange(ops.shape(tokens)[1]), axis=1)
    lengths = ops.sum(ops.cast(tokens >= 0, "int32"), axis=1)
    return ops.take_along_axis(tokens, ops.cast(order, "int32"), axis=1), lengths


def _counts(tokens, logits):
    """int32 (B, V): how often each token stands in each row of `tokens` (B, L)."""
    batch, vocabulary_size = ops.shape(logits)[0], logits.shape[-1]
    rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], ops.shape(tokens))
    columns = ops.where(tokens < 0, vocabulary_size, tokens)  # one column too many takes the padding
    places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    counts = ops.scatter(places, ops.ones_like(places[:, 0]), (batch, vocabulary_size + 1))  # sums what meets
    return counts[:, :vocabulary_size]
