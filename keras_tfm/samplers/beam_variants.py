"""Beam search's relatives: groups of beams that avoid each other's words, and texts that must hold certain phrases."""

import dataclasses

from keras import ops, tree

from keras_tfm.arguments import as_integer, number_of, require, sequences_of
from keras_tfm.ops.tensors import take_rows
from keras_tfm.samplers.beam import NOT_YET, BeamSampler
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.state import LENGTH, Change, Context, GenerationState
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class DiverseBeamSampler(BeamSampler):
    """Beam search in groups, one after the other at each step: tokens of a group are penalized in the later ones.

    A token that n beams of earlier groups have just chosen loses `diversity_penalty` x n from its log-probability.
    The texts of all groups are returned together, best first.

    Args:
        processors, seed, num_beams, length_penalty, early_stopping: as in `BeamSampler`; early stopping and the
            comparison of finished texts happen within a group.
        num_groups: int, a divisor of `num_beams`.
        diversity_penalty: float >= 0; 0 makes the groups equal.

    Example:
        >>> sampler = DiverseBeamSampler(num_beams=6, num_groups=3, diversity_penalty=1.0)
        >>> model.generate(prompts, sampler=sampler, num_return_sequences=6)

    Reference: Vijayakumar et al. 2016, "Diverse Beam Search", section 3, https://arxiv.org/abs/1610.02424
    """

    num_groups: int = static(2)
    diversity_penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_groups", as_integer("num_groups", self.num_groups, 1))
        require(
            self.num_beams % self.num_groups == 0,
            "`num_beams` must be a multiple of `num_groups`",
            num_beams=self.num_beams,
            num_groups=self.num_groups,
        )
        require(
            number_of("diversity_penalty", self.diversity_penalty) >= 0,
            "`diversity_penalty` must be at least 0",
            diversity_penalty=self.diversity_penalty,
        )
        object.__setattr__(self, "diversity_penalty", float(self.diversity_penalty))

    @property
    def group_size(self) -> int:
        return self.num_beams // self.num_groups

    def advance(
        self, state: GenerationState, logits: Tensor, hidden: Tensor, context: Context
    ) -> tuple[GenerationState, Change]:
        logits = logits[:, -1]
        logs = self.log_likelihoods(state, logits)
        num_prompts = ops.shape(logits)[0] // self.num_beams
        beams = ops.reshape(ops.arange(ops.shape(logits)[0], dtype="int32"), (num_prompts, self.num_beams))
        written = ops.zeros((num_prompts, logits.shape[-1]), "float32")  # how many beams have just written a token
        states, parents = [], []
        for group in range(self.num_groups):
            rows = ops.reshape(beams[:, group * self.group_size : (group + 1) * self.group_size], (-1,))
            penalty = ops.repeat(self.diversity_penalty * written, self.group_size, axis=0)
            rows_context = context._replace(rows=rows)
            after, own_parents = self.search(
                take_rows(state, rows),
                ops.take(logits, rows, axis=0),
                ops.take(logs, rows, axis=0) - penalty,
                rows_context,
            )
            tokens = ops.take_along_axis(after.tokens, (context.num_prompt + after.num_tokens - 1)[:, None], axis=1)
            news = ops.one_hot(tokens[:, 0], logits.shape[-1], dtype="float32")
            written = written + ops.sum(ops.reshape(news, (num_prompts, self.group_size, -1)), axis=1)
            states.append(after)
            parents.append(ops.take(rows, own_parents))

        def together(*groups):
            """(B * W/G, ...) of each group -> (B * W, ...)."""
            shape = ops.shape(groups[0])[1:]
            by_prompt = [ops.reshape(group, (num_prompts, self.group_size, *shape)) for group in groups]
            return ops.reshape(ops.concatenate(by_prompt, axis=1), (-1, *shape))  # (B * W, ...)

        return tree.map_structure(together, *states), Change(parents=together(*parents))


