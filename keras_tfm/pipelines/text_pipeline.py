"""What all pipelines share: strings to the inputs of a model, batches by length, export."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import SentencePacker

TEXTS = {name: tf.TensorSpec([None], tf.string, name=name) for name in ("texts", "pairs", "questions", "contexts")}


class TextPipeline:
    """A model and its tokenizer as one object; subclasses say what goes in and what comes out.

    The model is trained with the datasets of `keras_tfm.data`.

    Args:
        model: a task model with an `encoder`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary.
        sequence_length: int, tokens that are read of a text (or a pair of texts), [CLS] and [SEP] included; what is
            beyond is cut off, with a warning. Default: what the model allows.

    Raises:
        ValueError: if the vocabularies differ, or `sequence_length` is more than the model allows.
    """

    def __init__(self, model, tokenizer, sequence_length: int | None = None):
        if tokenizer.vocabulary_size != model.encoder.vocabulary_size:
            raise ValueError(
                "The tokenizer must have the vocabulary that the model was built with. Received: a tokenizer of "
                f"{tokenizer.vocabulary_size} tokens and a model of {model.encoder.vocabulary_size}."
            )
        longest = model.encoder.max_sequence_length
        sequence_length = sequence_length or longest
        if sequence_length is None or (longest is not None and sequence_length > longest):
            raise ValueError(
                f"`sequence_length` must be at most the {longest} positions of the model, and given if it has none. "
                f"Received: sequence_length={sequence_length}."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.packer = SentencePacker(tokenizer, sequence_length)
        self._input_names = [x.name for x in model.inputs]
        self.functions = {
            name: tf.function(function, input_signature=[TEXTS[column] for column in columns], autograph=False)
            for name, (function, columns) in self._signatures().items()
        }

    @property
    def sequence_length(self) -> int:
        """Tokens that are read of a text, [CLS] and [SEP] included."""
        return self.packer.sequence_length

    def export(self, path) -> None:
        """Writes a SavedModel that TensorFlow alone can serve; the class says its signatures.

        Args:
            path: a folder that does not exist yet; servers expect `.../1`.

        Raises:
            FileExistsError: if `path` exists.
        """
        from keras_tfm.export.pipeline import export_pipeline  # it is above this package

        export_pipeline(self, path)

    def _signatures(self) -> dict[str, tuple[Callable, tuple[str, ...]]]:
        """Name -> (function of string tensors (B,) that returns a dict of tensors, names of its arguments)."""
        raise NotImplementedError

    def _inputs(self, packed: dict) -> dict:
        """What the model takes, without the columns in which no row has a token."""
        width = tf.reduce_max(tf.concat([tf.reduce_sum(tf.cast(packed["padding_mask"], tf.int32), 1), [1]], 0))
        return {name: packed[name][:, :width] for name in self._input_names}

    def _run(self, signature: str, *columns: Sequence[str], batch_size: int) -> Iterator[tuple[np.ndarray, dict]]:
        """Yields (numbers of rows, their outputs as NumPy arrays), texts of about the same length together."""
        check_sides(*columns)
        if not columns[0]:
            return
        self._warn_of_long_texts(*columns)
        order = np.argsort([sum(map(len, row)) for row in zip(*columns, strict=True)], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            arguments = [tf.constant([column[row] for row in rows], tf.string) for column in columns]
            outputs = self.functions[signature](*arguments)
            yield rows, {name: x.numpy() for name, x in outputs.items()}

    def _gather(self, signature: str, *columns: Sequence[str], batch_size: int) -> dict[str, np.ndarray]:
        """The outputs of all rows, in order; each output has one entry a row."""
        whole: dict[str, np.ndarray] = {}
        for rows, outputs in self._run(signature, *columns, batch_size=batch_size):
            for name, x in outputs.items():
                whole.setdefault(name, np.zeros((len(columns[0]), *x.shape[1:]), x.dtype))[rows] = x
        return whole

    def _warn_of_long_texts(self, *columns: Sequence[str]) -> None:
        self._warn_if_longer(list(zip(*columns, strict=True)), self.sequence_length - 1 - len(columns))

    def _warn_if_longer(self, rows: Sequence[tuple[str, ...]], room: int) -> None:
        # A token is a byte at least, so most texts need not be tokenized to be known as short.
        candidates = [row for row in rows if sum(len(text.encode(errors="replace")) for text in row) > room]
        if not candidates:
            return
        sides = zip(*candidates, strict=True)
        num_tokens = sum(self.tokenizer(list(side)).row_lengths() for side in sides).numpy()
        if num_long := int((num_tokens > room).sum()):
            warnings.warn(
                f"{num_long} of {len(rows)} texts have more than the {room} tokens that are read; the longest has "
                f"{num_tokens.max()}. What is beyond is cut off.",
                stacklevel=5,
            )


def as_texts(texts, name: str = "texts") -> list[str]:
    """A list of strings; raises a TypeError for anything else."""
    rows = [texts] if isinstance(texts, str) else list(texts)
    wrong = [row for row in rows if not isinstance(row, str)]
    if wrong:
        raise TypeError(
            f"`{name}` must be a string or a list of strings. Received: {wrong[0]!r} of type {type(wrong[0]).__name__}."
        )
    return rows


def check_sides(*columns: Sequence[str]) -> None:
    """Raises unless all columns are equally long."""
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"There must be as many texts on each side. Received: {[len(column) for column in columns]}.")
