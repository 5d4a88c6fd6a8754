"""An opened checkpoint: what every container of weights, settings and a tokenizer gives."""

import abc
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.filling import build_empty, fill
from keras_tfm.checkpoints.reader import Source
from keras_tfm.checkpoints.tensors import num_elements
from keras_tfm.generation import TextGenerator, TextToText
from keras_tfm.models import CausalLM, Seq2SeqLM
from keras_tfm.pipelines import (
    EntityRecognition,
    QuestionAnswering,
    SentenceEmbedding,
    TextClassification,
    TextRegression,
)
from keras_tfm.pipelines.text_pipeline import TextPipeline
from keras_tfm.samplers import Sampler
from keras_tfm.tokenizers import MarianTokenizer, Tokenizer
from keras_tfm.types import DTypeLike

_PIPELINES = (TextClassification, TextRegression, EntityRecognition, QuestionAnswering, SentenceEmbedding)


class Checkpoint(abc.ABC):
    """A model's files, opened: each is read once, when first asked for, whatever is made of it.

    `keras_tfm.checkpoints.open` makes one. A format of files is one subclass: it says `config`, `source`, `wiring` and
    `notes`, and what it knows of `read_tokenizer`, `read_chat_template` and `read_stop_token_ids`.

    Args:
        path: the folder or file.
        ignore: keys of the config that nobody knows and that may be passed over.

    Attributes:
        path: the folder or file.
        ignore: as given.

    Example:
        >>> checkpoint = ktfm.checkpoints.open("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> writer = checkpoint.text_generator()
        >>> prompt = checkpoint.chat_template()([{"role": "user", "content": "Why is the sky blue?"}])
        >>> for piece in writer.stream(prompt):
        ...     print(piece, end="")
    """

    def __init__(self, path: Path, ignore: Iterable[str] = ()):
        self.path = path
        self.ignore = tuple(ignore)

    @property
    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings, as the files have them: content of config.json, or header of a .gguf file."""

    @property
    @abc.abstractmethod
    def source(self) -> Source:
        """The tensors."""

    @abc.abstractmethod
    def wiring(self, architecture: str | None = None) -> tuple[Architecture, dict[str, Any]]:
        """The architecture, and the arguments of its builder.

        Args:
            architecture: name of a class. Default: what the config names.

        Raises:
            ValueError: for a family, a key or a value that is not supported.
        """

    def notes(self) -> dict[str, Any]:
        """What the config says beside the wiring, for `save` to write again."""
        return {}

    def finish(self, model: keras.Model, architecture: str | None) -> keras.Model:
        """What `model` returns, given the filled model of the wiring; by default itself."""
        return model

    def read_tokenizer(self) -> Tokenizer:
        """The tokenizer; ValueError if there is none."""
        raise ValueError(f"The checkpoint must have a tokenizer. Received: {self.path} without one.")

    def read_chat_template(self) -> ChatTemplate:
        """The chat template; ValueError if there is none."""
        raise ValueError(
            f"The checkpoint must have a chat template. Received: {self.path} without one: it is not made for chats."
        )

    def read_stop_token_ids(self) -> Any:
        """A token id or a list of them, as the files say; None or an empty list if they say nothing."""
        return None

    @property
    def generation_settings(self) -> Mapping[str, Any]:
        """What the files say of generating, by transformers' names, such as "forced_eos_token_id"."""
        return {}

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What `summary` tells first and last."""
        return {"architecture": self.wiring()[0].name}, {}

    def model(self, dtype: DTypeLike | None = None, architecture: str | None = None, **options: Any) -> keras.Model:
        """Makes the model, filled; a new one at each call.

        Each variable is made straight from the file: at most 1.3 times the memory of the weights is needed. Nothing in
        a folder is executed. Rates of dropout are not read; pass `dropout=0.1`.

        Args:
            dtype: dtype policy of the layers, such as "mixed_bfloat16". Default: Keras' global policy, so float32,
                whatever the file has.
            architecture: Hugging Face's class, such as "BertModel" for the bare encoder of a folder whose config.json
                names "BertForMaskedLM". Default: the one that the config names.
            **options: other arguments of the model's builder, such as `dropout` or `remat`; for "BertModel" and
                "RobertaModel" also `pooler=False`, for files without one.

        Returns:
            The task model of the architecture: `CausalLM` for "LlamaForCausalLM", `TextClassifier` for
            "BertForSequenceClassification", and so on; `SentenceEncoder` for a folder of sentence-transformers.

        Raises:
            FileNotFoundError: if there is no config or no file of weights.
            ValueError: for a family, a key or a value of the config that is not supported; tensors that are missing,
                left over or of another shape; a truncated or corrupt file; pickles. All before memory is taken.
        """
        known, model = self._empty(dtype, architecture, options)
        fill(
            model,
            known.tensors_of(model),
            self.source,
            known.prefix,
            copies=known.copies,
            older=known.older,
            stand_ins=known.stand_ins,
        )
        model.checkpoint = {"architecture": known.name, "notes": self.notes()}
        return self.finish(model, architecture)

    def empty_model(
        self, dtype: DTypeLike | None = None, architecture: str | None = None, **options: Any
    ) -> keras.Model:
        """The model with its sizes and without values, which takes no memory: for `training.layout_map`.

        Args:
            dtype, architecture, **options: as in `model`.

        Raises:
            FileNotFoundError, ValueError: as `model`, of the config.

        Example:
            >>> ktfm.checkpoints.open("meta-llama/Llama-3.1-70B").empty_model().count_params()
        """
        return self._empty(dtype, architecture, options)[1]

    def _empty(self, dtype, architecture, options) -> tuple[Architecture, keras.Model]:
        """The architecture, and the model without values."""
        known, arguments = self.wiring(architecture)
        if given := sorted(set(options) & set(arguments)):
            raise ValueError(f"The checkpoint's config decides {given}. Received them as options: leave them out.")
        num_tensors = len(self.source.shapes())
        if arguments.get("num_layers", 1) > num_tensors:
            raise ValueError(
                f"Every layer of a config must have tensors. Received: {arguments['num_layers']} layers and "
                f"{num_tensors} tensors in {self.source.place}."
            )
        return known, build_empty(lambda: known.build(**arguments, **options), dtype)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, whose ids equal those of transformers; the same one at each call.

        Special tokens in a text are read as such, each by its own rules, whatever file they come from; a call with
        `allow_special=False` reads them as text. Tokens are put around each text where transformers' tokenizer puts
        them: the begin of text of Llama, [CLS] and [SEP] of BERT; not with `add_special_tokens=False`, and not around
        what a chat template wrote. Folders without tokenizer.json are cut as their class of transformers says; where
        there is one, it says how texts are cut into words, also if transformers' class does not look.
        Rows of the model that have no token, since models are often padded to a round number, decode to nothing.

        Returns:
            `BytePairTokenizer`, or `WordPieceTokenizer` for BERT's files, `SentencePieceTokenizer`; `MarianTokenizer`,
            which reads sources, and whose `for_targets()` has the texts that Marian writes.

        Raises:
            FileNotFoundError: if there are no files of a tokenizer.
            ValueError: for a kind of tokenizer, or a class of a folder without tokenizer.json, that is not known here.
        """
        return self._tokenizer

    def chat_template(self) -> ChatTemplate:
        """The chat template; the same one at each call.

        Raises:
            ValueError: if there is none.
        """
        return self._chat_template

    @functools.cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens at which the checkpoint's texts end: models made for chats often have several. () if none.

        Raises:
            ValueError: for anything else than token ids in their place.
        """
        ids = self.read_stop_token_ids()
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
            raise ValueError(f"`eos_token_id` must be a token id or a list of them. Received: {ids} in {self.path}.")
        return tuple(dict.fromkeys(ids))

    def text_generator(
        self, sampler: str | Sampler = "greedy", dtype: DTypeLike | None = None, **options: Any
    ) -> TextGenerator:
        """The model, its tokenizer and its stop tokens as one object that writes text.

        Args:
            sampler: a `Sampler`, or a name, as `TextGenerator` takes it.
            dtype, **options: as in `model`.

        Raises:
            ValueError: if the checkpoint holds no causal language model; and as `model` and `tokenizer`.
        """
        model = self.model(dtype, **options)
        if not isinstance(model, CausalLM):
            raise ValueError(
                "The checkpoint must hold a causal language model, which writes text. Received: "
                f"{self.path}, which holds a {type(model).__name__}"
                + (": use `text_to_text`." if isinstance(model, Seq2SeqLM) else ".")
            )
        return TextGenerator(model, self.tokenizer(), sampler, self.stop_token_ids)

    def text_to_text(
        self,
        sampler: str | Sampler = "greedy",
        prefix: str = "",
        dtype: DTypeLike | None = None,
        **options: Any,
    ) -> TextToText:
        """An encoder-decoder and its tokenizer as one object that writes texts of sources.

        What the checkpoint forces at the begin and the end of a text, and bans, is kept to: "forced_bos_token_id",
        "forced_eos_token_id", and single tokens among "bad_words_ids".

        Args:
            sampler: a `Sampler`, or a name. What the checkpoint suggests (beams, a length penalty) is not read.
            prefix: str, put before each source, such as "translate English to German: " for T5.
            dtype, **options: as in `model`.

        Raises:
            ValueError: if the checkpoint holds no encoder-decoder; and as `model` and `tokenizer`.

        Example:
            >>> translate = ktfm.checkpoints.open("google/flan-t5-small").text_to_text("beam")
            >>> translate("translate English to German: The house is wonderful.")
        """
        model = self.model(dtype, **options)
        if not isinstance(model, Seq2SeqLM):
            raise ValueError(
                "The checkpoint must hold an encoder-decoder, which writes a text of another. Received: "
                f"{self.path}, which holds a {type(model).__name__}"
                + (": use `text_generator`." if isinstance(model, CausalLM) else ".")
            )
        forced = {name: self.generation_settings.get(f"forced_{name}_token_id") for name in ("bos", "eos")}
        banned = self.generation_settings.get("bad_words_ids") or []
        tokenizer = self.tokenizer()
        return TextToText(
            model,
            tokenizer,
            tokenizer.for_targets() if isinstance(tokenizer, MarianTokenizer) else None,
            sampler=sampler,
            prefix=prefix,
            stop_token_ids=self.stop_token_ids,
            first_token_id=forced["bos"],
            last_token_id=forced["eos"][0] if isinstance(forced["eos"], list) else forced["eos"],
            banned_token_ids=tuple(words[0] for words in banned if len(words) == 1),
        )

    def writer(
        self, sampler: str | Sampler = "greedy", dtype: DTypeLike | None = None, **options: Any
    ) -> TextGenerator:
        """`text_generator` or `text_to_text`, whichever writes with this checkpoint.

        Args:
            sampler, dtype, **options: as there.
        """
        is_seq2seq = self.wiring()[1].get("num_decoder_layers") is not None
        return (self.text_to_text if is_seq2seq else self.text_generator)(sampler, dtype=dtype, **options)

    def pipeline(self, dtype: DTypeLike | None = None, architecture: str | None = None, **options: Any) -> TextPipeline:
        """The encoder, its head and its tokenizer as one object that takes texts.

        Args:
            dtype, architecture: as in `model`.
            **options: of the pipeline, such as `sequence_length`.

        Returns:
            `TextClassification`, `TextRegression`, `EntityRecognition`, `QuestionAnswering` or `SentenceEmbedding`, by
            the kind of the model.

        Raises:
            ValueError: if the model is of another kind; and as `model` and `tokenizer`.
        """
        model = self.model(dtype, architecture)
        kinds = {pipeline.model_type: pipeline for pipeline in _PIPELINES}
        if type(model) not in kinds:
            raise ValueError(
                f"The checkpoint must hold one of {[kind.__name__ for kind in kinds]}, or name its class by "
                f"`architecture`. Received: {self.path}, which holds a {type(model).__name__}"
                + (": use `text_generator`." if isinstance(model, CausalLM) else ".")
            )
        return kinds[type(model)](model, self.tokenizer(), **options)

    def summary(self) -> dict[str, Any]:
        """Family, sizes and files; no weights are read, nor downloaded.

        Returns:
            dict from a name to what is to be printed.

        Raises:
            FileNotFoundError, ValueError: as `model` does, for files, families and settings that are not supported.
        """
        first, last = self.describe()
        _, arguments = self.wiring()
        numbers = [num_elements(shape) for shape in self.shapes()]
        return {**first, **_sizes(arguments), "tensors": len(numbers), "weights": f"{sum(numbers):,}", **last}

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each tensor."""
        return list(self.source.shapes().values())

    @functools.cached_property
    def _tokenizer(self):
        return self.read_tokenizer()

    @functools.cached_property
    def _chat_template(self) -> ChatTemplate:
        return self.read_chat_template()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


def _sizes(arguments: dict[str, Any]) -> dict[str, Any]:
    """The builder's arguments that a line can hold."""
    told = {
        name: value for name, value in arguments.items() if isinstance(value, str | int | float) and value is not None
    }
    rotary = arguments.get("rotary")
    if rotary is not None:
        scaling = "" if rotary.scaling is None else f", {type(rotary.scaling).__name__}"
        told["rotary"] = f"base {rotary.max_wavelength:,.0f}{scaling}"
    return {name.replace("_", " "): f"{value:,}" if type(value) is int else value for name, value in told.items()}
