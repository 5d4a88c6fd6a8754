"""Runs the compiled loop from Python: checks prompts, caches compiled loops, returns arrays."""

import collections
import dataclasses
import functools
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import backend, ops, tree

from keras_tfm import compat
from keras_tfm.arguments import check_in_vocabulary, require
from keras_tfm.generation import loop
from keras_tfm.generation.compiled import (
    LARGEST_LEAST_ROOM,
    SMALLEST_BUCKET,
    CompiledGeneration,
    bucket,
    pad_prompts,
    room_for,
    stop_rules,
)
from keras_tfm.generation.jitted import JittedGeneration
from keras_tfm.generation.options import Generation, GenerationOptions
from keras_tfm.generation.pace import Pace, tokens_between_looks
from keras_tfm.generation.pass_cost import measure_pass_cost, numbers_of
from keras_tfm.generation.prompts import check_fits, prompts_of
from keras_tfm.optional import require_tensorflow
from keras_tfm.samplers.numbers import greatest_id, models_in, split_numbers
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.state import INVALID, REASONS, TIME
from keras_tfm.structure import Snapshot
from keras_tfm.types import Tensor

# Compiled loops that a model caches, one for each structure of sampler and options; TensorFlow holds their memory.
MOST_LOOPS = 16
# Multiplications of a mean product, rows times numbers of its matrix, from which on oneDNN's products are worth what
# TensorFlow's operations cost beside XLA's loop, for weights in:
LEAST_WORK = {"w8a8": 2.2e6, "bfloat16": 5e6}
# Rows up to which all rooms are at least the largest of the smallest: see `_inputs`.
_FEW_ROWS = 2

logger = logging.getLogger("keras_tfm")


class Prefix(NamedTuple):
    """A prefix that is in the KV caches already.

    token_ids: int32 (H,), its tokens. state: the model's `DecodingState`, one row. version: `GenerationRunner.version`
    of the model that read them.
    """

    token_ids: np.ndarray
    state: Any
    version: int

    @classmethod
    def of(cls, token_ids: Tensor, state: Any, version: int, num_before: int = 0) -> "Prefix | None":
        """The part of these tokens that a state has read; None if it is empty, or if the state cannot rewind to it.

        num_before: what it has read before them, which are virtual tokens.
        """
        num_read = int(state.num_tokens[0]) - num_before
        num_kept = min(num_read, len(token_ids))
        if num_kept == 0 or (num_kept < num_read and not state.can_forget):
            return None
        return cls(token_ids[:num_kept], state.keep(np.array([num_before + num_kept], "int32")), version)


class Progress(NamedTuple):
    """A `Generation` under way, and the model's `DecodingState` behind it, until the next is asked for."""

    generation: Generation
    state: Any


