"""When a row ends: stop tokens, stop sequences of tokens, stop strings across token borders."""

from typing import Any, NamedTuple

from keras import ops

from keras_tfm.ops.sizes import size

# Why a row ended; 0 is a row that is being written.
REASONS = ("", "stop_token", "stop_sequence", "stop_string", "length", "complete", "time", "impossible", "invalid")
_, STOP_TOKEN, STOP_SEQUENCE, STOP_STRING, LENGTH, COMPLETE, TIME, IMPOSSIBLE, INVALID = range(len(REASONS))


class StopRules(NamedTuple):
    """What ends a row.

    token_ids: int32 (n,), -1 = none. sequences: int32 (q, l), -1 before a shorter one and in rows that are none.
    strings: `TokenTables` that follow a row's bytes, in which state 1 has seen a stop string; or ().
    """

    token_ids: Any
    sequences: Any
    strings: Any = ()


def check_stops(stops: StopRules, state, num_prompt, token):
    """What it means for each row to be given a token.

    Args:
        stops: the rules.
        state: `GenerationState` before the token.
        num_prompt: int32 (), columns that hold prompts.
        token: int32 (R,).

    Returns:
        (reason int32 (R,), 0 = goes on; dropped int32 (R,), tokens that do not belong to the text any more, this one
        included: a stop token, a stop sequence; stop_progress as in the state).
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
