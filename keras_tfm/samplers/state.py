"""The state of a generation, which samplers read and advance: tokens, stop rules, log-probabilities, random draws."""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm import ops as tfm_ops
from keras_tfm.ops.tensors import size
from keras_tfm.types import Tensor

# The logit of a token that must not come. Lower than any other; finite, so that differences of two are 0 and not NaN.
BANNED = -1e30
_HARDLY_ALLOWED = 1e-3 * BANNED
# Why a row ended; 0 is a row that is still being generated.
REASONS = ("", "stop_token", "stop_sequence", "stop_string", "length", "complete", "time", "impossible", "invalid")
_, STOP_TOKEN, STOP_SEQUENCE, STOP_STRING, LENGTH, COMPLETE, TIME, IMPOSSIBLE, INVALID = range(len(REASONS))
# Streams times this change the seed: the golden ratio of 2^32, as in hash functions.
_GOLDEN = 0x9E3779B9


class GenerationState(NamedTuple):
    """The loop state of a generation: the same tensors in and out of each step. R rows, one for each sequence.

    tokens: int32 (R, L), prompt, then new tokens, -1 where there is none. num_tokens: int32 (R,), new tokens so far.
    finish: int32 (R,), 0 while a row is generated, then why it ended (`REASONS`). decoding: the model's
    `DecodingState`. stop_progress: int32 (R,), the state of the automaton of stop strings, or (). processor_states: one
    tree for each processor. memory: the sampler's own state. log_probs: `LogProbs`, or () unless they were asked for.

    Every tensor but the scalars has the rows first, so that rows can be copied and reordered without knowing more.
    """

    tokens: Any
    num_tokens: Any
    finish: Any
    decoding: Any
    stop_progress: Any = ()
    processor_states: Any = ()
    memory: Any = ()
    log_probs: Any = ()


class LogProbs(NamedTuple):
    """Log-probabilities of the model itself, before any logits processor.

    chosen: float32 (R, M), of the new tokens. top_ids: int32 (R, M, n) and top: float32 (R, M, n), the n likeliest
    tokens at each step, best first.
    """

    chosen: Any
    top_ids: Any
    top: Any


class StopRules(NamedTuple):
    """What ends a row: stop tokens, stop sequences of tokens, and stop strings, which may cross token borders.

    token_ids: int32 (n,), -1 = none. sequences: int32 (q, l), padded with -1 on the left; rows of -1 alone are none.
    strings: `TokenTables` of an automaton over a row's bytes, in which state 1 has seen a stop string; or ().
    """

    token_ids: Any
    sequences: Any
    strings: Any = ()


class StepRandom(NamedTuple):
    """Draws that depend on (seed, row, step, stream) alone: not on the batch size, other rows or the order of calls.

    seed: int32 (). rows: int32 (B,). step: int32 (B,) or (), how many new tokens a row has. stream: int, for samplers
    that need several independent draws at a step.
    """

    seed: Any
    rows: Any
    step: Any
    stream: int = 0

    def uniform(self, size: int | None = None) -> Tensor:
        """Uniform float32 in (0, 1): (B,), or (B, size)."""
        seed = ops.bitwise_xor(
            ops.cast(self.seed, "uint32"), ops.convert_to_tensor(self.stream * _GOLDEN % 2**32, dtype="uint32")
        )
        rows = ops.cast(self.rows, "uint32")
        step = ops.broadcast_to(ops.cast(self.step, "uint32"), ops.shape(rows))
        if size is None:
            return tfm_ops.random_uniform((seed, rows), (step, ops.zeros_like(rows)))
        places = ops.cast(ops.arange(size, dtype="int32"), "uint32")[None]
        return tfm_ops.random_uniform((seed, rows[:, None]), (step[:, None], places))

    def gumbel(self, size: int) -> Tensor:
        """Standard Gumbel noise (B, size): argmax(logits + noise) is a draw from softmax(logits).

        Reference: Maddison et al. 2014, "A* Sampling", https://arxiv.org/abs/1411.0030
        """
        return -ops.log(-ops.log(self.uniform(size)))


