"""The one generation loop: prefill, then decoding steps. It knows token ids, a sampler and three methods of a model.

The model gives `begin(token_ids, padding_mask, num_slots, dtype) -> (token_ids, padding_mask, DecodingState)`: what it
makes of prompts, and reads next; `read(token_ids, state, padding_mask) -> (hidden, state)`, and `project(hidden) ->
logits`. An encoder-decoder reads prompts into the state, and goes on from a start token.

One step: the sampler proposes tokens (mostly the newest one of each row), the model reads them, the sampler appends
tokens and says how the KV caches change (rows reordered, rejected tokens rewound). All samplers share it, with one row
or several for each prompt, and one token or several in each step; a sampler may have several ways to make steps, and
plan which is next.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops, tree

from keras_tfm.ops.decoding_state import merge_heads, split_heads
from keras_tfm.ops.positions import last_real
from keras_tfm.ops.tensors import size, take_rows
from keras_tfm.samplers.numbers import with_numbers
from keras_tfm.samplers.sampler import Sampler, StatefulProcessor
from keras_tfm.samplers.state import Context, GenerationState, LogProbs
from keras_tfm.types import Tensor


class Prompts(NamedTuple):
    """The batch of B prompts, padded to a bucket of sizes.

    token_ids: int32 (B, P). padding_mask: bool (B, P), each row has a real token. finished: bool (B,), rows that only
    fill up the batch, for which nothing is generated. decoding: the `DecodingState` of a prefix that these prompts
    continue, with free slots for all that will come, or () for a fresh one; and history: int32 (B, H), the tokens of
    the prefix, -1 = none. negative_token_ids and negative_padding_mask: prompts that guidance leads away from, or ().
    adapters: int32 (B,), which adapter each uses, for a model whose rows differ in that, or ().
    """

    token_ids: Any
    padding_mask: Any
    finished: Any
    history: Any = ()
    decoding: Any = ()
    negative_token_ids: Any = ()
    negative_padding_mask: Any = ()
    adapters: Any = ()


class Settings(NamedTuple):
    """The numbers of a generation, beside the sampler's: tensors, so that other values never retrace.

    stops, max_new_tokens, seed: as in `Context`. guidance_scale: float32 (), or () without guidance.
    """

    stops: Any
    max_new_tokens: Any
    seed: Any
    guidance_scale: Any = ()


class Shape(NamedTuple):
    """What is static in a compiled generation, so that other values retrace.

    num_return_sequences: int. cache_dtype: of the KV caches, None = the model's. alternatives: how many likely tokens
    are recorded at each step, None = not even the log-probability of the chosen one.
    """

    num_return_sequences: int = 1
    cache_dtype: str | None = None
    alternatives: int | None = None


def begin(
    model: Any, sampler: Sampler, prompts: Prompts, room: Tensor, settings: Settings, shape: Shape
) -> GenerationState:
    """Prefill: reads the prompts and lets the sampler append the first token of each row, if it can choose it yet.

    Args:
        model: see above.
        sampler: a `Sampler`.
        prompts: of the batch.
        room: a tensor (M,) whose length is the bucket of new tokens: the most that will ever be asked for.
        settings: the numbers.
        shape: what is static.
    """
    width = sampler.rows_per_prompt(shape.num_return_sequences)
    num_rows = width * size(prompts.token_ids, 0)
    columns, slots = sampler.room(num_rows, size(room, 0))
    token_ids, mask = prompts.token_ids, prompts.padding_mask
    given = _after(prompts.history, token_ids, mask)
    is_guided = not isinstance(prompts.negative_token_ids, tuple)
    if is_guided:
        token_ids = ops.concatenate([token_ids, prompts.negative_token_ids])
        mask = ops.concatenate([mask, prompts.negative_padding_mask])
    decoding = prompts.decoding
    if not tree.flatten(decoding):
        adapters = () if isinstance(prompts.adapters, tuple) else (prompts.adapters,)
        token_ids, mask, decoding = model.begin(token_ids, mask, slots, shape.cache_dtype, *adapters)
    visible = slice(None, size(prompts.token_ids, 0)) if is_guided else slice(None)
    known = _after(prompts.history, token_ids[visible], mask[visible])
    hidden, decoding = model.read(token_ids, decoding, mask)
    decoding = decoding.keep(decoding.num_tokens)  # padding on the right was read last: its slots are free again
    if width > 1:
        rows = ops.repeat(ops.arange(size(token_ids, 0), dtype="int32"), width)
        hidden, mask, decoding = take_rows(hidden, rows), take_rows(mask, rows), decoding.reorder(rows)

    known = ops.repeat(known, width, axis=0)
    state = GenerationState(
        tokens=ops.concatenate([known, ops.full((num_rows, columns), -1, dtype="int32")], axis=1),
        num_tokens=ops.zeros((num_rows,), "int32"),
        finish=ops.repeat(ops.cast(prompts.finished, "int32"), width),
        decoding=decoding,
        stop_progress=ops.zeros((num_rows,), "int32") if len(settings.stops.strings) else (),
        processor_states=tuple(
            processor.start(num_rows) if isinstance(processor, StatefulProcessor) else ()
            for processor in sampler.processors
        ),
        log_probs=_log_probs(num_rows, size(room, 0), shape.alternatives),
    )
    context = _context(state, columns, settings)._replace(prompts=given)
    visible = slice(None, num_rows) if is_guided else slice(None)
    state = sampler.begin(state, hidden[visible], mask[visible], context)
    return _advance(model, sampler, state, last_real(hidden, mask), context, settings)


def extend(
    model: Any, sampler: Sampler, state: GenerationState, room: Tensor, until: Tensor, settings: Settings
) -> GenerationState:
    """Decodes until each row has `until` new tokens (int32 (), at most the length of `room`) or has finished."""
    columns, _ = sampler.room(size(state.num_tokens, 0), size(room, 0))
    context, begun = _context(state, columns, settings), state

    def is_unfinished(state):
        return ops.any(ops.logical_and(state.finish == 0, state.num_tokens < until))

    def steps(state, is_next, propose):
        """Steps of one way, as long as it is the next."""

        def body(state):
            token_ids, state = propose(split_heads(state, like=begun), context)
            mask = ops.logical_and((state.finish == 0)[:, None], ops.ones_like(token_ids, "bool"))
            if not isinstance(settings.guidance_scale, tuple):
                token_ids, mask = ops.tile(token_ids, (2, 1)), ops.tile(mask, (2, 1))
            num_before = state.decoding.num_tokens
            hidden, decoding = model.read(token_ids, state.decoding, mask)
            state = state._replace(decoding=decoding)
            return (merge_heads(_advance(model, sampler, state, hidden, context, settings, num_before)),)

        # A tuple around the state: Keras flattens one level of what it is given.
        return ops.while_loop(lambda state: ops.logical_and(is_unfinished(state), is_next(state)), body, (state,))[0]

    def stretch(state):
        state = sampler.plan(state, context)
        for way in ways:
            state = steps(state, *way)
        return (state,)

    ways, state = sampler.ways(context), merge_heads(state)
    state = steps(state, *ways[0]) if len(ways) == 1 else ops.while_loop(is_unfinished, stretch, (state,))[0]
    return split_heads(state, like=begun)


def answer(
    sampler: Sampler, state: GenerationState, room: Tensor, settings: Settings, shape: Shape
) -> tuple[GenerationState, Tensor]:
    """(state, scores) of the rows to return, `shape.num_return_sequences` for each prompt, with new tokens only."""
    columns, _ = sampler.room(size(state.num_tokens, 0), size(room, 0))
    context = _context(state, columns, settings)
    state, scores = sampler.answer(state._replace(decoding=()), shape.num_return_sequences, context)
    return state._replace(tokens=state.tokens[:, context.num_prompt :]), scores


def functions_of(model: Any, sampler: Sampler, shape: Shape) -> tuple[Callable, Callable, Callable]:
    """`begin`, `extend` and `answer` with what a trace of them holds, as functions of tensors alone.

    The sampler's numbers, as `split_numbers` gives them, are the last argument of each.
    """

    def begin_with(prompts, room, settings, numbers):
        return begin(model, with_numbers(sampler, numbers), prompts, room, settings, shape)

    def extend_with(state, room, until, settings, numbers):
        return extend(model, with_numbers(sampler, numbers), state, room, until, settings)

    def answer_with(state, room, settings, numbers):
        return answer(with_numbers(sampler, numbers), state, room, settings, shape)

    return begin_with, extend_with, answer_with


def _advance(model, sampler, state, hidden, context, settings, num_before=None) -> GenerationState:
    """Lets the sampler append tokens, and reorders and rewinds the decoding state as it says.

    num_before: int32 (R,), tokens that each row had read before the sampler's proposal; None after a prefill.
    """
    num_rows = size(state.num_tokens, 0)
    logits = ops.cast(model.project(hidden), "float32")
    is_guided = not isinstance(settings.guidance_scale, tuple)
    if is_guided:
        logits, hidden = _guided(logits, num_rows, settings.guidance_scale), hidden[:num_rows]
    decoding, state = state.decoding, state._replace(decoding=())
    state, change = sampler.advance(state, logits, hidden, context)
    parents, kept = change
    if is_guided and parents is not None:
        parents = ops.concatenate([parents, parents + num_rows])
    if is_guided and kept is not None:
        kept = ops.tile(kept, (2,))
    if parents is not None:
        decoding = decoding.reorder(parents)
    if kept is not None:
        decoding = decoding.keep(num_before + kept)
    return state._replace(decoding=decoding)


def _after(history, token_ids, mask):
    """int32 (B, H + T): the tokens read before, if any, and these; -1 = none."""
    token_ids = ops.where(mask, token_ids, -1)
    return token_ids if isinstance(history, tuple) else ops.concatenate([history, token_ids], axis=1)


def _guided(logits, num_rows, scale):
    """Classifier-free guidance: away from what the negative prompts make likely.

    Reference: Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance", https://arxiv.org/abs/2306.17806
    """
    logs = ops.log_softmax(logits, axis=-1)
    return logs[num_rows:] + scale * (logs[:num_rows] - logs[num_rows:])


def _log_probs(num_rows, length, alternatives):
    if alternatives is None:
        return ()
    return LogProbs(
        chosen=ops.zeros((num_rows, length), "float32"),
        top_ids=ops.full((num_rows, length, alternatives), -1, dtype="int32"),
        top=ops.zeros((num_rows, length, alternatives), "float32"),
    )


def _context(state, columns, settings) -> Context:
    rows = ops.arange(size(state.num_tokens, 0), dtype="int32")
    num_prompt = size(state.tokens, 1) - columns
    return Context(settings.stops, settings.max_new_tokens, settings.seed, num_prompt, rows)
