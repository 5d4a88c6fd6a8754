"""The WordPiece tokenizer of BERT."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import bert_rules
from keras_tfm.tokenizers.bert_rules import BERT_TOKENS, BertRules
from keras_tfm.tokenizers.inputs import as_lists, as_string_tensor
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import check_special_tokens, tokens_of
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
            written; where several begin, the longest counts. Default: those of [PAD], [UNK], [CLS], [SEP] and [MASK]
            that are in the vocabulary. So "[SEP]" in a text that you do not trust is a separator.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD
            just as `bytes.decode("utf-8", "replace")` does.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several. No special token is added.

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
        special_tokens: Iterable[str] | None = None,
    ):
        tokens = tokens_of(vocabulary)
        if bert_rules.UNKNOWN not in vocabulary:
            raise ValueError(
                f"`vocabulary` must hold {bert_rules.UNKNOWN!r}, which stands for words that no pieces make. "
                f"Received: {len(tokens)} tokens without it."
            )
        if special_tokens is None:
            special_tokens = [token for token in BERT_TOKENS if token in vocabulary]
        special_tokens = check_special_tokens(special_tokens, vocabulary)
        first, later = written(tokens)
        super().__init__(tokens, [token.encode() for token in later], special_tokens)
        rules = _rules(lowercase, strip_accents, split_on_cjk)
        self.lowercase, self.strip_accents, self.split_on_cjk = rules
        self._cut = PieceCutter(self.vocabulary, self.special_tokens, rules)
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
        special_tokens: Iterable[str] = BERT_TOKENS,
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
    def from_file(cls, path: str | os.PathLike, lowercase: bool | None = None) -> "WordPieceTokenizer":
        """Reads what `save` wrote, a Hugging Face tokenizer.json, or BERT's vocab.txt.

        Args:
            path: a tokenizer.json or a vocab.txt (one token in a line), or a folder that holds one, the former first.
            lowercase: bool, for a vocab.txt, unless a tokenizer_config.json beside it tells (which also tells
                `strip_accents` and `split_on_cjk`). A vocab.txt has no list of special tokens: these are BERT's five.

        Returns:
            a WordPieceTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if `lowercase` is not known or not what the file says; if a tokenizer.json asks for anything
                else than BERT's WordPiece (another normalizer, pre-tokenizer or unknown token, ...).
        """
        return cls(**read_arguments(path, lowercase))

    @classmethod
    def from_json(cls, document: Any) -> "WordPieceTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        return cls(**arguments_from_json(document))

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

    def tokenize_with_offsets(self, texts: Any) -> tuple:
        """Ids and the bytes that each stands for, in the graph.

        `tf.strings.substr(text, start, end - start)` is the text of a token, with its accents and capitals, and of the
        start of one and the end of another the text from the one to the other.

        Args:
            texts: as for a call.

        Returns:
            ids, starts and ends, each int32 (T,) for one string or RaggedTensor (B, tokens) for several. Starts and
            ends count bytes of UTF-8; if a text is no UTF-8, of the text with U+FFFD in place of what is none.
        """
        texts = as_string_tensor(texts)
        if texts.shape.rank == 0:
            return tuple(rows.values for rows in self._tokenize_with_offsets(texts[None]))
        return self._tokenize_with_offsets(texts)

    def encode_with_offsets(self, texts: Any) -> tuple[list, list]:
        """The ids as Python lists, and the characters that each stands for, as Hugging Face's `offset_mapping`.

        Args:
            texts: a string, or a list, array or tensor of strings.

        Returns:
            ids and offsets: for one string a list of ints and a list of (start, end), for several lists of these. Both
            ends count characters: `text[start:end]` is a token's text; of bytes after `.decode("utf-8", "replace")`.
        """
        texts = as_string_tensor(texts)
        flat = tf.reshape(texts, [-1])
        ids, starts, ends = map(as_lists, self._tokenize_with_offsets(flat))
        offsets = []
        for content, *places in zip(flat.numpy(), starts, ends, strict=True):
            characters = _characters_before(content)
            offsets.append(list(zip(*(characters[place].tolist() for place in places), strict=True)))
        return (ids, offsets) if texts.shape.rank else (ids[0], offsets[0])

    def _id_of(self, token: str) -> int:
        """The id of one of BERT's special tokens; ValueError if the vocabulary lacks it."""
        if token not in self.vocabulary:
            raise ValueError(
                f"The vocabulary must hold {token!r} for this. Received: {self.vocabulary_size} tokens without it; "
                f"special tokens: {list(self.special_tokens)}. Add it, or train with it among `special_tokens`."
            )
        return self.vocabulary[token]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def _tokenize_with_offsets(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        return self._cut(texts)


def _rules(lowercase: bool, strip_accents: bool | None, split_on_cjk: bool) -> BertRules:
    return BertRules(bool(lowercase), bool(lowercase if strip_accents is None else strip_accents), bool(split_on_cjk))


def _characters_before(text: bytes) -> np.ndarray:
    """int (bytes + 1,): how many characters of a text in UTF-8 begin before each byte, and before its end."""
    data = np.frombuffer(text.decode("utf-8", "replace").encode(), np.uint8)
    return np.cumsum(np.append(0, (data & 0xC0) != 0x80))
