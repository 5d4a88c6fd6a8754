"""Beam search: the likeliest whole texts, followed side by side."""

import dataclasses
from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.ops.tensors import take_rows
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.state import (
    BANNED,
    COMPLETE,
    IMPOSSIBLE,
    INVALID,
    TIME,
    Change,
    Context,
    GenerationState,
    is_banned,
    write_token,
)
from keras_tfm.types import Tensor

# Lower than any sum of log-probabilities that matters, higher than BANNED.
NOT_YET = -1e9
# Texts that score less are none: of a beam that was never there, or with a token that is banned.
_NO_TEXT = 0.5 * NOT_YET


class BeamMemory(NamedTuple):
    """The state of beam search for its R rows, W beams for each prompt.

    scores: float32 (R,), the sum of log-probabilities of the running beam. done_tokens (R, L), done_num_tokens,
    done_scores, done_finish (R,): the best W finished texts of each prompt, best first, with their scores per
    length^penalty; `NOT_YET` where there is none. improvable: bool (R,), whether a beam may still beat them.
    """

    scores: Any
    done_tokens: Any
    done_num_tokens: Any
    done_scores: Any
    done_finish: Any
    improvable: Any


@dataclasses.dataclass(frozen=True)
class BeamSampler(Sampler):
    """The likeliest texts as a whole: at each step the best `num_beams` beginnings of each prompt go on.

    A text that ends is set aside with its score, the sum of its log-probabilities / (number of tokens, the stop token
    counted)^length_penalty; the best are returned, best first. Where fewer texts exist than are asked for, the rest is
    empty, with the finish reason "impossible" and a score of -1e9. Sequences and scores equal those of Hugging Face's
    `generate(num_beams=...)`. Processors see log-probabilities, as there.

    Args:
        processors, seed: as in `Sampler`; nothing is drawn.
        num_beams: int >= 1.
        length_penalty: float; above 0 favours long texts, below 0 short ones, 0 compares sums.
        early_stopping: True ends a prompt once `num_beams` texts have ended; False when the best beam, at its present
            length, scores no better than the worst of them; "never" when no length could make it do so.

    Example:
        >>> model.generate(prompts, sampler=BeamSampler(num_beams=4, length_penalty=0.6), num_return_sequences=2)

    Reference: Wu et al. 2016, "Google's Neural Machine Translation System", section 7,
    https://arxiv.org/abs/1609.08144
    """

    num_beams: int = static(4)
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    streams = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_beams", as_integer("num_beams", self.num_beams, 1))
        require(
            self.early_stopping in (True, False, "never"),
            '`early_stopping` must be True, False or "never"',
            early_stopping=self.early_stopping,
        )
        object.__setattr__(self, "length_penalty", number_of("length_penalty", self.length_penalty))

    @property
    def group_size(self) -> int:
        """Beams that are compared with each other."""
        return self.num_beams

    def rows_per_prompt(self, num_return_sequences: int) -> int:
        require(
            num_return_sequences <= self.num_beams,
            "`num_return_sequences` must be at most `num_beams`",
            num_return_sequences=num_return_sequences,
            num_beams=self.num_beams,
        )
        return self.num_beams

    def begin(self, state: GenerationState, hidden: Tensor, padding_mask: Tensor, context: Context) -> GenerationState:
        num_rows = ops.shape(state.num_tokens)[0]
        # The beams of a prompt are equal at first: only one of each group counts.
        is_first = ops.arange(num_rows, dtype="int32") % self.group_size == 0
        memory = BeamMemory(
            scores=ops.where(is_first, 0.0, NOT_YET),
            done_tokens=ops.full(ops.shape(state.tokens), -1, dtype="int32"),
            done_num_tokens=ops.zeros((num_rows,), "int32"),
            done_scores=ops.full((num_rows,), NOT_YET, dtype="float32"),
            done_finish=ops.zeros((num_rows,), "int32"),
            improvable=ops.ones((num_rows,), "bool"),
        )
        return state._replace(memory=memory)

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        logits = logits[:, -1]
        state, parents = self.search(state, logits, self.log_likelihoods(state, logits), context)
        return state, Change(parents=parents)

    def log_likelihoods(self, state: GenerationState, logits: Tensor) -> Tensor:
        """float32 (R, V): log-probabilities after the processors."""
        logs = ops.log_softmax(logits, axis=-1)
        return self.process(logs, state.tokens, state.num_tokens[:, None], state.processor_states)

    def search(
        self, state: GenerationState, logits: Tensor, logs: Tensor, context: Context
    ) -> tuple[GenerationState, Tensor]:
        """One step of beam search: (state, parents int32 (R,)).

        B prompts with W beams each are R = B * W rows; each prompt has C candidates, numbered parent * V + token.
        """
        width, vocabulary_size = self.group_size, logits.shape[-1]
        num_rows = ops.shape(logits)[0]  # R
        memory, state = state.memory, state._replace(memory=())
        totals = memory.scores[:, None] + logs  # (R, V)
        first_rows = ops.arange(num_rows // width, dtype="int32")[:, None] * width  # (B, 1)

        def write(candidates):
            """The states of candidates int32 (B, C), in B * C rows, and the rows of their parents."""
            parents = ops.reshape(first_rows + candidates // vocabulary_size, (-1,))  # (B * C,)
            token = ops.reshape(candidates % vocabulary_size, (-1,))  # (B * C,)
            rows = ops.take(logits, parents, axis=0)  # (B * C, V)
            return write_token(take_rows(state, parents), self.processors, token, rows, context), parents

        # Only the best `width` candidates may end; the next best are there so that enough beams go on.
        flat_totals = ops.reshape(totals, (-1, width * vocabulary_size))  # (B, W * V)
        endings = ops.reshape(self.ending_order(state, totals, context), ops.shape(flat_totals))  # (B, W * V)
        _, best = ops.top_k(endings, width)  # (B, W)
        best_scores = ops.take_along_axis(flat_totals, best, axis=1)  # (B, W)
        ended, _ = write(ops.cast(best, "int32"))  # B * W rows
        ids = ops.arange(vocabulary_size, dtype="int32")
        is_stop = ops.any(ids[:, None] == context.stops.token_ids[None], axis=-1)  # (V,)
        going_on = ops.reshape(ops.where(is_stop, BANNED, totals), (-1, width * vocabulary_size))  # (B, W * V)
        scores, candidates = self.candidates(state, going_on, context)  # (B, C)
        written, parents = write(candidates)  # B * C rows
        scores = ops.where(ops.reshape(written.finish, ops.shape(scores)) > 0, scores + NOT_YET, scores)  # (B, C)
        chosen = ops.cast(self.select(written, scores, context), "int32")  # (B, W), places among the candidates
        rows = ops.arange(num_rows // width, dtype="int32")[:, None] * ops.shape(candidates)[1] + chosen  # (B, W)
        rows = ops.reshape(rows, (-1,))  # (R,), of the candidates' rows
        after = take_rows(written, rows)  # R rows
        scores = ops.take(ops.reshape(scores, (-1,)), rows)  # (R,)

        length = ops.take(state.num_tokens, first_rows) + 1  # (B, 1)
        memory_after = self._set_aside(memory, ended, best_scores, length, context)
        memory_after, is_over = self._compare(memory_after._replace(scores=scores), length, context)
        best_of_prompt = ops.max(ops.reshape(scores, (-1, width)), axis=1)  # (B,)
        is_hopeless = is_banned(ops.repeat(best_of_prompt, width))  # (R,)
        finish = ops.where(is_over, COMPLETE, ops.where(is_hopeless, IMPOSSIBLE, 0))
        finish = ops.where(after.finish == INVALID, INVALID, finish)
        after = after._replace(finish=finish, memory=memory_after)
        # Prompts that were over before stay as they were.
        was_over = state.finish > 0
        after = tree.map_structure(
            lambda new, old: ops.where(ops.reshape(was_over, (-1, *([1] * (len(old.shape) - 1)))), old, new),
            after,
            state._replace(memory=memory),
        )
        own = ops.arange(num_rows, dtype="int32")
        return after, ops.where(was_over, own, ops.take(parents, rows))

    def ending_order(self, state: GenerationState, totals: Tensor, context: Context) -> Tensor:
        """float32 (R, V): the order by which candidates that may end are chosen."""
        return totals

    def candidates(self, state: GenerationState, totals: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """(scores, numbers parent * V + token), (B, C) each: candidates to continue, twice as many as beams."""
        scores, numbers = ops.top_k(totals, 2 * self.group_size)
        return scores, ops.cast(numbers, "int32")

    def select(self, written: Tensor, scores: Tensor, context: Context) -> Tensor:
        """int (B, W): which candidates (B, C) become the beams."""
        return ops.top_k(scores, self.group_size)[1]

    def endings(self, ended: Tensor, scores: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """(bool (B, W), which candidates are texts that have ended, float32 (B, W), what they score)."""
        return _by_prompt(ended.finish, self.group_size) > 0, scores

    def answer(
        self, state: GenerationState, num_return_sequences: int, context: Context
    ) -> tuple[GenerationState, Tensor]:
        width = self.num_beams
        memory = state.memory
        # Where time ran out, the beams count as they are.
        is_late = state.finish == TIME
        length = ops.cast(ops.maximum(state.num_tokens, 1), "float32")
        is_text = ops.logical_and(is_late, memory.scores > _NO_TEXT)
        running = ops.where(is_text, memory.scores / ops.power(length, self.length_penalty), 2 * NOT_YET)  # (R,)
        scores = ops.concatenate([_by_prompt(memory.done_scores, width), _by_prompt(running, width)], axis=1)  # (B, 2W)
        scores, best = ops.top_k(scores, num_return_sequences)  # (B, n)

        def pick(done, running):
            return _pick(done, running, best, width)

        finish = pick(memory.done_finish, state.finish)
        is_broken = ops.repeat(ops.max(_by_prompt(state.finish, width), axis=1), num_return_sequences)  # (B * n,)
        # A place without a text when the search is over stays empty for good.
        is_empty = ops.logical_and(finish == 0, is_broken == COMPLETE)
        finish = ops.where(is_empty, IMPOSSIBLE, finish)
        state = state._replace(
            tokens=pick(memory.done_tokens, state.tokens),
            num_tokens=pick(memory.done_num_tokens, state.num_tokens),
            finish=ops.where(ops.logical_or(is_broken >= IMPOSSIBLE, finish == 0), is_broken, finish),
        )
        scores = ops.where(scores > _NO_TEXT, scores, NOT_YET)
        return state, ops.reshape(scores, (-1,))

    def _set_aside(self, memory, ended, scores, length, context):
        """The memory with finished texts added, where they are among the best."""
        width = self.group_size
        is_full = ops.all(_by_prompt(memory.done_finish, width) > 0, axis=1, keepdims=True)  # (B, 1)
        is_open = _by_prompt(memory.improvable, width)  # (B, W)
        if self.early_stopping is True:
            is_open = ops.logical_and(is_open, ops.logical_not(is_full))
        has_ended, scores = self.endings(ended, scores, context)  # (B, W)
        counts = ops.logical_and(has_ended, is_open)
        counts = ops.logical_and(counts, ops.logical_not(is_banned(scores)))
        new_scores = scores / ops.power(ops.cast(length, "float32"), self.length_penalty)
        # Those of beams that were never there end the search, as they do elsewhere, but are no texts.
        is_text = ops.reshape(scores > _NO_TEXT, (-1,))  # (R,)
        new_scores = ops.where(scores > _NO_TEXT, new_scores, 0.9 * NOT_YET)
        new_scores = ops.where(counts, new_scores, 2 * NOT_YET)
        merged = ops.concatenate([_by_prompt(memory.done_scores, width), new_scores], axis=1)  # (B, 2W)
        best_scores, best = ops.top_k(merged, width)  # (B, W)
        return memory._replace(
            done_tokens=_pick(memory.done_tokens, ops.where(is_text[:, None], ended.tokens, -1), best, width),
            done_num_tokens=_pick(memory.done_num_tokens, ops.where(is_text, ended.num_tokens, 0), best, width),
            done_scores=ops.reshape(best_scores, (-1,)),
            done_finish=_pick(
                memory.done_finish,
                ops.where(ops.reshape(counts, (-1,)), ops.where(is_text, ended.finish, IMPOSSIBLE), 0),
                best,
                width,
            ),
        )

    def _compare(self, memory, length, context):
        """(memory, bool (R,)): whether beams may still beat the finished texts, and whether a prompt is over."""
        width = self.group_size
        is_full = ops.all(_by_prompt(memory.done_finish, width) > 0, axis=1, keepdims=True)  # (B, 1)
        best_length = length
        if self.early_stopping == "never":
            best_length = ops.where(self.length_penalty > 0, context.max_new_tokens, length)
        best = ops.max(_by_prompt(memory.scores, width), axis=1, keepdims=True)  # (B, 1)
        best = best / ops.power(ops.cast(best_length, "float32"), self.length_penalty)
        worst = ops.where(is_full, ops.min(_by_prompt(memory.done_scores, width), axis=1, keepdims=True), NOT_YET)
        improvable = ops.logical_and(_by_prompt(memory.improvable, width), best > worst)  # (B, W)
        is_over = ops.logical_or(ops.logical_not(improvable), length >= context.max_new_tokens)
        if self.early_stopping is True:
            is_over = ops.logical_or(is_over, is_full)
        return memory._replace(improvable=ops.reshape(improvable, (-1,))), ops.reshape(is_over, (-1,))


def _by_prompt(x, width):
    """(R, ...) -> (B, W, ...)."""
    return ops.reshape(x, (-1, width, *ops.shape(x)[1:]))


def _pick(old, new, places, width):
    """The places (B, n) among the old rows of each prompt, then its new ones: (B * n, ...)."""
    both = ops.concatenate([_by_prompt(old, width), _by_prompt(new, width)], axis=1)  # (B, 2W, ...)
    index = ops.reshape(ops.cast(places, "int32"), (*ops.shape(places), *([1] * (len(both.shape) - 2))))  # (B, n, 1...)
    return ops.reshape(ops.take_along_axis(both, index, axis=1), (-1, *ops.shape(old)[1:]))  # (B * n, ...)
