"""The WordPiece tokenizer of BERT."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import bert_rules
from keras_tfm.tokenizers.added_tokens import (
    AddedToken,
    as_added_tokens,
    normalized_contents,
    shifted,
    with_places_of_tokens,
)
from keras_tfm.tokenizers.bert_rules import BERT_TOKENS, BertNormalizer, BertRules, character_table
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import tokens_of
from keras_tfm.tokenizers.word_piece_files import arguments_from_json, read_arguments, write_tokenizer
from keras_tfm.tokenizers.word_piece_graph import PieceCutter, written
from keras_tfm.tokenizers.word_piece_training import train_word_piece_arguments


class WordPieceTokenizer(Tokenizer):
    """WordPiece as in BERT: text to token ids, with their places in the text, and back.

    One implementation in core TensorFlow ops runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel that
    loads with `import tensorflow` alone. Its ids are those of Hugging Face's `BertTokenizerFast`, with one known
    exception: where several combining marks that are kept (spacing marks like the Balinese U+1B44) follow each other
    in another order than the canonical one, they stay in that order. All work is done on the CPU.

    `SentencePacker` puts [CLS] and [SEP] around the ids and makes the inputs of a model.

    Args:
        vocabulary: dict from piece to id; ids are 0, 1, ..., V - 1. "##" stands before pieces that do not begin a word.
            It must hold "[UNK]".
        lowercase: bool, True for "uncased" models.
        strip_accents: bool. Default: as `lowercase`.
        split_on_cjk: bool, each Chinese, Japanese or Korean ideograph is a word by itself.
        special_tokens: tokens of the vocabulary that are cut out of a text before anything else, just as they are
            written; where several begin, the longest counts. An `AddedToken` in the place of a string has rules.
            Default: those of [PAD], [UNK], [CLS], [SEP] and [MASK] that are in the vocabulary.
        begin_tokens, end_tokens: tokens that are put before and after each text.
        post_processor: that of the tokenizer.json that it was read from, for `save`. Default: [CLS] a [SEP] b [SEP].

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD
            just as `bytes.decode("utf-8", "replace")` does.
        add_special_tokens: bool, put `begin_tokens` and `end_tokens` around each text.
        allow_special: bool, False for texts of people who are not to write special tokens: "[SEP]" is text then.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ValueError: if vocabulary and special tokens do not fit together; at a call, if a `str` holds unpaired
            surrogates or the rank is not 0 or 1.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = WordPieceTokenizer.train("the cat, the hat, the bat. " * 9, vocabulary_size=23)
        >>> tokenizer.encode("The Hât")
        [19, 22]
        >>> tokenizer.decode([19, 22])
        'the hat'
        >>> tokenizer.encode_with_offsets("The Hât")
        ([19, 22], [(0, 3), (4, 7)])
        >>> dataset = tf.data.Dataset.from_tensor_slices(["the hat", "a bat"]).map(tokenizer)

    Reference:
        Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        https://arxiv.org/abs/1810.04805; Wu et al. 2016, section 4.1, https://arxiv.org/abs/1609.08144
    """

    _token_hint = ' Pieces that do not begin a word are written with "##" before them.'

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_on_cjk: bool = True,
        special_tokens: Iterable[str | AddedToken] | None = None,
        *,
        begin_tokens: Iterable[str] = (),
        end_tokens: Iterable[str] = (),
        post_processor: Mapping[str, Any] | None = None,
    ):
        tokens = tokens_of(vocabulary)
        if bert_rules.UNKNOWN not in vocabulary:
            raise ValueError(
                f"`vocabulary` must hold {bert_rules.UNKNOWN!r}, which stands for words that no pieces make. "
                f"Received: {len(tokens)} tokens without it."
            )
        if special_tokens is None:
            special_tokens = [token for token in BERT_TOKENS if token in vocabulary]
        special_tokens = as_added_tokens(special_tokens, vocabulary)
        rules = _rules(lowercase, strip_accents, split_on_cjk)
        table = character_table(rules)
        self._normalize = BertNormalizer(table) if any(token.normalized for token in special_tokens) else None
        contents = normalized_contents(special_tokens, self._normalize)
        first, later = written([contents.get(token, token) for token in tokens])
        pieces = [token.encode() for token in later]
        super().__init__(tokens, pieces, special_tokens, None, begin_tokens, end_tokens, self._normalize)
        self.lowercase, self.strip_accents, self.split_on_cjk = rules
        # No dict: TensorFlow would track it.
        self.post_processor = None if post_processor is None else MappingProxyType(dict(post_processor))
        self._cut = PieceCutter(self.vocabulary, table)
        with tf.init_scope(), tf.device("CPU:0"):
            self._first_bytes = tf.constant(first, tf.string)

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_on_cjk: bool = True,
        special_tokens: Iterable[str | AddedToken] = BERT_TOKENS,
    ) -> "WordPieceTokenizer":
        """Learns a vocabulary from text, with the library `tokenizers`. The same text gives the same ids.

        Args:
            texts_or_files: a text, a file, or an iterable of these. A `str` is text, a `pathlib.Path` is a file.
            vocabulary_size: int, at least the special tokens and all characters, with and without "##". A text with
                fewer different words gives a smaller vocabulary, with a warning. The 1,000 most frequent characters
                are kept.
            lowercase, strip_accents, split_on_cjk: see the class.
            special_tokens: get the first ids, in order; "[UNK]" must be among them. They may occur in the text; nothing
                is learned from them.

        Returns:
            a WordPieceTokenizer.

        Raises:
            ValueError: if `vocabulary_size` is too small, "[UNK]" is missing, or there is no text.
        """
        rules = _rules(lowercase, strip_accents, split_on_cjk)
        return cls(**train_word_piece_arguments(texts_or_files, vocabulary_size, rules, special_tokens))

    @classmethod
    def from_file(
        cls, path: str | os.PathLike, lowercase: bool | None = None, add_special_tokens: bool = False
    ) -> "WordPieceTokenizer":
        """Reads what `save` wrote, a Hugging Face tokenizer.json, or BERT's vocab.txt.

        Args:
            path: a tokenizer.json or a vocab.txt (one token in a line), or a folder that holds one, the former first.
            lowercase: bool, for a vocab.txt, unless a tokenizer_config.json beside it tells (which also tells
                `strip_accents` and `split_on_cjk`). A vocab.txt has no list of special tokens: these are BERT's five.
            add_special_tokens: bool, whether the tokens that the file puts around each text, such as [CLS] and [SEP],
                become `begin_tokens` and `end_tokens`, as in `checkpoints.load_tokenizer`.

        Returns:
            a WordPieceTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if `lowercase` is not known or not what the file says; if a tokenizer.json asks for anything
                else than BERT's WordPiece (another normalizer, pre-tokenizer or unknown token, ...).
        """
        return cls(**read_arguments(path, lowercase, add_special_tokens))

    @classmethod
    def from_json(cls, document: Any, add_special_tokens: bool = False) -> "WordPieceTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        return cls(**arguments_from_json(document, add_special_tokens))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, vocab.txt and tokenizer_config.json into a folder, which is made if need be.

        Each file is written beside its place and then renamed. `tokenizers.Tokenizer.from_file` loads tokenizer.json,
        `transformers.BertTokenizerFast.from_pretrained` the folder.
        """
        write_tokenizer(self, folder)

    @property
    def pad_token_id(self) -> int:
        """The id of "[PAD]"; ValueError if it is not in the vocabulary. So the three below."""
        return self._id_of(bert_rules.PADDING)

    @property
    def unk_token_id(self) -> int:
        """The id of "[UNK]"."""
        return self._id_of(bert_rules.UNKNOWN)

    @property
    def cls_token_id(self) -> int:
        """The id of "[CLS]"."""
        return self._id_of(bert_rules.CLASS)

    @property
    def sep_token_id(self) -> int:
        """The id of "[SEP]"."""
        return self._id_of(bert_rules.SEPARATOR_TOKEN)

    @property
    def mask_token_id(self) -> int:
        """The id of "[MASK]"."""
        return self._id_of(bert_rules.MASK)

    @property
    def begins_word(self) -> np.ndarray:
        """bool (V,): whether a token begins a word, as those do that are written without "##"."""
        return np.array([not (token.startswith("##") and len(token) > 2) for token in self.vocabulary])

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._cut.ids(texts)

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text as the WordPiece decoder of `tokenizers` writes it: a space before words, none before . , ! and ?"""
        first, later = tf.gather(self._first_bytes, token_ids[:, :1]), tf.gather(self._token_bytes, token_ids[:, 1:])
        return tf.strings.reduce_join(tf.concat([first, later], axis=1), axis=-1)

    def _id_of(self, token: str) -> int:
        """The id of one of BERT's special tokens; ValueError if the vocabulary lacks it."""
        if token not in self.vocabulary:
            raise ValueError(
                f"The vocabulary must hold {token!r} for this. Received: {self.vocabulary_size} tokens without it; "
                f"special tokens: {list(self.special_tokens)}. Add it, or train with it among `special_tokens`."
            )
        return self.vocabulary[token]

    def places_of_pieces(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        if self._split_off is None:
            return self._cut(texts)
        pieces, ids = self._split_off.exact(texts, allow_special)
        between = tf.where(ids.values < 0, pieces.values, "")
        if self._normalize is None:
            return with_places_of_tokens(pieces, ids, self._cut(between))
        plain, *origins = self._normalize.with_places(between)
        inner, inner_ids = self._split_off.loose(plain, allow_special)
        parts = with_places_of_tokens(inner, inner_ids, self._cut(tf.where(inner_ids.values < 0, inner.values, "")))
        first = tf.cast(origins[0].row_starts(), tf.int32)
        starts, ends = (
            part.with_values(tf.gather(origin.values, shifted(part, first - last).values))
            for part, origin, last in zip(parts[1:], origins, (0, 1), strict=True)
        )
        return with_places_of_tokens(pieces, ids, (parts[0], starts, ends))


def _rules(lowercase: bool, strip_accents: bool | None, split_on_cjk: bool) -> BertRules:
    return BertRules(bool(lowercase), bool(lowercase if strip_accents is None else strip_accents), bool(split_on_cjk))