class GenerationRunner:
    """Generates with one model; each structure of sampler and options is compiled once, and anew for a changed model.

    Args:
        model: `CausalLM`.

    Raises:
        RuntimeError: on torch.
    """

    def __init__(self, model: Any):
        require_tensorflow("`generate`", or_jax=True)
        self._model = model
        self._compiled: collections.OrderedDict = collections.OrderedDict()
        self._snapshot = Snapshot(model)
        self._version = 0
        self._lock = threading.RLock()

    def version(self) -> int:
        """How often the model was found changed in what a trace depends on, which the weights' values are not."""
        with self._lock:
            if self._snapshot.has_changed():
                self._version += 1
                self._compiled.clear()
            return self._version

    def steps(
        self, token_ids: Tensor, options: GenerationOptions, tokens_per_piece: int | None
    ) -> Iterator[Generation]:
        """See `CausalLM.generate_steps`."""
        for progress in self.run(token_ids, options, tokens_per_piece):
            yield progress.generation

    def run(
        self, token_ids: Tensor, options: GenerationOptions, tokens_per_piece: int | None, prefix: Prefix | None = None
    ) -> Iterator[Progress]:
        """Yields `Progress` after the first token and as often as `Pace` says.

        Args:
            token_ids: prompts in any form that `prompts_of` takes.
            options: of the generation.
            tokens_per_piece: int, or None: as `Pace` takes them.
            prefix: what all prompts continue, already in the KV caches; it is not modified.
        """
        tokens_per_piece = (
            tokens_between_looks("tokens_per_piece", tokens_per_piece) if options.max_new_tokens else None
        )
        prompts = self._rows_of(token_ids, "token_ids")
        check_ids_of(options, self._model.vocabulary_size)
        num_remembered = 0 if prefix is None else len(prefix.token_ids)
        check_fits(self._model, prompts, options.max_new_tokens, num_remembered)
        negative = self._negative_prompts(prompts, options)
        num_rows = int(prompts.nrows()) * options.num_return_sequences
        if options.max_new_tokens == 0 or num_rows == 0:
            yield Progress(_nothing(num_rows, options), None if prefix is None else prefix.state)
            return
        sampler = options.sampler
        pace = Pace(
            options.max_new_tokens,
            tokens_per_piece if sampler.streams else options.max_new_tokens,
            options.max_seconds,
        )
        seed = sampler.seed if options.seed is None else options.seed
        seed = random.getrandbits(31) if seed is None else seed
        sampler = dataclasses.replace(sampler, seed=None)
        shape = loop.Shape(
            options.num_return_sequences, options.cache_dtype, options.alternatives if options.log_probs else None
        )
        begun_with = sampler.timed(lambda: 1.0)  # before anything was compiled that could be timed
        inputs, room = self._inputs(prompts, negative, options, prefix, sampler)
        rows_in_loop = inputs.token_ids.shape[0] * sampler.rows_per_prompt(options.num_return_sequences)
        compiled = self.compiled(begun_with, shape, options, prefix is not None, rows_in_loop)
        settings = settings_of(options, seed)
        arguments = (inputs, room, settings, numbers_of(begun_with))
        state = self._begin(compiled, *arguments)
        numbers = numbers_of(sampler.timed(lambda: self._pass_cost(compiled, state, arguments, begun_with)))
        has_ended = False
        while pace.until < options.max_new_tokens and not has_ended:
            state = compiled.extend(state, room, tf.constant(pace.next()), settings, numbers)
            if pace.is_late():
                state = state._replace(finish=ops.where(state.finish == 0, TIME, state.finish))
            has_ended = bool((ops.convert_to_numpy(state.finish) > 0).all())
            if pace.is_piece() or has_ended:
                final, scores = compiled.answer(state._replace(decoding=()), room, settings, numbers)
                generation = generation_of(final, scores, num_rows, options)
                if options.attention and (has_ended or pace.until >= options.max_new_tokens):
                    generation = self._inspected(prompts, generation, options)
                yield Progress(generation, state.decoding)

    def compiled(
        self, sampler: Sampler, shape: loop.Shape, options: GenerationOptions, has_prefix: bool, num_rows: int
    ) -> CompiledGeneration | JittedGeneration:
        """The loop for this structure of sampler and options and so many rows, retraced if the model has changed."""
        is_by_xla = not self._is_by_onednn(num_rows)
        is_guided = options.guidance_scale is not None
        structure = split_numbers(sampler)[0]
        with self._lock:
            versions = (self.version(), *(model.generation_runner.version() for model in models_in(sampler)))
            key = (versions, structure, shape, is_guided, has_prefix, options.stop_strings is not None, is_by_xla)
            if key not in self._compiled:
                start = time.perf_counter()
                self._compiled[key] = self._compile(sampler, *key[2:])
                self._snapshot.renew()  # what a layer notes down while it is traced is no change
                logger.info("Traced the loop of %s in %.1f s.", sampler, time.perf_counter() - start)
            self._compiled.move_to_end(key)
            while len(self._compiled) > MOST_LOOPS:
                self._compiled.popitem(last=False)
            return self._compiled[key]

    def _is_by_onednn(self, num_rows) -> bool:
        """Whether so many rows are written faster by products of oneDNN than by XLA's."""
        # Not part of what the loop asks of a model: one of its own kind need not say it.
        weight_dtype = getattr(self._model, "weight_dtype", None)
        if weight_dtype not in LEAST_WORK or num_rows * self._mean_matrix_size < LEAST_WORK[weight_dtype]:
            return False
        return compat.has_int8_product() if weight_dtype == "w8a8" else compat.has_bfloat16_product()

    @functools.cached_property
    def _mean_matrix_size(self) -> float:
        return self._model.mean_matrix_size()

    def _compile(
        self, sampler, shape, is_guided, has_prefix, has_stop_strings, is_by_xla
    ) -> CompiledGeneration | JittedGeneration:
        """The loop as what compiles on this backend takes it."""
        if backend.backend() == "tensorflow":
            return CompiledGeneration(
                self._model, sampler, shape, is_guided, has_prefix, has_stop_strings, jit_compile=is_by_xla
            )
        return JittedGeneration(self._model, sampler, shape)  # what else there is, it reads off its arguments

    def _begin(self, compiled, inputs, room, settings, numbers):
        """The state after the prefill; XLA compiles for sizes of a new bucket, which is logged."""
        arguments = (inputs, room, settings, numbers)
        shapes = _shapes(arguments)
        if shapes in compiled.shapes or not compiled.is_by_xla:
            return compiled.begin(*arguments)
        with compiled.lock:
            if shapes in compiled.shapes:  # another thread has just compiled them
                return compiled.begin(*arguments)
            num_rows, length = inputs.token_ids.shape
            sizes = f"{num_rows} rows, prompts of up to {length} tokens and {room.shape[0]} new ones"
            logger.info("Compiling the loop for %s; the first texts of these sizes wait for it.", sizes)
            start = time.perf_counter()
            state = compiled.begin(*arguments)
            # Until 0 tokens nothing is decoded: this only compiles the rest, so that it delays no text.
            state = compiled.extend(state, room, tf.constant(0), settings, numbers)
            logger.info("Compiled the loop for %s in %.1f s.", sizes, time.perf_counter() - start)
            compiled.shapes.add(shapes)
            return state

    def _pass_cost(self, compiled, state, arguments, sampler) -> float:
        """What a pass over guesses costs in plain steps, measured at the first generation of these sizes."""
        shapes = _shapes(arguments)
        with compiled.lock:
            if shapes not in compiled.pass_costs:
                _, room, settings, _ = arguments
                cost = measure_pass_cost(compiled.extend, state, room, settings, sampler)
                logger.info("A pass over guesses takes as long as %.2f steps of one token.", cost)
                compiled.pass_costs[shapes] = cost
            return compiled.pass_costs[shapes]

    def _inspected(self, prompts, generation, options) -> Generation:
        """The generation with what the model computes of its texts."""
        rows = [prompt or [options.start_token_id] for prompt in prompts.to_list()]
        return dataclasses.replace(generation, inspection=self._model.inspect_written(rows, generation))

    def _rows_of(self, token_ids, name: str) -> tf.RaggedTensor:
        """Prompts that the caller gave in the argument `name`."""
        return prompts_of(token_ids, self._model.prompt_vocabulary_size, name, int(self._model.reads_sources))

    def _inputs(self, prompts, negative, options, prefix, sampler) -> tuple[loop.Prompts, Tensor]:
        """(padded prompts, room); with negative ones, or with the caches of a prefix, copied for each row and grown."""
        if negative is not None:
            longest = tf.cast(tf.reduce_max(tf.concat([prompts.row_lengths(), negative.row_lengths()], 0)), tf.int32)
            padded, negative = (pad_prompts(rows, options.start_token_id, longest) for rows in (prompts, negative))
            inputs = loop.Prompts(
                **padded,
                negative_token_ids=negative["token_ids"],
                negative_padding_mask=negative["padding_mask"],
            )
        else:
            inputs = loop.Prompts(**pad_prompts(prompts, options.start_token_id))
        num_rows, length = inputs.token_ids.shape
        # The caches of few rows are small beside the weights: fewer rooms save seconds and 12 MB of code for each.
        least = LARGEST_LEAST_ROOM if num_rows <= _FEW_ROWS else length
        room = room_for(options.max_new_tokens, least)
        if prefix is None:
            return inputs, room
        _, slots = sampler.room(num_rows * sampler.rows_per_prompt(options.num_return_sequences), room.shape[0])
        history = np.full((num_rows, int(bucket(len(prefix.token_ids), SMALLEST_BUCKET))), -1, "int32")
        history[:, : len(prefix.token_ids)] = prefix.token_ids
        decoding = prefix.state.take(np.zeros(num_rows, "int32")).grow(length + int(slots))
        return inputs._replace(history=tf.constant(history), decoding=decoding), room

    def _negative_prompts(self, prompts, options) -> tf.RaggedTensor | None:
        """One for each prompt; None without guidance."""
        if options.guidance_scale is None:
            return None
        if options.negative_token_ids is None:
            return prompts[:, -1:]
        negative = self._rows_of(options.negative_token_ids, "negative_token_ids")
        num_prompts, num_negative = int(prompts.nrows()), int(negative.nrows())
        if num_negative not in (1, num_prompts):
            raise ValueError(
                "`negative_prompts`, or `negative_token_ids`, must hold one prompt for all, or one for each. "
                f"Received: {num_negative} for {num_prompts} prompts."
            )
        check_fits(self._model, negative, options.max_new_tokens)
        return negative if num_negative == num_prompts else tf.gather(negative, tf.zeros([num_prompts], tf.int32))


