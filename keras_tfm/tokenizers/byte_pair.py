"""The byte-level BPE tokenizer."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers.added_tokens import AddedToken, normalized_contents, with_places_of_tokens, with_tokens
from keras_tfm.tokenizers.byte_pair_files import arguments_from_json, read_arguments, write_tokenizer
from keras_tfm.tokenizers.byte_pair_training import train_byte_pair_arguments
from keras_tfm.tokenizers.byte_pair_vocabulary import (
    as_byte_pair_special_tokens,
    check_choices,
    check_products,
    check_symbols,
    ranks_of,
)
from keras_tfm.tokenizers.code_points import CharacterPlaces
from keras_tfm.tokenizers.pair_merger import ByteMerger
from keras_tfm.tokenizers.post_processor import trimmings
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.unicode_nfc import UnicodeNormalization
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, id_table, symbols_to_bytes, tokens_of
from keras_tfm.tokenizers.word_patterns import SPACE
from keras_tfm.tokenizers.word_splitter import WordSplitter

_SPACES = f"[{SPACE}{BYTE_SYMBOLS[32]}]+"
_SPACES_AT_ENDS = (rf"\A{_SPACES}", rf"{_SPACES}\z")


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
            several begin, the longest counts. An `AddedToken` in the place of a string has rules: RoBERTa's "<mask>"
            takes the white space before it with it.
        words: how texts are cut into words before merging: "gpt2", "llama3", "qwen2", "smollm" or "bloom".
        whole_words: bool, a word that is a token is that token, even if no merges lead to it (Llama 3).
        end_of_text: the special token at which a text ends. Default: "<|endoftext|>", if that is one.
        drops_bytes: bool, bytes without a token are left out, as Hugging Face does (SmolLM). Default: all 256 are
            required.
        normalization: "nfc", to write characters with marks as one code point first (Qwen 2, GPT-NeoX), or None.
        add_prefix_space: bool, text that does not begin with a space gets one, so that its first word is read as in the
            middle of a text; also after a special token.
        begin_tokens, end_tokens: tokens that are put before and after each text.
        vocabulary_size: int, the size of the model that reads the ids, if that is more than there are tokens; the ids
            beyond them decode to nothing. Default: the number of tokens.
        post_processor: that of the tokenizer.json that it was read from, for `save`, where it is of more than
            `begin_tokens` and `end_tokens`.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD
            just as `bytes.decode("utf-8", "replace")` does.
        add_special_tokens: bool, put `begin_tokens` and `end_tokens` around each text.
        allow_special: bool, False for texts of people who are not to write control tokens.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

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
        special_tokens: Iterable[str | AddedToken] = (),
        words: str = "gpt2",
        whole_words: bool = False,
        end_of_text: str | None = None,
        drops_bytes: bool = False,
        normalization: str | None = None,
        *,
        add_prefix_space: bool = False,
        begin_tokens: Iterable[str] = (),
        end_tokens: Iterable[str] = (),
        vocabulary_size: int | None = None,
        post_processor: Mapping[str, Any] | None = None,
    ):
        check_choices(words, normalization, add_prefix_space)
        tokens, special_tokens = tokens_of(vocabulary), as_byte_pair_special_tokens(special_tokens, vocabulary)
        ranks = ranks_of(merges, vocabulary)
        check_symbols(vocabulary, drops_bytes)
        is_special = {token.content for token in special_tokens}
        check_products(ranks, is_special)
        if end_of_text is None and "<|endoftext|>" in is_special:
            end_of_text = "<|endoftext|>"
        size = len(tokens) if vocabulary_size is None else as_integer("vocabulary_size", vocabulary_size)
        if size < len(tokens):
            raise ValueError(
                f"`vocabulary_size` must be at least the number of tokens, {len(tokens)}. Received: {vocabulary_size}."
            )
        normalize = UnicodeNormalization() if normalization else None
        contents = normalized_contents(special_tokens, normalize)
        pieces = [contents[token].encode() if token in contents else symbols_to_bytes(token) for token in tokens]
        super().__init__(
            [*tokens, *[None] * (size - len(tokens))],
            [*pieces, *[b""] * (size - len(tokens))],
            special_tokens,
            end_of_text,
            begin_tokens,
            end_tokens,
            normalize,
        )

        self.words = words
        self.whole_words = whole_words
        self.drops_bytes = drops_bytes
        self.normalization = normalization
        self.add_prefix_space = bool(add_prefix_space)
        # No dict: TensorFlow would track it.
        self.post_processor = None if post_processor is None else MappingProxyType(dict(post_processor))
        self._ranks = ranks
        self._split = WordSplitter(words)
        self._merge = ByteMerger(
            byte_ids=[vocabulary.get(symbol, -1) for symbol in BYTE_SYMBOLS],
            merges=[(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in ranks],
            vocabulary_size=len(tokens),
        )
        whole = {piece: i for i, piece in enumerate(pieces) if tokens[i] not in is_special}
        self._whole_ids = id_table(whole) if whole_words else None
        # Of each token how many spaces it begins and ends with, where a post-processor asks.
        self._num_spaces = None
        if trimmings(self.post_processor):
            texts = [token.replace(BYTE_SYMBOLS[32], " ") for token in tokens] + [""] * (size - len(tokens))
            counts = [[len(text) - len(text.lstrip()), len(text) - len(text.rstrip())] for text in texts]
            with tf.init_scope(), tf.device("CPU:0"):
                self._num_spaces = tf.constant(counts, tf.int32)

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int,
        special_tokens: Iterable[str | AddedToken] = ("<|endoftext|>",),
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
    def from_file(cls, path: str | os.PathLike, add_special_tokens: bool = False) -> "BytePairTokenizer":
        """Reads what `save` wrote, a Hugging Face tokenizer.json, or GPT-2's files.

        Args:
            path: a tokenizer.json; or a folder that holds one, or vocab.json and merges.txt, or encoder.json and
                vocab.bpe. The last two have no list of special tokens: these are the tokens that no merge makes.
            add_special_tokens: bool, whether the tokens that a tokenizer.json puts around each text become
                `begin_tokens` and `end_tokens`, as in `checkpoints.load_tokenizer`.

        Returns:
            a BytePairTokenizer.

        Raises:
            FileNotFoundError: if these files are not there.
            ValueError: if a tokenizer.json asks for anything else than byte-level BPE with a known regular expression
                (another normalizer, an unknown token, ...).
        """
        return cls(**read_arguments(path, add_special_tokens))

    @classmethod
    def from_json(cls, document: Any, add_special_tokens: bool = False) -> "BytePairTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        return cls(**arguments_from_json(document, add_special_tokens))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, vocab.json and merges.txt into a folder, which is made if need be.

        Each file is written beside its place and then renamed. `tokenizers.Tokenizer.from_file` loads tokenizer.json.
        """
        write_tokenizer(self, folder)

    def get_config(self) -> dict[str, Any]:
        size = self.vocabulary_size if self.vocabulary_size > len(self.vocabulary) else None
        return {**super().get_config(), "vocabulary_size": size}

    @property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """The merges in order of rank."""
        return tuple(self._ranks)

    @property
    def packs_as_roberta(self) -> bool:
        """Whether the files that this was read from pack texts as RoBERTa's do, or do not say how."""
        processor: Any = self.post_processor or {}
        return processor.get("type", "RobertaProcessing") == "RobertaProcessing"

    def places_of_pieces(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        if self._split_off is None:
            pieces = tf.RaggedTensor.from_tensor(texts[:, None])
            token_ids = pieces.with_values(tf.fill(tf.shape(texts), -1))
        else:
            pieces, token_ids = self._split_off(texts, allow_special)
        between = tf.where(token_ids.values < 0, pieces.values, "")
        ids = tf.cast(self.tokenize_rows(between), tf.int32)
        lengths = ids.with_values(tf.strings.length(tf.gather(self._token_bytes, ids.values)))
        num_before = tf.strings.length(self._with_prefix(between)) - tf.strings.length(between)
        is_whole = tf.equal(tf.reduce_sum(lengths, axis=1), tf.strings.length(between) + num_before)
        message = (
            "Where tokens are can be told of texts with a token for each byte, and normalized (NFC) if the tokenizer "
            "normalizes. Received:"
        )
        joined = tf.strings.reduce_join(pieces, axis=1)
        checks = [
            tf.debugging.Assert(tf.reduce_all(is_whole), [message, tf.boolean_mask(between, ~is_whole)], summarize=1),
            tf.debugging.Assert(tf.reduce_all(tf.equal(joined, texts)), [message, joined], summarize=1),
        ]
        with tf.control_dependencies(checks):
            ends = tf.cumsum(lengths.values)
        first = tf.gather(tf.concat([[0], ends], 0), lengths.row_starts()) + num_before  # of each piece
        ends -= tf.repeat(first, lengths.row_lengths())
        # The space that was put before a piece belongs to its first character.
        parts = (ids, ids.with_values(tf.maximum(ends - lengths.values, 0)), ids.with_values(tf.maximum(ends, 1)))
        all_ids, starts, ends = with_places_of_tokens(pieces, token_ids, parts)
        if self._num_spaces is not None:
            leading, trailing = self._spaces(pieces, token_ids, ids)
            starts, ends = self._trimmed(texts, leading, trailing, starts, ends)
        return all_ids, starts, ends

    def _spaces(self, pieces: tf.RaggedTensor, token_ids: tf.RaggedTensor, ids: tf.RaggedTensor) -> list[tf.Tensor]:
        """How many spaces each token of all texts begins and ends with, of which added tokens may take some."""
        sides = []
        for counts, pattern in zip(tf.unstack(self._num_spaces, axis=1), _SPACES_AT_ENDS, strict=True):
            rest = tf.strings.regex_replace(pieces.values, pattern, "")
            taken = tf.strings.length(pieces.values, "UTF8_CHAR") - tf.strings.length(rest, "UTF8_CHAR")
            rows = with_tokens(ids.with_values(tf.gather(counts, ids.values)), taken, token_ids.values >= 0)
            sides.append(rows.values)
        return sides

    def _trimmed(
        self,
        texts: tf.Tensor,
        leading: tf.Tensor,
        trailing: tf.Tensor,
        starts: tf.RaggedTensor,
        ends: tf.RaggedTensor,
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Places of tokens without the spaces at their ends, as the Rust library trims them: by characters."""
        places = CharacterPlaces.of(texts)
        starts, ends = places.characters(starts, ends)
        start, end = starts.values, ends.values
        for prefixed in trimmings(self.post_processor):
            # One space at the beginning of a text is believed to be none of the text.
            is_own = tf.equal(leading, 1) & tf.equal(start, 0) & prefixed
            start = tf.minimum(start + tf.where(is_own, 0, leading), end)
            end = tf.where(end >= trailing, tf.maximum(end - trailing, start), end)
        return places.bytes(starts.with_values(start)), places.bytes(ends.with_values(end))

    def _with_prefix(self, texts: tf.Tensor) -> tf.Tensor:
        """The texts, which got a space before them if they are to."""
        if not self.add_prefix_space:
            return texts
        has_none = tf.not_equal(texts, "") & tf.not_equal(tf.strings.substr(texts, 0, 1), " ")
        return tf.where(has_none, tf.strings.join([" ", texts]), texts)

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = self._split(self._with_prefix(texts))  # (N, words)
        distinct, index = tf.unique(words.values)
        if self._whole_ids is None:
            ids = self._merge(distinct)  # (distinct words, tokens)
        else:
            whole = self._whole_ids.lookup(distinct)
            is_whole = whole >= 0
            ids = with_tokens(self._merge(tf.where(is_whole, "", distinct)), whole, is_whole)
        return tf.gather(ids, words.with_values(index)).merge_dims(1, 2)
