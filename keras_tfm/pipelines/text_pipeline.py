"""What all pipelines share: strings to the inputs of a model, batches by length, export."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tfm.arguments import check_positive
from keras_tfm.optional import require_tensorflow
from keras_tfm.structure import Snapshot
from keras_tfm.tokenizers import SentencePacker
from keras_tfm.tokenizers.vocabulary import check_encodable
from keras_tfm.types import PathLike

_NAMES = ("texts", "pairs", "prompts", "questions", "contexts")
TEXTS = {name: tf.TensorSpec([None], tf.string, name=name) for name in _NAMES}


class TextPipeline:
    """A model and its tokenizer as one object; subclasses say what goes in and what comes out, and `model_type`.

    The model is trained with the datasets of `keras_tfm.data`.

    Args:
        model: a `model_type`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or for a RoBERTa the `BytePairTokenizer` from
            `load_tokenizer`.
        sequence_length: int, tokens that are read of a text (or a pair of texts), [CLS] and [SEP] included; what is
            beyond is cut off, with a warning. Default: what the model allows.

    Raises:
        ValueError: if the vocabularies differ, or `sequence_length` is less than 4 or more than the model allows.
        TypeError: for a model of another type, or a tokenizer of another kind. RuntimeError: on another backend than
            TensorFlow.
    """

    model_type: type[keras.Model]

    def __init__(self, model: Any, tokenizer: Any, sequence_length: int | None = None):
        require_tensorflow(f"`{type(self).__name__}`")
        if not isinstance(model, self.model_type):
            raise TypeError(
                f"`model` must be a `{self.model_type.__name__}` for `{type(self).__name__}`. "
                f"Received: {str(model)[:60]} of type {type(model).__name__}."
            )
        longest = model.encoder.max_sequence_length
        sequence_length = longest if sequence_length is None else sequence_length
        self.packer = SentencePacker(tokenizer, sequence_length)
        if tokenizer.vocabulary_size != model.encoder.vocabulary_size:
            raise ValueError(
                "The tokenizer must have the vocabulary that the model was built with. Received: a tokenizer of "
                f"{tokenizer.vocabulary_size} tokens and a model of {model.encoder.vocabulary_size}."
            )
        if sequence_length is None or (longest is not None and sequence_length > longest):
            raise ValueError(
                f"`sequence_length` must be at most the {longest} positions of the model, and given if it has none. "
                f"Received: sequence_length={sequence_length}."
            )
        self.model = model
        self.tokenizer = tokenizer
        self._input_names = [x.name for x in model.inputs]
        self._snapshot = Snapshot(model)
        self._functions = self.new_functions()

    @property
    def functions(self) -> dict:
        """Signature -> `tf.function` of string tensors, traced at its first call; anew for a model that was changed."""
        if self._snapshot.has_changed():
            self._functions = self.new_functions()
        return self._functions

    @property
    def sequence_length(self) -> int:
        """Tokens that are read of a text, [CLS] and [SEP] included."""
        return self.packer.sequence_length

    def quantize_for_inference(self, dtype: str, *columns: Sequence[str], **options: Any) -> None:
        """`model.quantize_for_inference`, calibrated by texts.

        Args:
            dtype: "int8" or "bfloat16".
            *columns: for "int8", some 32 texts of the kind that the model is to read; for a model of pairs, two lists.
            **options: `largest_error`.

        Raises:
            ValueError: as the model's.

        Example:
            >>> classify = TextClassification(model, tokenizer)
            >>> classify.quantize_for_inference("int8", ["a lovely day", "a bitter night"])
        """
        texts = self._columns(1, **dict(zip(_NAMES, columns, strict=False)))
        calibration = self._inputs(self.packer(*map(tf.constant, texts))) if texts and texts[0] else None
        self.model.quantize_for_inference(dtype, calibration, **options)

    def export(self, path: PathLike, portable: bool = False) -> None:
        """Writes a SavedModel that TensorFlow alone can serve; the class says its signatures.

        Args:
            path: a folder that does not exist yet; servers expect `.../1`.
            portable: bool. After `quantize_for_inference("int8")` a SavedModel holds an operation of oneDNN, which
                TensorFlow has on x86 processors only: elsewhere it fails to load, or in the first request, with an
                error that names `int8_product_for_TensorFlow_with_oneDNN_on_x86`. True writes products of floats
                instead, which give the same numbers anywhere, as slowly as floats.

        Raises:
            FileExistsError: if `path` exists.
        """
        from keras_tfm.export.writing import export_pipeline  # it is above this package

        export_pipeline(self, path, portable)

    def _signatures(self) -> dict[str, tuple[Callable, tuple[str, ...]]]:
        """Name -> (function of string tensors (B,) that returns a dict of tensors, names of its arguments)."""
        raise NotImplementedError

    def new_functions(self) -> dict:
        """Signature -> `tf.function`, not traced yet."""
        return {
            name: tf.function(function, input_signature=[TEXTS[column] for column in columns], autograph=False)
            for name, (function, columns) in self._signatures().items()
        }

    def _inputs(self, packed: dict) -> dict:
        """What the model takes, without the columns in which no row has a token."""
        width = tf.reduce_max(tf.concat([tf.reduce_sum(tf.cast(packed["padding_mask"], tf.int32), 1), [1]], 0))
        return {name: packed[name][:, :width] for name in self._input_names}

    def _columns(self, batch_size: int, **texts) -> list[list[str]]:
        """What the caller of `__call__` gave, checked, as lists; warns that caller of what is cut off."""
        columns = [as_texts(column, name) for name, column in texts.items()]
        if len({len(column) for column in columns}) > 1:
            raise ValueError(
                f"There must be as many texts on each side. Received: {[len(column) for column in columns]}."
            )
        check_positive(batch_size=batch_size)
        if message := self._cut_message(*self._with_room(*columns)):
            warnings.warn(message, stacklevel=3)
        return columns

    def _run(self, signature: str, *columns: Sequence[str], batch_size: int) -> Iterator[tuple[np.ndarray, dict]]:
        """Yields (numbers of rows, their outputs as NumPy arrays), texts of about the same length together."""
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

    def _with_room(self, *columns: Any) -> tuple[list[tuple[str, ...]], int]:
        """The texts of each row that are read together, and how many tokens of them are."""
        return list(zip(*columns, strict=True)), self.packer.room(len(columns))

    def _cut_message(self, rows: Sequence[tuple[str, ...]], room: int) -> str:
        """What to say of rows that are longer; "" if none is."""
        # A token is a byte at least, so most texts need not be tokenized to be known as short.
        candidates = [row for row in rows if sum(len(text.encode()) for text in row) > room]
        if not candidates:
            return ""
        sides = zip(*candidates, strict=True)
        num_tokens = sum(self.tokenizer(list(side), add_special_tokens=False).row_lengths() for side in sides).numpy()
        num_long = int((num_tokens > room).sum())
        if not num_long:
            return ""
        return (
            f"{num_long} of {len(rows)} texts have more than the {room} tokens that are read; the longest has "
            f"{num_tokens.max()}. What is beyond is cut off."
        )


def as_texts(texts: str | Iterable[str], name: str = "texts") -> list[str]:
    """A list of strings; raises a TypeError for anything else, a ValueError for what no UTF-8 stands for."""
    rows: list[Any] = list(texts) if hasattr(texts, "__iter__") and not isinstance(texts, str | bytes) else [texts]
    for row in rows:
        if not isinstance(row, str):
            raise TypeError(
                f"`{name}` must be a string or a list of strings. "
                f"Received: {str(row)[:60]} of type {type(row).__name__}."
            )
        check_encodable(row)
    return rows