def _shapes(arguments) -> tuple:
    return tuple(x.shape for x in tree.flatten(arguments))


def check_ids_of(options: GenerationOptions, vocabulary_size: int) -> None:
    """Raises unless the options' numbers that depend on the vocabulary are right for it."""
    check_in_vocabulary(vocabulary_size, start_token_id=options.start_token_id)
    require(
        options.alternatives <= vocabulary_size,
        f"`alternatives` must be at most the {vocabulary_size} tokens of the vocabulary",
        alternatives=options.alternatives,
    )
    greatest = greatest_id(options.sampler)
    require(
        greatest < vocabulary_size,
        f"The processors of `sampler` must name ids less than the {vocabulary_size} tokens of the vocabulary",
        greatest=greatest,
    )


def settings_of(options: GenerationOptions, seed: int) -> loop.Settings:
    """The options' numbers as tensors."""
    return loop.Settings(
        stops=stop_rules(options),
        max_new_tokens=tf.constant(options.max_new_tokens),
        seed=tf.constant(int32_seed(seed)),
        guidance_scale=() if options.guidance_scale is None else tf.constant(options.guidance_scale, tf.float32),
    )


def int32_seed(seed: int) -> np.int32:
    """A seed of any size as the 32 bits that are drawn with."""
    return np.uint32(seed % 2**32).view(np.int32)


