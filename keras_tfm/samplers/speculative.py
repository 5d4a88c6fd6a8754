"""Speculative decoding: cheap draft tokens, which the model verifies several at a time."""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_tfm.arguments import as_integer, require
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.tensors import size
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import GreedySampler, Sampler, allowed_choice
from keras_tfm.samplers.state import BANNED, Change, Context, GenerationState, is_banned, newest_tokens, write_token
from keras_tfm.types import Tensor

# Streams of independent draws: draft tokens, whether a draft is accepted, what replaces a rejected one.
_DRAFT, _ACCEPT, _REPLACE = 1, 2, 3


class Drafts(NamedTuple):
    """k draft tokens for each row.

    token_ids: int32 (R, k). probabilities: float32 (R, k, V), the distributions that they were drawn from, or () for
    drafts that were not drawn (probability 1).
    """

    token_ids: Any
    probabilities: Any = ()


class SpeculativeMemory(NamedTuple):
    """drafts: `Drafts` to be verified. drafter: the drafter's own state."""

    drafts: Any
    drafter: Any


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Drafts what followed an earlier occurrence of the last tokens: for texts that repeat their prompt.

    Args:
        max_ngram: int >= 1, the most last tokens that are looked for; the longest match counts, of equal ones the
            first, after which most text is known.

    Reference: Saxena 2023, "Prompt Lookup Decoding", https://github.com/apoorvumang/prompt-lookup-decoding
    """

    max_ngram: int = static(3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_ngram", as_integer("max_ngram", self.max_ngram, 1))

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> tuple:
        """The drafter's state: none."""
        return ()

    def draft(
        self, memory: Any, state: GenerationState, sampler: "SpeculativeSampler", context: Context, num_drafts: int
    ) -> tuple[Drafts, Any]:
        """(`Drafts`, memory)."""
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
        # Without a match the newest token is drafted again: a rejected draft costs nothing.
        is_best = ops.logical_and(matches == best, best > 0)
        place = ops.min(ops.where(is_best, columns, ends - 1), axis=1, keepdims=True)
        places = ops.minimum(place + ops.arange(num_drafts, dtype="int32")[None], ops.shape(tokens)[1] - 1)
        guesses = ops.take_along_axis(tokens, places, axis=1)
        return Drafts(ops.maximum(guesses, 0)), memory

    def settle(self, memory: Any, num_read: int | Tensor, kept: Tensor) -> Any:
        """The memory after `kept` of the newest tokens were accepted."""
        return memory


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """Drafts with a smaller model of the same vocabulary, by the sampler's own rule.

    Args:
        model: `CausalLM`, or for a `Seq2SeqLM` another one, which reads the same sources. Two of these are equal if
            they hold the same model.
    """

    model: Any

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> DecodingState:
        """The drafter's state: the draft model's `DecodingState` after the prefill."""
        num_rows, length = ops.shape(state.tokens)
        num_prompts = size(context.prompts, 0)
        slots = slots_needed(num_rows, length - context.num_prompt, num_drafts)
        token_ids, mask, memory = self.model.begin(ops.maximum(context.prompts, 0), context.prompts >= 0, slots)
        _, memory = self.model.read(token_ids, memory, mask)
        return memory.reorder(ops.repeat(ops.arange(num_prompts, dtype="int32"), num_rows // num_prompts))

    def draft(
        self, memory: Any, state: GenerationState, sampler: "SpeculativeSampler", context: Context, num_drafts: int
    ) -> tuple[Drafts, Any]:
        """(`Drafts`, memory). The last draft is read as well, so that the cache has all that may be accepted."""
        guesses, probabilities = [], []
        token, state = newest_tokens(state, context.num_prompt), state._replace(memory=(), log_probs=())
        for _ in range(num_drafts):
            logits, memory = self._read(token, memory)
            shaped = sampler.process(logits, state.tokens, state.num_tokens[:, None], state.processor_states)
            token = allowed_choice(sampler.rule.choose(shaped, context.random(state, stream=_DRAFT)), shaped)
            guesses.append(token)
            probabilities.append(_allowed_probabilities(sampler.rule, shaped))
            state = write_token(state, sampler.processors, token, logits, context)
        _, memory = self._read(token, memory)
        return Drafts(ops.stack(guesses, axis=1), ops.stack(probabilities, axis=1)), memory

    def settle(self, memory: Any, num_read: int | Tensor, kept: Tensor) -> Any:
        """The memory after `kept` (R,) of the `num_read` newest tokens were accepted: rewound behind them."""
        return memory.keep(memory.num_tokens - num_read + kept)

    def _read(self, token, memory):
        hidden, memory = self.model.read(token[:, None], memory)
        return ops.cast(self.model.project(hidden)[:, 0], "float32"), memory


@dataclasses.dataclass(frozen=True)
class SpeculativeSampler(Sampler):
    """The text that `rule` alone would give, faster where drafts are good: the model verifies several in one pass.

    Exactly: a draft x that was drawn with probability q(x) is accepted with min(1, p(x) / q(x)); the first that is
    rejected is replaced by a draw from max(p - q, 0). So every token follows p, and the greedy rule gives the greedy
    text.

    Args:
        processors, seed: as in `Sampler`; they shape p, and q of a draft model.
        drafter: `PromptLookup` or `DraftModel`.
        rule: `GreedySampler` or `RandomSampler`, or your own with `probabilities`; without processors.
        num_drafts: int >= 1, drafts in each step.

    Example:
        >>> SpeculativeSampler(drafter=PromptLookup())
        >>> SpeculativeSampler([Temperature(0.8)], drafter=DraftModel(small_model), rule=RandomSampler())

    Reference: Leviathan et al. 2022, "Fast Inference from Transformers via Speculative Decoding", section 2,
    https://arxiv.org/abs/2211.17192
    """

    drafter: PromptLookup | DraftModel = dataclasses.field(default_factory=PromptLookup)
    rule: Sampler = dataclasses.field(default_factory=GreedySampler)
    num_drafts: int = static(4)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_drafts", as_integer("num_drafts", self.num_drafts, 1))
        require(
            isinstance(self.rule, Sampler) and type(self.rule).advance is Sampler.advance and not self.rule.processors,
            "`rule` must choose token by token and have no processors; give those to the `SpeculativeSampler`",
            rule=self.rule,
        )

    def check_model(self, model: Any) -> None:
        for name in ("vocabulary_size", "prompt_vocabulary_size"):
            if isinstance(self.drafter, DraftModel) and getattr(self.drafter.model, name) != getattr(model, name):
                raise ValueError(
                    "A draft model must have the vocabulary of the model that it writes for. Received: "
                    f"{getattr(self.drafter.model, name)} tokens for a model of {getattr(model, name)}. Draft with a "
                    "model of the same tokenizer."
                )
        drafters = [self.drafter.model] if isinstance(self.drafter, DraftModel) else []
        for reader in (model, *drafters):
            if not reader.init_state(1, 1).can_forget:
                raise ValueError(
                    "Speculation takes back the guesses that were wrong, and each memory of the model must be able to "
                    f"forget them. Received: {reader!r}, with a memory of which `can_forget` is False. Use another "
                    "sampler, or drafts of another model."
                )

    def room(self, num_rows: Tensor, max_new_tokens: int | Tensor) -> tuple[int | Tensor, int | Tensor]:
        return max_new_tokens, slots_needed(num_rows, max_new_tokens, self.num_drafts)

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        return state._replace(memory=SpeculativeMemory((), self.drafter.begin(state, context, self.num_drafts)))

    def propose(self, state: GenerationState, context: Context) -> tuple[Tensor, GenerationState]:
        drafts, drafter = self.drafter.draft(state.memory.drafter, state, self, context, self.num_drafts)
        token_ids = ops.concatenate([newest_tokens(state, context.num_prompt)[:, None], drafts.token_ids], axis=1)
        return token_ids, state._replace(memory=SpeculativeMemory(drafts, drafter))

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        drafts, drafter = state.memory
        is_checked = not isinstance(drafts, tuple) or len(drafts) > 0
        num_drafts = self.num_drafts if is_checked else 0  # none at first, after the prompt
        state = state._replace(memory=())
        is_active = state.finish == 0
        kept = ops.cast(is_active, "int32")
        for i in range(num_drafts + 1):
            shaped = self.process(logits[:, i], state.tokens, state.num_tokens[:, None], state.processor_states)
            target = _allowed_probabilities(self.rule, shaped)  # (R, V)
            if i < num_drafts:
                guess = drafts.token_ids[:, i]
                token, is_accepted = self._check(guess, target, _proposal(drafts, i, target), state, context)
            else:
                token, is_accepted = self._draw(target, state, context), ops.zeros_like(is_active)
            state = write_token(state, self.processors, token, logits[:, i], context, shaped, writes=is_active)
            is_active = ops.logical_and(ops.logical_and(is_active, is_accepted), state.finish == 0)
            kept = kept + ops.cast(is_active, "int32")
        if not is_checked:
            return state._replace(memory=SpeculativeMemory((), drafter)), Change()
        drafter = self.drafter.settle(drafter, num_drafts + 1, kept)
        return state._replace(memory=SpeculativeMemory((), drafter)), Change(kept=kept)

    def _check(self, guess, target, proposal, state, context):
        """(the token int32 (R,), whether it is the draft, bool (R,)); target and proposal: p and q, (R, V)."""
        p, q = (ops.take_along_axis(x, guess[:, None], axis=1)[:, 0] for x in (target, proposal))
        is_accepted = context.random(state, stream=_ACCEPT).uniform() * q < p
        rest = ops.maximum(target - proposal, 0.0)
        # Nothing is left where both agree; rounding alone can then reject a draft.
        rest = ops.where(ops.sum(rest, axis=-1, keepdims=True) > 0, rest, target)
        return ops.where(is_accepted, guess, self._draw(rest, state, context)), is_accepted

    def _draw(self, weights, state, context):
        """int32 (R,): a draw with probabilities proportional to the weights (R, V)."""
        logs = ops.where(weights > 0, ops.log(ops.where(weights > 0, weights, 1.0)), BANNED)
        noise = context.random(state, stream=_REPLACE).gumbel(weights.shape[-1])
        return ops.cast(ops.argmax(logs + noise, axis=-1), "int32")


def slots_needed(num_rows: Tensor, max_new_tokens: int | Tensor, num_drafts: int) -> int | Tensor:
    """Slots of a KV cache that is rewound to the row that accepted most: rows that accepted less leave gaps.

    Each row keeps at most `max_new_tokens` tokens and one step's surplus; a step uses at most num_drafts + 1 slots.
    """
    if isinstance(num_rows, int) and isinstance(max_new_tokens, int):
        used = min(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    else:
        used = ops.minimum(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    return used + num_drafts + 1


def _allowed_probabilities(rule, shaped):
    """float32 (R, V): the rule's probabilities of allowed tokens; if a custom rule leaves none, the likeliest token."""
    probabilities = ops.where(is_banned(shaped), 0.0, rule.probabilities(shaped))
    best = ops.one_hot(ops.argmax(shaped, axis=-1), shaped.shape[-1], dtype="float32")
    return ops.where(ops.sum(probabilities, axis=-1, keepdims=True) > 0, probabilities, best)


def _proposal(drafts, i, target):
    """float32 (R, V): the distribution that draft i was drawn from."""
    if isinstance(drafts.probabilities, tuple):
        return ops.one_hot(drafts.token_ids[:, i], target.shape[-1], dtype="float32")
    return drafts.probabilities[:, i]
