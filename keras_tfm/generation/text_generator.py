"""Strings in, strings out: a model, a tokenizer and a sampler as one object."""

import codecs
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from keras_tfm.arguments import token_ids_of
from keras_tfm.generation.options import Generation, GenerationOptions
from keras_tfm.generation.pace import tokens_between_looks
from keras_tfm.generation.prompts import text_of, texts_of
from keras_tfm.samplers.registry import get_sampler
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.stop_strings import StopStrings
from keras_tfm.types import PathLike, Tensor

if TYPE_CHECKING:
    from keras_tfm.generation.session import TextSession


class TextGenerator:
    """Generates text with a causal language model: at once, piece by piece, as a chat, or from a SavedModel.

    Args:
        model: `CausalLM`.
        tokenizer: a `Tokenizer`, such as `BytePairTokenizer`, of the same vocabulary; special tokens at its end may be
            missing in the model, which is warned of. If it has an end-of-text
            token, a text ends there. Its `begin_tokens` are put before prompts that do not begin with them, unless a
            chat template wrote them. An empty prompt starts from these, or else from the end-of-text token.
        sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p", "beam".
        stop_token_ids: ids at which a text ends besides, for example those of `checkpoints.load_stop_token_ids`.

    Raises:
        ValueError: if the vocabularies of model and tokenizer differ otherwise, or for an unknown sampler name.
        TypeError: for a model that does not generate.

    Example:
        >>> writer = TextGenerator(model, tokenizer, sampler=RandomSampler([Temperature(0.8), TopP(0.95)], seed=7))
        >>> writer("ROMEO:", max_new_tokens=100, stop_strings=["JULIET:"])
        >>> for piece in writer.stream("ROMEO:"):
        ...     print(piece, end="")
        >>> writer.export("serving/1")
    """

    _reads_sources: bool = False  # whether the model writes of a source rather than going on with a prompt
    _model_needed: tuple[str, str] = (
        "a `CausalLM`, as `build_gpt` and `checkpoints.load` make it",
        "Put the embedding and the stack of a model of your own into a `CausalLM`; a `Seq2SeqLM` needs `TextToText`.",
    )

    def __init__(
        self, model: Any, tokenizer: Any, sampler: str | Sampler = "greedy", stop_token_ids: Iterable[int] = ()
    ):
        is_writer = "generation_runner" in dir(model)  # `hasattr` would make one
        if not is_writer or model.reads_sources != self._reads_sources:
            raise TypeError(
                f"`model` must be {self._model_needed[0]}. Received: {model!r:.60} of type {type(model).__name__}. "
                f"{self._model_needed[1]}"
            )
        size = tokenizer.vocabulary_size
        beyond = [tokenizer.id_to_token(token_id) for token_id in range(model.vocabulary_size, size)]
        if size < model.vocabulary_size or set(beyond) - set(tokenizer.special_tokens):
            raise ValueError(
                "The tokenizer must have the vocabulary that the model was built with. Received: a tokenizer of "
                f"{size} tokens and a model of {model.vocabulary_size}."
            )
        if beyond:
            warnings.warn(
                f"The model has no place for special tokens of the tokenizer: {beyond[:5]}. It never writes them, and "
                "prompts that hold them are refused.",
                stacklevel=2,
            )
        self.model = model
        self.tokenizer = tokenizer
        self.sampler = get_sampler(sampler)
        end = tokenizer.end_of_text_id
        stop_token_ids = token_ids_of("stop_token_ids", stop_token_ids, least=0)
        self.stop_token_ids = tuple(dict.fromkeys([*([] if end is None else [end]), *stop_token_ids]))
        self.stop_strings = functools.lru_cache(maxsize=8)(self._stop_strings)

    @property
    def start_token_id(self) -> int:
        """What an empty prompt stands for: the begin-of-text token, the end-of-text token, or token 0."""
        if begin := self.tokenizer.begin_tokens:
            return self.tokenizer.token_to_id(begin[0])
        end = self.tokenizer.end_of_text_id
        return 0 if end is None else end

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token that the model can write."""
        return [self.bytes_of(token_id) for token_id in range(self.model.vocabulary_size)]

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of text that a token which is written stands for."""
        return self.tokenizer.token_bytes(token_id)

    def trimmed(self, text: str) -> str:
        """What was written, all of it or its beginning, without spaces that are none of the text."""
        return text

    @property
    def tokenizers(self) -> list:
        """All tokenizers, which a SavedModel must hold."""
        return [self.tokenizer]

    def prompt_rows(self, prompts: Tensor) -> Tensor:
        """string (B,) -> token ids of prompts, RaggedTensor of integers (B, tokens); in the graph."""
        return self.tokenizer.tokenize_prompts(prompts)

    def text_rows(self, token_ids: Tensor) -> Tensor:
        """RaggedTensor of integers (R, tokens) -> string (R,), what has been written; in the graph."""
        return self.tokenizer.detokenize(token_ids)

    def __call__(self, prompts: str | Iterable[str], max_new_tokens: int = 64, **options: Any) -> str | list:
        """Continues prompts.

        Args:
            prompts: str, or list of str. Special tokens in them are read as such: `tokenizer.encode` has a way not to.
            max_new_tokens: int, at most so many new tokens each.
            **options: as in `generate`.

        Returns:
            The new text without the prompt: str for a str, list for a list; with `num_return_sequences` a list of texts
            in the place of each. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: if a prompt with its new tokens does not fit the model, or for a number out of its range.
            TypeError: for prompts that are no str. Both before any work.
        """
        texts: Any = self.generate(prompts, max_new_tokens, **options).texts
        width = options.get("num_return_sequences", 1)
        if width > 1:
            texts = [list(texts[i : i + width]) for i in range(0, len(texts), width)]
        return texts[0] if isinstance(prompts, str) else list(texts)

    def generate(self, prompts: str | Iterable[str], max_new_tokens: int = 64, **options: Any) -> Generation:
        """Continues prompts and tells all about it: texts, token ids, why each ended, log-probabilities, scores.

        Args:
            prompts: str, or list of str.
            max_new_tokens: int.
            stop_strings: str, or list of str; a text ends before the first of them, wherever token borders fall.
            negative_prompts: str for all prompts, or one for each, for classifier-free guidance; with `guidance_scale`.
            **options: those of `GenerationOptions`; stop tokens are added to the tokenizer's end-of-text token.

        Returns:
            `Generation` with `texts`.
        """
        checked = self.options(max_new_tokens=max_new_tokens, **options)
        *_, last = self._steps(self.encode(prompts), checked, checked.max_new_tokens)
        return self.with_texts(last, checked)

    def stream(
        self,
        prompts: str | Iterable[str],
        max_new_tokens: int = 64,
        tokens_per_piece: int | None = None,
        **options: Any,
    ) -> Iterator:
        """Continues prompts, yielding text as it is generated; together the pieces are what `__call__` returns.

        Args:
            prompts: str, or list of str.
            max_new_tokens, **options: as in `generate`.
            tokens_per_piece: int, tokens computed between two pieces, after the first. Default: as many as take a tenth
                of a second, beginning with few.

        Yields:
            str of whole characters for a str: a character whose bytes are split among tokens waits for its last byte,
            and what may become a stop string waits until it does not. For a list the pairs (row, str). Closing the
            iterator ends the work.
        """
        checked = self.options(max_new_tokens=max_new_tokens, **options)
        tokens_per_piece = tokens_between_looks("tokens_per_piece", tokens_per_piece)
        steps = self._steps(self.encode(prompts), checked, tokens_per_piece)
        for row, piece in self.pieces(steps, checked):
            yield piece if isinstance(prompts, str) and checked.num_return_sequences == 1 else (row, piece)

    def session(self, text: str = "") -> "TextSession":
        """A `TextSession` that begins with `text`, for example a system prompt: it is read once."""
        from keras_tfm.generation.session import TextSession  # it is made of this class

        return TextSession(self, self.encode(text)[0] if text_of("text", text) else [])

    def options(
        self,
        stop_strings: str | Iterable[str] = (),
        negative_prompts: str | Iterable[str] | None = None,
        stop_token_ids: Iterable[int] = (),
        **options: Any,
    ) -> GenerationOptions:
        """The `GenerationOptions` of a call, strings among them tokenized."""
        if strings := () if stop_strings is None else tuple(texts_of("stop_strings", stop_strings)):
            options["stop_strings"] = self.stop_strings(strings)
        if negative_prompts is not None:
            options["negative_token_ids"] = self.encode(negative_prompts, "negative_prompts")
        return GenerationOptions(
            **{"sampler": self.sampler, "start_token_id": self.start_token_id, **options},
            stop_token_ids=(*self.stop_token_ids, *token_ids_of("stop_token_ids", stop_token_ids, least=0)),
        )

    def encode(self, prompts: str | Iterable[str], name: str = "prompts", begins_text: bool = True) -> list[list[int]]:
        """Token ids of each prompt, given in the argument `name`; `begins_text` if nothing stands before it."""
        prompts = texts_of(name, prompts)
        if not begins_text:
            return self.tokenizer.encode(prompts, add_special_tokens=False)
        return self.tokenizer.tokenize_prompts(prompts).to_list()

    def with_texts(self, generation: Generation, options: GenerationOptions) -> Generation:
        """The generation with its texts."""
        # Byte by byte, as a stream gives them: some tokenizers drop a first space when they decode.
        rows = zip(generation.token_ids, generation.num_tokens, strict=True)
        pieces = [b"".join(self.bytes_of(int(i)) for i in ids[:length]) for ids, length in rows]
        texts = [self.trimmed(piece.decode("utf-8", errors="replace")) for piece in pieces]
        if options.stop_strings is not None:
            texts = [options.stop_strings.cut(text) for text in texts]
        return dataclasses.replace(generation, texts=tuple(texts))

    def pieces(self, steps: Iterable[Generation], options: GenerationOptions) -> Iterator[tuple[int, str]]:
        """The pairs (row, piece of text) of a stream of generations."""
        rows = None
        for generation in steps:
            rows = rows or [_RowText(self, options) for _ in generation.num_tokens]
            for i, row in enumerate(rows):
                ids = generation.token_ids[i, : generation.num_tokens[i]]
                if piece := row.read(ids, has_ended=bool(generation.finish_reasons[i])):
                    yield i, piece

    def export(self, path: PathLike, **defaults: Any) -> None:
        """Writes a SavedModel that TensorFlow alone can serve, text in, text out; see `keras_tfm.export`.

        Args:
            path: a folder that does not exist yet; servers expect `.../1`.
            **defaults: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed` for callers that give prompts alone;
                `num_return_sequences`, `stop_strings`, `max_total_tokens`, the limit of a prompt and its new tokens,
                and `max_prompts` for all; `jit_compile` for servers that let XLA compile, `portable=False` for products
                in 8 bits on x86 servers, and `warmup`, prompts that a server reads before it takes requests.
        """
        from keras_tfm.export.saved_model import export_text_generator  # it imports this package

        export_text_generator(self, path, **defaults)

    def _steps(self, token_ids, options, tokens_per_piece):
        return self.model.generation_runner.steps(token_ids, options, tokens_per_piece)

    def _stop_strings(self, strings: tuple[str, ...]) -> StopStrings:
        return StopStrings(strings, self.token_bytes)


class _RowText:
    """The streamed text of one row: whole characters that no stop string can take back."""

    def __init__(self, writer: "TextGenerator", options: Any):
        self._bytes_of = writer.bytes_of
        self._trimmed = writer.trimmed
        self._stop_strings = options.stop_strings
        self._num_held = max([0, *(len(sequence) - 1 for sequence in options.stop_sequences)])
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_read = 0
        self._text = ""
        self._num_given = 0

    def read(self, token_ids: Tensor, has_ended: bool) -> str:
        """The text that has become certain, given all tokens so far."""
        certain = len(token_ids) if has_ended else max(len(token_ids) - self._num_held, self._num_read)
        new_bytes = b"".join(self._bytes_of(int(i)) for i in token_ids[self._num_read : certain])
        self._num_read = certain
        self._text += self._decoder.decode(new_bytes, final=has_ended)
        text = self._trimmed(self._text)
        if self._stop_strings is not None:
            text = self._stop_strings.cut(text)
            text = text if has_ended else text[: self._stop_strings.num_safe(text)]
        piece = text[self._num_given :]
        self._num_given += len(piece)
        return piece
