"""What guesses the next tokens for a `SpeculativeSampler`: a look at the text itself, or a smaller model."""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_tfm.arguments import as_integer
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.tensors import size, slice_update
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import Sampler, allowed_choice
from keras_tfm.samplers.state import Context, GenerationState, newest_tokens, write_token
from keras_tfm.types import Tensor

# So many tokens at a time a draft model reads of a text that was written without it.
_PIECE = 16


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Guesses what followed an earlier occurrence of the last tokens: for texts that repeat their prompt or themselves.

    Guesses cost nothing, so they are also made where none are checked: how good they would have been, the text tells.

    Args:
        max_ngram: int >= 1, the most last tokens that are looked for; the longest match counts, of equal ones the
            first, after which most text is known. A text that ends before it is taken to go round.

    Reference: Saxena 2023, "Prompt Lookup Decoding", https://github.com/apoorvumang/prompt-lookup-decoding
    """

    max_ngram: int = static(3)

    is_free = True
    trust = 0.25  # the share of guesses after the longest match that is taken to be right before the text tells

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_ngram", as_integer("max_ngram", self.max_ngram, 1))

    @property
    def num_kinds(self) -> int:
        """How many kinds of guesses are told apart: after a match of so many tokens, or of none."""
        return self.max_ngram + 1

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> tuple:
        """The drafter's memory: none."""
        return ()

    def look(self, state: GenerationState, context: Context, num_drafts: int) -> tuple[Tensor, Tensor]:
        """(guesses int32 (R, k), -1 = none; their kind int32 (R,))."""
        tokens = state.tokens
        columns = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        ends = (context.num_prompt + state.num_tokens)[:, None]  # where the next token goes
        # How many tokens before each column equal those before the end, up to max_ngram: (R, L).
        matches, equal = ops.zeros_like(tokens), ops.ones_like(tokens, dtype="bool")
        for back in range(1, self.max_ngram + 1):
            before = ops.take(tokens, ops.maximum(columns[0] - back, 0), axis=1)
            newest = ops.take_along_axis(tokens, ops.maximum(ends - back, 0), axis=1)
            is_equal = ops.logical_and(before == newest, ops.logical_and(columns >= back, before >= 0))
            equal = ops.logical_and(equal, is_equal)
            matches = matches + ops.cast(equal, "int32")
        matches = ops.where(ops.logical_and(columns < ends, tokens >= 0), matches, 0)
        best = ops.max(matches, axis=1, keepdims=True)
        place = ops.min(ops.where(matches == best, columns, ends - 1), axis=1, keepdims=True)
        ahead = ops.arange(num_drafts, dtype="int32")[None] % (ends - place)
        guesses = ops.take_along_axis(tokens, place + ahead, axis=1)
        return ops.where(best > 0, guesses, -1), best[:, 0]

    def draft(
        self, memory: Any, drafts: Tensor, state: GenerationState, sampler: Sampler, context: Context
    ) -> tuple[Tensor, Any]:
        """(guesses int32 (R, k) that are to be checked, memory): those of `look`, `drafts`."""
        return drafts, memory

    def settle(self, memory: Any, num_read: int | Tensor, kept: Tensor) -> Any:
        """The memory after `kept` of the newest tokens were accepted."""
        return memory


