"""The one generate loop. It knows token ids, a sampler and three methods of a model; it does not know text.

The model gives `init_cache(batch_size, max_length)`, `prefill(token_ids, cache, padding_mask) -> (logits, cache)` and
`decode_step(token_ids, cache, padding_mask) -> (logits, cache)`.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_tfm.samplers.randomness import StepRandom


class GenerationState(NamedTuple):
    """Where a generation stands: the same tensors in and out of every piece of it.

    tokens: int32 (B, P + M), prompt and new tokens, -1 where there is none. num_tokens: int32 (B,), new tokens so far.
    finished: bool (B,). step: int32 (), new tokens of a row that has not finished. cache: the model's.
    """

    tokens: Any
    num_tokens: Any
    finished: Any
    step: Any
    cache: Any


def begin(model, sampler, prompt, padding_mask, room, finished, stop_token_ids, seed) -> GenerationState:
    """Reads the prompts and chooses the first new token of each row.

    Args:
        model: see above.
        sampler: a `Sampler`.
        prompt: int32 (B, P). padding_mask: bool (B, P), each row has a real token.
        room: a tensor (M,) whose length is the most new tokens that will ever be asked for.
        finished: bool (B,), rows that must not be written at all (they fill up a batch).
        stop_token_ids: int32 (any,), -1 = none.
        seed: int32 ().
    """
    batch, num_prompt = ops.shape(prompt)[0], ops.shape(prompt)[1]
    num_slots = num_prompt + ops.shape(room)[0]
    logits, cache = model.prefill(prompt, model.init_cache(batch, num_slots), padding_mask)
    tokens = ops.full((batch, num_slots), -1, dtype="int32")
    state = GenerationState(
        tokens=ops.slice_update(tokens, (0, 0), ops.where(padding_mask, prompt, -1)),
        num_tokens=ops.zeros((batch,), "int32"),
        finished=finished,
        step=ops.zeros((), "int32"),
        cache=cache,
    )
    return _write_token(sampler, logits, state, num_prompt, stop_token_ids, seed)


def extend(model, sampler, state: GenerationState, room, until, stop_token_ids, seed) -> GenerationState:
    """Goes on until each row has `until` new tokens (int32 (), at most the length of `room`) or has finished."""
    num_prompt = ops.shape(state.tokens)[1] - ops.shape(room)[0]

    def unfinished(state):
        return ops.logical_and(state.step < until, ops.logical_not(ops.all(state.finished)))

    def body(state):
        newest = ops.slice(state.tokens, (0, num_prompt + state.step - 1), (ops.shape(state.tokens)[0], 1))[:, 0]
        reads = ops.logical_not(state.finished)
        logits, cache = model.decode_step(ops.maximum(newest, 0), state.cache, reads)
        state = state._replace(cache=cache)
        return (_write_token(sampler, logits, state, num_prompt, stop_token_ids, seed),)

    # A tuple around the state: Keras flattens one level of what it is given.
    return ops.while_loop(unfinished, body, (state,))[0]


def _write_token(sampler, logits, state, num_prompt, stop_token_ids, seed) -> GenerationState:
    """Chooses a token from the logits and writes it, except to rows that have finished."""
    rows = ops.arange(ops.shape(logits)[0], dtype="int32")
    logits = sampler.process(ops.cast(logits, "float32"), state.tokens, state.step)
    token = ops.cast(sampler.choose(logits, StepRandom(seed, rows, state.step)), "int32")
    stops = ops.any(token[:, None] == stop_token_ids[None], axis=-1)
    finished = ops.logical_or(state.finished, stops)
    return state._replace(
        tokens=ops.slice_update(state.tokens, (0, num_prompt + state.step), ops.where(finished, -1, token)[:, None]),
        num_tokens=state.num_tokens + ops.cast(ops.logical_not(finished), "int32"),
        finished=finished,
        step=state.step + 1,
    )
