"""Speculative decoding: cheap guesses, which the model checks several at a time wherever that pays."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.ops.tensors import size
from keras_tfm.samplers.drafters import DraftModel, PromptLookup, slots_needed
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import GreedySampler, Sampler, Way, allowed_choice
from keras_tfm.samplers.state import Change, Context, GenerationState, StepRandom, newest_tokens, write_token
from keras_tfm.types import Tensor

# What a pass over guesses costs, in plain steps, where nobody has measured it.
TYPICAL_PASS_COST = 2.0
# The share of the newest guess in the mean of what guesses gain.
_NEWEST = 0.25
# What a trial of a draft model in vain may cost of the time that is spent without it afterwards.
_TRIAL_SHARE = 1 / 32
# Tokens that are written without a draft model at most before it is tried again.
_LONGEST_PAUSE = 2**20


class SpeculativeMemory(NamedTuple):
    """What guesses have gained, and what is done next.

    drafts: int32 (R, k), the newest guesses, -1 = none. num_before: int32 (R,), new tokens when they were made.
    kinds: int32 (R,), of which kind they are. gains: float32 (R, kinds), right guesses of each, a mean that forgets.
    is_pass: bool (), whether the next step checks guesses. num_plain: int32 (), steps without before the next decision.
    pause: int32 (), how many there will be when a drafter that costs something does not pay. drafter: its own memory.
    """

    drafts: Any
    num_before: Any
    kinds: Any
    gains: Any
    is_pass: Any
    num_plain: Any
    pause: Any
    drafter: Any


@dataclasses.dataclass(frozen=True)
class SpeculativeSampler(Sampler):
    """The text that `rule` alone writes, faster where guesses are good: the model checks several in one pass.

    Each token is the rule's own choice, by the same draw; a guess only decides how many of them one pass gives. So the
    text is the one of the rule with the same seed, whoever guesses and however often.

    A pass over several tokens costs more than a step with one. So the sampler keeps the mean of how many guesses were
    right, for each row and, by `PromptLookup`, for each length of the match; where that is less than a pass costs, it
    writes without. `PromptLookup` goes on guessing meanwhile, which is free, and sees from the text when it would
    pay again. A `DraftModel` is tried again when a trial costs 3 % of the time since the last, and after each trial in
    vain half as often.

    Args:
        processors, seed: as in `Sampler`.
        drafter: `PromptLookup` or `DraftModel`.
        rule: `GreedySampler`, `RandomSampler` or your own; without processors.
        num_drafts: int >= 1, guesses in each pass.
        pass_cost: float >= 0, the time of a pass, guessing included, in steps of one token; 0: always guess. Default:
            measured where it is compiled, by `generate` for each bucket of sizes, by `export` for one row.

    Example:
        >>> SpeculativeSampler(drafter=PromptLookup())
        >>> SpeculativeSampler([Temperature(0.8)], drafter=DraftModel(small_model), rule=RandomSampler())

    Reference: Leviathan et al. 2022, "Fast Inference from Transformers via Speculative Decoding",
    https://arxiv.org/abs/2211.17192; that both models draw with the same noise, so that no text hangs on the drafter:
    Daliri et al. 2024, "Coupling without Communication and Drafter-Invariant Speculative Decoding",
    https://arxiv.org/abs/2408.07978
    """

    drafter: PromptLookup | DraftModel = dataclasses.field(default_factory=PromptLookup)
    rule: Sampler = dataclasses.field(default_factory=GreedySampler)
    num_drafts: int = static(4)
    pass_cost: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_drafts", as_integer("num_drafts", self.num_drafts, 1))
        if self.pass_cost is not None:
            object.__setattr__(self, "pass_cost", number_of("pass_cost", self.pass_cost))
            require(self.pass_cost >= 0, "`pass_cost` must be at least 0", pass_cost=self.pass_cost)
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

    def timed(self, pass_cost: Callable[[], float]) -> "SpeculativeSampler":
        return self if self.pass_cost is not None else dataclasses.replace(self, pass_cost=pass_cost())

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        return self.rule.choose(logits, random)

    def room(self, num_rows: Tensor, max_new_tokens: int | Tensor) -> tuple[int | Tensor, int | Tensor]:
        return max_new_tokens, slots_needed(num_rows, max_new_tokens, self.num_drafts)

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        num_rows = size(state.num_tokens, 0)
        none = ops.zeros_like(state.num_tokens)
        gains = [0.0] * (self.drafter.num_kinds - 1) + [self.drafter.trust * self.num_drafts]
        memory = SpeculativeMemory(
            drafts=ops.full((num_rows, self.num_drafts), -1, dtype="int32"),
            num_before=none,
            kinds=none,
            gains=ops.repeat(ops.convert_to_tensor([gains], dtype="float32"), num_rows, axis=0),
            is_pass=ops.zeros((), "bool"),
            num_plain=ops.zeros((), "int32"),
            pause=self._first_pause(),
            drafter=self.drafter.begin(state, context, self.num_drafts),
        )
        return state._replace(memory=memory)

    def ways(self, context: Context) -> tuple[Way, ...]:
        return (
            Way(lambda state: state.memory.num_plain > 0, self.propose),
            Way(lambda state: state.memory.is_pass, self._guess),
        )

    def plan(self, state: GenerationState, context: Context) -> GenerationState:
        """Learns what the newest guesses gained, once the text tells, and decides whether the next are checked."""
        memory = state.memory
        gains = self._learned(memory, state, context)
        drafts, kinds = self.drafter.look(state, context, self.num_drafts)
        expected = ops.take_along_axis(gains, kinds[:, None], axis=1)[:, 0]
        is_active = ops.cast(state.finish == 0, "float32")
        expected = ops.sum(expected * is_active) / ops.maximum(ops.sum(is_active), 1.0)
        cost = self._cost()
        is_pass, num_plain, pause = 1.0 + expected > cost, self.num_drafts, memory.pause
        if not self.drafter.is_free:
            # After a pause nobody knows whether it would pay by now, if it ever can.
            is_trial = ops.logical_and(ops.max(memory.drafts) < 0, self.num_drafts + 1.0 > cost)
            num_plain = pause
            longer = ops.minimum(2 * pause, _LONGEST_PAUSE)
            pause = ops.where(is_pass, self._first_pause(), ops.where(is_trial, pause, longer))
            is_pass = ops.logical_or(is_pass, is_trial)
        num_plain = ops.where(is_pass, 0, num_plain)
        planned = memory._replace(
            drafts=drafts,
            num_before=state.num_tokens,
            kinds=kinds,
            gains=gains,
            is_pass=is_pass,
            num_plain=num_plain,
            pause=pause,
            drafter=(),
        )
        is_due = memory.num_plain <= 0  # not where a stream has stopped on the way
        planned = tree.map_structure(
            lambda new, old: ops.where(is_due, ops.cast(new, old.dtype), old), planned, memory._replace(drafter=())
        )
        return state._replace(memory=planned._replace(drafter=memory.drafter))

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        memory, state = state.memory, state._replace(memory=())
        if logits.shape[1] == 1:
            state, change = super().advance(state, logits, hidden, context)
            return state._replace(memory=memory._replace(num_plain=ops.maximum(memory.num_plain - 1, 0))), change
        is_active = state.finish == 0
        kept = ops.cast(is_active, "int32")
        for i in range(self.num_drafts + 1):
            shaped = self.process(logits[:, i], state.tokens, state.num_tokens[:, None], state.processor_states)
            token = allowed_choice(self.choose(shaped, context.random(state)), shaped)
            state = write_token(state, self.processors, token, logits[:, i], context, shaped, writes=is_active)
            if i < self.num_drafts:
                is_right = ops.logical_and(token == memory.drafts[:, i], state.finish == 0)
                is_active = ops.logical_and(is_active, is_right)
                kept = kept + ops.cast(is_active, "int32")
        drafter = self.drafter.settle(memory.drafter, self.num_drafts + 1, kept)
        memory = memory._replace(is_pass=ops.zeros_like(memory.is_pass), drafter=drafter)
        return state._replace(memory=memory), Change(kept=kept)

    def _cost(self):
        return TYPICAL_PASS_COST if self.pass_cost is None else self.pass_cost

    def _first_pause(self):
        """int32 (): tokens written without a draft model after the first trial in vain."""
        pause = ops.maximum((self._cost() - 1.0) / _TRIAL_SHARE, 1.0)
        return ops.cast(ops.minimum(pause, float(_LONGEST_PAUSE)), "int32")

    def _guess(self, state, context):
        """The tokens that the model reads in a pass, (R, k + 1), and the state: the newest ones and guesses."""
        memory = state.memory
        drafts, drafter = self.drafter.draft(memory.drafter, memory.drafts, state, self, context)
        token_ids = ops.concatenate([newest_tokens(state, context.num_prompt)[:, None], ops.maximum(drafts, 0)], axis=1)
        return token_ids, state._replace(memory=memory._replace(drafts=drafts, drafter=drafter))

    def _learned(self, memory, state, context):
        """The mean gains, with that of the newest guesses: how many of them the text begins with since then."""
        ahead = ops.arange(self.num_drafts, dtype="int32")[None]
        places = (context.num_prompt + memory.num_before)[:, None] + ahead
        columns = size(state.tokens, 1)
        written = ops.take_along_axis(state.tokens, ops.clip(places, 0, columns - 1), axis=1)
        is_right = ops.logical_and(written == memory.drafts, ops.logical_and(memory.drafts >= 0, places < columns))
        gained = ops.sum(ops.cumprod(ops.cast(is_right, "float32"), axis=1), axis=1, keepdims=True)  # (R, 1)
        is_kind = ops.arange(self.drafter.num_kinds, dtype="int32")[None] == memory.kinds[:, None]
        is_known = ops.logical_and(is_kind, memory.drafts[:, :1] >= 0)
        return ops.where(is_known, memory.gains + _NEWEST * (gained - memory.gains), memory.gains)
