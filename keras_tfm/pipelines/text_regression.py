"""Strings in, numbers out."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from keras_tfm.models import TextRegressor
from keras_tfm.pipelines.text_pipeline import TextPipeline


class TextRegression(TextPipeline):
    """Gives texts, or pairs of texts, a number: in Python, or from a SavedModel.

    Signatures of the SavedModel:
        serving_default: texts string (B,) -> score float32 (B,).
        pairs: texts string (B,), pairs string (B,) -> the same.

    Args:
        model: `TextRegressor`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or a RoBERTa's from `load_tokenizer`.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: what the model allows.

    Example:
        >>> similarity = TextRegression(TextRegressor(encoder), tokenizer)
        >>> similarity.model.compile("adamw", "mse")
        >>> dataset = keras_tfm.data.text_label_dataset(texts, scores, tokenizer, 64, batch_size=32, pairs=pairs)
        >>> similarity.model.fit(dataset, epochs=3, shuffle=False)
        >>> similarity("A man eats.", "A man is eating.")
    """

    model_type = TextRegressor

    def __call__(
        self, texts: str | Iterable[str], pairs: str | Iterable[str] | None = None, batch_size: int = 32
    ) -> float | np.ndarray:
        """The number of each text.

        Args:
            texts: str, or list of str.
            pairs: the second texts, alike, or None.
            batch_size: int.

        Returns:
            float for a str, float32 (N,) for a list.

        Raises:
            TypeError: for anything but strings. ValueError: for another number of pairs than of texts, unpaired
                surrogates, or a batch size that is no positive integer.
        """
        columns = self._columns(batch_size, texts=texts, **({} if pairs is None else {"pairs": pairs}))
        signature = "serving_default" if pairs is None else "pairs"
        scores = self._gather(signature, *columns, batch_size=batch_size).get("score", np.zeros(0, "float32"))
        return float(scores[0]) if isinstance(texts, str) else scores

    def _signatures(self):
        return {"serving_default": (self._score, ("texts",)), "pairs": (self._score, ("texts", "pairs"))}

    def _score(self, texts, pairs=None):
        scores = self.model(self._inputs(self.packer(texts, pairs)), training=False)
        return {"score": tf.cast(scores, tf.float32)}