class Context(NamedTuple):
    """The constants of a generation.

    stops: `StopRules`. max_new_tokens: int32 (). seed: int32 (). num_prompt: int32 (), columns of `tokens` that hold
    prompts. rows: int32 (R,), the row numbers that draws go by. prompts: int32 (B, P), the prompts, -1 = none; of an
    encoder-decoder, whose `tokens` hold none of them, the sources. At the begin of a generation only, later ().
    """

    stops: StopRules
    max_new_tokens: Any
    seed: Any
    num_prompt: Any
    rows: Any
    prompts: Any = ()

    def random(self, state: GenerationState, stream: int = 0) -> StepRandom:
        """The draws for each row's next token; those of different streams are independent."""
        return StepRandom(self.seed, self.rows, state.num_tokens, stream)


class Change(NamedTuple):
    """What a step does to the model's `DecodingState`, which samplers do not touch.

    parents: int32 (R,), the row of the same prompt that each row continues, or None (itself). kept: int32 (R,), how
    many of the tokens that the model has just read are accepted; the cache is rewound behind them. None: all.
    """

    parents: Any = None
    kept: Any = None


def newest_tokens(state: GenerationState, num_prompt: Tensor) -> Tensor:
    """int32 (R,): the last token of each row."""
    places = num_prompt + ops.maximum(state.num_tokens - 1, 0)
    return ops.maximum(ops.take_along_axis(state.tokens, places[:, None], axis=1)[:, 0], 0)


def is_banned(logits: Tensor) -> Tensor:
    """bool: which logits are those of banned tokens, whatever was added to `BANNED` or taken from it."""
    return logits < _HARDLY_ALLOWED


def write_token(
    state: GenerationState,
    processors: tuple,
    token: Tensor,
    logits: Tensor,
    context: Context,
    shaped: Tensor | None = None,
    writes: bool | Tensor = True,
) -> GenerationState:
    """Appends a token to each row that has not finished: checks stops, advances processors, records log-probabilities.

    Args:
        state: before.
        processors: the sampler's; the state of stateful ones advances.
        token: int (R,).
        logits: float32 (R, V), the model's.
        context: of the generation.
        shaped: float32 (R, V), the logits after the processors; a row in which all are banned ends as "impossible".
            Or None.
        writes: bool (R,), False where a row is left alone.
    """
    token, vocabulary_size = ops.cast(token, "int32"), logits.shape[-1]
    active = ops.logical_and(state.finish == 0, writes)
    reason, dropped, stop_progress = check_stops(context.stops, state, context.num_prompt, token)
    if shaped is not None:
        reason = ops.where(ops.max(shaped, axis=-1) < 1e-3 * BANNED, IMPOSSIBLE, reason)
    is_id = ops.logical_and(token >= 0, token < vocabulary_size)
    is_number = ops.logical_not(ops.any(ops.isnan(logits), axis=-1))
    reason = ops.where(ops.logical_and(is_id, is_number), reason, INVALID)
    dropped = ops.where(reason >= IMPOSSIBLE, 1, dropped)  # the sampler did not really choose those tokens
    written = ops.logical_and(active, dropped == 0)

    num_tokens = ops.where(active, state.num_tokens + 1 - dropped, state.num_tokens)
    columns = ops.arange(size(state.tokens, 1), dtype="int32")[None]
    place = context.num_prompt + state.num_tokens
    tokens = ops.where(ops.logical_and(columns == place[:, None], written[:, None]), token[:, None], state.tokens)
    tokens = ops.where(columns >= (context.num_prompt + num_tokens)[:, None], -1, tokens)

    states = tuple(
        _where_rows(written, processor.advance(old, ops.maximum(token, 0)), old) if tree.flatten(old) else old
        for processor, old in zip(processors, state.processor_states, strict=True)
    )
    complete = ops.zeros_like(active)
    for processor, new in zip(processors, states, strict=True):
        if tree.flatten(new):
            complete = ops.logical_or(complete, processor.is_complete(new))
    reason = ops.where(ops.logical_and(reason == 0, complete), COMPLETE, reason)
    reason = ops.where(ops.logical_and(reason == 0, num_tokens >= context.max_new_tokens), LENGTH, reason)
    return state._replace(
        tokens=tokens,
        num_tokens=num_tokens,
        finish=ops.where(active, reason, state.finish),
        stop_progress=_where_rows(written, stop_progress, state.stop_progress),
        processor_states=states,
        log_probs=_record(state, token, logits, written),
    )


