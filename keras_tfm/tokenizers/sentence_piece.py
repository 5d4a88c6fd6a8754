"""The tokenizer of SentencePiece models: Llama 2, Mistral, Gemma, T5."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.files import local_path, read_json, replace_file
from keras_tfm.tokenizers.added_tokens import AddedToken, as_added_tokens, with_tokens
from keras_tfm.tokenizers.inputs import as_lists, as_string_tensor
from keras_tfm.tokenizers.sentence_piece_graph import SentencePieceCutter, SentencePieceJoiner
from keras_tfm.tokenizers.sentence_piece_json import meaning_of_json
from keras_tfm.tokenizers.sentence_piece_model import meaning_of_proto
from keras_tfm.tokenizers.sentence_piece_proto import ModelProto, read_proto, write_proto
from keras_tfm.tokenizers.sentence_piece_training import train_model
from keras_tfm.tokenizers.tokenizer import CHOICES, TEXTS, Tokenizer
from keras_tfm.tokenizers.word_splitter import replace_invalid_utf8

FILE_NAMES = ("tokenizer.model", "spiece.model")


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece, Unigram or BPE: text to token ids, with their places in the text, and back.

    One implementation in core TensorFlow ops runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel that
    loads with `import tensorflow` alone. Its ids are those of `sentencepiece` for a tokenizer.model and those of the
    Hugging Face library `tokenizers` for a tokenizer.json, which differ from each other where spaces meet and in rare
    characters. One known exception: `sentencepiece` adds up the scores of Unigram models in float32 from the beginning
    of a text; in texts of more than 4,096 characters they are added up word by word here, so that of two ways to cut a
    word that are equally good but for rounding the other one may be taken. All work is done on the CPU.

    Control pieces ("<s>", "</s>") are special tokens: they are found in a text, as in transformers and not in
    `sentencepiece`, so that chats get the right ids; `skip_special_tokens=True` leaves them out in decoding.

    Args:
        model: bytes, the content of a tokenizer.model, or what is read from it; or dict, that of a tokenizer.json.
        vocabulary_size: int, the size of the model that reads the ids, if that is more than there are tokens; the ids
            beyond them decode to nothing. Default: the number of tokens.
        end_of_text: the token at which a text ends. Default: that of the tokenizer.model ("</s>"), if it has one.
        add_begin_of_text: bool, put the "<s>" of a tokenizer.model before each text, as Llama 2, Mistral and Gemma were
            trained.
        space_after_special: bool, the space that a tokenizer.model puts before a text comes after special tokens, too,
            as in llama.cpp, T5 and the first tokenizers of Llama 2 (`legacy`). A tokenizer.json says so itself.
        special_tokens: strings or `AddedToken`s that are found in texts before anything else. Default: the control
            pieces of a tokenizer.model, the `added_tokens` of a tokenizer.json.
        more_tokens: dict from tokens that a checkpoint adds outside of its model ("<|im_start|>") to their ids, which
            go on where those of the model end. They are found in texts as well.
        begin_tokens, end_tokens: tokens that are put before and after each text. Default: as `add_begin_of_text` says,
            and none.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD just
            as `bytes.decode("utf-8", "replace")` does.
        add_special_tokens, allow_special: as for every `Tokenizer`.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ValueError: if `model` is none, or asks for what is not supported, or the other arguments do not fit to it; at a
            call, if a `str` holds unpaired surrogates or the rank is not 0 or 1.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = SentencePieceTokenizer.from_file("Mistral-7B-v0.1/tokenizer.model")
        >>> tokenizer.decode(tokenizer.encode("Hello world"))
        'Hello world'

    Reference:
        Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer and detokenizer
        for Neural Text Processing", https://arxiv.org/abs/1808.06226.
    """

    _token_place = "a piece of the SentencePiece model"
    _token_hint = " In a piece, '▁' (U+2581) is a space."

    def __init__(
        self,
        model: bytes | ModelProto | Mapping[str, Any],
        vocabulary_size: int | None = None,
        end_of_text: str | None = None,
        add_begin_of_text: bool = False,
        space_after_special: bool = False,
        special_tokens: Iterable[str | AddedToken] | None = None,
        more_tokens: Mapping[str, int] | None = None,
        begin_tokens: Iterable[str] | None = None,
        end_tokens: Iterable[str] = (),
    ):
        if isinstance(model, Mapping):
            meaning = meaning_of_json(model)
        elif isinstance(model, bytes | ModelProto):
            proto = read_proto(model) if isinstance(model, bytes) else model
            meaning = meaning_of_proto(proto, space_after_special)
        else:
            raise TypeError(
                "`model` must be bytes, or a dict from a tokenizer.json; `from_file` reads a file. Received: "
                f"{str(model)[:60]} of type {type(model).__name__}."
            )
        more_tokens = dict(more_tokens or {})
        size = max([len(meaning.tokens), *(number + 1 for number in more_tokens.values())])
        num_tokens = size
        if vocabulary_size is not None:
            if as_integer("vocabulary_size", vocabulary_size) < size:
                raise ValueError(
                    f"`vocabulary_size` must be at least the number of pieces, {size}. Received: {vocabulary_size}."
                )
            size = int(vocabulary_size)
        tokens = [*meaning.tokens, *[None] * (size - len(meaning.tokens))]
        for token, number in more_tokens.items():
            if tokens[number] is not None:
                raise ValueError(
                    f"`more_tokens` must have ids of their own. Received: {token!r} with {number}, which is that of "
                    f"{tokens[number]!r}."
                )
            tokens[number] = token
        begin = meaning.begin_of_text if add_begin_of_text else None
        if add_begin_of_text and begin is None:
            raise ValueError(
                "`add_begin_of_text` must be False for a model without a piece that begins a text. "
                f"Received: {add_begin_of_text}."
            )
        if begin_tokens is None:
            begin_tokens = [] if begin is None else [begin]
        joining = meaning.joining.extended({number: token for token, number in more_tokens.items()}, size)
        found = as_added_tokens(meaning.special_tokens if special_tokens is None else special_tokens)
        contents = {token.content for token in found}
        super().__init__(
            tokens,
            joining.texts,
            [*found, *(token for token in more_tokens if token not in contents)],
            begin_tokens=begin_tokens,
            end_tokens=end_tokens,
        )
        # No dict: TensorFlow would track it.
        self.model = MappingProxyType(dict(model)) if isinstance(model, Mapping) else model
        self._end_of_text = meaning.end_of_text
        if end_of_text is not None:
            self._end_of_text = tokens[self.token_to_id(end_of_text)]
        self._begin_of_text = meaning.begin_of_text
        self.add_begin_of_text = add_begin_of_text
        self._is_padded = size > num_tokens
        self.space_after_special = space_after_special
        self.more_tokens = MappingProxyType(more_tokens)
        self._cut = SentencePieceCutter(meaning.cutting, len(meaning.tokens))
        self._join = SentencePieceJoiner(joining)

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int,
        algorithm: str = "unigram",
        special_tokens: Iterable[str] = (),
        byte_fallback: bool = True,
        **options: Any,
    ) -> "SentencePieceTokenizer":
        """Learns pieces from text, with the library `sentencepiece`. The same text gives the same pieces.

        Args:
            texts_or_files: a text, a file, or an iterable of these. A `str` is text, a `pathlib.Path` is a file. Pieces
                never go across the ends of lines.
            vocabulary_size: int. A text with fewer pieces gives a smaller vocabulary, with a warning.
            algorithm: "unigram", or "byte pair" for BPE.
            special_tokens: control pieces beside "<unk>", "<s>" and "</s>", which get the ids from 3 on. They may occur
                in the text; nothing is learned from them.
            byte_fallback: bool, characters that are no piece become their bytes, of which there are 256 pieces; False:
                they are unknown.
            **options: more for `sentencepiece.SentencePieceTrainer.train`, such as `split_digits=True`,
                `normalization_rule_name="identity"` or `character_coverage=1.0`.

        Returns:
            a SentencePieceTokenizer.

        Raises:
            ImportError: if sentencepiece is not installed.
            ValueError: if `vocabulary_size` is too small, or there is no text.
        """
        return cls(train_model(texts_or_files, vocabulary_size, algorithm, special_tokens, byte_fallback, options))

    @classmethod
    def from_file(cls, path: str | os.PathLike, **arguments: Any) -> "SentencePieceTokenizer":
        """Reads a SentencePiece model, or a tokenizer.json of the same form.

        Args:
            path: the file; or a folder that holds tokenizer.model or spiece.model, or else tokenizer.json.
            **arguments: those of the constructor after the first one.

        Returns:
            a SentencePieceTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no SentencePiece model.
        """
        path = local_path(path)
        candidates = [path / name for name in (*FILE_NAMES, "tokenizer.json")] if path.is_dir() else [path]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"`path` must be a SentencePiece model, or a folder with {' or '.join(FILE_NAMES)} or tokenizer.json. "
                f"Received: {str(path)!r}."
            )
        return cls(read_json(file) if file.suffix == ".json" else file.read_bytes(), **arguments)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.model, byte by byte as it was read, or tokenizer.json, into a folder, which is made."""
        folder = local_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.model, Mapping):
            replace_file(
                folder / FILE_NAMES[0], write_proto(self.model) if isinstance(self.model, ModelProto) else self.model
            )
            return
        document = {**self.model, "added_tokens": self._added_entries()}
        replace_file(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False, indent=1))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which copies and pickles are made."""
        # What follows from other arguments is left to them, so that `changed` may change these.
        default = (self._begin_of_text,) if self.add_begin_of_text else ()
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size if self._is_padded else None,
            "begin_tokens": None if self.begin_tokens == default else self.begin_tokens,
        }

    @property
    def end_of_text(self) -> str | None:
        """The piece at which a text ends; None if there is none. It need be no control piece."""
        return self._end_of_text

    @property
    def begin_of_text_id(self) -> int | None:
        """The id of the piece with which a text begins; None if there is none."""
        return None if self._begin_of_text is None else self.vocabulary[self._begin_of_text]

    def tokenize_pieces(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        return self._cut.ids(texts, begins_text)

    def encode_with_offsets(
        self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True
    ) -> tuple[list, list]:
        """The ids as Python lists, and the characters that each stands for.

        Args:
            texts: a string, or a list, array or tensor of strings.
            add_special_tokens, allow_special: as for a call.

        Returns:
            ids and offsets: for one string a list of ints and a list of (start, end), for several lists of these. Both
            ends count characters: `text[start:end]` is a token's text, with the space before it; of bytes after
            `.decode("utf-8", "replace")`. Bytes of a character all have its place.
        """
        adds = self._adds(texts) if add_special_tokens else self._no
        texts = as_string_tensor(texts)
        flat = tf.reshape(texts, [-1])
        ids, starts, ends = map(
            as_lists, self._tokenize_with_offsets(flat, adds, self._yes if allow_special else self._no)
        )
        offsets = [list(zip(*places, strict=True)) for places in zip(starts, ends, strict=True)]
        return (ids, offsets) if texts.shape.rank else (ids[0], offsets[0])

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text as the reference writes it; bytes that are no UTF-8 become U+FFFD."""
        return self._join(token_ids)

    @tf.function(input_signature=[TEXTS, CHOICES, CHOICES], autograph=False)
    def _tokenize_with_offsets(self, texts: tf.Tensor, adds: tf.Tensor, allow_special: tf.Tensor):
        with tf.device("CPU:0"):
            columns = self._cut_between(replace_invalid_utf8(texts), allow_special[0])
            values = (None, 0, 0)
            return tuple(self._around(column, adds, adds, value) for column, value in zip(columns, values, strict=True))

    def _cut_between(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """Ids, and the first character and the one after the last that each stands for, (B, tokens)."""
        if self._split_off is None:
            return self._cut(texts, tf.ones_like(texts, tf.bool))
        pieces, ids = self._split_off(texts, allow_special)
        is_token = ids.values >= 0
        first = tf.gather(tf.cast(pieces.row_starts(), tf.int32), pieces.value_rowids())  # of each piece's text
        columns = self._cut(tf.where(is_token, "", pieces.values), tf.equal(tf.range(tf.size(first)), first))
        # Pieces leave no gaps: each begins where those before it in its text end.
        lengths = tf.strings.length(pieces.values, "UTF8_CHAR")
        begins = tf.cumsum(lengths, exclusive=True)
        begins -= tf.gather(begins, first)
        tokens = ids.values, tf.zeros_like(lengths), lengths
        joined = [with_tokens(column, token, is_token) for column, token in zip(columns, tokens, strict=True)]
        for number in (1, 2):
            shift = tf.gather(begins, joined[number].value_rowids())
            joined[number] = joined[number].with_values(joined[number].values + shift)
        return tuple(pieces.with_values(column).merge_dims(1, 2) for column in joined)

    def _added_entries(self) -> list[dict[str, Any]]:
        """The special tokens as a tokenizer.json has them."""
        return [
            {
                "id": self.vocabulary[token.content],
                "content": token.content,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token in sorted(self.added_tokens, key=lambda token: self.vocabulary[token.content])
        ]