class DraftMemory(NamedTuple):
    """What a draft model has read.

    decoding: its `DecodingState`. num_prompt: int32 (R,), what it had read before the first new token.
    """

    decoding: Any
    num_prompt: Any


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """Guesses with a smaller model of the same vocabulary, by the sampler's own rule and with its draws.

    Args:
        model: `CausalLM`, or for a `Seq2SeqLM` another one, which reads the same sources. Two of these are equal if
            they hold the same model.
    """

    model: Any

    is_free = False
    trust = 0.5
    num_kinds = 1

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> DraftMemory:
        """The drafter's memory: the draft model's after the prefill."""
        num_rows, length = ops.shape(state.tokens)
        num_prompts = size(context.prompts, 0)
        slots = slots_needed(num_rows, length - context.num_prompt, num_drafts) + _PIECE
        token_ids, mask, decoding = self.model.begin(ops.maximum(context.prompts, 0), context.prompts >= 0, slots)
        _, decoding = self.model.read(token_ids, decoding, mask)
        decoding = decoding.keep(decoding.num_tokens)
        decoding = decoding.reorder(ops.repeat(ops.arange(num_prompts, dtype="int32"), num_rows // num_prompts))
        return DraftMemory(decoding, decoding.num_tokens)

    def look(self, state: GenerationState, context: Context, num_drafts: int) -> tuple[Tensor, Tensor]:
        """No guesses yet, (R, k) of -1, and their one kind: only a pass that checks them is worth the model's work."""
        kinds = ops.zeros_like(state.num_tokens)
        return ops.repeat(kinds[:, None] - 1, num_drafts, axis=1), kinds

    def draft(
        self, memory: DraftMemory, drafts: Tensor, state: GenerationState, sampler: Any, context: Context
    ) -> tuple[Tensor, DraftMemory]:
        """(guesses int32 (R, k), memory). The last is read as well, so that the cache has all that may be accepted."""

        # A loop: unrolled, XLA would compile the model anew for each guess.
        def guess(i, token, guesses, decoding, state):
            logits, decoding = self._read(token, decoding)
            shaped = sampler.process(logits, state.tokens, state.num_tokens[:, None], state.processor_states)
            token = allowed_choice(sampler.choose(shaped, context.random(state)), shaped)
            guesses = slice_update(guesses, (0, i), token[:, None])
            return i + 1, token, guesses, decoding, write_token(state, sampler.processors, token, logits, context)

        num_drafts, decoding = drafts.shape[1], self._caught_up(memory, state, context)
        token, state = newest_tokens(state, context.num_prompt), state._replace(decoding=(), memory=(), log_probs=())
        start = (ops.zeros((), "int32"), token, ops.zeros_like(drafts), decoding, state)
        _, token, guesses, decoding, _ = ops.while_loop(lambda i, *rest: i < num_drafts, guess, start)
        _, decoding = self._read(token, decoding)
        return guesses, memory._replace(decoding=decoding)

    def settle(self, memory: DraftMemory, num_read: int | Tensor, kept: Tensor) -> DraftMemory:
        """The memory after `kept` (R,) of the `num_read` newest tokens were accepted: rewound behind them."""
        decoding = memory.decoding
        return memory._replace(decoding=decoding.keep(decoding.num_tokens - num_read + kept))

    def _caught_up(self, memory, state, context) -> DecodingState:
        """The model's state after it has read all but the newest token: those that were written without guesses too."""
        columns = size(state.tokens, 1)

        def missing(decoding):
            num_read = decoding.num_tokens - memory.num_prompt  # of the new tokens, each row
            return num_read, ops.where(state.finish == 0, state.num_tokens - 1 - num_read, 0)

        def read(pieces, decoding):
            num_read, num_missing = missing(decoding)
            ahead = ops.arange(_PIECE, dtype="int32")[None]
            places = ops.clip((context.num_prompt + num_read)[:, None] + ahead, 0, columns - 1)
            token_ids = ops.maximum(ops.take_along_axis(state.tokens, places, axis=1), 0)
            _, decoding = self.model.read(token_ids, decoding, ahead < num_missing[:, None])
            return pieces - 1, decoding.keep(decoding.num_tokens)

        most = ops.minimum(ops.max(missing(memory.decoding)[1]), columns)
        pieces = (most + _PIECE - 1) // _PIECE
        return ops.while_loop(lambda pieces, decoding: pieces > 0, read, (pieces, memory.decoding))[1]

    def _read(self, token, decoding):
        hidden, decoding = self.model.read(token[:, None], decoding)
        return ops.cast(self.model.project(hidden)[:, 0], "float32"), decoding


def slots_needed(num_rows: Tensor, max_new_tokens: int | Tensor, num_drafts: int) -> int | Tensor:
    """Slots of a KV cache that is rewound to the row that accepted most: rows that accepted less leave gaps.

    Each row keeps at most `max_new_tokens` tokens and one step's surplus; a step uses at most num_drafts + 1 slots.
    """
    if isinstance(num_rows, int) and isinstance(max_new_tokens, int):
        used = min(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    else:
        used = ops.minimum(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    return used + num_drafts + 1
