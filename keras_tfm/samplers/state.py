"""Where a generation stands, and how a token gets into it: what samplers read and advance."""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.ops.sizes import size
from keras_tfm.samplers.processors import BANNED
from keras_tfm.samplers.randomness import StepRandom
from keras_tfm.samplers.stopping import COMPLETE, IMPOSSIBLE, INVALID, LENGTH, StopRules, check_stops


class GenerationState(NamedTuple):
    """The same tensors in and out of every piece of a generation; R rows, each a text being written.

    tokens: int32 (R, L), prompt, then new tokens, -1 where there is none. num_tokens: int32 (R,), new tokens so far.
    finish: int32 (R,), 0 while a row is being written, then why it ended (`stopping.REASONS`). decoding: the model's
    `DecodingState`. stop_progress: int32 (R,), how much of a stop string a row has written, or (). processor_states:
    one tree for each processor. memory: what the sampler itself remembers. log_probs: `LogProbs`, or () unless they
    were asked for.

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
    """Natural logarithms of the model's own probabilities, before any processor.

    chosen: float32 (R, M), of the tokens written. top_ids: int32 (R, M, n) and top: float32 (R, M, n), the n likeliest
    tokens at each step, best first.
    """

    chosen: Any
    top_ids: Any
    top: Any


class Context(NamedTuple):
    """What stays the same during a generation.

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
    """What a step means for the model's `DecodingState`, which samplers do not touch.

    parents: int32 (R,), the row of the same prompt that each row goes on from, or None (itself). kept: int32 (R,), how
    many of the tokens that the model has just read stay read, or None (all).
    """

    parents: Any = None
    kept: Any = None


def newest_tokens(state: GenerationState, num_prompt):
    """int32 (R,): the last token of each row."""
    places = num_prompt + ops.maximum(state.num_tokens - 1, 0)
    return ops.maximum(ops.take_along_axis(state.tokens, places[:, None], axis=1)[:, 0], 0)


def write_token(state: GenerationState, processors, token, logits, context: Context, shaped=None, writes=True):
    """The state after each row has been given a token, as far as it had not finished.

    Args:
        state: before.
        processors: the sampler's; those with a state are told of the token.
        token: int (R,).
        logits: float32 (R, V), the model's.
        context: of the generation.
        shaped: float32 (R, V), the logits after the processors, in which an impossible choice shows; or None.
        writes: bool (R,), which rows are written at all.
    """
    token, vocabulary_size = ops.cast(token, "int32"), logits.shape[-1]
    active = ops.logical_and(state.finish == 0, writes)
    reason, dropped, stop_progress = check_stops(context.stops, state, context.num_prompt, token)
    if shaped is not None:
        reason = ops.where(ops.max(shaped, axis=-1) < 1e-3 * BANNED, IMPOSSIBLE, reason)
    is_id = ops.logical_and(token >= 0, token < vocabulary_size)
    is_number = ops.logical_not(ops.any(ops.isnan(logits), axis=-1))
    reason = ops.where(ops.logical_and(is_id, is_number), reason, INVALID)
    dropped = ops.where(reason >= IMPOSSIBLE, 1, dropped)  # those tokens are nobody's choice
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


def _record(state, token, logits, written):
    """The log-probabilities with those of one more token."""
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