def generation_of(state: Any, scores: Tensor, num_rows: Tensor, options: Any) -> Generation:
    """The real rows of an answer as arrays."""
    finish = ops.convert_to_numpy(state.finish)[:num_rows]
    if (finish == INVALID).any():
        row = int(np.argmax(finish == INVALID))
        raise ValueError(
            "The logits must be numbers and the sampler must choose ids of the vocabulary. Received: NaN, or an id "
            f"outside, for row {row} after {int(state.num_tokens[row])} new tokens."
        )
    length = options.max_new_tokens
    records = state.log_probs
    chosen, top_ids, top = (
        (ops.convert_to_numpy(x)[:num_rows, :length] for x in records) if len(records) else (None, None, None)
    )
    return Generation(
        token_ids=ops.convert_to_numpy(state.tokens)[:num_rows, :length],
        num_tokens=np.minimum(ops.convert_to_numpy(state.num_tokens)[:num_rows], length),
        finish_reasons=tuple(REASONS[reason] for reason in finish),
        scores=ops.convert_to_numpy(scores)[:num_rows],
        log_probs=chosen,
        top_ids=top_ids if options.alternatives else None,
        top_log_probs=top if options.alternatives else None,
    )


def _nothing(num_rows, options) -> Generation:
    """The answer to nobody, or of no tokens."""
    shape = (num_rows, options.max_new_tokens)
    of_alternatives = (*shape, options.alternatives) if options.alternatives else None
    return Generation(
        token_ids=np.full(shape, -1, "int32"),
        num_tokens=np.zeros(num_rows, "int32"),
        finish_reasons=("length",) * num_rows,
        scores=np.zeros(num_rows, "float32"),
        log_probs=np.zeros(shape, "float32") if options.log_probs else None,
        top_ids=None if of_alternatives is None else np.full(of_alternatives, -1, "int32"),
        top_log_probs=None if of_alternatives is None else np.zeros(of_alternatives, "float32"),
    )
