"""Runs the compiled loop from Python: checks prompts, keeps what was compiled, gives arrays back."""

import collections
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import tree

from keras_tfm.generation import loop
from keras_tfm.generation.compiled import SMALLEST_BUCKET, CompiledGeneration, bucket, pad_prompts, room_for, stop_rules
from keras_tfm.generation.options import Generation, GenerationOptions
from keras_tfm.generation.pace import Pace
from keras_tfm.samplers.numbers import models_in, split_numbers
from keras_tfm.samplers.stopping import INVALID, REASONS, TIME
from keras_tfm.structure import Snapshot

# Loops that a model keeps; each is a structure of sampler and options, and takes memory as long as it is kept.
MOST_LOOPS = 16

logger = logging.getLogger("keras_tfm")


class Prefix(NamedTuple):
    """What a model has read of one text. token_ids: int32 (H,), all that was read; state: the model's `DecodingState`,
    one row; version: `GenerationRunner.version` of the model that read them."""

    token_ids: np.ndarray
    state: Any
    version: int

    @classmethod
    def of(cls, token_ids, state, version: int) -> "Prefix | None":
        """What a state has read of this text; None if that is nothing, or if it read more and cannot forget it."""
        num_read = int(state.num_tokens[0])
        num_kept = min(num_read, len(token_ids))
        if num_kept == 0 or (num_kept < num_read and not state.can_forget):
            return None
        return cls(token_ids[:num_kept], state.keep(np.array([num_kept], "int32")), version)


class Progress(NamedTuple):
    """A `Generation` under way, and the model's `DecodingState` behind it."""

    generation: Generation
    state: Any


