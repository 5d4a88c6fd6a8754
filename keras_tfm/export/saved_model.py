"""A text generator as a SavedModel: tokenizer, model and the generate loop in one graph, for TensorFlow alone."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from keras import tree

from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.export.row_adapters import RowAdapters
from keras_tfm.export.writing import predict_request, write_saved_model
from keras_tfm.files import check_is_free
from keras_tfm.generation import loop
from keras_tfm.generation.compiled import CompiledGeneration, pad_prompts, room_for, stop_rules
from keras_tfm.generation.options import MOST_NEW_TOKENS, GenerationOptions
from keras_tfm.generation.pass_cost import measure_pass_cost, numbers_of
from keras_tfm.generation.prompts import texts_of
from keras_tfm.generation.runner import check_ids_of, int32_seed
from keras_tfm.generation.text_generator import TextGenerator
from keras_tfm.layers.adapter import rows_with_adapters
from keras_tfm.ops.int8_products import portable_products
from keras_tfm.optional import require_tensorflow
from keras_tfm.samplers import GreedySampler, RandomSampler, Sampler, Temperature, TopK, TopP
from keras_tfm.samplers.constraints import ForceLastToken
from keras_tfm.samplers.numbers import models_in, split_numbers, with_numbers
from keras_tfm.samplers.state import REASONS
from keras_tfm.types import PathLike

# What a caller may set: signature argument -> (processor, its field).
_CONTROLS = {"temperature": (Temperature, "temperature"), "top_k": (TopK, "k"), "top_p": (TopP, "p")}
_CONTROL_DTYPES = {"temperature": tf.float32, "top_k": tf.int32, "top_p": tf.float32}
SIGNATURES = ("serving_default", "generate", "prefill", "decode_step", "tokenize", "logits")
# Of the tensors state_...: another number whenever a field comes, goes or changes its meaning.
STATE_FORMAT = 2
# The limit of a prompt and its new tokens where neither the model's positions nor its checkpoint tell one.
DEFAULT_TOTAL_TOKENS = 4096
MOST_WARMUP_REQUESTS = 1000  # TensorFlow Serving refuses more
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def export_text_generator(
    writer: TextGenerator,
    path: PathLike,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    num_return_sequences: int = 1,
    stop_strings: str | Iterable[str] = (),
    max_total_tokens: int | None = None,
    max_prompts: int | None = None,
    jit_compile: bool = False,
    portable: bool = True,
    warmup: str | Sequence[str | Sequence[str]] = (),
    adapters: str | Iterable[str] = (),
) -> None:
    """Writes a SavedModel whose signatures take and give strings; it loads in a process that imports only tensorflow.

    Signatures:
        generate: prompts string (B,), max_new_tokens int32 (), seed int32 (), and where the sampler chooses token by
            token temperature float32 () (0 = greedy), top_k int32 () (0 = off), top_p float32 () (1 = off)
            -> text string (R,), num_tokens int32 (R,), finish_reason string (R,), scores float32 (R,);
            R = B x num_return_sequences. With `adapters`, adapter string (B,) as well: the one that each prompt uses,
            "" for none.
        serving_default: prompts string (B,) -> the same, with the defaults given here.
        prefill: the arguments of generate -> the same answers after the first token, and all that a generation is, the
            KV cache included, in tensors whose names begin with "state_". A client hands them on and need not know
            them; `state_format` is the number of their format, and a state of another one is refused.
        decode_step: the tensors state_... and num_tokens int32 (), the new tokens to write -> the same again. `text` is
            all text so far, of whole characters; a generation has ended when no finish_reason is empty.
        tokenize: texts string (B,) -> token_ids int32 (B, T) of prompts, padded with -1, num_tokens int32 (B,).
        logits: token_ids int32 (B, T), or encoder_token_ids int32 (B, S) and decoder_token_ids int32 (B, T) of an
            encoder-decoder -> logits float32 (B, T, V).

    Bytes of a text that are no UTF-8 are read as U+FFFD. A request is refused before anything is allocated for it
    (InvalidArgumentError) if a prompt with its new tokens, or a row of `logits`, is longer than `max_total_tokens`, or
    if there are more prompts, texts or rows than `max_prompts`.

    A `SpeculativeSampler` without a `pass_cost` is timed here, for one prompt on this machine; give it one for servers
    that differ, or for batches, in which passes cost more.

    The writer's sampler is exported with all its processors; its temperature, top-k and top-p, where they stand among
    them or else at the end, take the caller's values. The same seed gives the text that the writer gives in Python.

    By default it runs on every server. With `jit_compile=True` XLA compiles the generation, which is faster (one prompt
    at a time 1.7 to 2.6 times, eight 1 to 1.5 times, measured on 2 cores of an AMD EPYC), and needs a server that lets
    XLA compile: TensorFlow Serving on CPUs refuses ("XLA compilation disabled") unless it
    is started with `--xla_cpu_compilation_enabled`. Python lets it.

    Args:
        writer: `TextGenerator`, or `TextToText`, whose prompts are sources.
        path: str or path of a folder that does not exist yet.
        max_new_tokens: int, default of `serving_default`; `generate` takes any number that fits `max_total_tokens`.
        temperature, top_k, top_p: defaults. Default: the sampler's own, else 1, 0 and 1 (greedy: temperature 0).
        seed: int, default.
        num_return_sequences: int, texts for each prompt.
        stop_strings: str, or list of str; a text ends before the first of them.
        max_total_tokens: int, the most tokens of a prompt and its new tokens together, in each row of any request; of
            an encoder-decoder, of each by itself.
            Default: the model's learned positions, else `max_position_embeddings` of the checkpoint that it was loaded
            from, else 4,096. A checkpoint's number may be large: the keys and values of a row take memory for so many.
        max_prompts: int, the most prompts of any request, each of which takes memory for keys and values. Default: as
            many as fit into the largest request that the server allows.
        jit_compile: bool, whether XLA compiles the generation.
        portable: bool. After `quantize_for_generation("w8a8")` a SavedModel with `portable=False` holds an operation of
            oneDNN, which TensorFlow has on x86 processors, faster for several prompts at once; elsewhere it fails to
            load, or in the first request, with an error that names `int8_product_for_TensorFlow_with_oneDNN_on_x86`.
            Of all other weights, bfloat16 among them, every SavedModel is portable.
        warmup: requests for `serving_default` that TensorFlow Serving sends to itself while it loads the model, before
            it takes others; at most 1,000, each a prompt, or a list of prompts at once. A first request takes seconds,
            and compiled by XLA the first of each power of two of prompts and of the longest prompt's tokens (at least
            16) does.
        adapters: names of the model's adapters (`keras_tfm.adapters`) among which each prompt may choose. All are
            computed for all rows. `serving_default` and `logits` use none of them. Default: the model as it is.

    Raises:
        FileExistsError: if `path` exists.
        ValueError: for a temperature, top-k or top-p where the sampler does not choose token by token, a draft model of
            another vocabulary, numbers out of their range, and requests of `serving_default` or `warmup` that
            `max_total_tokens` or `max_prompts` would refuse; for `adapters` that are not there, do not count in full,
            or stand beside the head.

    Example:
        >>> writer.export("serving/1", max_new_tokens=40, warmup=["ROMEO:", ["ROMEO:", "JULIET:"]])
    """
    require_tensorflow("`export`")
    require(
        portable or not jit_compile,
        "`portable` must be True where XLA compiles",
        jit_compile=jit_compile,
        portable=portable,
    )
    check_is_free(path)  # before any work
    batches = batches_of(warmup)
    sampler, controls = _open_sampler(writer.sampler, _checked_controls(temperature, top_k, top_p))
    options = writer.options(
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        num_return_sequences=num_return_sequences,
        stop_strings=stop_strings,
    )
    check_ids_of(options, writer.model.vocabulary_size)
    limit = total_tokens_of(writer.model, max_total_tokens)
    longest = max([1, *(len(ids) for batch in batches for ids in writer.encode(batch, "warmup"))])
    if options.max_new_tokens > writer.model.most_new_tokens(longest, limit):
        raise ValueError(
            "The prompts of `warmup`, or any at all, and their new tokens must fit "
            f"`max_total_tokens`={limit}. Received: a prompt of {longest} tokens and "
            f"max_new_tokens={options.max_new_tokens}."
        )
    if max_prompts is not None:
        max_prompts = as_integer("max_prompts", max_prompts, 1)
        most = max(map(len, batches), default=0)
        require(most <= max_prompts, f"The requests of `warmup` must have at most {max_prompts} prompts", prompts=most)
    defaults = {
        "max_new_tokens": options.max_new_tokens,
        "seed": int32_seed(as_integer("seed", seed, -(2**31))),
        **controls,
    }
    names = (adapters,) if isinstance(adapters, str) else tuple(adapters)
    with portable_products() if portable else contextlib.nullcontext():
        module = ServedTextGenerator(writer, options, defaults, jit_compile, limit, max_prompts, names)
        signatures = module.signatures()
    requests = [predict_request("serving_default", prompts=batch) for batch in batches]
    write_saved_model(module, signatures, path, requests)


def total_tokens_of(model: Any, max_total_tokens: int | None = None) -> int:
    """The most tokens of a prompt and its new tokens, given or by default.

    Args:
        model: `CausalLM`.
        max_total_tokens: as in `export_text_generator`.

    Raises:
        ValueError: for anything but an integer that the model has positions for.
    """
    positions = model.max_sequence_length
    if max_total_tokens is not None:
        limit = as_integer("max_total_tokens", max_total_tokens, 1)
        most, what = (MOST_NEW_TOKENS, "tokens") if positions is None else (positions, "positions of the model")
        require(limit <= most, f"`max_total_tokens` must be at most the {most} {what}", max_total_tokens=limit)
        return limit
    return model.noted_sequence_length or DEFAULT_TOTAL_TOKENS


class _Served(NamedTuple):
    """All that goes out and comes in between `prefill` and `decode_step`: its fields name the tensors.

    generation: `GenerationState`. room, settings, numbers: as `CompiledGeneration` takes them. num_rows: int32 (), rows
    that are not there to fill up the batch.
    """

    generation: Any
    room: Any
    settings: Any
    numbers: Any
    num_rows: Any


class ServedTextGenerator(tf.Module):
    """The graph functions of an exported text generator, and what they need.

    Args:
        writer: `TextGenerator`.
        options: `GenerationOptions` with the sampler, the texts for each prompt and the stops.
        defaults: values of "max_new_tokens", "seed" and the sampler's controls for `serving_default`.
        jit_compile: bool, whether XLA compiles the generation.
        max_total_tokens, max_prompts, adapters: as in `export_text_generator`.
    """

    def __init__(
        self,
        writer: TextGenerator,
        options: GenerationOptions,
        defaults: dict,
        jit_compile: bool = False,
        max_total_tokens: int | None = None,
        max_prompts: int | None = None,
        adapters: tuple[str, ...] = (),
    ):
        super().__init__(name="text_generator")
        # Tracked: what the SavedModel must hold. The rest are plain objects, which it does not look into.
        self.tokenizers = writer.tokenizers
        models = [writer.model, *models_in(options.sampler)]
        self.weights = [variable.value for model in models for variable in model.variables]
        self._writer = writer
        self._defaults = defaults
        self._limit = total_tokens_of(writer.model, max_total_tokens)
        self._most_prompts = tf.int32.max if max_prompts is None else min(max_prompts, tf.int32.max)
        self._shape = loop.Shape(options.num_return_sequences)
        self._adapters = adapters
        sampler = options.sampler.timed(lambda: 1.0)  # before anything was traced that could be timed
        self._compiled = CompiledGeneration(
            RowAdapters(writer.model, adapters) if adapters else writer.model,
            sampler,
            self._shape,
            has_stop_strings=options.stop_strings is not None,
            has_adapters=bool(adapters),
            jit_compile=jit_compile,
        )
        timed = options.sampler.timed(lambda: self._pass_cost(options, sampler))
        self._options = options if timed is options.sampler else dataclasses.replace(options, sampler=timed)

    def _pass_cost(self, options, sampler) -> float:
        """What a pass over guesses costs in plain steps, for one row on this machine."""
        padded = loop.Prompts(**pad_prompts(tf.ragged.constant([[options.start_token_id]], tf.int32), 0))
        if self._adapters:
            padded = padded._replace(adapters=tf.constant([-1]))
        room = room_for(1, tf.shape(padded.token_ids)[1])
        settings = loop.Settings(stop_rules(options), tf.size(room), tf.constant(0))
        state = self._compiled.begin(padded, room, settings, numbers_of(sampler))
        return measure_pass_cost(self._compiled.extend, state, room, settings, sampler)

    def signatures(self, names: Sequence[str] = SIGNATURES) -> dict:
        """name -> traced function, for some names of `SIGNATURES`; "decode_step" comes with "prefill", whose answer it
        takes."""
        prompts = tf.TensorSpec([None], tf.string, name="prompts")
        integer = tf.TensorSpec([], tf.int32)
        settings = {name: integer for name in ("max_new_tokens", "seed")}
        settings |= {name: tf.TensorSpec([], _CONTROL_DTYPES[name]) for name in _CONTROLS if name in self._defaults}
        settings = {name: tf.TensorSpec([], spec.dtype, name=name) for name, spec in settings.items()}
        if self._adapters:
            settings["adapter"] = tf.TensorSpec([None], tf.string, name="adapter")
        arguments = {
            "serving_default": (self.generate_with_defaults, {"prompts": prompts}),
            "generate": (self.generate, {"prompts": prompts, **settings}),
            "prefill": (self.prefill, {"prompts": prompts, **settings}),
            "tokenize": (self.tokenize, {"texts": tf.TensorSpec([None], tf.string, name="texts")}),
            "logits": (
                self.logits,
                {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in self._vocabulary_sizes},
            ),
        }
        traced = {name: _trace(function, **specs) for name, (function, specs) in arguments.items() if name in names}
        if "decode_step" in names:
            answer = traced["prefill"].structured_outputs.items()
            states = {
                name: tf.TensorSpec(x.shape, x.dtype, name=name) for name, x in answer if name.startswith("state_")
            }
            num_tokens = tf.TensorSpec([], tf.int32, name="num_tokens")
            traced["decode_step"] = _trace(self.decode_step, num_tokens=num_tokens, **states)
        return traced

    def generate_with_defaults(self, prompts: tf.Tensor) -> dict[str, tf.Tensor]:
        """prompts string (B,) -> what `generate` gives."""
        settings = {name: tf.constant(value) for name, value in self._defaults.items()}
        if self._adapters:
            settings["adapter"] = tf.fill(tf.shape(prompts), "")
        return self.generate(prompts, **settings)

    def generate(
        self, prompts: tf.Tensor, max_new_tokens: tf.Tensor, seed: tf.Tensor, **controls: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """prompts string (B,) and settings () -> text, num_tokens, finish_reason, scores, (R,) each."""
        return self._answer(self._extend(self._begin(prompts, max_new_tokens, seed, controls), max_new_tokens))

    def prefill(
        self, prompts: tf.Tensor, max_new_tokens: tf.Tensor, seed: tf.Tensor, **controls: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """As `generate`, after the first token, with the state of the generation."""
        served = self._extend(self._begin(prompts, max_new_tokens, seed, controls), tf.minimum(1, max_new_tokens))
        return {**self._answer(served), **_named(served)}

    def decode_step(self, num_tokens: tf.Tensor, **states: tf.Tensor) -> dict[str, tf.Tensor]:
        """Goes on by `num_tokens` for each row that has not finished."""
        message = f"This model goes on with a state of `state_format` {STATE_FORMAT}, as its own `prefill` gives it."
        with tf.control_dependencies([tf.debugging.assert_equal(states.pop("state_format"), STATE_FORMAT, message)]):
            num_tokens = tf.identity(num_tokens)
        state, room, _, settings, numbers = self._compiled.extend.structured_input_signature[0]
        served = _unnamed(_Served(state, room, settings, numbers, num_tokens), states)
        state = served.generation
        # The state comes from a caller: its numbers must not ask for more work than its tensors have room for.
        message = "`state_generation_num_tokens` must be at least 0."
        with tf.control_dependencies([tf.debugging.assert_non_negative(state.num_tokens, message)]):
            written = tf.reduce_max(tf.where(state.finish == 0, state.num_tokens, 0))
        room = tf.size(served.room)
        until = tf.minimum(written, room) + tf.clip_by_value(num_tokens, 0, room)
        served = self._extend(served, tf.minimum(until, tf.minimum(served.settings.max_new_tokens, room)))
        return {**self._answer(served), **_named(served)}

    def tokenize(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """texts string (B,) -> token_ids int32 (B, T) padded with -1, num_tokens int32 (B,), as prompts are read."""
        token_ids = self._writer.prompt_rows(self._few("texts", texts))
        return {"token_ids": token_ids.to_tensor(-1), "num_tokens": tf.cast(token_ids.row_lengths(), tf.int32)}

    @property
    def _vocabulary_sizes(self) -> dict[str, int]:
        """Name of each input of the model -> how many tokens it knows: sources first."""
        model = self._writer.model
        return dict(zip(model.required_inputs, (model.prompt_vocabulary_size, model.vocabulary_size), strict=False))

    def logits(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Token ids int32 (B, T), by the names of the model's inputs -> logits float32 (B, T, V)."""
        checks = []
        for name, token_ids in inputs.items():
            size = self._vocabulary_sizes[name]
            message = f"`{name}` must be at least 0 and less than {size}."
            checks += [
                tf.debugging.Assert(
                    tf.shape(token_ids)[1] <= self._limit,
                    [
                        f"`{name}` must have at most `max_total_tokens`={self._limit} columns. Received:",
                        tf.shape(token_ids),
                    ],
                ),
                tf.debugging.assert_non_negative(token_ids, message),
                tf.debugging.assert_less(token_ids, size, message),
            ]
        with tf.control_dependencies(checks):
            inputs = {name: self._few(name, tf.identity(token_ids)) for name, token_ids in inputs.items()}
            with rows_with_adapters({}) if self._adapters else contextlib.nullcontext():
                return {"logits": tf.cast(self._writer.model.read_logits(**inputs), tf.float32)}

    def _begin(self, prompts, max_new_tokens, seed, controls):
        """The generation after the prompts were read."""
        controls = dict(controls)
        adapter = controls.pop("adapter", None)
        token_ids = self._writer.prompt_rows(self._few("prompts", prompts))
        checks = self._checks(token_ids, max_new_tokens, controls)
        if adapter is not None:
            number, check = self._numbers_of(adapter, prompts)
            checks.append(check)
        with tf.control_dependencies(checks):
            padded = loop.Prompts(**pad_prompts(token_ids, self._options.start_token_id))
            # Memory that a refused request must not take.
            room = room_for(max_new_tokens, tf.shape(padded.token_ids)[1])
            if adapter is not None:
                number = tf.identity(number)
                missing = tf.size(padded.finished) - tf.size(number)
                padded = padded._replace(adapters=tf.pad(number, [[0, missing]], constant_values=-1))
        numbers = [tf.constant(number) for number in split_numbers(self._options.sampler)[1]]
        for name, value in controls.items():
            numbers[_place(self._options.sampler, _CONTROLS[name][0])] = value
        for place in _places(self._options.sampler, ForceLastToken):
            numbers[place + 1] = max_new_tokens  # after its token
        settings = loop.Settings(stop_rules(self._options), max_new_tokens, seed)
        state = self._compiled.begin(padded, room, settings, numbers)
        return _Served(state, room, settings, numbers, token_ids.nrows(tf.int32) * self._options.num_return_sequences)

    def _numbers_of(self, adapter, prompts):
        """(int32 (B,), the number of each prompt's adapter, -1 = none; the check that all are known)."""
        names = tf.constant(["", *self._adapters])
        found = tf.equal(adapter[:, None], names)
        is_one_each = tf.equal(tf.size(adapter), tf.size(prompts))
        is_right = tf.logical_and(is_one_each, tf.reduce_all(tf.reduce_any(found, 1)))
        message = "`adapter` must be one name for each prompt, of these:"
        check = tf.debugging.Assert(is_right, [message, names, "Received:", adapter])
        return tf.argmax(found, 1, tf.int32) - 1, check

    def _extend(self, served, until):
        generation, room, settings, numbers, _ = served
        return served._replace(generation=self._compiled.extend(generation, room, until, settings, numbers))

    def _answer(self, served):
        state, room, settings, numbers, num_rows = served
        sampler = with_numbers(self._options.sampler, numbers)
        state, scores = loop.answer(sampler, state, room, settings, self._shape)
        num_tokens = tf.minimum(state.num_tokens[:num_rows], settings.max_new_tokens)
        finish = state.finish[:num_rows]
        text = self._writer.text_rows(tf.RaggedTensor.from_tensor(state.tokens[:num_rows], lengths=num_tokens))
        return {
            "text": self._whole_text(text, finish),
            "num_tokens": num_tokens,
            "finish_reason": tf.gather(tf.constant(REASONS), finish),
            "scores": scores[:num_rows],
        }

    def _whole_text(self, text, finish):
        """Valid UTF-8 up to a stop string; of unfinished rows only what will stay."""
        # As Python's decode(errors="replace"): clients want valid UTF-8.
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        safe = tf.strings.regex_replace(text, f"{_REPLACEMENT}+$", "")  # perhaps the first bytes of a character
        if self._options.stop_strings is not None:
            strings = self._options.stop_strings
            text, safe = (tf.strings.regex_replace(x, f"(?s){strings.pattern}.*", "") for x in (text, safe))
            if strings.beginnings is not None:
                safe = tf.strings.regex_replace(safe, f"{strings.beginnings}$", "")
        return tf.where(finish == 0, safe, text)

    def _few(self, name, rows):
        """The rows (B, ...) of a request, once it is known that they are not too many."""
        message = f"`{name}` must have at most `max_prompts`={self._most_prompts} rows."
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(rows)[0], self._most_prompts, message)]):
            return tf.identity(rows)

    def _checks(self, token_ids, max_new_tokens, controls):
        lengths = tf.maximum(tf.cast(token_ids.row_lengths(), tf.int32), 1)  # an empty prompt starts from a token
        longest = tf.reduce_max(tf.concat([lengths, [1]], 0))
        must = f"A prompt and its new tokens must fit `max_total_tokens`={self._limit}, as this model was exported."
        received = [
            f"{must} Received: in row",
            tf.argmax(tf.concat([lengths, [1]], 0)),
            "a prompt of",
            longest,
            "tokens, and `max_new_tokens`",
            max_new_tokens,
        ]
        checks = [
            tf.debugging.assert_non_negative(max_new_tokens, "`max_new_tokens` must be at least 0."),
            tf.debugging.assert_less(
                token_ids.values,
                (size := self._writer.model.prompt_vocabulary_size),
                f"Token ids must be less than {size}.",
            ),
            *([_has_tokens(token_ids)] if self._writer.model.reads_sources else []),
            tf.debugging.Assert(max_new_tokens <= self._writer.model.most_new_tokens(longest, self._limit), received),
        ]
        if "temperature" in controls:
            checks += [
                tf.debugging.assert_non_negative(controls["temperature"], "`temperature` must be at least 0."),
                tf.debugging.assert_non_negative(controls["top_k"], "`top_k` must be at least 0."),
                tf.debugging.assert_positive(controls["top_p"], "`top_p` must be greater than 0."),
            ]
        return checks