@dataclasses.dataclass(frozen=True)
class ConstrainedBeamSampler(BeamSampler):
    """Beam search whose texts end only when they hold every phrase.

    To the likeliest continuations come those that begin or go on with a phrase. Beams are then taken in turn from
    those with all tokens of the phrases, from those with one fewer, and so on, the likeliest of each first: so there
    are always beams on the way to the phrases. A text that reaches `max_new_tokens` without them comes last, with the
    finish reason "length" and 1e8 less before the length penalty.

    Args:
        processors, seed, num_beams, length_penalty, early_stopping: as in `BeamSampler`.
        phrases: tuple of tuples of token ids.

    Example:
        >>> words = [tuple(tokenizer.encode(word)) for word in (" love", " sweet sorrow")]
        >>> writer(prompts, sampler=ConstrainedBeamSampler(num_beams=8, phrases=words))

    Reference: Post and Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation",
    https://arxiv.org/abs/1804.06609
    """

    phrases: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        phrases = sequences_of("phrases", self.phrases)
        require(len(phrases) > 0, "`phrases` must hold at least one phrase", phrases=self.phrases)
        object.__setattr__(self, "phrases", phrases)

    def ending_order(self, state: GenerationState, totals: Tensor, context: Context) -> Tensor:
        """Texts with all phrases first, whether they had them or get the last token of them now."""
        progress = [self._progress(state, phrase, context) for phrase in self.phrases]
        lengths = [ops.convert_to_tensor(phrase).shape[0] for phrase in self.phrases]
        missing = sum(length - num_met for length, (num_met, _) in zip(lengths, progress, strict=True))  # (R,)
        counts = ops.broadcast_to(missing[:, None] == 0, ops.shape(totals))
        for length, (num_met, token) in zip(lengths, progress, strict=True):
            is_last = ops.logical_and(missing == 1, num_met == length - 1)[:, None]
            is_needed = ops.arange(totals.shape[-1], dtype="int32")[None] == token[:, None]
            counts = ops.logical_or(counts, ops.logical_and(is_last, is_needed))
        return ops.where(counts, totals, totals + 0.1 * NOT_YET)

    def candidates(self, state: GenerationState, totals: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The likeliest continuations, and for each beam and phrase the token that the phrase needs next."""
        width, num_phrases = self.group_size, len(self.phrases)
        scores, numbers = super().candidates(state, totals, context)
        needed = [self._progress(state, phrase, context)[1] for phrase in self.phrases]  # (R,) each
        vocabulary_size = ops.shape(totals)[1] // width
        beams = ops.arange(ops.shape(state.num_tokens)[0], dtype="int32") % width
        needed = ops.stack([beams * vocabulary_size + token for token in needed], axis=1)  # (R, phrases)
        needed = ops.reshape(needed, (-1, width * num_phrases))
        known = ops.concatenate([numbers, needed], axis=1)
        # A candidate that stands there already must not come twice.
        earlier = ops.arange(ops.shape(known)[1])[None] < (2 * width + ops.arange(width * num_phrases))[:, None]
        is_twice = ops.any(ops.logical_and(needed[:, :, None] == known[:, None], earlier[None]), axis=-1)
        needed_scores = ops.take_along_axis(totals, needed, axis=1)
        needed_scores = ops.where(is_twice, 4 * NOT_YET, needed_scores)
        return ops.concatenate([scores, needed_scores], axis=1), known

    def select(self, written: Tensor, scores: Tensor, context: Context) -> Tensor:
        """Places of the beams: the best of each number of phrase tokens, then the second best, ..."""
        num_met = sum(self._progress(written, phrase, context)[0] for phrase in self.phrases)
        num_met = ops.reshape(num_met, ops.shape(scores))  # (B, C)
        same = num_met[:, :, None] == num_met[:, None]
        places = ops.arange(ops.shape(scores)[1])
        better = scores[:, None] > scores[:, :, None]
        better = ops.logical_or(
            better, ops.logical_and(scores[:, None] == scores[:, :, None], places < places[:, None])
        )
        rank = ops.sum(ops.cast(ops.logical_and(same, better), "int32"), axis=-1)  # within its number
        turn = rank * (1 + ops.max(num_met)) - num_met
        # Candidates that have ended, or are there twice, never take the turn of one that continues.
        turn = ops.where(scores > 0.5 * NOT_YET, turn, turn + 2**20)
        return ops.top_k(-turn, self.group_size)[1]

    def endings(self, ended: Tensor, scores: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        counts, scores = super().endings(ended, scores, context)
        is_met = [
            self._progress(ended, phrase, context)[0] == ops.convert_to_tensor(phrase).shape[0]
            for phrase in self.phrases
        ]
        all_met = ops.reshape(ops.all(ops.stack(is_met), axis=0), ops.shape(scores))
        is_last = ops.reshape(ended.finish == LENGTH, ops.shape(scores))
        counts = ops.logical_and(counts, ops.logical_or(all_met, is_last))
        return counts, ops.where(all_met, scores, scores + 0.1 * NOT_YET)

    @staticmethod
    def _progress(state, phrase, context):
        """How many tokens of the phrase the new text has, int32 (R,): all, or those that it ends with; and the next."""
        phrase = ops.convert_to_tensor(phrase, dtype="int32")
        size, length = phrase.shape[0], ops.shape(state.tokens)[1]
        columns = ops.arange(length, dtype="int32")[None]
        is_new = columns >= context.num_prompt  # later columns hold -1
        equal = [ops.logical_and(is_new, state.tokens == phrase[i]) for i in range(size)]  # (R, L) each
        ends = context.num_prompt + state.num_tokens - 1
        num_met = ops.zeros_like(state.num_tokens)
        run = ops.ones_like(equal[0])
        for i in range(size):  # whether the first i + 1 tokens of the phrase end at a place
            before = ops.concatenate([ops.zeros_like(run[:, :1]), run[:, :-1]], axis=1) if i else run
            run = ops.logical_and(equal[i], before)
            at_end = ops.any(ops.logical_and(run, columns == ends[:, None]), axis=1)
            num_met = ops.where(at_end, i + 1, num_met)
        num_met = ops.where(ops.any(run, axis=1), size, num_met)
        return num_met, ops.take(phrase, ops.minimum(num_met, size - 1))