class GenerationRunner:
    """Generates with one model; each structure of sampler and options is compiled once, and anew for a changed model.

    Args:
        model: `CausalLM`.
    """

    def __init__(self, model):
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

    def steps(self, token_ids, options: GenerationOptions, tokens_per_step: int | None) -> Iterator[Generation]:
        """See `CausalLM.generate_steps`."""
        for progress in self.run(token_ids, options, tokens_per_step):
            yield progress.generation

    def run(self, token_ids, options: GenerationOptions, tokens_per_step, prefix: Prefix | None = None):
        """Yields `Progress` after the first token and as often as `Pace` says.

        Args:
            token_ids: prompts in any form that `prompts_of` takes.
            options: of the generation.
            tokens_per_step: int, or None: as `Pace` takes them.
            prefix: what the prompts go on from, all of them; it is not modified.
        """
        prompts = prompts_of(token_ids, self._model.vocabulary_size)
        num_remembered = 0 if prefix is None else len(prefix.token_ids)
        check_fits(self._model, prompts, options.max_new_tokens, num_remembered)
        num_rows = int(prompts.nrows()) * options.num_return_sequences
        if options.max_new_tokens == 0 or num_rows == 0:
            yield Progress(_nothing(num_rows, options), None if prefix is None else prefix.state)
            return
        sampler = options.sampler
        pace = Pace(
            options.max_new_tokens,
            tokens_per_step if sampler.streams else options.max_new_tokens,
            options.max_seconds,
        )
        seed = sampler.seed if options.seed is None else options.seed
        seed = random.getrandbits(31) if seed is None else seed
        sampler = dataclasses.replace(sampler, seed=None)
        shape = loop.Shape(
            options.num_return_sequences, options.cache_dtype, options.alternatives if options.log_probs else None
        )
        compiled = self.compiled(sampler, shape, options, prefix is not None)
        numbers = [tf.constant(number) for number in split_numbers(sampler)[1]]
        settings = settings_of(options, seed)
        room = room_for(options.max_new_tokens)
        inputs = self._prompts(prompts, options, prefix, room, sampler)
        state = self._begin(compiled, inputs, room, settings, numbers)
        has_ended = False
        while pace.until < options.max_new_tokens and not has_ended:
            state = compiled.extend(state, room, tf.constant(pace.next()), settings, numbers)
            if pace.is_late():
                state = state._replace(finish=tf.where(state.finish == 0, TIME, state.finish))
            has_ended = bool((state.finish.numpy() > 0).all())
            if pace.is_piece() or has_ended:
                final, scores = compiled.answer(state._replace(decoding=()), room, settings, numbers)
                yield Progress(generation_of(final, scores, num_rows, options), state.decoding)

    def compiled(self, sampler, shape, options, goes_on) -> CompiledGeneration:
        """The compiled loop for samplers and options of this structure, for the model as it is."""
        is_guided = options.guidance_scale is not None
        structure = split_numbers(sampler)[0]
        with self._lock:
            versions = (self.version(), *(model.generation_runner.version() for model in models_in(sampler)))
            key = (versions, structure, shape, is_guided, goes_on, options.stop_strings is not None)
            if key not in self._compiled:
                start = time.perf_counter()
                self._compiled[key] = CompiledGeneration(self._model, sampler, *key[2:])
                self._snapshot.renew()  # what a layer notes down while it is traced is no change
                logger.info("Traced the loop of %s in %.1f s.", sampler, time.perf_counter() - start)
            self._compiled.move_to_end(key)
            while len(self._compiled) > MOST_LOOPS:
                self._compiled.popitem(last=False)
            return self._compiled[key]

    def _begin(self, compiled, inputs, room, settings, numbers):
        """The state after the prompts were read; compiles what these sizes need, and tells the log of it."""
        arguments = (inputs, room, settings, numbers)
        shapes = tuple(x.shape for x in tree.flatten(arguments))
        if shapes in compiled.shapes:
            return compiled.begin(*arguments)
        with compiled.lock:
            if shapes in compiled.shapes:  # another thread has just compiled them
                return compiled.begin(*arguments)
            num_rows, length = inputs.token_ids.shape
            sizes = f"{num_rows} rows, prompts of up to {length} tokens and {room.shape[0]} new ones"
            logger.info("Compiling the loop for %s; the first texts of these sizes wait for it.", sizes)
            start = time.perf_counter()
            state = compiled.begin(*arguments)
            # Until 0 tokens are there nothing is written: so the rest is compiled here as well, and times no text.
            state = compiled.extend(state, room, tf.constant(0), settings, numbers)
            logger.info("Compiled the loop for %s in %.1f s.", sizes, time.perf_counter() - start)
            compiled.shapes.add(shapes)
            return state

    def _prompts(self, prompts, options, prefix, room, sampler) -> loop.Prompts:
        """The prompts, padded; with negative ones, or with the state of a prefix copied for each and made longer."""
        if options.guidance_scale is not None:
            negative = self._negative_prompts(prompts, options)
            longest = tf.cast(tf.reduce_max(tf.concat([prompts.row_lengths(), negative.row_lengths()], 0)), tf.int32)
            padded, negative = (pad_prompts(rows, options.start_token_id, longest) for rows in (prompts, negative))
            return loop.Prompts(
                **padded,
                negative_token_ids=negative["token_ids"],
                negative_padding_mask=negative["padding_mask"],
            )
        padded = pad_prompts(prompts, options.start_token_id)
        if prefix is None:
            return loop.Prompts(**padded)
        num_rows, length = padded["token_ids"].shape
        _, slots = sampler.room(num_rows * sampler.rows_per_prompt(options.num_return_sequences), room.shape[0])
        history = np.full((num_rows, int(bucket(len(prefix.token_ids), SMALLEST_BUCKET))), -1, "int32")
        history[:, : len(prefix.token_ids)] = prefix.token_ids
        decoding = prefix.state.take(tf.zeros([num_rows], tf.int32)).grow(length + int(slots))
        return loop.Prompts(**padded, history=tf.constant(history), decoding=decoding)

    def _negative_prompts(self, prompts, options) -> tf.RaggedTensor:
        if options.negative_token_ids is None:
            return prompts[:, -1:]
        negative = prompts_of(options.negative_token_ids, self._model.vocabulary_size)
        if negative.nrows() != prompts.nrows():
            raise ValueError(
                "`negative_token_ids` must hold one prompt for each prompt. "
                f"Received: {int(negative.nrows())} for {int(prompts.nrows())}."
            )
        check_fits(self._model, negative, options.max_new_tokens)
        return negative


