"""Models in lm_eval, EleutherAI's evaluation harness. `import keras_tfm` does not import this module."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_tfm import checkpoints
from keras_tfm.arguments import as_integer, require
from keras_tfm.checkpoints import ChatTemplate
from keras_tfm.evaluation.perplexity import causal_model_of, length_to_read
from keras_tfm.evaluation.token_scores import token_scores
from keras_tfm.generation import TextGenerator
from keras_tfm.optional import required
from keras_tfm.samplers import RandomSampler, Temperature, TopK, TopP
from keras_tfm.types import DTypeLike

helpers: Any = required("lm_eval.models.utils", "evaluation", "Models for lm_eval")  # first: it registers all others
base: Any = required("lm_eval.api.model", "evaluation", "Models for lm_eval")
registry: Any = required("lm_eval.api.registry", "evaluation", "Models for lm_eval")
utils: Any = required("lm_eval.utils", "evaluation", "Models for lm_eval")

# What a task may ask of `generate_until`; more is refused.
_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


@registry.register_model("keras_tfm")
class LmEvalModel(base.TemplateLM):
    """A model for `lm_eval.simple_evaluate`: choices and perplexities by `token_scores`, texts by the compiled loop.

    Its numbers are those of lm_eval's own "hf" on the same weights: texts are cut, begun and scored alike.

    Args:
        pretrained: a `TextGenerator`; or a folder, .gguf file or repository as `checkpoints.open` takes it, which is
            what a string of `model_args` can name.
        sequence_length: int, the most tokens that are read at once. Default: as in `perplexity`, but 2,048 at last.
        max_new_tokens: int, of tasks that do not say how many.
        batch_size: int, rows that are read or written at once. Default: 8.
        dtype: dtype policy of a checkpoint's model.
        chat_template: `ChatTemplate` for `apply_chat_template=True`. Default: the checkpoint's, if it has one.
        max_batch_size, device: given by lm_eval to every model, and not read: `batch_size` is that of all batches, and
            TensorFlow chooses the device.

    Raises:
        ImportError: without lm_eval (`pip install ".[evaluation]"`), when the module is imported. TypeError: for a
            writer that is no causal language model. ValueError: as `checkpoints.open`, and for numbers out of their
            range.

    Example:
        >>> from keras_tfm.evaluation.lm_eval_model import LmEvalModel
        >>> model = LmEvalModel("HuggingFaceTB/SmolLM2-135M")
        >>> lm_eval.simple_evaluate(model, tasks=["lambada_openai"])["results"]
    """

    def __init__(
        self,
        pretrained: TextGenerator | str | os.PathLike,
        sequence_length: int | None = None,
        max_new_tokens: int = 256,
        batch_size: int | str | None = None,
        dtype: DTypeLike | None = None,
        chat_template: ChatTemplate | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        super().__init__()
        self._template = chat_template
        self._checkpoint: Any = None
        if isinstance(pretrained, TextGenerator):
            self.writer = pretrained
        else:
            self._checkpoint = checkpoints.open(pretrained)
            self.writer = self._checkpoint.text_generator(dtype=dtype)
        self.model = causal_model_of(self.writer)
        self.sequence_length = length_to_read(self.model, sequence_length, default=2048)  # as that of "hf"
        self.max_new_tokens = as_integer("max_new_tokens", max_new_tokens, 1)
        batch_size = int(batch_size) if isinstance(batch_size, str) and batch_size.isdecimal() else batch_size
        self.batch_size = as_integer("batch_size", 8 if batch_size is None else batch_size, 1)

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return self.writer.tokenizer.end_of_text_id

    @property
    def prefix_token_id(self) -> int:
        """What a text is scored after if nothing stands before it."""
        noted = self.model.checkpoint.get("notes", {}).get("bos_token_id")
        return noted if isinstance(noted, int) else self.writer.start_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        """The ids of a text; begin tokens of the tokenizer are put before it, unless `add_special_tokens` is False."""
        return self.writer.encode(string, begins_text=add_special_tokens is not False)[0]

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, in windows of `sequence_length` tokens side by side."""
        rows, counts = [], []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.sequence_length, context_len=1
            )
            pairs = [utils.make_disjoint_window(window) for window in windows]
            rows += [(None, context, continuation) for context, continuation in pairs]
            counts.append(len(pairs))
        found = [log_prob for log_prob, _ in self._loglikelihood_tokens(rows)]
        ends = np.cumsum(counts)
        sums = [sum(found[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(self, requests: list, **ignored: Any) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding writes it) of each (key, context ids, continuation ids)."""
        rows = [[*context, *continuation][-self.sequence_length - 1 :] for _, context, continuation in requests]
        numbers = [len(continuation) for *_, continuation in requests]
        require(
            max(numbers, default=0) <= self.sequence_length,
            f"A continuation must fit the {self.sequence_length} tokens that are read at once",
            tokens=max(numbers, default=0),
        )
        scores = token_scores(self.model, rows, numbers, self.batch_size)
        answers = [(float(score.log_probs.sum(dtype="float64")), bool(score.is_greedy.all())) for score in scores]
        for (key, *_), answer in zip(requests, answers, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """The text that is written after each context, up to a stop string."""
        texts: list[Any] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(i)  # alike settings, one batch
        for numbers in groups.values():
            numbers.sort(key=lambda i: len(requests[i].args[0]))
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                settings = requests[batch[0]].args[1]
                written = self._write([requests[i].args[0] for i in batch], settings)
                for i, text in zip(batch, written, strict=True):
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return texts

    def _write(self, contexts: list[str], settings: Mapping[str, Any]) -> tuple[str, ...]:
        settings = helpers.normalize_gen_kwargs(settings, self.max_new_tokens)
        if unknown := sorted(set(settings) - _SETTINGS):
            raise ValueError(
                f"`generation_kwargs` of a task must be of {sorted(_SETTINGS)}. Received: {unknown}. Leave them out."
            )
        options = self.writer.options(
            max_new_tokens=settings["max_gen_toks"],
            stop_strings=[text for text in settings["until"] if text],
            sampler=_sampler_of(settings) if settings["do_sample"] else "greedy",
        )
        room = self.sequence_length - options.max_new_tokens
        require(
            room > 0,
            f"`max_gen_toks` must leave room for a prompt among {self.sequence_length} tokens",
            max_gen_toks=options.max_new_tokens,
        )
        rows = [row[-room:] for row in self.writer.encode(contexts)]
        *_, generation = self.model.generation_runner.steps(rows, options, options.max_new_tokens)
        return self.writer.with_texts(generation, options).texts or ()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as a prompt; ValueError if there is no template."""
        template: Any = self._template
        if template is None:
            require(
                self._checkpoint, "`chat_template` must be given where the model is no checkpoint", chat_template=None
            )
            template = self._checkpoint.chat_template()
        return template(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What lm_eval writes of the template beside its results."""
        return repr(self._template) if self._template else repr(self._checkpoint) if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval tells caches of requests apart by."""
        return f"{type(self.writer.tokenizer).__name__}_{self.writer.tokenizer.vocabulary_size}"


def _sampler_of(settings: Mapping[str, Any]) -> RandomSampler:
    filters: list[Any] = [Temperature(settings["temperature"])]
    filters += [TopK(settings["top_k"])] if settings.get("top_k") else []
    filters += [TopP(settings["top_p"])] if settings.get("top_p") else []
    return RandomSampler(tuple(filters))
