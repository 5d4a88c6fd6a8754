"""Strings in, labels out."""

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from keras_tfm.models import TextClassifier
from keras_tfm.pipelines.text_pipeline import TextPipeline


@dataclasses.dataclass(frozen=True)
class Classification:
    """What a text was found to be. `probabilities`: label -> float, which sum to 1."""

    label: str
    probability: float
    probabilities: dict[str, float]


class TextClassification(TextPipeline):
    """Labels texts, or pairs of texts: in Python, or from a SavedModel.

    Signatures of the SavedModel:
        serving_default: texts string (B,) -> label string (B,), probability float32 (B,), probabilities float32 (B, C),
            labels string (B, C), the names of the probabilities.
        pairs: texts string (B,), pairs string (B,) -> the same.

    Args:
        model: `TextClassifier`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or a RoBERTa's from `load_tokenizer`.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: what the model allows.

    Example:
        >>> classifier = TextClassification(TextClassifier(encoder, ["bad", "good"]), tokenizer)
        >>> classifier.model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> names = classifier.model.class_names
        >>> dataset = keras_tfm.data.text_label_dataset(texts, labels, tokenizer, 64, batch_size=32, class_names=names)
        >>> classifier.model.fit(dataset, epochs=3, shuffle=False)
        >>> classifier("What a day!").label
        'good'
        >>> classifier.export("serving/1")
    """

    model_type = TextClassifier

    def __call__(
        self, texts: str | Iterable[str], pairs: str | Iterable[str] | None = None, batch_size: int = 32
    ) -> Classification | list[Classification]:
        """Labels texts.

        Args:
            texts: str, or list of str. An empty one is [CLS] [SEP], and labelled.
            pairs: the second texts, alike, or None.
            batch_size: int; texts of about the same length are read together, which changes no answer.

        Returns:
            `Classification` for a str, list of them for a list.

        Raises:
            TypeError: for anything but strings. ValueError: for another number of pairs than of texts, unpaired
                surrogates, or a batch size that is no positive integer.
        """
        columns = self._columns(batch_size, texts=texts, **({} if pairs is None else {"pairs": pairs}))
        signature = "serving_default" if pairs is None else "pairs"
        rows = self._gather(signature, *columns, batch_size=batch_size).get("probabilities", ())
        answers = []
        for row in rows:
            best = int(row.argmax())
            named = dict(zip(self.model.class_names, row.tolist(), strict=True))
            answers.append(Classification(self.model.class_names[best], float(row[best]), named))
        return answers[0] if isinstance(texts, str) else answers

    def _signatures(self):
        return {
            "serving_default": (self._classify, ("texts",)),
            "pairs": (self._classify, ("texts", "pairs")),
        }

    def _classify(self, texts, pairs=None):
        logits = self.model(self._inputs(self.packer(texts, pairs)), training=False)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        labels = tf.constant(self.model.class_names)
        return {
            "label": tf.gather(labels, tf.argmax(probabilities, axis=1)),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
            "labels": tf.repeat(labels[None], tf.shape(probabilities)[0], axis=0),
        }