def check_stops(
    stops: StopRules, state: GenerationState, num_prompt: Tensor, token: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a token ends its row, and how much of the row's end is then cut off.

    Args:
        stops: the rules.
        state: `GenerationState` before the token.
        num_prompt: int32 (), columns that hold prompts.
        token: int32 (R,).

    Returns:
        (reason int32 (R,), 0 = the row continues; dropped int32 (R,), tokens that are cut off, this one included: a
        stop token, a stop sequence; stop_progress as in the state).
    """
    is_stop = ops.any(token[:, None] == stops.token_ids[None], axis=-1)
    length = size(stops.sequences, 1)
    # The newest tokens of each row, this one last, -2 where there are none; only new tokens count.
    places = state.num_tokens[:, None] - (length - 1) + ops.arange(length, dtype="int32")[None]
    columns = ops.clip(num_prompt + places, 0, size(state.tokens, 1) - 1)
    newest = ops.where(places >= 0, ops.take_along_axis(state.tokens, columns, axis=1), -2)
    newest = ops.where(places == state.num_tokens[:, None], token[:, None], newest)  # (R, l)
    wanted = stops.sequences >= 0
    equal = ops.logical_or(newest[:, None] == stops.sequences[None], ops.logical_not(wanted)[None])
    ends = ops.logical_and(ops.all(equal, axis=-1), ops.any(wanted, axis=-1)[None])  # (R, q)
    lengths = ops.max(ops.where(ends, ops.sum(ops.cast(wanted, "int32"), axis=-1)[None], 0), axis=-1)

    reason = ops.where(lengths > 0, STOP_SEQUENCE, 0)
    reason = ops.where(is_stop, STOP_TOKEN, reason)
    dropped = ops.where(is_stop, 1, lengths)
    progress = state.stop_progress
    if len(stops.strings):
        progress = stops.strings.next(progress, ops.maximum(token, 0))
        reason = ops.where(ops.logical_and(reason == 0, progress == 1), STOP_STRING, reason)
    return reason, dropped, progress


def _record(state, token, logits, written):
    """`LogProbs` with one more token."""
    if not tree.flatten(state.log_probs):
        return state.log_probs
    chosen, top_ids, top = state.log_probs
    logs = ops.log_softmax(logits, axis=-1)
    here = ops.arange(size(chosen, 1), dtype="int32")[None] == state.num_tokens[:, None]
    here = ops.logical_and(here, written[:, None])  # (R, M)
    of_token = ops.take_along_axis(logs, ops.clip(token, 0, logits.shape[-1] - 1)[:, None], axis=1)
    chosen = ops.where(here, of_token, chosen)
    if top.shape[-1]:
        best, ids = ops.top_k(logs, top.shape[-1])
        top = ops.where(here[..., None], best[:, None], top)
        top_ids = ops.where(here[..., None], ops.cast(ids, "int32")[:, None], top_ids)
    return LogProbs(chosen, top_ids, top)


def _where_rows(condition, new, old):
    """The new tensors in the rows where the condition holds, the old ones elsewhere."""

    def choose(new, old):
        shape = (-1, *([1] * (len(new.shape) - 1)))
        return ops.where(ops.reshape(condition, shape), new, old)

    return tree.map_structure(choose, new, old)
