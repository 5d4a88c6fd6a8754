"""Strings in, vectors out."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.models import SentenceEncoder
from keras_tfm.pipelines.text_pipeline import TextPipeline, as_texts


class SentenceEmbedding(TextPipeline):
    """Gives sentences vectors, near to each other where the meanings are: in Python, or from a SavedModel.

    The vectors have length 1, and their scalar products are cosines, unless the model was made with `normalize=False`.
    Models with prompts were trained on texts that begin with them, "query: " or "passage: " for example.

    Signatures of the SavedModel:
        serving_default: texts string (B,) -> vectors float32 (B, D), with the model's default prompt, if any.
        similarity: texts string (B,), pairs string (B,) -> similarity float32 (B,), the cosines, likewise.
        prompted: texts string (B,), prompts string (B,) -> vectors float32 (B, D); each text begins with its prompt.

    Args:
        model: `SentenceEncoder`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or a RoBERTa's from `load_tokenizer`.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: the model's own
            `sequence_length`, or what it allows.

    Example:
        >>> embed = SentenceEmbedding(SentenceEncoder(encoder), tokenizer)
        >>> vectors = embed(["A man eats.", "A cat sleeps."])
        >>> vectors @ vectors.T  # cosines
    """

    model_type = SentenceEncoder

    def __init__(self, model: SentenceEncoder, tokenizer: Any, sequence_length: int | None = None):
        if sequence_length is None:
            sequence_length = getattr(model, "sequence_length", None)
        super().__init__(model, tokenizer, sequence_length)

    def __call__(
        self,
        texts: str | Iterable[str],
        batch_size: int = 64,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> np.ndarray:
        """The vector of each text.

        Args:
            texts: str, or list of str.
            batch_size: int; texts of about the same length are read together, so little is computed on padding.
            prompt_name: one of `model.prompts`, put before each text. Default: `model.default_prompt_name`.
            prompt: str, put before each text instead; "" for none.

        Returns:
            float32 (D,) for a str, (N, D) for a list.

        Raises:
            TypeError: for anything but strings. ValueError: for unpaired surrogates, a batch size that is no positive
                integer, or a name that no prompt has.
        """
        prompt = self._prompt(prompt_name, prompt)
        rows = [prompt + text for text in as_texts(texts)]
        self._columns(batch_size, texts=rows)  # warns of what is cut off
        column = [row[len(prompt) :] for row in rows]
        if prompt == self.model.default_prompt:
            whole = self._gather("serving_default", column, batch_size=batch_size)
        else:
            whole = self._gather("prompted", column, [prompt] * len(column), batch_size=batch_size)
        vectors = whole.get("vectors", np.zeros((0, self.model.hidden_dim), "float32"))
        return vectors[0] if isinstance(texts, str) else vectors

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            (prompt,) = as_texts(prompt, "prompt")
            return prompt
        if name is None:
            return self.model.default_prompt
        if name not in self.model.prompts:
            raise ValueError(
                f"`prompt_name` must be one of {sorted(self.model.prompts)}. Received: prompt_name={name!r}."
            )
        return self.model.prompts[name]

    def _signatures(self):
        return {
            "serving_default": (self._embed, ("texts",)),
            "similarity": (self._compare, ("texts", "pairs")),
            "prompted": (self._embed_prompted, ("texts", "prompts")),
        }

    def _embed_prompted(self, texts, prompts):
        texts = tf.strings.join([prompts, texts])
        return {"vectors": tf.cast(self.model(self._inputs(self.packer(texts)), training=False), tf.float32)}

    def _embed(self, texts):
        return self._embed_prompted(texts, tf.constant(self.model.default_prompt, tf.string))

    def _compare(self, texts, pairs):
        first, second = (self._embed(side)["vectors"] for side in (texts, pairs))
        # Cosines, though the vectors may have other lengths.
        return {"similarity": tf.reduce_sum(tf.nn.l2_normalize(first, 1) * tf.nn.l2_normalize(second, 1), axis=1)}
