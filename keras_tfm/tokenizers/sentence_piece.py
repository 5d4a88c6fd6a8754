"""The tokenizer of SentencePiece models: Llama 2, Mistral, Gemma, T5."""

import os
from pathlib import Path

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.files import replace_file
from keras_tfm.tokenizers.inputs import as_lists, as_string_tensor
from keras_tfm.tokenizers.sentence_piece_graph import SentencePieceCutter, SentencePieceJoiner, with_tokens
from keras_tfm.tokenizers.sentence_piece_model import meaning_of_proto
from keras_tfm.tokenizers.sentence_piece_proto import read_proto
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import id_table
from keras_tfm.tokenizers.word_splitter import SEPARATOR, replace_invalid_utf8, special_token_pattern

FILE_NAMES = ("tokenizer.model", "spiece.model")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, Unigram or BPE: text to token ids and back, with the ids of `SentencePieceProcessor`.

    One implementation in core TensorFlow ops runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel that
    loads with `import tensorflow` alone. All work is done on the CPU.

    Control pieces ("<s>", "</s>") are special tokens: they are found in a text, as transformers does and SentencePiece
    does not, and `skip_special_tokens=True` leaves them out in decoding. So they come out of chat templates right.

    Args:
        model: bytes, the content of a tokenizer.model.
        vocabulary_size: int, the size of the model that reads the ids, if that is more than there are pieces; the ids
            beyond them decode to nothing. Default: the number of pieces.
        end_of_text: the piece at which a text ends. Default: the model's own ("</s>"), if it has one.
        add_begin_of_text: bool, put the model's "<s>" before each text, as Llama 2, Mistral and Gemma were trained.
        space_after_special: bool, the space that the model puts before a text is put after special tokens too, as T5
            and the first tokenizers of Llama 2 do (`legacy`).

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD just
            as `bytes.decode("utf-8", "replace")` does.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ValueError: if `model` is no SentencePiece model, or the other arguments do not fit to it; at a call, if a
            `str` holds unpaired surrogates or the rank is not 0 or 1.
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
        model: bytes,
        vocabulary_size: int | None = None,
        end_of_text: str | None = None,
        add_begin_of_text: bool = False,
        space_after_special: bool = False,
    ):
        if not isinstance(model, bytes):
            raise TypeError(
                f"`model` must be bytes; `from_file` reads a file. Received: {str(model)[:60]} of type "
                f"{type(model).__name__}."
            )
        meaning = meaning_of_proto(read_proto(model), space_after_special)
        pieces = meaning.tokens
        size = len(pieces) if vocabulary_size is None else as_integer("vocabulary_size", vocabulary_size)
        if size < len(pieces):
            raise ValueError(
                f"`vocabulary_size` must be at least the number of pieces, {len(pieces)}. Received: {vocabulary_size}."
            )
        joining = meaning.joining.padded(size)
        super().__init__([*pieces, *[None] * (size - len(pieces))], joining.texts, meaning.special_tokens)
        self.model = model
        self._end_of_text = meaning.end_of_text
        if end_of_text is not None:
            self._end_of_text = pieces[self.token_to_id(end_of_text)]
        self._begin_of_text_id = None if meaning.begin_of_text is None else self.token_to_id(meaning.begin_of_text)
        if add_begin_of_text and self._begin_of_text_id is None:
            raise ValueError(
                "`add_begin_of_text` must be False for a model without a piece that begins a text. "
                f"Received: {add_begin_of_text}."
            )
        self.add_begin_of_text = add_begin_of_text
        self.space_after_special = space_after_special
        self._special_pattern = special_token_pattern(self.special_tokens)
        self._special_ids = id_table(self.special_tokens)
        self._cut = SentencePieceCutter(meaning.cutting, len(pieces))
        self._join = SentencePieceJoiner(joining)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        vocabulary_size: int | None = None,
        end_of_text: str | None = None,
        add_begin_of_text: bool = False,
        space_after_special: bool = False,
    ) -> "SentencePieceTokenizer":
        """Reads a SentencePiece model.

        Args:
            path: the file, or a folder that holds tokenizer.model or spiece.model.
            vocabulary_size, end_of_text, add_begin_of_text, space_after_special: those of the constructor.

        Returns:
            a SentencePieceTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no SentencePiece model.
        """
        path = Path(path)
        candidates = [path / name for name in FILE_NAMES] if path.is_dir() else [path]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"`path` must be a SentencePiece model, or a folder with {' or '.join(FILE_NAMES)}. "
                f"Received: {str(path)!r}."
            )
        return cls(file.read_bytes(), vocabulary_size, end_of_text, add_begin_of_text, space_after_special)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.model, byte by byte as it was read, into a folder, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / FILE_NAMES[0], self.model)

    @property
    def end_of_text(self) -> str | None:
        """The piece at which a text ends; None if there is none. It need be no control piece."""
        return self._end_of_text

    @property
    def begin_of_text_id(self) -> int | None:
        """The id of the piece with which a text begins; None if there is none."""
        return self._begin_of_text_id

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._between_special(texts)[0]

    def tokenize_pieces(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        """The ids of what stands between special tokens.

        Args:
            texts: string (N,) in valid UTF-8; "" where a special token stands.
            begins_text: bool (N,), whether nothing stands before it in its text.

        Returns:
            RaggedTensor of integers (N, tokens).
        """
        return self._cut(texts, begins_text)[0]

    def encode_with_offsets(self, texts) -> tuple[list, list]:
        """The ids as Python lists, and the characters that each stands for.

        Args:
            texts: a string, or a list, array or tensor of strings.

        Returns:
            ids and offsets: for one string a list of ints and a list of (start, end), for several lists of these. Both
            ends count characters: `text[start:end]` is a token's text; of bytes after `.decode("utf-8", "replace")`.
        """
        texts = as_string_tensor(texts)
        flat = tf.reshape(texts, [-1])
        ids, starts, ends = map(as_lists, self._tokenize_with_offsets(flat))
        offsets = [list(zip(*places, strict=True)) for places in zip(starts, ends, strict=True)]
        return (ids, offsets) if texts.shape.rank else (ids[0], offsets[0])

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text as SentencePiece writes it; bytes that are a part of no character become U+FFFD."""
        return self._join(token_ids)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def _tokenize_with_offsets(self, texts: tf.Tensor):
        with tf.device("CPU:0"):
            return self._between_special(texts)

    def _between_special(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """Ids, and the first character and the one after the last that each stands for, (B, tokens)."""
        texts = replace_invalid_utf8(texts)
        if self._special_pattern:
            texts = tf.strings.regex_replace(texts, self._special_pattern, SEPARATOR + rb"\0" + SEPARATOR)
        pieces = tf.strings.split(texts, sep=SEPARATOR)  # text, token, text, ..., text; texts may be empty
        row, first = pieces.value_rowids(), tf.cast(pieces.row_starts(), tf.int32)
        place = tf.range(tf.size(row)) - tf.gather(first, row)
        is_token = tf.equal(place % 2, 1)
        columns = self._cut(tf.where(is_token, "", pieces.values), tf.equal(place, 0))
        # Pieces leave no gaps: each begins where those before it in its text end.
        lengths = tf.strings.length(pieces.values, "UTF8_CHAR")
        begins = tf.cumsum(lengths, exclusive=True)
        begins -= tf.gather(begins, tf.gather(first, row))
        special = self._special_ids.lookup(pieces.values), tf.zeros_like(lengths), lengths
        columns = [with_tokens(column, token, is_token) for column, token in zip(columns, special, strict=True)]
        for number in (1, 2):
            shift = tf.gather(begins, columns[number].value_rowids())
            columns[number] = columns[number].with_values(columns[number].values + shift)
        columns = [pieces.with_values(column).merge_dims(1, 2) for column in columns]
        if not self.add_begin_of_text:
            return tuple(columns)
        ones = tf.ones([pieces.nrows(), 1], tf.int32)
        return tuple(
            tf.concat([value * ones, column], axis=1)
            for value, column in zip((self._begin_of_text_id, 0, 0), columns, strict=True)
        )
