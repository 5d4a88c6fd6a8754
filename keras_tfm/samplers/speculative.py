"""Speculative decoding: cheap draft tokens, which the model verifies several at a time, while that saves time."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.arguments import as_integer, require
from keras_tfm.ops.decoding_state import DecodingState, merge_heads, split_heads
from keras_tfm.ops.tensors import size
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import GreedySampler, Sampler
from keras_tfm.samplers.state import Change, Context, GenerationState, StepRandom, newest_tokens, write_token
from keras_tfm.types import Tensor

USUAL_COST = 1.5  # of a step with drafts, in steps without: of few rows, where nothing has been measured
_MEMORY = 15 / 16  # of what the steps before one say about drafts, how much counts as long as the step itself
# Steps without drafts after which those of a draft model are tried again, for each such step that a failed try costs:
# tries then cost half a percent of the time.
_PAUSE = 200
_TOKENS_AT_ONCE = 16  # that a draft model reads of those written without it


class SpeculativeMemory(NamedTuple):
    """What the sampler knows between steps.

    drafts: int32 (R, k), which the model reads in this step, or (). foreseen: int32 (R, 1), the first of drafts that it
    does not read, or (). drafter: the drafter's own state. num_right and num_checked: float32 (R,), how many drafts of
    late were what came, of how many. num_drafted: int32 (), steps with drafts so far. num_plain: int32 (), steps
    without since the last of those.
    """

    drafts: Any
    foreseen: Any
    drafter: Any
    num_right: Any
    num_checked: Any
    num_drafted: Any
    num_plain: Any


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Drafts what followed an earlier occurrence of the last tokens: for texts that repeat their prompt.

    Args:
        max_ngram: int >= 1, the most last tokens that are looked for; the longest match counts, of equal ones the
            first, after which most text is known.

    Reference: Saxena 2023, "Prompt Lookup Decoding", https://github.com/apoorvumang/prompt-lookup-decoding
    """

    max_ngram: int = static(3)

    is_free = True  # drafts take no time: they are made in all steps, so as to see whether they would be right
    prior = 1.0, 2.0  # before anything is seen: so many drafts were right, of so many

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_ngram", as_integer("max_ngram", self.max_ngram, 1))

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> tuple:
        """The drafter's state: none."""
        return ()

    def draft(
        self, memory: Any, state: GenerationState, sampler: "SpeculativeSampler", context: Context, num_drafts: int
    ) -> tuple[Tensor, Any]:
        """(drafts int32 (R, num_drafts), memory)."""
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
        return ops.maximum(guesses, 0), memory

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

    is_free = False
    prior = 3.2, 4.0  # who brings a draft model trusts it

    def begin(self, state: GenerationState, context: Context, num_drafts: int) -> DecodingState:
        """The drafter's state: the draft model's `DecodingState` after the prefill."""
        num_rows, length = ops.shape(state.tokens)
        num_prompts = size(context.prompts, 0)
        slots = slots_needed(num_rows, length - context.num_prompt, max(num_drafts, _TOKENS_AT_ONCE - 1))
        token_ids, mask, memory = self.model.begin(ops.maximum(context.prompts, 0), context.prompts >= 0, slots)
        _, memory = self.model.read(token_ids, memory, mask)
        return memory.reorder(ops.repeat(ops.arange(num_prompts, dtype="int32"), num_rows // num_prompts))

    def draft(
        self, memory: Any, state: GenerationState, sampler: "SpeculativeSampler", context: Context, num_drafts: int
    ) -> tuple[Tensor, Any]:
        """(drafts int32 (R, num_drafts), memory). The last one is read as well: the cache has all that may be kept."""
        memory, drafts = self._with_what_was_written(memory, state, context), []
        token, state = newest_tokens(state, context.num_prompt), state._replace(memory=(), log_probs=())
        for _ in range(num_drafts):
            logits, memory = self._read(token, memory)
            token = sampler.next_token(logits, state, context)[0]
            drafts.append(token)
            state = write_token(state, sampler.processors, token, logits, context)
        _, memory = self._read(token, memory)
        return ops.stack(drafts, axis=1), memory

    def settle(self, memory: Any, num_read: int | Tensor, kept: Tensor) -> Any:
        """The memory after `kept` (R,) of the `num_read` newest tokens were accepted: rewound behind them."""
        return memory.keep(memory.num_tokens - num_read + kept)

    def _with_what_was_written(self, memory, state, context):
        """The memory with all tokens but the newest one: those of steps without drafts were not read yet."""
        is_prompt = ops.arange(size(state.tokens, 1), dtype="int32")[None] < context.num_prompt
        num_prompt = ops.sum(ops.cast(ops.logical_and(is_prompt, state.tokens >= 0), "int32"), axis=1)
        num_known = ops.where(state.finish == 0, num_prompt + state.num_tokens - 1, 0)
        begun, ahead = memory, ops.arange(_TOKENS_AT_ONCE, dtype="int32")[None]

        def is_behind(memory):
            return ops.any(memory.num_tokens < num_known)

        def read_more(merged):
            memory = split_heads(merged, like=begun)
            places = memory.num_tokens[:, None] + ahead
            mask = places < num_known[:, None]
            columns = ops.where(mask, context.num_prompt + places - num_prompt[:, None], 0)
            token_ids = ops.maximum(ops.take_along_axis(state.tokens, columns, axis=1), 0)
            _, memory = self.model.read(token_ids, memory, mask)
            return (merge_heads(memory.keep(memory.num_tokens)),)  # padding's slots are free again

        return split_heads(ops.while_loop(is_behind, read_more, (merge_heads(memory),))[0], like=begun)

    def _read(self, token, memory):
        hidden, memory = self.model.read(token[:, None], memory)
        return ops.cast(self.model.project(hidden)[:, 0], "float32"), memory


@dataclasses.dataclass(frozen=True)
class SpeculativeSampler(Sampler):
    """The text that `rule` alone would give, faster where drafts are good: the model verifies several in one pass.

    The rule chooses each token, by the logits and draws of its place; drafts are kept as long as they are what it
    chooses. So any rule writes what it writes alone, and a draft model, which chooses by the same rule and draws, is
    right as often as the two models agree.

    A pass over drafts takes longer than one over a single token, so drafts are read only while more of them are right
    than that costs. `generate` measures the cost when a loop is compiled; a SavedModel reckons with `USUAL_COST`.
    Meanwhile prompt lookup goes on to draft, since that is free, and sees when its drafts are right again; a draft
    model is asked now and then.

    Args:
        processors, seed: as in `Sampler`; the draft model's logits pass them, too.
        drafter: `PromptLookup` or `DraftModel`.
        rule: `GreedySampler`, `RandomSampler`, or your own that chooses token by token; without processors.
        num_drafts: int >= 1, drafts in each step.

    Example:
        >>> SpeculativeSampler(drafter=PromptLookup())
        >>> SpeculativeSampler([Temperature(0.8)], drafter=DraftModel(small_model), rule=RandomSampler())

    References:
        Leviathan et al. 2022, "Fast Inference from Transformers via Speculative Decoding",
        https://arxiv.org/abs/2211.17192
        Daliri et al. 2024, "Coupling without Communication and Drafter-Invariant Speculative Decoding", whose draws
        these are, https://arxiv.org/abs/2408.07978
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

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        return self.rule.choose(logits, random)

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        num_right, num_checked = (ops.zeros_like(state.num_tokens, "float32") + x for x in self.drafter.prior)
        drafter, zero = self.drafter.begin(state, context, self.num_drafts), ops.zeros((), "int32")
        return state._replace(memory=SpeculativeMemory((), (), drafter, num_right, num_checked, zero, zero))

    def proposers(self) -> tuple[Callable, ...]:
        return self.propose, self._propose_newest

    def next_proposer(self, state: GenerationState, context: Context) -> Tensor:
        memory = state.memory
        expected = chance = ops.ones_like(memory.num_right)
        for _ in range(self.num_drafts):
            chance = chance * memory.num_right / memory.num_checked
            expected = expected + chance
        # The row that ends last decides: others gain nothing for all by being ahead.
        left = ops.cast(ops.where(state.finish == 0, context.max_new_tokens - state.num_tokens, 0), "float32")
        pays = context.draft_cost * ops.max(left / expected) < ops.max(left)
        if not self.drafter.is_free:
            is_due = ops.cast(memory.num_plain, "float32") >= _PAUSE * (context.draft_cost - 1.0)
            pays = ops.logical_or(pays, is_due)
        return ops.where(pays, 0, 1)

    def propose(self, state: GenerationState, context: Context) -> tuple[Tensor, GenerationState]:
        memory = state.memory
        drafts, drafter = self.drafter.draft(memory.drafter, state, self, context, self.num_drafts)
        token_ids = ops.concatenate([newest_tokens(state, context.num_prompt)[:, None], drafts], axis=1)
        memory = memory._replace(
            drafts=drafts, drafter=drafter, num_drafted=memory.num_drafted + 1, num_plain=ops.zeros((), "int32")
        )
        return token_ids, state._replace(memory=memory)

    def _propose_newest(self, state, context):
        memory = state.memory._replace(num_plain=state.memory.num_plain + 1)
        if self.drafter.is_free:
            drafts, drafter = self.drafter.draft(memory.drafter, state, self, context, 1)
            memory = memory._replace(foreseen=drafts, drafter=drafter)
        return newest_tokens(state, context.num_prompt)[:, None], state._replace(memory=memory)

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        memory = state.memory
        num_drafts = self.num_drafts if tree.flatten(memory.drafts) else 0
        guesses = [x[:, i] for x in (memory.drafts, memory.foreseen) if tree.flatten(x) for i in range(x.shape[1])]
        state = state._replace(memory=())
        is_active = state.finish == 0
        kept = ops.cast(is_active, "int32")
        num_right = num_checked = ops.zeros_like(memory.num_right)
        for i in range(num_drafts + 1):
            token, shaped = self.next_token(logits[:, i], state, context)
            state = write_token(state, self.processors, token, logits[:, i], context, shaped, writes=is_active)
            if i < len(guesses):
                num_checked = num_checked + ops.cast(is_active, "float32")
                is_active = ops.logical_and(is_active, guesses[i] == token)
                num_right = num_right + ops.cast(is_active, "float32")
            if i < num_drafts:
                is_active = ops.logical_and(is_active, state.finish == 0)
                kept = kept + ops.cast(is_active, "int32")
        fading = ops.where(num_checked > 0, _MEMORY, 1.0)
        memory = memory._replace(
            drafts=(),
            foreseen=(),
            num_right=fading * memory.num_right + num_right,
            num_checked=fading * memory.num_checked + num_checked,
        )
        if num_drafts == 0:
            return state._replace(memory=memory), Change()
        memory = memory._replace(drafter=self.drafter.settle(memory.drafter, num_drafts + 1, kept))
        return state._replace(memory=memory), Change(kept=kept)


def slots_needed(num_rows: Tensor, max_new_tokens: int | Tensor, num_drafts: int) -> int | Tensor:
    """Slots of a KV cache that is rewound to the row that accepted most: rows that accepted less leave gaps.

    Each row keeps at most `max_new_tokens` tokens and one step's surplus; a step uses at most num_drafts + 1 slots.
    """
    if isinstance(num_rows, int) and isinstance(max_new_tokens, int):
        used = min(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    else:
        used = ops.minimum(num_rows * (max_new_tokens + num_drafts), (num_drafts + 1) * max_new_tokens)
    return used + num_drafts + 1
