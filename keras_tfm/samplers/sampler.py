"""Samplers and logits processors: how the next token is chosen from logits, and what shapes the logits before.

Processors are pure, fixed-shape functions (B, V) -> (B, V), applied in the order given. Each is a frozen dataclass
called with `logits` (float32, (B, V)), `tokens` (int32 (B, L): prompt and new tokens, -1 where there is none) and
`step` (int32 (B, 1): how many new tokens each row has). A token that must not come gets `BANNED`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.arguments import as_integer
from keras_tfm.samplers.state import (
    BANNED,
    Change,
    Context,
    GenerationState,
    StepRandom,
    is_banned,
    newest_tokens,
    write_token,
)
from keras_tfm.types import Tensor


class Processor:
    """Base class of processors: a frozen dataclass with `__call__(logits, tokens, step) -> logits`."""

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(logits, tokens, step)`.")


class StatefulProcessor(Processor):
    """A processor with a state for each row, for example the state of a grammar's automaton.

    It is called with one more argument, `state`, and defines how the state advances.
    """

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor, state: Any) -> Tensor:  # type: ignore[override]
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(logits, tokens, step, state)`.")

    def start(self, num_rows: Tensor) -> Any:
        """The state of rows without new tokens: tensors (or tuples of them) with `num_rows` rows."""
        raise NotImplementedError(f"{type(self).__name__} must define `start(num_rows)`.")

    def advance(self, state: Any, token: Tensor) -> Any:
        """The state after each row has been given a token, int32 (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define `advance(state, token)`.")

    def ending_at(self, token_ids: Tensor) -> "StatefulProcessor":
        """The processor for a generation with these stop tokens, a tuple of ids. Default: itself."""
        return self

    def is_complete(self, state: Any) -> Tensor:
        """bool (B,): rows that are complete, since no token may follow. Default: none."""
        return ops.zeros(ops.shape(tree.flatten(state)[0])[:1], "bool")


class Way(NamedTuple):
    """One kind of decoding step.

    is_next: a function of the `GenerationState` that says, bool (), whether the next step is of this kind. propose: a
    function of state and `Context` -> (tokens that the model reads, int32 (R, T), state).
    """

    is_next: Callable
    propose: Callable


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Base class: override `choose`. A sampler is a frozen dataclass; its fields are its settings.

    Numbers among the fields (int, float, tuples of them) become tensors inside the compiled loop, so that changing
    them never compiles anew; write `choose` with `keras.ops`, not with Python's `if`, wherever they take part.

    Args:
        processors: `Processor`s, applied to the logits in this order before `choose`.
        seed: int, the default seed of `generate`. Default: a fresh one for each call.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class BestOrSecond(Sampler):
        ...     best: float = 0.9
        ...     def choose(self, logits, random):
        ...         _, ids = ops.top_k(logits, 2)
        ...         return ops.where(random.uniform() < self.best, ids[:, 0], ids[:, 1])
    """

    processors: tuple[Processor, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        processors = self.processors
        if self.seed is not None:
            object.__setattr__(self, "seed", as_integer("seed", self.seed, -(2**31)))
        object.__setattr__(self, "processors", (processors,) if callable(processors) else tuple(processors))
        strangers = [p for p in self.processors if not isinstance(p, Processor) or not dataclasses.is_dataclass(p)]
        if strangers:
            raise TypeError(f"`processors` must be dataclasses derived from `Processor`. Received: {strangers}.")

    def check_model(self, model: Any) -> None:
        """Raises ValueError if it cannot generate with this `CausalLM`; called before any work."""

    def process(self, logits: Tensor, tokens: Tensor, step: Tensor, states: Any = None) -> Tensor:
        """Applies all processors to the logits; arguments as in `Processor`, `states` one for each, () if stateless.

        What one processor bans no later one brings back.
        """
        banned = is_banned(logits)
        for i, processor in enumerate(self.processors):
            if isinstance(processor, StatefulProcessor):
                logits = processor(logits, tokens, step, states[i])
            else:
                logits = processor(logits, tokens, step)
            banned = ops.logical_or(banned, is_banned(logits))
            logits = ops.where(banned, BANNED, logits)
        return logits

    def ending_at(self, token_ids: Tensor) -> "Sampler":
        """The sampler for a generation with these stop tokens: grammars allow them only where a text may end."""
        processors = tuple(p.ending_at(token_ids) if isinstance(p, StatefulProcessor) else p for p in self.processors)
        return self if processors == self.processors else dataclasses.replace(self, processors=processors)

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        """The next token of each row.

        Args:
            logits: float32 (B, V), after the processors.
            random: `StepRandom` with `uniform()` (B,), `uniform(n)` (B, n) and `gumbel(n)` (B, n).

        Returns:
            int (B,) ids in [0, V).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `choose(logits, random)`.")

    # The hooks of the generation loop. Samplers that choose one token from one row of logits need none of them; those
    # that keep several hypotheses (beams) or propose several tokens (speculation) override them.

    streams = True  # whether tokens are final as soon as they are appended

    def timed(self, pass_cost: Callable[[], float]) -> "Sampler":
        """The sampler for where it runs; `pass_cost` measures what a step of its other way costs in steps of one token.

        Default: itself.
        """
        return self

    def rows_per_prompt(self, num_return_sequences: int) -> int:
        """How many rows (sequences, beams, candidates) are generated for each prompt."""
        return num_return_sequences

    def room(self, num_rows: Tensor, max_new_tokens: int | Tensor) -> tuple[int | Tensor, int | Tensor]:
        """(columns for new tokens, cache slots for them): int or int32 ()."""
        return max_new_tokens, max_new_tokens

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        """Prepares `memory`, before the first `advance`.

        Args:
            state: with empty `memory`.
            hidden: float (R, P, D), the model's states of the prompt. padding_mask: bool (R, P).
            context: of the generation.
        """
        return state

    def ways(self, context: Context) -> tuple[Way, ...]:
        """The kinds of steps, of which `plan` chooses where there are several, so that the loop has code for each.

        Each is a loop of its own inside of the loop: there caches are written in place.
        """
        return (Way(lambda state: ops.ones((), "bool"), self.propose),)

    def plan(self, state: GenerationState, context: Context) -> GenerationState:
        """Decides of which way the next steps are; its caches are merged (`merge_heads`) and not to be touched."""
        return state

    def propose(self, state: GenerationState, context: Context) -> tuple[Tensor, GenerationState]:
        """The tokens that the model reads next, int32 (R, T), and the state: the newest token of each row."""
        return newest_tokens(state, context.num_prompt)[:, None], state

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        """Appends tokens to the rows, given the logits of what was proposed.

        Args:
            state: after `propose`.
            logits: float32 (R, T, V) and hidden: float (R, T, D), of the tokens proposed (at first: T = 1, of the
                prompt's last token).
            context: of the generation.
        """
        logits = logits[:, -1]
        shaped = self.process(logits, state.tokens, state.num_tokens[:, None], state.processor_states)
        token = allowed_choice(self.choose(shaped, context.random(state)), shaped)
        return write_token(state, self.processors, token, logits, context, shaped), Change()

    def answer(
        self, state: GenerationState, num_return_sequences: int, context: Context
    ) -> tuple[GenerationState, Tensor]:
        """(state, scores float32 (R,)) of the rows to return, `num_return_sequences` for each prompt, best first."""
        return state, ops.zeros(ops.shape(state.num_tokens), "float32")


def allowed_choice(token: Tensor, shaped: Tensor) -> Tensor:
    """int32 (R,): the tokens chosen, and the likeliest one where a custom sampler chose one that is banned."""
    token = ops.cast(token, "int32")
    places = ops.clip(token, 0, shaped.shape[-1] - 1)[:, None]
    chosen = ops.take_along_axis(shaped, places, axis=1)[:, 0]
    return ops.where(is_banned(chosen), ops.cast(ops.argmax(shaped, axis=-1), "int32"), token)


@dataclasses.dataclass(frozen=True)
class GreedySampler(Sampler):
    """The most likely token; of equally likely ones the first.

    Args:
        processors, seed: as in `Sampler`.
    """

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        return ops.argmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class RandomSampler(Sampler):
    """A draw from softmax(logits).

    Args:
        processors, seed: as in `Sampler`.

    Example:
        >>> RandomSampler([RepetitionPenalty(1.1), Temperature(0.8), TopP(0.95)], seed=7)
    """

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        return ops.argmax(logits + random.gumbel(logits.shape[-1]), axis=-1)