def _has_tokens(token_ids):
    """The check that there is no row without tokens."""
    message = "A source must have at least one token. Received: an empty one."
    return tf.debugging.assert_positive(token_ids.row_lengths(), message)


def _trace(function, *specs, **named_specs):
    # Not a decorator: TensorFlow would trace what a module holds once more when it saves the module.
    return tf.function(function, autograph=False).get_concrete_function(*specs, **named_specs)


def _named(served) -> dict:
    """A flat dict, which is all that a signature can give, with names from the fields."""
    return {"state_format": tf.constant(STATE_FORMAT), **dict(_leaves(served, "state"))}


def _unnamed(like, named):
    """The structure again."""
    return tree.pack_sequence_as(like, [named[name] for name, _ in _leaves(like, "state")])


def _leaves(structure, name):
    """The pairs (name, leaf) of nested tuples, lists and dicts, in the order in which they are flattened."""
    if isinstance(structure, dict):
        parts: Any = sorted(structure.items())
    elif isinstance(structure, (tuple, list)):
        fields = getattr(structure, "_fields", range(len(structure)))
        parts = zip(fields, structure, strict=True)
    else:
        return [(name, structure)]
    return [leaf for key, part in parts for leaf in _leaves(part, f"{name}_{key}")]


def batches_of(warmup: str | Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Lists of prompts, of what may be single ones."""
    entries = [warmup] if isinstance(warmup, str) else warmup
    try:
        batches = [texts_of("warmup", entry) for entry in entries]
    except TypeError:
        batches = [[]]
    if not all(batches):
        raise ValueError(
            "`warmup` must be a prompt or a list, of which each entry is a prompt or a list of prompts, one or more. "
            f"Received: {warmup!r}."
        )
    require(
        len(batches) <= MOST_WARMUP_REQUESTS,
        f"`warmup` must hold at most {MOST_WARMUP_REQUESTS} requests: TensorFlow Serving refuses more",
        num_requests=len(batches),
    )
    return batches


def _checked_controls(temperature, top_k, top_p) -> dict:
    """What the caller gave of `_CONTROLS`, by name; None where nothing."""
    if temperature is not None:
        temperature = number_of("temperature", temperature)
        require(temperature >= 0, "`temperature` must be at least 0 (0 = greedy)", temperature=temperature)
    if top_k is not None:
        top_k = as_integer("top_k", top_k, 0, " (0 = off)")
    if top_p is not None:
        top_p = number_of("top_p", top_p)
        require(0 < top_p <= 1, "`top_p` must be greater than 0 and at most 1 (1 = off)", top_p=top_p)
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p}


def _open_sampler(sampler, values):
    """The sampler with a processor for each of `_CONTROLS`, and their values by name."""
    sampler = dataclasses.replace(sampler, seed=None)
    if type(sampler).advance is not Sampler.advance:
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            raise ValueError(
                "Only samplers that choose token by token take a temperature, top-k or top-p from the caller. "
                f"Received: {given} for {type(sampler).__name__}. Give the sampler's own processors their values."
            )
        return sampler, {}
    neutral: dict[str, Any] = {
        "temperature": 0.0 if isinstance(sampler, GreedySampler) else 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    processors = list(sampler.processors)
    for name, (kind, field) in _CONTROLS.items():
        places = [i for i, processor in enumerate(processors) if isinstance(processor, kind)]
        if not places:
            processors.append(kind(neutral[name]))
        place = places[-1] if places else -1
        if values[name] is not None:
            processors[place] = kind(values[name])
        values[name] = getattr(processors[place], field)
    # Greedy is temperature 0, so that callers may ask for more.
    base = RandomSampler() if isinstance(sampler, GreedySampler) else sampler
    return dataclasses.replace(base, processors=tuple(processors), seed=None), values


def _place(sampler, kind) -> int:
    """Where the number of the last processor of this kind stands among the sampler's numbers."""
    return _places(sampler, kind)[-1]


def _places(sampler, kind) -> list[int]:
    """Where the first number of each processor of this kind stands among the sampler's numbers."""
    # `processors` is the first field of a sampler.
    counts = [len(split_numbers(processor)[1]) for processor in sampler.processors]
    return [sum(counts[:i]) for i, processor in enumerate(sampler.processors) if isinstance(processor, kind)]