def settings_of(options: GenerationOptions, seed: int) -> loop.Settings:
    """The options' numbers as tensors."""
    return loop.Settings(
        stops=stop_rules(options),
        max_new_tokens=tf.constant(options.max_new_tokens),
        seed=tf.constant(np.uint32(seed % 2**32).view(np.int32)),
        guidance_scale=() if options.guidance_scale is None else tf.constant(options.guidance_scale, tf.float32),
    )


def generation_of(state, scores, num_rows, options) -> Generation:
    """The real rows of an answer as arrays."""
    finish = state.finish.numpy()[:num_rows]
    if (finish == INVALID).any():
        row = int(np.argmax(finish == INVALID))
        raise ValueError(
            "The logits must be numbers and the sampler must choose ids of the vocabulary. Received: NaN, or an id "
            f"outside, for row {row} after {int(state.num_tokens[row])} new tokens."
        )
    length = options.max_new_tokens
    records = state.log_probs
    chosen, top_ids, top = (x.numpy()[:num_rows, :length] for x in records) if len(records) else (None, None, None)
    return Generation(
        token_ids=state.tokens.numpy()[:num_rows, :length],
        num_tokens=np.minimum(state.num_tokens.numpy()[:num_rows], length),
        finish_reasons=tuple(REASONS[reason] for reason in finish),
        scores=np.asarray(scores)[:num_rows],
        log_probs=chosen,
        top_ids=top_ids if options.alternatives else None,
        top_log_probs=top if options.alternatives else None,
    )


def _nothing(num_rows, options) -> Generation:
    """The answer to nobody, or of no tokens."""
    return Generation(
        token_ids=np.full((num_rows, options.max_new_tokens), -1, "int32"),
        num_tokens=np.zeros(num_rows, "int32"),
        finish_reasons=("length",) * num_rows,
        scores=np.zeros(num_rows, "float32"),
    )


def prompts_of(token_ids, vocabulary_size: int) -> tf.RaggedTensor:
    """Prompts in any of the accepted forms as an int32 ragged tensor (B, None).

    Raises:
        ValueError: for another rank, or ids outside the vocabulary.
    """
    if isinstance(token_ids, tf.RaggedTensor):
        rows = token_ids.to_list()
    else:
        rows = token_ids if isinstance(token_ids, (list, tuple)) else np.asarray(token_ids)
    if len(rows) and np.ndim(rows[0]) == 0:
        rows = [rows]
    rows = [np.asarray(row, "int32" if len(row) == 0 else None) for row in rows]
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.dtype.kind not in "iu":
            raise ValueError(
                "`token_ids` must be integers of shape (B, T) or (T,), or a list of lists. "
                f"Received: row {i} of shape {row.shape} and dtype {row.dtype}."
            )
        if row.size and (row.min() < 0 or row.max() >= vocabulary_size):
            raise ValueError(
                f"Token ids must be in [0, {vocabulary_size}). Received: ids from {row.min()} to {row.max()} in row "
                f"{i}. Use the tokenizer that the model was trained with."
            )
    flat = np.concatenate([*rows, np.zeros(0, "int32")]).astype("int32")
    return tf.RaggedTensor.from_row_lengths(flat, np.array([len(row) for row in rows], "int64"))


def check_fits(model, prompts: tf.RaggedTensor, max_new_tokens: int, num_remembered: int = 0) -> None:
    """Raises unless the longest prompt and its new tokens fit the model's positions."""
    limit, longest = model.max_sequence_length, max([1, *prompts.row_lengths().numpy()]) + num_remembered
    if limit is not None and longest + max_new_tokens > limit:
        raise ValueError(
            f"A prompt and its new tokens must fit the model's {limit} positions. Received: a prompt of {longest} "
            f"tokens and max_new_tokens={max_new_tokens}. Shorten the prompt or ask for fewer tokens."
        )
