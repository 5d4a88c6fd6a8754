"""A text generator as a SavedModel: tokenizer, model and the generate loop in one graph, for TensorFlow alone."""

import dataclasses
import os
import pathlib
import shutil

import tensorflow as tf

from keras_tfm.generation.compiled import CompiledGeneration, new_tokens, pad_prompts
from keras_tfm.samplers import GreedySampler, RandomSampler, Temperature, TopK, TopP
from keras_tfm.samplers.numbers import split_numbers

# What a caller may set: signature argument -> (processor, its field).
_CONTROLS = {"temperature": (Temperature, "value"), "top_k": (TopK, "k"), "top_p": (TopP, "p")}


def export_text_generator(
    writer,
    path,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> None:
    """Writes a SavedModel whose signatures take and give strings; it loads in a process that imports only tensorflow.

    Signatures:
        generate: prompts string (B,), max_new_tokens int32 (), temperature float32 () (0 = greedy), top_k int32 ()
            (0 = off), top_p float32 () (1 = off), seed int32 () -> text string (B,), num_tokens int32 (B,).
        serving_default: prompts string (B,) -> the same, with the defaults given here.
        tokenize: texts string (B,) -> token_ids int32 (B, T) padded with -1, num_tokens int32 (B,).
        logits: token_ids int32 (B, T) -> logits float32 (B, T, V).

    The writer's sampler is exported with all its processors; its temperature, top-k and top-p, where they stand among
    them or else at the end, take the caller's values. The same seed gives the text that the writer gives in Python.

    Args:
        writer: `TextGenerator`.
        path: str or path of a folder that does not exist yet.
        max_new_tokens: int, default of `serving_default`; `generate` takes any number that fits the model.
        temperature, top_k, top_p: defaults. Default: the sampler's own, else 1, 0 and 1 (greedy: temperature 0).
        seed: int, default.

    Raises:
        FileExistsError: if `path` exists.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}. Delete it or export to a new version.")
    sampler, defaults = _open_sampler(writer.sampler, temperature=temperature, top_k=top_k, top_p=top_p)
    module = ServedTextGenerator(writer, sampler, {"max_new_tokens": max_new_tokens, **defaults, "seed": seed})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished.{os.getpid()}")
    try:
        tf.saved_model.save(module, str(unfinished), signatures=module.signatures())
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class ServedTextGenerator(tf.Module):
    """The graph functions of an exported text generator, and what they need.

    Args:
        writer: `TextGenerator`.
        sampler: its sampler, with a Temperature, a TopK and a TopP among the processors.
        defaults: values of "max_new_tokens", "temperature", "top_k", "top_p" and "seed" for `serving_default`.
    """

    def __init__(self, writer, sampler, defaults):
        super().__init__(name="text_generator")
        # Tracked: what the SavedModel must hold. The rest are plain objects, which it does not look into.
        self.tokenizer = writer.tokenizer
        self.weights = [variable.value for variable in writer.model.variables]
        self._writer = writer
        self._compiled = CompiledGeneration(writer.model, sampler)
        self._numbers = split_numbers(sampler)[1]
        self._places = {name: _place(sampler, kind) for name, (kind, _) in _CONTROLS.items()}
        self._defaults = defaults

    def signatures(self) -> dict:
        """name -> traced function."""
        prompts = tf.TensorSpec([None], tf.string, name="prompts")
        integer = {name: tf.TensorSpec([], tf.int32, name=name) for name in ("max_new_tokens", "top_k", "seed")}
        number = {name: tf.TensorSpec([], tf.float32, name=name) for name in ("temperature", "top_p")}
        texts = tf.TensorSpec([None], tf.string, name="texts")
        token_ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
        return {
            "serving_default": self.generate_with_defaults.get_concrete_function(prompts),
            "generate": self.generate.get_concrete_function(prompts, **integer, **number),
            "tokenize": self.tokenize.get_concrete_function(texts),
            "logits": self.logits.get_concrete_function(token_ids),
        }

    @tf.function
    def generate_with_defaults(self, prompts):
        """prompts string (B,) -> text, num_tokens."""
        return self.generate(prompts, **{name: tf.constant(value) for name, value in self._defaults.items()})

    @tf.function
    def generate(self, prompts, max_new_tokens, temperature, top_k, top_p, seed):
        """prompts string (B,) and settings () -> text string (B,), num_tokens int32 (B,)."""
        token_ids = self.tokenizer(prompts)
        num_rows = token_ids.nrows(tf.int32)
        checks = self._checks(token_ids, max_new_tokens, temperature, top_p)
        with tf.control_dependencies(checks):
            inputs = pad_prompts(token_ids, max_new_tokens, self._writer.start_token_id)
        numbers = [tf.constant(number) for number in self._numbers]
        for name, value in {"temperature": temperature, "top_k": top_k, "top_p": top_p}.items():
            numbers[self._places[name]] = value
        settings = {
            "numbers": numbers,
            "stop_token_ids": tf.constant([-1, *self._writer.stop_token_ids], tf.int32),
            "seed": seed,
        }
        state = self._compiled.begin(inputs, settings)
        state = self._compiled.extend(state, inputs["room"], max_new_tokens, settings)
        new_ids, num_tokens = new_tokens(state, inputs["room"], num_rows)
        num_tokens = tf.minimum(num_tokens, max_new_tokens)
        text = self.tokenizer.detokenize(tf.RaggedTensor.from_tensor(new_ids, lengths=num_tokens))
        # As Python's decode(errors="replace"): clients want valid UTF-8.
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        return {"text": text, "num_tokens": num_tokens}

    @tf.function
    def tokenize(self, texts):
        """texts string (B,) -> token_ids int32 (B, T) padded with -1, num_tokens int32 (B,)."""
        token_ids = self.tokenizer(texts)
        return {"token_ids": token_ids.to_tensor(-1), "num_tokens": tf.cast(token_ids.row_lengths(), tf.int32)}

    @tf.function
    def logits(self, token_ids):
        """token_ids int32 (B, T) -> logits float32 (B, T, V)."""
        return {"logits": tf.cast(self._writer.model(token_ids, training=False), tf.float32)}

    def _checks(self, token_ids, max_new_tokens, temperature, top_p):
        longest = tf.cast(tf.reduce_max(tf.concat([token_ids.row_lengths(), [1]], 0)), tf.int32)
        limit = self._writer.model.max_sequence_length
        return [
            tf.debugging.assert_non_negative(max_new_tokens, "`max_new_tokens` must be at least 0."),
            tf.debugging.assert_non_negative(temperature, "`temperature` must be at least 0."),
            tf.debugging.assert_positive(top_p, "`top_p` must be greater than 0."),
            tf.debugging.assert_less_equal(
                longest,
                (tf.int32.max if limit is None else limit) - max_new_tokens,
                f"A prompt and its new tokens must fit the {limit} positions of the model.",
            ),
        ]


def _open_sampler(sampler, **values):
    """The sampler with a processor for each of `_CONTROLS`, and their values by name."""
    neutral = {"temperature": 0.0 if isinstance(sampler, GreedySampler) else 1.0, "top_k": 0, "top_p": 1.0}
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
    last = max(i for i, processor in enumerate(sampler.processors) if isinstance(processor, kind))
    # `processors` is the first field of a sampler.
    return sum(len(split_numbers(processor)[1]) for processor in sampler.processors[:last])
