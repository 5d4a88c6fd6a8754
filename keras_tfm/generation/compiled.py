"""The loop compiled by XLA, and the bucketing that keeps the number of compilations small."""

import tensorflow as tf
from keras import tree

from keras_tfm.generation import loop
from keras_tfm.samplers.numbers import split_numbers, with_numbers

SMALLEST_BUCKET = 16


class CompiledGeneration:
    """`loop.begin` and `loop.extend` of one model and one sampler structure as graph functions of tensors only.

    Each is traced once, for all sizes; XLA compiles it once for each bucket of batch size, prompt length and room.

    Args:
        model: with the three methods of `generation.loop`.
        sampler: its structure is compiled in; its numbers are arguments.
    """

    def __init__(self, model, sampler):
        numbers = split_numbers(sampler)[1]
        integers, integer = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
        settings = {
            "numbers": [tf.TensorSpec(number.shape, number.dtype) for number in numbers],
            "stop_token_ids": integers,
            "seed": integer,
        }
        prompt = {
            "prompt": tf.TensorSpec([None, None], tf.int32),
            "padding_mask": tf.TensorSpec([None, None], tf.bool),
            "room": tf.TensorSpec([None], tf.int32),
            "finished": tf.TensorSpec([None], tf.bool),
        }

        def begin(prompt, settings):
            return loop.begin(model, with_numbers(sampler, settings["numbers"]), **prompt, **_without_numbers(settings))

        def extend(state, room, until, settings):
            sampler_now = with_numbers(sampler, settings["numbers"])
            return loop.extend(model, sampler_now, state, room, until, **_without_numbers(settings))

        self.begin = _trace(begin, prompt, settings)
        state = loop.GenerationState(
            tokens=tf.TensorSpec([None, None], tf.int32),
            num_tokens=integers,
            finished=tf.TensorSpec([None], tf.bool),
            step=integer,
            cache=_cache_spec(model),
        )
        self.extend = _trace(extend, state, integers, integer, settings)


def pad_prompts(token_ids: tf.RaggedTensor, max_new_tokens, start_token_id) -> dict:
    """Prompts of any lengths as `CompiledGeneration.begin` takes them: padded to buckets, on the right.

    Args:
        token_ids: int32 ragged (B, None).
        max_new_tokens: int32 (), makes the room.
        start_token_id: int32 (), the whole prompt of a row that is empty.

    Returns:
        dict of "prompt", "padding_mask", "room", "finished": the rows that fill up the batch are finished.
    """
    num_rows, lengths = token_ids.nrows(tf.int32), tf.cast(token_ids.row_lengths(), tf.int32)
    num_slots = bucket(num_rows, smallest=1)
    prompt_length = bucket(tf.reduce_max(tf.concat([lengths, [1]], 0)), SMALLEST_BUCKET)
    prompt = token_ids.to_tensor(0, shape=[None, None])
    prompt = tf.pad(prompt, [[0, num_slots - num_rows], [0, prompt_length - tf.shape(prompt)[1]]])
    lengths = tf.pad(lengths, [[0, num_slots - num_rows]])
    is_start = tf.logical_and(lengths[:, None] == 0, tf.range(prompt_length)[None] == 0)
    return {
        "prompt": tf.where(is_start, start_token_id, prompt),
        "padding_mask": tf.sequence_mask(tf.maximum(lengths, 1), prompt_length),
        "room": tf.zeros([bucket(max_new_tokens, SMALLEST_BUCKET)], tf.int32),
        "finished": tf.range(num_slots) >= num_rows,
    }


def bucket(size, smallest: int):
    """The next power of two, at least `smallest`: int32 () tensor to int32 () tensor."""
    powers = tf.constant([2**exponent for exponent in range(31)], tf.int32)
    return powers[tf.searchsorted(powers, [tf.maximum(size, smallest)])[0]]


def new_tokens(state: loop.GenerationState, room, num_rows):
    """What the real rows wrote: (token_ids int32 (num_rows, M), -1 after a row's end; num_tokens int32 (num_rows,))."""
    num_prompt = tf.shape(state.tokens)[1] - tf.shape(room)[0]
    return state.tokens[:num_rows, num_prompt:], state.num_tokens[:num_rows]


def _trace(function, *specs):
    # A concrete function: a plain `tf.function` would warn of retracing when several models come and go.
    return tf.function(function, input_signature=specs, jit_compile=True, autograph=False).get_concrete_function()


def _without_numbers(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name != "numbers"}


def _cache_spec(model):
    """Specs of the model's cache: the axes that change with batch size and length are left open."""

    def spec(one, two):
        shape = [size if size == other else None for size, other in zip(one.shape, two.shape, strict=True)]
        return tf.TensorSpec(shape, one.dtype)

    return tree.map_structure(spec, model.init_cache(1, 1), model.init_cache(2, 2))
