"""The generation loop as TensorFlow's graphs, which XLA compiles, and the buckets of sizes that keep these few."""

import threading
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_tfm import compat
from keras_tfm.generation import loop
from keras_tfm.ops.tensors import next_power_of_two
from keras_tfm.samplers.numbers import split_numbers
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.state import StopRules
from keras_tfm.samplers.token_tables import TokenTables
from keras_tfm.types import DTypeLike, Tensor

SMALLEST_BUCKET = 16
LARGEST_LEAST_ROOM = 64
_INTEGER, _INTEGERS, _MATRIX = (tf.TensorSpec([None] * rank, tf.int32) for rank in range(3))


class CompiledGeneration:
    """`begin`, `extend` and `answer` of `generation.loop` as graph functions of tensors only.

    Each is traced once, for all sizes. XLA compiles the first two once for each bucket of batch size, prompt length and
    room; without it, as in a server that switches XLA off, they are plain graphs for all sizes. `answer` computes
    little: it is always a plain graph.

    Args:
        model: with the methods of `generation.loop`.
        sampler: its structure is compiled in; its numbers are arguments.
        shape: `loop.Shape`.
        is_guided: whether there are negative prompts.
        has_prefix: whether prompts continue a prefix, whose KV caches are given.
        has_stop_strings: whether rows end at strings.
        has_adapters: whether each prompt names an adapter.
        jit_compile: whether XLA compiles `begin` and `extend`, else they are plain graphs.

    Raises:
        ValueError: if the sampler cannot generate with this model.
    """

    def __init__(
        self,
        model: Any,
        sampler: Sampler,
        shape: loop.Shape,
        is_guided: bool = False,
        has_prefix: bool = False,
        has_stop_strings: bool = False,
        has_adapters: bool = False,
        jit_compile: bool = True,
    ):
        sampler.check_model(model)
        mask = tf.TensorSpec([None, None], tf.bool)
        prompts = loop.Prompts(_MATRIX, mask, tf.TensorSpec([None], tf.bool))
        if has_prefix:
            prompts = prompts._replace(history=_MATRIX, decoding=state_spec(model, shape.cache_dtype))
        if is_guided:
            prompts = prompts._replace(negative_token_ids=_MATRIX, negative_padding_mask=mask)
        if has_adapters:
            prompts = prompts._replace(adapters=_INTEGERS)
        strings = TokenTables(_INTEGERS, _MATRIX) if has_stop_strings else ()
        settings = loop.Settings(
            stops=StopRules(token_ids=_INTEGERS, sequences=_MATRIX, strings=strings),
            max_new_tokens=_INTEGER,
            seed=_INTEGER,
            guidance_scale=tf.TensorSpec([], tf.float32) if is_guided else (),
        )
        numbers = [tf.TensorSpec(number.shape, number.dtype) for number in split_numbers(sampler)[1]]

        begin, extend, answer = loop.functions_of(model, sampler, shape)
        # One after the other in one thread: kept code is found by names that TensorFlow numbers as they come.
        specs = settings, numbers
        self.begin = _trace(begin, prompts, _INTEGERS, *specs, jit_compile=jit_compile)
        state = tree.map_structure(_open, self.begin.structured_outputs)
        self.extend = _trace(extend, state, _INTEGERS, _INTEGER, *specs, jit_compile=jit_compile)
        self.answer = _trace(answer, state._replace(decoding=()), _INTEGERS, *specs, jit_compile=False)
        self.is_by_xla = jit_compile
        self.shapes: set = set()  # of the arguments that XLA has compiled `begin` and `extend` for
        self.pass_costs: dict = {}  # of these, what `measure_pass_cost` gave
        self.lock = threading.Lock()  # held while that is done


def pad_prompts(token_ids: tf.RaggedTensor, start_token_id: int | Tensor, least_length: int = 1) -> dict:
    """A ragged batch of prompts as `loop.Prompts` takes it: padded on the right to buckets of batch size and length.

    Args:
        token_ids: int32 ragged (B, None).
        start_token_id: int32 (), the whole prompt of a row that is empty.
        least_length: int32 (), at least so many columns.

    Returns:
        dict of "token_ids", "padding_mask" and "finished": the rows that fill up the batch are finished.
    """
    num_rows, lengths = token_ids.nrows(tf.int32), tf.cast(token_ids.row_lengths(), tf.int32)
    num_slots = bucket(num_rows, smallest=1)
    prompt_length = bucket(tf.reduce_max(tf.concat([lengths, [least_length]], 0)), SMALLEST_BUCKET)
    prompt = token_ids.to_tensor(0, shape=[None, None])
    prompt = tf.pad(prompt, [[0, num_slots - num_rows], [0, prompt_length - tf.shape(prompt)[1]]])
    lengths = tf.pad(lengths, [[0, num_slots - num_rows]])
    is_start = tf.logical_and(lengths[:, None] == 0, tf.range(prompt_length)[None] == 0)
    return {
        "token_ids": tf.where(is_start, start_token_id, prompt),
        "padding_mask": tf.sequence_mask(tf.maximum(lengths, 1), prompt_length),
        "finished": tf.range(num_slots) >= num_rows,
    }


def stop_rules(options: Any) -> StopRules:
    """The stop rules of `GenerationOptions`, padded to buckets."""
    strings = () if options.stop_strings is None else tree.map_structure(tf.constant, options.stop_strings.tables)
    longest = max([1, *map(len, options.stop_sequences)])
    sequences = np.full((next_power_of_two(len(options.stop_sequences)), next_power_of_two(longest)), -1, "int32")
    for row, sequence in zip(sequences, options.stop_sequences, strict=False):
        row[-len(sequence) :] = sequence
    token_ids = np.full(next_power_of_two(max(len(options.stop_token_ids), 2)), -1, "int32")
    token_ids[: len(options.stop_token_ids)] = list(options.stop_token_ids)
    return StopRules(tf.constant(token_ids), tf.constant(sequences), strings)


def room_for(max_new_tokens: int | Tensor, least: int | Tensor) -> Tensor:
    """A tensor whose length is the bucket of `max_new_tokens`: XLA reads sizes from shapes only.

    Args:
        max_new_tokens: int, or int32 ().
        least: int, or int32 (), such as the bucket of prompts. The room is no smaller, up to `LARGEST_LEAST_ROOM`: few
            rooms mean few compilations, and less would save less than half of the cache.
    """
    return tf.zeros([bucket(max_new_tokens, tf.minimum(least, LARGEST_LEAST_ROOM))], tf.int32)


def bucket(size: int | Tensor, smallest: int | Tensor) -> Tensor:
    """The next power of two, at least `smallest`: int32 () tensor to int32 () tensor."""
    powers = tf.constant([2**exponent for exponent in range(31)], tf.int32)
    return powers[tf.searchsorted(powers, [tf.maximum(size, smallest)])[0]]


def state_spec(model: Any, dtype: DTypeLike | None = None) -> Any:
    """Specs of the model's `DecodingState`: the axes that change with batch size and length are left open."""

    def spec(small, large):
        shape = [a if a == b else None for a, b in zip(small.shape, large.shape, strict=True)]
        return tf.TensorSpec(shape, small.dtype)

    return tree.map_structure(spec, model.init_state(1, 1, dtype), model.init_state(2, 2, dtype))


def _trace(function, *specs, jit_compile):
    # A concrete function: a plain `tf.function` would warn of retracing when several models come and go.
    graph = tf.function(function, input_signature=specs, jit_compile=jit_compile, autograph=False)
    with compat.short_stack_traces():
        return graph.get_concrete_function()


def _open(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)
