"""The tokenizer of SentencePiece models: Llama 2, Mistral, Gemma, T5."""

import os

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.files import local_path, replace_file
from keras_tfm.optional import required
from keras_tfm.tokenizers.tokenizer import Tokenizer

FILE_NAMES = ("tokenizer.model", "spiece.model")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, Unigram or BPE: text to token ids and back, with the ids of `SentencePieceProcessor`.

    The work is done by `tensorflow_text.SentencepieceTokenizer`, eagerly, in `tf.data`, in `tf.function` and inside a
    SavedModel, on the CPU. It needs `pip install ".[sentencepiece]"`. **A SavedModel that holds it loads only
    where `import tensorflow_text` was run first**; a server needs that library's ops (TensorFlow Serving has them).

    As in SentencePiece, control pieces ("<s>", "</s>") are never read in a text, and ids of control pieces decode to
    nothing. So are tokens that a checkpoint adds outside of its SentencePiece model (T5's "<extra_id_0>").
    A first space that the model put before the text is taken away again in decoding; where a text
    begins with several, tensorflow-text may take away more of them than `SentencePieceProcessor`.

    Args:
        model: bytes, the content of a tokenizer.model.
        vocabulary_size: int, the size of the model that reads the ids, if that is more than there are pieces; the ids
            beyond them decode to nothing. Default: the number of pieces.
        end_of_text: the piece at which a text ends. Default: the model's own ("</s>"), if it has one.
        add_begin_of_text: bool, put the model's "<s>" before each text, as Llama 2, Mistral and Gemma were trained.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,). Bytes that are no UTF-8 are read as U+FFFD.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ImportError: if tensorflow-text or sentencepiece is not installed.
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
    _token_hint = (
        " In a piece, '▁' (U+2581) is a space; tokens that a checkpoint adds outside of the model are not supported."
    )

    def __init__(
        self,
        model: bytes,
        vocabulary_size: int | None = None,
        end_of_text: str | None = None,
        add_begin_of_text: bool = False,
    ):
        # tensorflow_text runs the model in the graph, sentencepiece tells what its pieces are.
        packages = ("tensorflow_text", "sentencepiece")
        tensorflow_text, sentencepiece = (required(name, "sentencepiece", "SentencePiece models") for name in packages)
        if not isinstance(model, bytes):
            raise TypeError(
                f"`model` must be bytes; `from_file` reads a file. Received: {str(model)[:60]} of type "
                f"{type(model).__name__}."
            )
        processor = _processor(sentencepiece, model)
        pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
        size = len(pieces) if vocabulary_size is None else as_integer("vocabulary_size", vocabulary_size)
        if size < len(pieces):
            raise ValueError(
                f"`vocabulary_size` must be at least the number of pieces, {len(pieces)}. Received: {vocabulary_size}."
            )
        num_unnamed = size - len(pieces)
        super().__init__(
            [*pieces, *[None] * num_unnamed],
            [*(_bytes_of(processor, i) for i in range(len(pieces))), *[b""] * num_unnamed],
            special_tokens=[piece for i, piece in enumerate(pieces) if processor.is_control(i)],
        )
        self.model = model
        self._end_of_text = pieces[processor.eos_id()] if processor.eos_id() >= 0 else None
        if end_of_text is not None:
            self._end_of_text = pieces[self.token_to_id(end_of_text)]
        self._begin_of_text_id = processor.bos_id() if processor.bos_id() >= 0 else None
        if add_begin_of_text and self._begin_of_text_id is None:
            raise ValueError(
                "`add_begin_of_text` must be False for a model without a piece that begins a text. "
                f"Received: {add_begin_of_text}."
            )
        self.add_begin_of_text = add_begin_of_text
        self._tensorflow_text = tensorflow_text
        with tf.init_scope(), tf.device("CPU:0"):
            self._is_piece = tf.range(size) < len(pieces)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        vocabulary_size: int | None = None,
        end_of_text: str | None = None,
        add_begin_of_text: bool = False,
    ) -> "SentencePieceTokenizer":
        """Reads a SentencePiece model.

        Args:
            path: the file, or a folder that holds tokenizer.model or spiece.model.
            vocabulary_size, end_of_text, add_begin_of_text: those of the constructor.

        Returns:
            a SentencePieceTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no SentencePiece model.
        """
        path = local_path(path)
        candidates = [path / name for name in FILE_NAMES] if path.is_dir() else [path]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"`path` must be a SentencePiece model, or a folder with {' or '.join(FILE_NAMES)}. "
                f"Received: {str(path)!r}."
            )
        return cls(file.read_bytes(), vocabulary_size, end_of_text, add_begin_of_text)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.model, byte by byte as it was read, into a folder, which is made if need be."""
        folder = local_path(folder)
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
        return self._in_graph().tokenize(texts)

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text as SentencePiece writes it; byte pieces that make no UTF-8 become U+FFFD."""
        return self._detokenize(tf.cast(token_ids, tf.int32).with_row_splits_dtype(tf.int64))

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64)], autograph=False)
    def _detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            is_piece = tf.gather(self._is_piece, token_ids)  # an error for ids that are not in the vocabulary
            return self._in_graph().detokenize(tf.ragged.boolean_mask(token_ids, is_piece))

    def _in_graph(self):
        """The model as a part of the graph that is traced, so that the graph owns it.

        One that was made eagerly is gone after `tf.random.set_seed`, which empties the cache of eager kernels.
        """
        return self._tensorflow_text.SentencepieceTokenizer(self.model, tf.int32, add_bos=self.add_begin_of_text)


def _processor(sentencepiece, model: bytes):
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(
            f"`model` must be a SentencePiece model. Received: {len(model):,} bytes that are none ({error})."
        ) from error
    return processor


def _bytes_of(processor, piece_id: int) -> bytes:
    piece = processor.id_to_piece(piece_id)
    if processor.is_control(piece_id):
        return b""
    if processor.is_byte(piece_id):
        return bytes([int(piece[1:-1], 16)])  # "<0x0A>"
    if processor.is_unknown(piece_id):
        return processor.decode([piece_id]).encode("utf-8")  # what the model writes for it: " ⁇ "
    return piece.replace("▁", " ").encode("utf-8")
