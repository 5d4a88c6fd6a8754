"""Strings in, vectors out."""

import numpy as np
import tensorflow as tf

from keras_tfm.models import SentenceEncoder
from keras_tfm.pipelines.text_pipeline import TextPipeline


class SentenceEmbedding(TextPipeline):
    """Gives sentences vectors of length 1, near to each other where the meanings are: in Python, or from a SavedModel.

    Signatures of the SavedModel:
        serving_default: texts string (B,) -> vectors float32 (B, D).
        similarity: texts string (B,), pairs string (B,) -> similarity float32 (B,), the cosines.

    Args:
        model: `SentenceEncoder`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: what the model allows.

    Example:
        >>> embed = SentenceEmbedding(SentenceEncoder(encoder), tokenizer)
        >>> vectors = embed(["A man eats.", "A cat sleeps."])
        >>> vectors @ vectors.T  # cosines
    """

    model_type = SentenceEncoder

    def __call__(self, texts, batch_size: int = 64):
        """The vector of each text.

        Args:
            texts: str, or list of str.
            batch_size: int; texts of about the same length are read together, so little is computed on padding.

        Returns:
            float32 (D,) for a str, (N, D) for a list.

        Raises:
            TypeError: for anything but strings. ValueError: for unpaired surrogates, or a batch size that is no
                positive integer.
        """
        empty = np.zeros((0, self.model.hidden_dim), "float32")
        (column,) = self._columns(batch_size, texts=texts)
        vectors = self._gather("serving_default", column, batch_size=batch_size).get("vectors", empty)
        return vectors[0] if isinstance(texts, str) else vectors

    def _signatures(self):
        return {"serving_default": (self._embed, ("texts",)), "similarity": (self._compare, ("texts", "pairs"))}

    def _embed(self, texts):
        return {"vectors": tf.cast(self.model(self._inputs(self.packer(texts)), training=False), tf.float32)}

    def _compare(self, texts, pairs):
        return {"similarity": tf.reduce_sum(self._embed(texts)["vectors"] * self._embed(pairs)["vectors"], axis=1)}
