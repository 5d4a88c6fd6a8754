"""The WordPiece tokenizer of BERT."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import bert_rules
from keras_tfm.tokenizers.added_tokens import AddedToken, as_added_tokens, with_tokens
from keras_tfm.tokenizers.bert_rules import BERT_TOKENS, BertNormalizer, BertRules, character_table
from keras_tfm.tokenizers.inputs import as_lists, as_string_tensor
from keras_tfm.tokenizers.tokenizer import CHOICES, TEXTS, Tokenizer
from keras_tfm.tokenizers.vocabulary import tokens_of
from keras_tfm.tokenizers.word_piece_files import arguments_from_json, read_arguments, write_tokenizer
from keras_tfm.tokenizers.word_piece_graph import PieceCutter, places_in_rows, shifted, written
from keras_tfm.tokenizers.word_piece_training import train_word_piece_arguments
from keras_tfm.tokenizers.word_splitter import replace_invalid_utf8


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
        first, later = written(tokens)
        rules = _rules(lowercase, strip_accents, split_on_cjk)
        table = character_table(rules)
        self._normalize = BertNormalizer(table) if any(token.normalized for token in special_tokens) else None
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

    def tokenize_with_offsets(self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True) -> tuple:
        """Ids and the bytes that each stands for, in the graph.

        `tf.strings.substr(text, start, end - start)` is the text of a token, with its accents and capitals, and of the
        start of one and the end of another the text from the one to the other.

        Args:
            texts, add_special_tokens, allow_special: as for a call.

        Returns:
            ids, starts and ends, each int32 (T,) for one string or RaggedTensor (B, tokens) for several. Starts and
            ends count bytes of UTF-8; if a text is no UTF-8, of the text with U+FFFD in place of what is none. Both are
            0 for the tokens that are put around a text.
        """
        adds = self._adds(texts) if add_special_tokens else self._no
        texts = as_string_tensor(texts)
        allows = self._yes if allow_special else self._no
        parts = self._tokenize_with_offsets(texts if texts.shape.rank else texts[None], adds, allows)
        return parts if texts.shape.rank else tuple(rows.values for rows in parts)

    def encode_with_offsets(
        self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True
    ) -> tuple[list, list]:
        """The ids as Python lists, and the characters that each stands for, as Hugging Face's `offset_mapping`.

        Args:
            texts: a string, or a list, array or tensor of strings.
            add_special_tokens, allow_special: as for a call.

        Returns:
            ids and offsets: for one string a list of ints and a list of (start, end), for several lists of these. Both
            ends count characters: `text[start:end]` is a token's text; of bytes after `.decode("utf-8", "replace")`.
        """
        is_one = as_string_tensor(texts).shape.rank == 0
        texts = [texts] if is_one else texts
        ids, starts, ends = map(as_lists, self.tokenize_with_offsets(texts, add_special_tokens, allow_special))
        offsets = []
        for content, *places in zip(as_string_tensor(texts).numpy(), starts, ends, strict=True):
            characters = _characters_before(content)
            offsets.append(list(zip(*(characters[place].tolist() for place in places), strict=True)))
        return (ids[0], offsets[0]) if is_one else (ids, offsets)

    def _id_of(self, token: str) -> int:
        """The id of one of BERT's special tokens; ValueError if the vocabulary lacks it."""
        if token not in self.vocabulary:
            raise ValueError(
                f"The vocabulary must hold {token!r} for this. Received: {self.vocabulary_size} tokens without it; "
                f"special tokens: {list(self.special_tokens)}. Add it, or train with it among `special_tokens`."
            )
        return self.vocabulary[token]

    @tf.function(input_signature=[TEXTS, CHOICES, CHOICES], autograph=False)
    def _tokenize_with_offsets(
        self, texts: tf.Tensor, adds: tf.Tensor, allow_special: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        with tf.device("CPU:0"):
            ids, *places = self._cut_between(replace_invalid_utf8(texts), allow_special[0])
            places = (self._around(place, adds, adds, value=0) for place in places)
            return self._around(ids, adds, adds), *places

    def _cut_between(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """Ids, starts and ends (N, tokens), of special tokens and of what is between them."""
        if self._split_off is None:
            return self._cut(texts)
        pieces, ids = self._split_off.exact(texts, allow_special)
        between = tf.where(ids.values < 0, pieces.values, "")
        if self._normalize is None:
            return _with_places_of_tokens(pieces, ids, self._cut(between))
        plain, *origins = self._normalize.with_places(between)
        inner, inner_ids = self._split_off.loose(plain, allow_special)
        parts = _with_places_of_tokens(inner, inner_ids, self._cut(tf.where(inner_ids.values < 0, inner.values, "")))
        first = tf.cast(origins[0].row_starts(), tf.int32)
        starts, ends = (
            part.with_values(tf.gather(origin.values, shifted(part, first - last).values))
            for part, origin, last in zip(parts[1:], origins, (0, 1), strict=True)
        )
        return _with_places_of_tokens(pieces, ids, (parts[0], starts, ends))


def _with_places_of_tokens(
    pieces: tf.RaggedTensor, ids: tf.RaggedTensor, parts: tuple[tf.RaggedTensor, ...]
) -> tuple[tf.RaggedTensor, ...]:
    """Ids, starts and ends of whole texts (N, tokens), from those of their pieces, of which tokens made none.

    Args:
        pieces, ids: (N, pieces), as `AddedTokenSplitter` gives them.
        parts: ids, starts and ends of the tokens of each piece (all pieces, tokens).
    """
    is_token, lengths, before = ids.values >= 0, tf.strings.length(pieces.values), places_in_rows(pieces)
    own = (ids.values, tf.zeros_like(lengths), lengths)
    rows = [with_tokens(part, values, is_token) for part, values in zip(parts, own, strict=True)]
    rows[1:] = (shifted(part, before) for part in rows[1:])
    return tuple(pieces.with_values(part).merge_dims(1, 2) for part in rows)


def _rules(lowercase: bool, strip_accents: bool | None, split_on_cjk: bool) -> BertRules:
    return BertRules(bool(lowercase), bool(lowercase if strip_accents is None else strip_accents), bool(split_on_cjk))


def _characters_before(text: bytes) -> np.ndarray:
    """int (bytes + 1,): how many characters of a text in UTF-8 begin before each byte, and before its end."""
    data = np.frombuffer(text.decode("utf-8", "replace").encode(), np.uint8)
    return np.cumsum(np.append(0, (data & 0xC0) != 0x80))
