"""The byte-level BPE tokenizer."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_tfm.tokenizers.arguments import as_id_rows, as_id_tensor, as_lists, as_string_tensor, check_ids
from keras_tfm.tokenizers.byte_alphabet import BYTE_SYMBOLS
from keras_tfm.tokenizers.byte_pair_files import read_vocabulary, vocabulary_from_json, write_vocabulary
from keras_tfm.tokenizers.byte_pair_training import train_byte_pair_vocabulary
from keras_tfm.tokenizers.byte_pair_vocabulary import BytePairVocabulary
from keras_tfm.tokenizers.pair_merger import PairMerger
from keras_tfm.tokenizers.unicode_nfc import NormalizationC
from keras_tfm.tokenizers.word_splitter import WordSplitter


class BytePairTokenizer(tf.Module):
    """Byte-level BPE as in GPT-2: any text to token ids and back.

    One implementation in core TensorFlow ops runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel that
    loads with `import tensorflow` alone. Its ids are those of the Hugging Face library `tokenizers` for every text.
    All work is done on the CPU.

    Args:
        vocabulary: dict from token to id; tokens are written in GPT-2's byte alphabet ("Ġthe" is " the"), the 256
            symbols of which must be there; ids are 0, 1, ..., V - 1.
        merges: pairs of tokens in order of rank; parts and products are in the vocabulary.
        special_tokens: tokens of the vocabulary, as plain text, that are cut out of a text before anything else; where
            several begin, the longest counts.
        words: how texts are cut into words before merging: "gpt2", "llama3", "qwen2", "smollm" or "bloom".
        whole_words: bool, a word that is a token is that token, even if no merges lead to it (Llama 3).
        end_of_text: the special token at which a text ends. Default: "<|endoftext|>", if that is one.
        drops_bytes: bool, bytes without a token are left out, as Hugging Face does (SmolLM). Default: all 256 are
            required.
        normalization: "nfc", to write characters with marks as one code point first (Qwen 2, GPT-NeoX), or None.
        plain_tokens: special tokens that stay when decoding skips special tokens (GPT-NeoX's runs of spaces, Qwen's
            "<think>").
        post_processor: what a tokenizer.json does to ids afterwards. It is kept for `save` and not done here.
        lstrip_tokens: special tokens that take the white space before them with them (RoBERTa's "<mask>").

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD
            just as `bytes.decode("utf-8", "replace")` does.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several. No special token is added.

    Raises:
        ValueError: if vocabulary, merges and special tokens do not fit together; at a call, if a `str` holds unpaired
            surrogates or the rank is not 0 or 1.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = BytePairTokenizer.train("the cat, the hat, the bat. " * 9, vocabulary_size=264)
        >>> tokenizer.encode("the cat")
        [259, 221, 262]
        >>> tokenizer.decode([259, 221, 262])
        'the cat'
        >>> dataset = tf.data.Dataset.from_tensor_slices(["the hat", "a bat"]).map(tokenizer)

    Reference:
        Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
        https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019, "Language Models are Unsupervised Multitask
        Learners", section 2.2.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        special_tokens: Iterable[str] = (),
        words: str = "gpt2",
        whole_words: bool = False,
        end_of_text: str | None = None,
        drops_bytes: bool = False,
        normalization: str | None = None,
        plain_tokens: Iterable[str] = (),
        *,
        post_processor: dict[str, Any] | None = None,
        lstrip_tokens: Iterable[str] = (),
    ):
        super().__init__(name="byte_pair_tokenizer")
        self._vocabulary = BytePairVocabulary(
            vocabulary,
            merges,
            special_tokens,
            words,
            whole_words,
            end_of_text,
            drops_bytes,
            normalization,
            plain_tokens,
            post_processor,
            lstrip_tokens,
        )
        token_ids, token_bytes = self._vocabulary.token_ids, self._vocabulary.token_bytes
        self._normalization = NormalizationC() if normalization else None
        self._split = WordSplitter(self.special_tokens, words, self._normalization, self._vocabulary.lstrip_tokens)
        self._merge = PairMerger(
            byte_ids=[token_ids.get(symbol, -1) for symbol in BYTE_SYMBOLS],
            merges=[(token_ids[a], token_ids[b], token_ids[a + b]) for a, b in self._vocabulary.merges],
            vocabulary_size=self.vocabulary_size,
        )
        is_special = [token in self.special_tokens for token in self._vocabulary.tokens]
        is_skipped = [
            special and token not in self._vocabulary.plain_tokens
            for special, token in zip(is_special, self._vocabulary.tokens, strict=True)
        ]
        ordinary_bytes = [b"" if skipped else piece for skipped, piece in zip(is_skipped, token_bytes, strict=True)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._token_bytes = tf.constant(token_bytes, tf.string)
            self._ordinary_bytes = tf.constant(ordinary_bytes, tf.string)
            # Words that are not merged from bytes, and their ids.
            whole = [
                (piece, token_id)
                for token_id, (piece, special) in enumerate(zip(token_bytes, is_special, strict=True))
                if special or whole_words
            ]
            self._whole_ids = None
            if whole:
                self._whole_ids = tf.lookup.StaticHashTable(
                    tf.lookup.KeyValueTensorInitializer(*zip(*whole, strict=True), tf.string, tf.int32),
                    default_value=-1,
                )

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int,
        special_tokens: Iterable[str] = ("<|endoftext|>",),
    ) -> "BytePairTokenizer":
        """Learns a vocabulary from text, with the library `tokenizers`.

        Args:
            texts_or_files: a text, a file, or an iterable of these. A `str` is text, a `pathlib.Path` is a file.
            vocabulary_size: int, at least 256 + the number of special tokens. A text with fewer different pairs gives
                a smaller vocabulary, with a warning.
            special_tokens: get the first ids, in order. They may occur in the text; nothing is learned from them.

        Returns:
            a BytePairTokenizer.

        Raises:
            ValueError: if `vocabulary_size` is too small or there is no text.
        """
        return cls._from_vocabulary(train_byte_pair_vocabulary(texts_or_files, vocabulary_size, special_tokens))

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "BytePairTokenizer":
        """Reads what `save` wrote, a Hugging Face tokenizer.json, or GPT-2's files.

        Args:
            path: a tokenizer.json; or a folder that holds one, or vocab.json and merges.txt, or encoder.json and
                vocab.bpe. The last two have no list of special tokens: these are the tokens that no merge makes.

        Returns:
            a BytePairTokenizer.

        Raises:
            FileNotFoundError: if these files are not there.
            ValueError: if a tokenizer.json asks for anything else than byte-level BPE with a known regular expression
                (a normalizer, `add_prefix_space`, an unknown token, added tokens of single words, ...). What it does to
                ids afterwards, such as a first token before each text, is kept for `save` but not done.
        """
        return cls._from_vocabulary(read_vocabulary(path))

    @classmethod
    def from_json(cls, document: Any) -> "BytePairTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        return cls._from_vocabulary(vocabulary_from_json(document))

    @classmethod
    def _from_vocabulary(cls, vocabulary: BytePairVocabulary) -> "BytePairTokenizer":
        return cls(*_arguments(vocabulary), **_keywords(vocabulary))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, vocab.json and merges.txt into a folder, which is made if need be.

        Each file is written beside its place and then renamed. `tokenizers.Tokenizer.from_file` loads tokenizer.json.
        """
        write_vocabulary(self._vocabulary, folder)

    def changed(self, **arguments: Any) -> "BytePairTokenizer":
        """A tokenizer like this one with other values for some of the constructor's arguments."""
        names = ("vocabulary", "merges", "special_tokens", "words", "whole_words", "end_of_text", "drops_bytes")
        names += ("normalization", "plain_tokens")
        own = dict(zip(names, _arguments(self._vocabulary), strict=True))
        return type(self)(**{**own, **_keywords(self._vocabulary), **arguments})

    def __reduce__(self):
        # Tables cannot be pickled or copied: make them anew.
        return _rebuilt, (type(self), _arguments(self._vocabulary), _keywords(self._vocabulary))

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens, V; ids are 0, 1, ..., V - 1."""
        return len(self._vocabulary.tokens)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Read-only dict from special token to id."""
        return self._vocabulary.special_tokens

    @property
    def end_of_text_id(self) -> int | None:
        """The id of the special token at which a text ends; None if there is none."""
        return None if self._vocabulary.end_of_text is None else self.special_tokens[self._vocabulary.end_of_text]

    @property
    def packs_as_roberta(self) -> bool:
        """Whether the files that this was read from pack texts as RoBERTa's do, or do not say how."""
        return (self._vocabulary.post_processor or {}).get("type", "RobertaProcessing") == "RobertaProcessing"

    def token_to_id(self, token: str) -> int:
        """The id of a token written in the byte alphabet ("Ġthe"), or of a special token."""
        if token not in self._vocabulary.token_ids:
            raise ValueError(
                f"`token` must be in the vocabulary. Received: {token!r}. Tokens are written in GPT-2's byte "
                "alphabet: 'Ġ' is a space."
            )
        return self._vocabulary.token_ids[token]

    def id_to_token(self, token_id: int) -> str:
        """The token of an id, in the byte alphabet ("Ġthe")."""
        check_ids(token_id, self.vocabulary_size)
        return self._vocabulary.tokens[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that an id stands for (b" the"): often, but not always, whole UTF-8 characters."""
        check_ids(token_id, self.vocabulary_size)
        return self._vocabulary.token_bytes[token_id]

    def __call__(self, texts: Any) -> tf.Tensor | tf.RaggedTensor:
        texts = as_string_tensor(texts)
        if texts.shape.rank == 0:
            return self._tokenize(texts[None]).values
        return self._tokenize(texts)

    def encode(self, text: Any) -> list[int] | list[list[int]]:
        """The ids as Python lists: the same as calling the tokenizer, outside of graphs.

        Args:
            text: a string, or a list, array or tensor of strings.

        Returns:
            list of ints for one string, list of lists of ints for several.
        """
        return as_lists(self(text))

    def detokenize(self, token_ids: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """The bytes that ids stand for, in the graph.

        Args:
            token_ids: integers (T,) or (B, T), or RaggedTensor (B, tokens).
            skip_special_tokens: bool, leave special tokens out.

        Returns:
            string () or (B,). It may begin or end within a UTF-8 character if the ids do.

        Raises:
            tf.errors.InvalidArgumentError: at run time, if an id is not in the vocabulary.
        """
        token_ids = as_id_tensor(token_ids)
        with tf.device("CPU:0"):
            pieces = self._ordinary_bytes if skip_special_tokens else self._token_bytes
            return tf.strings.reduce_join(tf.gather(pieces, tf.cast(token_ids, tf.int64)), axis=-1)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD.

        Args:
            token_ids: list, array or tensor of integers (T,) or (B, T); nested lists and RaggedTensors may have rows
                of any lengths.
            skip_special_tokens: bool, leave special tokens out.

        Returns:
            str for (T,), list of str for rows. An empty list is one row without ids: "".

        Raises:
            ValueError: if an id is not in the vocabulary, or `token_ids` are no integers or have another rank.
        """
        rows, is_batch = as_id_rows(token_ids)
        check_ids(rows.values.numpy(), self.vocabulary_size)
        texts = self.detokenize(rows if is_batch else rows.values, skip_special_tokens).numpy()
        return [text.decode("utf-8", "replace") for text in texts] if is_batch else texts.decode("utf-8", "replace")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def _tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        with tf.device("CPU:0"):
            words = self._split(texts)  # (B, words)
            distinct, index = tf.unique(words.values)
            if self._whole_ids is not None:
                whole = self._whole_ids.lookup(distinct)
                is_whole = whole >= 0
                ids = self._merge(tf.where(is_whole, "", distinct))
                whole = tf.RaggedTensor.from_row_lengths(
                    tf.boolean_mask(whole, is_whole), tf.cast(is_whole, tf.int64), validate=False
                )
                ids = tf.concat([ids, whole], axis=1)  # a word has either
            else:
                ids = self._merge(distinct)
            return tf.gather(ids, words.with_values(index)).merge_dims(1, 2)


def _arguments(vocabulary: BytePairVocabulary) -> tuple:
    """What a tokenizer of this vocabulary is made from."""
    return (
        dict(vocabulary.token_ids),
        vocabulary.merges,
        tuple(vocabulary.special_tokens),
        vocabulary.words,
        vocabulary.whole_words,
        vocabulary.end_of_text,
        vocabulary.drops_bytes,
        vocabulary.normalization,
        tuple(vocabulary.plain_tokens),
    )


def _keywords(vocabulary: BytePairVocabulary) -> dict[str, Any]:
    return {"post_processor": vocabulary.post_processor, "lstrip_tokens": tuple(vocabulary.lstrip_tokens)}


def _rebuilt(cls: type, arguments: tuple, keywords: dict[str, Any]) -> BytePairTokenizer:
    return cls(*arguments, **keywords)
