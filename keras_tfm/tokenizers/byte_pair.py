"""The byte-level BPE tokenizer."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from keras_tfm.tokenizers.byte_pair_files import arguments_from_json, read_arguments, write_tokenizer
from keras_tfm.tokenizers.byte_pair_training import train_byte_pair_arguments
from keras_tfm.tokenizers.byte_pair_vocabulary import (
    check_byte_pair_special_tokens,
    check_choices,
    check_symbols,
    check_together,
    ranks_of,
)
from keras_tfm.tokenizers.pair_merger import PairMerger
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.unicode_nfc import NormalizationC
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, as_strings, id_table, symbols_to_bytes, tokens_of
from keras_tfm.tokenizers.word_splitter import WordSplitter


class BytePairTokenizer(Tokenizer):
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

    _token_hint = " Tokens are written in GPT-2's byte alphabet: 'Ġ' is a space."

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
        post_processor: Mapping[str, Any] | None = None,
        lstrip_tokens: Iterable[str] = (),
    ):
        check_choices(words, normalization)
        tokens, special_tokens = tokens_of(vocabulary), check_byte_pair_special_tokens(special_tokens, vocabulary)
        ranks = ranks_of(merges, vocabulary)
        plain_tokens = as_strings("plain_tokens", plain_tokens)
        lstrip_tokens = as_strings("lstrip_tokens", lstrip_tokens)
        check_symbols(vocabulary, drops_bytes)
        check_together(ranks, special_tokens, plain_tokens, lstrip_tokens)
        if end_of_text is None and "<|endoftext|>" in special_tokens:
            end_of_text = "<|endoftext|>"
        is_special = set(special_tokens)
        pieces = [token.encode() if token in is_special else symbols_to_bytes(token) for token in tokens]
        super().__init__(tokens, pieces, special_tokens, end_of_text, plain_tokens)

        self.words = words
        self.whole_words = whole_words
        self.drops_bytes = drops_bytes
        self.normalization = normalization
        self.plain_tokens = frozenset(plain_tokens)
        self.lstrip_tokens = frozenset(lstrip_tokens)
        # No dict: TensorFlow would track it.
        self.post_processor = None if post_processor is None else MappingProxyType(dict(post_processor))
        self._ranks = ranks
        normalize = NormalizationC() if normalization else None
        self._split = WordSplitter(special_tokens, words, normalize, self.lstrip_tokens)
        self._merge = PairMerger(
            byte_ids=[vocabulary.get(symbol, -1) for symbol in BYTE_SYMBOLS],
            merges=[(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in ranks],
            vocabulary_size=len(tokens),
        )
        # Words that are not merged from bytes. Of two tokens of the same bytes the special one counts.
        whole = {piece: i for i, piece in enumerate(pieces) if whole_words or tokens[i] in is_special}
        whole.update({token.encode(): vocabulary[token] for token in special_tokens})
        self._whole_ids = id_table(whole) if whole else None

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
        return cls(**train_byte_pair_arguments(texts_or_files, vocabulary_size, special_tokens))

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
        return cls(**read_arguments(path))

    @classmethod
    def from_json(cls, document: Any) -> "BytePairTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        return cls(**arguments_from_json(document))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, vocab.json and merges.txt into a folder, which is made if need be.

        Each file is written beside its place and then renamed. `tokenizers.Tokenizer.from_file` loads tokenizer.json.
        """
        write_tokenizer(self, folder)

    def changed(self, **arguments: Any) -> "BytePairTokenizer":
        """A tokenizer like this one with other values for some of the constructor's arguments."""
        return type(self)(**{**self.get_config(), **arguments})

    @property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """The merges in order of rank."""
        return tuple(self._ranks)

    @property
    def packs_as_roberta(self) -> bool:
        """Whether the files that this was read from pack texts as RoBERTa's do, or do not say how."""
        processor: Any = self.post_processor or {}
        return processor.get("type", "RobertaProcessing") == "RobertaProcessing"

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = self._split(texts)  # (B, words)
        distinct, index = tf.unique(words.values)
        if self._whole_ids is None:
            ids = self._merge(distinct)  # (distinct words, tokens)
        else:
            whole = self._whole_ids.lookup(distinct)
            is_whole = whole >= 0
            merged = self._merge(tf.where(is_whole, "", distinct))
            whole = tf.RaggedTensor.from_row_lengths(
                tf.boolean_mask(whole, is_whole), tf.cast(is_whole, tf.int64), validate=False
            )
            ids = tf.concat([merged, whole], axis=1)  # a word has either
        return tf.gather(ids, words.with_values(index)).merge_dims(1, 2)
