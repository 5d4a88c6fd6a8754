"""A source text in, a target text out: translation and summarization with an encoder-decoder."""

import dataclasses
import functools
import warnings
from collections.abc import Iterable
from typing import Any, NoReturn

import tensorflow as tf

from keras_tfm.arguments import as_integer, token_ids_of
from keras_tfm.generation.options import GenerationOptions
from keras_tfm.generation.prompts import texts_of
from keras_tfm.generation.text_generator import TextGenerator
from keras_tfm.samplers.constraints import BanTokens, ForceFirstToken, ForceLastToken
from keras_tfm.samplers.registry import get_sampler
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.types import Tensor


class TextToText(TextGenerator):
    """Writes a text of a source with an encoder-decoder: at once, piece by piece, or from a SavedModel.

    All that `TextGenerator` has for prompts it has for sources (beams, streams, stop strings, `export`), but sessions.
    Special tokens are in no text. A source ends with its tokenizer's end-of-text token, whether the tokenizer puts it
    there or not, as in `keras_tfm.data.text_pair_dataset`.

    Args:
        model: `Seq2SeqLM`.
        source_tokenizer: a `Tokenizer` of the vocabulary that the model reads.
        target_tokenizer: one of the vocabulary that it writes. Default: the same.
        sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p", "beam".
        prefix: str, put before each source: "translate English to German: ".
        stop_token_ids: ids at which a text ends, beside the target tokenizer's end-of-text token.
        first_token_id: int, what each text begins with, such as mBART-50's code of the target language; or None.
        last_token_id: int, what a text ends with where it reaches `max_new_tokens` (BART); or None.
        banned_token_ids: ids that are never written, such as Marian's padding.
        max_source_tokens: int, longer sources are cut to so many tokens, the last ones of which are those that the
            tokenizer puts there; with a warning in Python. Default: nothing is cut, and a source that the model has no
            positions for is an error.

    Raises:
        ValueError: if the vocabularies of model and tokenizers differ, or for an unknown sampler name.
        TypeError: for a model that is no encoder-decoder.

    Example:
        >>> translate = TextToText(model, tokenizer, sampler="beam", prefix="translate English to German: ")
        >>> translate("The house is wonderful.")
        'Das Haus ist wunderbar.'
        >>> translate.export("serving/1", max_new_tokens=64)
    """

    _reads_sources = True
    _model_needed = (
        "a `Seq2SeqLM`, as `build_t5` and `checkpoints.load` make it",
        "A `CausalLM` writes by `TextGenerator`.",
    )

    def __init__(
        self,
        model: Any,
        source_tokenizer: Any,
        target_tokenizer: Any = None,
        sampler: str | Sampler = "greedy",
        prefix: str = "",
        stop_token_ids: Iterable[int] = (),
        first_token_id: int | None = None,
        last_token_id: int | None = None,
        banned_token_ids: Iterable[int] = (),
        max_source_tokens: int | None = None,
    ):
        super().__init__(model, target_tokenizer or source_tokenizer, sampler, stop_token_ids)
        if source_tokenizer.vocabulary_size != model.prompt_vocabulary_size:
            raise ValueError(
                "`source_tokenizer` must have the vocabulary that the model was built to read. Received: one of "
                f"{source_tokenizer.vocabulary_size} tokens for a model that reads {model.prompt_vocabulary_size}."
            )
        if not isinstance(prefix, str):
            raise TypeError(f"`prefix` must be one str. Received: {prefix!r:.60} of type {type(prefix).__name__}.")
        self.source_tokenizer = source_tokenizer
        self.prefix = prefix
        self.last_token_id = None if last_token_id is None else as_integer("last_token_id", last_token_id, 0)
        banned = token_ids_of("banned_token_ids", banned_token_ids, least=0)
        self.processors: tuple[Any, ...] = (
            *([BanTokens(banned)] if banned else []),
            *([] if first_token_id is None else [ForceFirstToken(first_token_id)]),
        )
        self.max_source_tokens = max_source_tokens
        if max_source_tokens is not None:
            self.max_source_tokens = as_integer(
                "max_source_tokens", max_source_tokens, len(source_tokenizer.ending_ids) + 1
            )

    @property
    def start_token_id(self) -> int:
        """Of no meaning here: a source is never empty, and the model knows what its decoder starts from."""
        return 0

    @property
    def tokenizers(self) -> list:
        """See `TextGenerator`."""
        return [self.tokenizer, self.source_tokenizer]

    def trimmed(self, text: str) -> str:
        """See `TextGenerator`."""
        if self.tokenizer.strips_texts:
            return text.strip()
        return text.removeprefix(" ") if self._drops_first_space else text

    @functools.cached_property
    def _drops_first_space(self) -> bool:
        """Whether the tokenizer puts a space before a text, which is none of the text."""
        ids = self.tokenizer.encode("a", add_special_tokens=False)
        return b"".join(map(self.bytes_of, ids))[:1] == b" " and not self.tokenizer.decode(ids).startswith(" ")

    def bytes_of(self, token_id: int) -> bytes:
        """See `TextGenerator`; none for a special token."""
        is_special = self.tokenizer.id_to_token(token_id) in self.tokenizer.special_tokens
        return b"" if is_special else self.tokenizer.token_bytes(token_id)

    def prompt_rows(self, prompts: Tensor) -> Tensor:
        """string (B,) -> token ids of sources, RaggedTensor of int32 (B, tokens); in the graph."""
        rows = self._whole_rows(prompts)
        return rows if self.max_source_tokens is None else self.source_tokenizer.cut_rows(rows, self.max_source_tokens)

    def text_rows(self, token_ids: Tensor) -> Tensor:
        """See `TextGenerator`."""
        return self.tokenizer.detokenize(token_ids, skip_special_tokens=True)

    def encode(self, prompts: str | Iterable[str], name: str = "prompts", begins_text: bool = True) -> list[list[int]]:
        """Token ids of each source, given in the argument `name`; each begins a text."""
        rows = self._whole_rows(tf.constant(texts_of(name, prompts), tf.string))
        longest = max([0, *rows.row_lengths().numpy().tolist()])
        if self.max_source_tokens is not None and longest > self.max_source_tokens:
            warnings.warn(
                f"Sources of up to {longest} tokens were cut to `max_source_tokens`={self.max_source_tokens}.",
                stacklevel=2,
            )
            rows = self.source_tokenizer.cut_rows(rows, self.max_source_tokens)
        return rows.to_list()

    def options(self, *args: Any, **options: Any) -> GenerationOptions:
        """The options of a call, with what is forced and banned among the processors of the sampler."""
        checked = super().options(*args, **options)
        own, sampler = self.processors, get_sampler(checked.sampler)
        if self.last_token_id is not None and checked.max_new_tokens > 0:
            own += (ForceLastToken(self.last_token_id, checked.max_new_tokens),)
        # Before the others: a temperature of 0 leaves the best token only, which must be one that may come.
        sampler = dataclasses.replace(sampler, processors=(*own, *sampler.processors))
        return dataclasses.replace(checked, sampler=sampler)

    def session(self, text: str = "") -> NoReturn:
        """Not here: each source is a text of its own."""
        raise TypeError("A session goes on with a text, which an encoder-decoder does not. Call it for each source.")

    def _whole_rows(self, prompts) -> tf.RaggedTensor:
        """The sources with all that stands around them, of any length."""
        return self.source_tokenizer.whole_rows(tf.strings.join([self.prefix, prompts]))
