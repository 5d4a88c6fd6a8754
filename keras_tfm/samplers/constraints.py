"""Processors that forbid or force tokens: always, at certain steps, or after certain other tokens."""

import dataclasses
from collections.abc import Mapping

from keras import ops

from keras_tfm.arguments import as_integer, number_of, require, sequences_of, token_ids_of
from keras_tfm.samplers.numbers import as_arrays, bucketed
from keras_tfm.samplers.penalties import compact, one_of
from keras_tfm.samplers.sampler import Processor
from keras_tfm.samplers.state import BANNED
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class BanTokens(Processor):
    """Tokens that never come.

    Args:
        token_ids: tuple of ids of the vocabulary.
    """

    token_ids: tuple[int, ...] = bucketed()

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", token_ids_of("token_ids", self.token_ids))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return ops.where(one_of(self.token_ids, logits), BANNED, logits)


@dataclasses.dataclass(frozen=True)
class BanTokensAtBegin(Processor):
    """Tokens that are never the first new one.

    Args:
        token_ids: tuple of ids of the vocabulary.
    """

    token_ids: tuple[int, ...] = bucketed()

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", token_ids_of("token_ids", self.token_ids))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return ops.where(ops.logical_and(one_of(self.token_ids, logits), ops.equal(step, 0)), BANNED, logits)


@dataclasses.dataclass(frozen=True)
class SequenceBias(Processor):
    """Adds a number to the logit of the last token of a sequence wherever the text so far ends with the others.

    Args:
        biases: mapping from tuples of token ids to floats; negative numbers discourage.
    """

    biases: tuple = bucketed()

    def __post_init__(self) -> None:
        pairs = self.biases.items() if isinstance(self.biases, Mapping) else self.biases
        pairs = tuple((token_ids_of("biases", sequence), number_of("biases", bias)) for sequence, bias in pairs)
        require(len(pairs) > 0, "`biases` must hold at least one sequence", biases=self.biases)
        object.__setattr__(self, "biases", pairs)

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        sequences, biases = as_arrays(self.biases)
        return logits + _sums_of_endings(sequences, biases, tokens, logits)


@dataclasses.dataclass(frozen=True)
class BanSequences(Processor):
    """Sequences of tokens that never come (bad words): their last token is banned after the others.

    Args:
        sequences: tuple of tuples of token ids.
    """

    sequences: tuple[tuple[int, ...], ...] = bucketed()

    def __post_init__(self) -> None:
        sequences = sequences_of("sequences", self.sequences)
        require(len(sequences) > 0, "`sequences` must hold at least one sequence", sequences=self.sequences)
        object.__setattr__(self, "sequences", sequences)

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        sequences = as_arrays(self.sequences)
        counts = _sums_of_endings(sequences, ops.ones_like(sequences[:, 0], dtype="float32"), tokens, logits)
        return ops.where(counts > 0, BANNED, logits)


@dataclasses.dataclass(frozen=True)
class ForceFirstToken(Processor):
    """The first new token.

    Args:
        token_id: int.
    """

    token_id: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_id", as_integer("token_id", self.token_id, 0))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return ops.where(ops.equal(step, 0), _only(self.token_id, logits), logits)


@dataclasses.dataclass(frozen=True)
class ForceLastToken(Processor):
    """The last new token, where a text has not ended before.

    Args:
        token_id: int.
        max_new_tokens: int, the number that `generate` is given.
    """

    token_id: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_id", as_integer("token_id", self.token_id, 0))
        object.__setattr__(self, "max_new_tokens", as_integer("max_new_tokens", self.max_new_tokens, 1))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return ops.where(ops.equal(step, self.max_new_tokens - 1), _only(self.token_id, logits), logits)


@dataclasses.dataclass(frozen=True)
class MinNewTokens(Processor):
    """A text does not end before it has so many new tokens.

    Args:
        min_new_tokens: int >= 0.
        stop_token_ids: tuple of ids that end a text.
    """

    min_new_tokens: int
    stop_token_ids: tuple[int, ...] = bucketed()

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_new_tokens", as_integer("min_new_tokens", self.min_new_tokens, 0))
        object.__setattr__(self, "stop_token_ids", token_ids_of("stop_token_ids", self.stop_token_ids))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        return ops.where(
            ops.logical_and(one_of(self.stop_token_ids, logits), ops.less(step, self.min_new_tokens)), BANNED, logits
        )


@dataclasses.dataclass(frozen=True)
class MinLength(Processor):
    """A text does not end before prompt and new tokens together are so many.

    Args:
        min_length: int >= 0.
        stop_token_ids: tuple of ids that end a text.
    """

    min_length: int
    stop_token_ids: tuple[int, ...] = bucketed()

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_length", as_integer("min_length", self.min_length, 0))
        object.__setattr__(self, "stop_token_ids", token_ids_of("stop_token_ids", self.stop_token_ids))

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        short = ops.sum(ops.cast(tokens >= 0, "int32"), axis=1, keepdims=True) < self.min_length
        return ops.where(ops.logical_and(one_of(self.stop_token_ids, logits), short), BANNED, logits)


def _only(token_id, logits):
    """Logits that leave one token: 0 for it, the others banned."""
    return ops.where(ops.arange(logits.shape[-1], dtype="int32")[None] == token_id, ops.zeros_like(logits), BANNED)


def _sums_of_endings(sequences, numbers, tokens, logits):
    """float32 (B, V): for each token the sum of the numbers (q,) of the sequences that it would complete.

    sequences: int32 (q, l), shorter ones after -1; rows of -1 alone are none. tokens: int32 (B, L), -1 = none.
    """
    history, lengths = compact(tokens)
    before, last = sequences[:, :-1], sequences[:, -1]  # (q, l - 1), (q,)
    num_before = before.shape[1]
    places = lengths[:, None] - num_before + ops.arange(num_before, dtype="int32")[None]
    newest = ops.take_along_axis(history, ops.clip(places, 0, ops.shape(history)[1] - 1), axis=1)
    newest = ops.where(places >= 0, newest, -2)  # (B, l - 1)
    agrees = ops.logical_or(newest[:, None] == before[None], before[None] < 0)  # (B, q, l - 1)
    batch, vocabulary_size = ops.shape(logits)[0], logits.shape[-1]
    is_id = ops.logical_and(last >= 0, last < vocabulary_size)
    comes = ops.logical_and(ops.all(agrees, axis=-1), is_id[None])  # (B, q)
    columns = ops.where(comes, last[None], vocabulary_size)  # one column too many takes what does not come
    rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], ops.shape(columns))
    places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    numbers = ops.reshape(ops.broadcast_to(ops.cast(numbers, "float32")[None], ops.shape(columns)), (-1,))
    return ops.scatter(places, numbers, (batch, vocabulary_size + 1))[:, :vocabulary_size]  # sums what meets
