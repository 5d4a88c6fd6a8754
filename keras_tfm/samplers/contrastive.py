"""Contrastive search: likely tokens whose hidden states differ from those before."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_tfm.arguments import as_integer, require
from keras_tfm.ops.tensors import slice_update, take_rows
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.state import Change, Context, GenerationState, is_banned, write_token
from keras_tfm.types import Tensor


class ContrastiveMemory(NamedTuple):
    """The state of contrastive search for its R rows, k candidates for each prompt.

    history: float32 (R, L, D), hidden states of the tokens so far at length 1, zeros where there is none; the same for
    all rows of a prompt. candidates: int32 (R,), the token that each row tries; logits: float32 (R, V), the model's
    logits that it was among the best of; shaped: the same after the processors.
    """

    history: Any
    candidates: Any
    logits: Any
    shaped: Any


@dataclasses.dataclass(frozen=True)
class ContrastiveSampler(Sampler):
    """Of the `top_k` likeliest tokens the one with the greatest (1 - alpha) p - alpha (greatest likeness to the past).

    Likeness is the cosine of the model's final hidden state, read with the token, and those of all tokens before. The
    model reads all `top_k` candidates of each step side by side.

    Args:
        processors, seed: as in `Sampler`; nothing is drawn.
        top_k: int >= 1, candidates.
        alpha: float in [0, 1]; 0 is greedy.

    Example:
        >>> model.generate(prompts, sampler=ContrastiveSampler(top_k=4, alpha=0.6))

    Reference: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 3.2,
    https://arxiv.org/abs/2202.06417
    """

    top_k: int = static(4)
    alpha: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "top_k", as_integer("top_k", self.top_k, 1))
        require(0 <= self.alpha <= 1, "`alpha` must be at least 0 and at most 1", alpha=self.alpha)
        object.__setattr__(self, "alpha", float(self.alpha))

    def check_model(self, model: Any) -> None:
        require(
            self.top_k <= model.vocabulary_size,
            "`top_k` must be at most the size of the model's vocabulary",
            top_k=self.top_k,
            vocabulary_size=model.vocabulary_size,
        )

    def rows_per_prompt(self, num_return_sequences: int) -> int:
        require(
            num_return_sequences == 1,
            "Contrastive search gives one text for a prompt",
            num_return_sequences=num_return_sequences,
        )
        return self.top_k

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        num_rows, length = ops.shape(state.tokens)
        # The hidden states of a cached prefix are gone: the past begins with this prompt.
        start = context.num_prompt - ops.shape(hidden)[1]
        real = _unit(hidden) * ops.cast(padding_mask, "float32")[..., None]
        history = slice_update(ops.zeros((num_rows, length, hidden.shape[-1]), "float32"), (0, start, 0), real)
        memory = ContrastiveMemory(
            history=history,
            candidates=ops.zeros((num_rows,), "int32"),
            logits=(),
            shaped=(),
        )
        return state._replace(memory=memory)

    def propose(self, state: GenerationState, context: Context) -> tuple[Tensor, GenerationState]:
        return state.memory.candidates[:, None], state

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        logits = logits[:, -1]
        parents = ops.arange(ops.shape(logits)[0], dtype="int32")
        if isinstance(state.memory.logits, tuple):  # the prompt's logits: there is nothing to decide on yet
            return self._try_best(state, logits, state.memory), Change()
        state, parents = self._decide(state, hidden[:, -1], context)
        memory = state.memory
        return self._try_best(state, ops.take(logits, parents, axis=0), memory), Change(parents=parents)

    def _decide(self, state, hidden, context):
        """Appends the best candidate of each prompt to all its rows: (state, the rows that had it, int32 (R,))."""
        memory, width = state.memory, self.top_k
        probability = ops.take_along_axis(ops.softmax(memory.shaped, axis=-1), memory.candidates[:, None], axis=1)[:, 0]
        unit = _unit(hidden)
        is_real = ops.any(memory.history != 0, axis=-1)  # (R, L)
        likeness = ops.where(is_real, ops.einsum("rd,rld->rl", unit, memory.history), -1.0)
        score = (1.0 - self.alpha) * probability - self.alpha * ops.max(likeness, axis=1)
        # Where fewer tokens are allowed than there are candidates, some of these are banned: none of them is chosen
        # before an allowed one.
        shaped = ops.take_along_axis(memory.shaped, memory.candidates[:, None], axis=1)[:, 0]
        score = ops.where(is_banned(shaped), -np.inf, score)
        best = ops.cast(ops.argmax(ops.reshape(score, (-1, width)), axis=1), "int32")  # (B,)
        first_rows = ops.arange(ops.shape(best)[0], dtype="int32") * width
        parents = ops.repeat(first_rows + best, width)  # (R,)

        token = ops.take(memory.candidates, parents)
        place = context.num_prompt + state.num_tokens
        columns = ops.arange(ops.shape(memory.history)[1], dtype="int32")[None]
        here = ops.logical_and(columns == place[:, None], (state.finish == 0)[:, None])
        history = ops.where(here[..., None], ops.take(unit, parents, axis=0)[:, None], memory.history)
        state = write_token(state._replace(memory=()), self.processors, token, memory.logits, context, memory.shaped)
        return state._replace(memory=memory._replace(history=history)), parents

    def _try_best(self, state, logits, memory):
        """The state with the next candidates."""
        shaped = self.process(logits, state.tokens, state.num_tokens[:, None], state.processor_states)
        _, ids = ops.top_k(shaped, self.top_k)  # (R, k), alike in the rows of a prompt
        place = ops.arange(ops.shape(shaped)[0], dtype="int32") % self.top_k
        candidates = ops.take_along_axis(ops.cast(ids, "int32"), place[:, None], axis=1)[:, 0]
        return state._replace(memory=memory._replace(candidates=candidates, logits=logits, shaped=shaped))

    def answer(
        self, state: GenerationState, num_return_sequences: int, context: Context
    ) -> tuple[GenerationState, Tensor]:
        rows = ops.arange(ops.shape(state.num_tokens)[0] // self.top_k, dtype="int32") * self.top_k
        state = take_rows(state._replace(memory=()), rows)
        return state, ops.zeros(ops.shape(rows), "float32")


def _unit(x):
    """Vectors at length 1, float32."""
    x = ops.cast(x, "float32")
    return x / ops.maximum(ops.norm(x, axis=-1, keepdims=True), 1e-12)
