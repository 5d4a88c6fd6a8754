"""The tokenizer of Marian's translators: two SentencePiece models cut texts, a vocabulary beside them has the ids."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.files import local_path, read_json, replace_file
from keras_tfm.tokenizers.added_tokens import AddedToken, as_added_tokens
from keras_tfm.tokenizers.code_points import before
from keras_tfm.tokenizers.sentence_piece_graph import JoiningRules, SentencePieceCutter, SentencePieceJoiner
from keras_tfm.tokenizers.sentence_piece_model import meaning_of_proto
from keras_tfm.tokenizers.sentence_piece_proto import CONTROL, UNKNOWN, ModelProto, read_proto, write_proto
from keras_tfm.tokenizers.sentence_piece_rules import WORD_SIGN
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import id_table

SIDES = ("source", "target")
# Arguments of the constructor that have files of their own.
_FILES = {
    "source_model": "source.spm",
    "target_model": "target.spm",
    "vocabulary": "vocab.json",
    "target_vocabulary": "target_vocab.json",
}
_SPECIAL_TOKENS = ("</s>", "<unk>", "<pad>")
_CODE = r"(?s)\A>>.*?<<"  # of a language, as in ">>fr<< Good morning."
# What Python's `str.strip` takes away.
_WHITE_SPACE = r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"


class MarianTokenizer(Tokenizer):
    """Texts of two languages to token ids and back, for translators of Marian and OPUS-MT.

    A SentencePiece model for each language cuts its texts into pieces, whose ids stand in a vocabulary that both share,
    or in one for each. So a tokenizer has a side: the one that `checkpoints.load_tokenizer` gives reads sources, and
    its `for_targets()` reads and writes targets. The ids and texts are those of `MarianTokenizer` of transformers:

    - A text may begin with the code of a language, ">>fr<<", which is one token, whether the vocabulary has it or not.
      It is no special token: `allow_special=False` does not keep it out.
    - A piece that the vocabulary does not have is unknown; characters that the model does not have are one piece.
    - Texts are without white space at their ends when they are decoded. Where both share a vocabulary, it is the
      source's model that joins the pieces, on both sides.
    - Punctuation is left as it is. Transformers asks for the package `sacremoses`, makes a normalizer of it, and
      calls it nowhere.

    In one point the ids differ: where each side has a vocabulary of its own, special tokens have the id that stands in
    that of their side. Transformers takes those of the source for both.

    Args:
        source_model, target_model: the contents of source.spm and target.spm, bytes; or what is read from them.
        vocabulary: dict from piece to id, of both languages, or of the sources.
        target_vocabulary: dict from piece to id of the targets, if they have one of their own.
        side: "source" or "target": which texts this tokenizer is for.
        special_tokens: strings or `AddedToken`s that are found in texts before anything else. On the target side those
            that its vocabulary does not have are left out.
        end_of_text: the special token that is put after each text; None for none.
        unknown: the token of pieces that are not in the vocabulary.
        vocabulary_size, target_vocabulary_size: ints, the sizes of the model's embeddings, if they are larger than the
            vocabularies. Default: the numbers of tokens.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,).
        add_special_tokens, allow_special: as for every `Tokenizer`.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ValueError: if a model is none, or asks for what is not supported, or the vocabularies do not fit.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = MarianTokenizer.from_file("opus-mt-en-fr")
        >>> ids = tokenizer.encode("My name is Ada.")
        >>> translate = TextToText(model, tokenizer, tokenizer.for_targets())

    Reference:
        Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++", https://arxiv.org/abs/1804.00344;
        Tiedemann and Thottingal 2020, "OPUS-MT: Building open translation services for the World".
    """

    strips_texts = True

    def __init__(
        self,
        source_model: bytes | ModelProto,
        target_model: bytes | ModelProto,
        vocabulary: Mapping[str, int],
        target_vocabulary: Mapping[str, int] | None = None,
        side: str = "source",
        special_tokens: Iterable[str | AddedToken] = _SPECIAL_TOKENS,
        end_of_text: str | None = "</s>",
        unknown: str = "<unk>",
        vocabulary_size: int | None = None,
        target_vocabulary_size: int | None = None,
    ):
        if side not in SIDES:
            raise ValueError(f"`side` must be one of {SIDES}. Received: side={side!r}.")
        protos = {"source": _proto("source_model", source_model), "target": _proto("target_model", target_model)}
        special = as_added_tokens(special_tokens)
        name, ids, size = "vocabulary", vocabulary, vocabulary_size
        if side == "target" and target_vocabulary is not None:
            name, ids, size = "target_vocabulary", target_vocabulary, target_vocabulary_size
        has_own = name == "target_vocabulary"
        tokens = _by_id(name, ids, size)
        if unknown not in ids:
            raise ValueError(f"`unknown` must be a token of `{name}`. Received: unknown={unknown!r}.")
        found = [token for token in special if token.content in ids] if has_own else special
        joining = _joining(protos["target" if has_own else "source"], tokens, found)
        super().__init__(
            tokens,
            joining.texts,
            found,
            end_of_text,
            end_tokens=[] if end_of_text is None else [end_of_text],
        )
        self.side, self.unknown = side, unknown
        # No dict: TensorFlow would track it.
        self._arguments: Mapping[str, Any] = MappingProxyType(
            {
                "source_model": source_model,
                "target_model": target_model,
                "vocabulary": vocabulary,
                "target_vocabulary": target_vocabulary,
                "side": side,
                "special_tokens": special,
                "end_of_text": end_of_text,
                "unknown": unknown,
                "vocabulary_size": vocabulary_size,
                "target_vocabulary_size": target_vocabulary_size,
            }
        )
        pieces = protos[side].pieces
        self._cut = SentencePieceCutter(meaning_of_proto(protos[side], space_after_special=True).cutting, len(pieces))
        self._join = SentencePieceJoiner(joining)
        self._ids = id_table(ids, ids[unknown])
        is_special = {token.content for token in found if token.special}
        with tf.init_scope(), tf.device("CPU:0"):
            self._ids_of_pieces = tf.constant([ids.get(piece.text, ids[unknown]) for piece in pieces], tf.int32)
            self._is_unknown = tf.constant([piece.kind == UNKNOWN for piece in pieces])
            self._is_special = tf.constant([token in is_special for token in tokens])

    @classmethod
    def from_file(cls, path: str | os.PathLike, **arguments: Any) -> "MarianTokenizer":
        """Reads the files of a tokenizer.

        Args:
            path: a folder with vocab.json, source.spm and target.spm, and target_vocab.json if targets have a
                vocabulary of their own.
            **arguments: those of the constructor after the vocabularies. `checkpoints.load_tokenizer` takes them from
                the settings in the folder.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: if one is not what it must be.
        """
        return cls(**read_arguments(local_path(path)), **arguments)

    def for_targets(self) -> "MarianTokenizer":
        """The tokenizer of the texts that a model writes, and is trained to write."""
        return self.changed(side="target")

    @property
    def language_codes(self) -> tuple[str, ...]:
        """The codes that a text may begin with, such as ">>fr<<", of a model for several languages."""
        return tuple(token for token in self.vocabulary if token.startswith(">>") and token.endswith("<<"))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes vocab.json, source.spm, target.spm and tokenizer_config.json, which transformers loads, into a folder.

        It is made if need be. Both sides write the same.
        """
        folder = local_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arguments = self._arguments
        config: dict[str, Any] = {"tokenizer_class": "MarianTokenizer", "unk_token": self.unknown}
        for name, file in _FILES.items():
            if arguments[name] is not None:
                replace_file(folder / file, _content(arguments[name]))
        ids = arguments["vocabulary"]
        rules = {token.content: dataclasses.asdict(token) for token in arguments["special_tokens"]}
        config["added_tokens_decoder"] = {str(ids[content]): rule for content, rule in rules.items()}
        config["separate_vocabs"] = arguments["target_vocabulary"] is not None
        replace_file(folder / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=1))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which copies and pickles are made."""
        return dict(self._arguments)

    def tokenize_pieces(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        rest = tf.strings.regex_replace(texts, _CODE, "", replace_global=False)
        lengths = tf.strings.length(texts) - tf.strings.length(rest)
        codes = tf.strings.substr(texts, tf.zeros_like(lengths), lengths)
        has_code = tf.not_equal(codes, "")
        code_ids = tf.RaggedTensor.from_row_lengths(
            self._ids.lookup(tf.boolean_mask(codes, has_code)), tf.cast(has_code, tf.int64), validate=False
        )
        return tf.concat([code_ids, self._ids_of_rest(rest, begins_text)], axis=1)

    def _ids_of_rest(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        rows, pieces = self._cut.ids_and_pieces(texts, begins_text)
        # What one side's model does not have, such as a letter of the other language, the vocabulary may have.
        ids = tf.where(
            tf.gather(self._is_unknown, rows.values),
            self._ids.lookup(pieces.values),
            tf.gather(self._ids_of_pieces, rows.values),
        )
        return rows.with_values(ids)

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text as the reference writes it: each special token with a space, and what follows it as a new text."""
        rows = tf.cast(token_ids.value_rowids(), tf.int32)
        is_special = tf.gather(self._is_special, token_ids.values)
        begins = before(is_special, True) | tf.not_equal(rows, before(rows, -1))
        segment = tf.cumsum(tf.cast(begins, tf.int64)) - 1
        num_segments = tf.math.count_nonzero(begins)
        texts = self._join(tf.RaggedTensor.from_value_rowids(token_ids.values, segment, num_segments, validate=False))
        # Only the last token of a segment may be special.
        ends = tf.math.unsorted_segment_max(tf.cast(is_special, tf.int32), segment, num_segments) > 0
        texts = tf.strings.join([texts, tf.where(ends, " ", "")])
        texts = tf.RaggedTensor.from_value_rowids(
            texts, tf.cast(tf.boolean_mask(rows, begins), tf.int64), token_ids.nrows(), validate=False
        )
        texts = tf.strings.regex_replace(tf.strings.reduce_join(texts, axis=-1), rf"\A{_WHITE_SPACE}", "")
        return tf.strings.regex_replace(texts, rf"{_WHITE_SPACE}\z", "")


def read_arguments(folder: Path) -> dict[str, Any]:
    """The models and vocabularies in a folder, as `MarianTokenizer` takes them."""
    needed = [file for name, file in _FILES.items() if name != "target_vocabulary"]
    if missing := [file for file in needed if not (folder / file).is_file()]:
        raise FileNotFoundError(f"`path` must be a folder with {needed}. Received: {str(folder)!r} without {missing}.")
    files = {name: folder / file for name, file in _FILES.items() if (folder / file).is_file()}
    return {name: read_json(file) if file.suffix == ".json" else file.read_bytes() for name, file in files.items()}


def _proto(name: str, model: Any) -> ModelProto:
    if not isinstance(model, bytes | ModelProto):
        raise TypeError(
            f"`{name}` must be bytes, the content of a SentencePiece model; `from_file` reads a folder. Received: "
            f"{str(model)[:60]} of type {type(model).__name__}."
        )
    return read_proto(model) if isinstance(model, bytes) else model


def _content(argument: Any) -> str | bytes:
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, ModelProto):
        return write_proto(argument)
    return json.dumps(dict(argument), ensure_ascii=False, indent=1)


def _by_id(name: str, vocabulary: Any, size: int | None) -> list[str | None]:
    """The token of each id; None for ids that no token has."""
    if not isinstance(vocabulary, Mapping) or not vocabulary:
        raise TypeError(f"`{name}` must be a dict from pieces to ids. Received: {str(vocabulary)[:60]}.")
    wrong = [token_id for token_id in vocabulary.values() if not isinstance(token_id, int) or not 0 <= token_id < 2**24]
    if wrong or len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"The ids of `{name}` must be integers from 0 on, each once. Received: {wrong[:3]}.")
    needed = max(vocabulary.values()) + 1
    tokens: list[str | None] = [None] * (needed if size is None else as_integer(f"{name}_size", size, needed))
    for token, token_id in vocabulary.items():
        tokens[token_id] = token
    return tokens


def _joining(proto: ModelProto, tokens: list[str | None], special: Iterable[AddedToken]) -> JoiningRules:
    """How the model joins pieces that are told by their text: those that it does not have are written as they are."""
    rules = meaning_of_proto(proto, space_after_special=True).joining
    is_special = {token.content for token in special if token.special}
    # Control pieces are no text, unless they are special tokens.
    texts: dict[str | None, str] = {piece.text: "" for piece in proto.pieces if piece.kind == CONTROL}
    texts |= {token: token for token in is_special}
    written = [texts.get(token, token or "").replace(WORD_SIGN, " ").encode() for token in tokens]
    places: dict[str | None, int] = {
        piece.text: place for place, piece in enumerate(proto.pieces) if piece.text not in texts
    }
    own = [places.get(token) for token in tokens]

    def column(values: Sequence, others: Iterable) -> list:
        return [other if place is None else values[place] for place, other in zip(own, others, strict=True)]

    return JoiningRules(
        texts=column(rules.texts, written),
        first_texts=column(rules.first_texts, written),
        closes=column(rules.closes, map(bool, written)),
        is_byte=column(rules.is_byte, [False] * len(own)),
        replaces_runs=rules.replaces_runs,
    )
