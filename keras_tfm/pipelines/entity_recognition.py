"""Strings in, named entities out."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_tfm.models import TokenClassifier
from keras_tfm.pipelines.text_pipeline import TextPipeline
from keras_tfm.tokenizers.text_words import first_tokens, split_words


@dataclasses.dataclass(frozen=True)
class Entity:
    """A stretch of a text: `text[start:end]`, and what it is."""

    label: str
    text: str
    start: int
    end: int
    probability: float


class EntityRecognition(TextPipeline):
    """Finds entities in texts: in Python, or from a SavedModel.

    Words are those of `split_words`: what white space divides, without the punctuation around it. A word has the label
    of its first piece, as `word_label_dataset` teaches it, so "O'Brien" and "Mary-Ann" are found whole, and "London."
    without the full stop. What follows "B-PLACE" or "I-PLACE" as "I-PLACE" belongs to the same entity; an "I-PLACE"
    after something else begins one. Labels without "B-" and "I-" are entities of one word.

    Signature of the SavedModel:
        serving_default: texts string (B,) -> for each of E entities row int32, the number of its text; label and text,
            string; start and end int32, in bytes of UTF-8; probability float32, the mean of its words'. All are (E,).

    Args:
        model: `TokenClassifier`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: what the model allows.

    Example:
        >>> find = EntityRecognition(TokenClassifier(encoder, ["O", "B-PLACE", "I-PLACE"]), tokenizer)
        >>> find.model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> names = find.model.class_names
        >>> dataset = keras_tfm.data.word_label_dataset(words, labels, tokenizer, 64, batch_size=32, class_names=names)
        >>> find.model.fit(dataset, epochs=3, shuffle=False)
        >>> find("She lives in New York.")
        [Entity(label='PLACE', text='New York', start=13, end=21, probability=0.98)]

    Reference:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task" (the labels),
        https://aclanthology.org/W03-0419/
    """

    model_type = TokenClassifier

    def __init__(self, model: TokenClassifier, tokenizer: Any, sequence_length: int | None = None):
        super().__init__(model, tokenizer, sequence_length)
        self.packer.words([["a"]])  # raises for a tokenizer that finds no words

    def __call__(self, texts: str | Iterable[str], batch_size: int = 32) -> list[Entity] | list[list[Entity]]:
        """Finds entities.

        Args:
            texts: str, or list of str.
            batch_size: int; texts of about the same length are read together, which changes no answer.

        Returns:
            list of `Entity` for a str, list of lists for a list; start and end count characters.

        Raises:
            TypeError: for anything but strings. ValueError: for unpaired surrogates, or a batch size that is no
                positive integer.
        """
        (column,) = self._columns(batch_size, texts=texts)
        found: list[list[Entity]] = [[] for _ in column]
        for rows, outputs in self._run("serving_default", column, batch_size=batch_size):
            for row, label, piece, start, end, probability in zip(
                *(outputs[name] for name in ("row", "label", "text", "start", "end", "probability")), strict=True
            ):
                data = column[rows[row]].encode()
                begin, stop = (len(data[:place].decode()) for place in (start, end))
                found[rows[row]].append(Entity(label.decode(), piece.decode(), begin, stop, float(probability)))
        return found[0] if isinstance(texts, str) else found

    def _signatures(self):
        return {"serving_default": (self._find, ("texts",))}

    def _find(self, texts):
        # Places in a text that is no UTF-8 are those after its repair.
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        rows, starts, ends, probabilities = self._words(texts)
        kinds, names, begins_entity = _kinds(self.model.class_names)
        best = tf.argmax(probabilities, axis=1)
        probability = tf.reduce_max(probabilities, axis=1)
        kind = tf.gather(tf.constant(kinds), best)
        goes_on = (kind == _before(kind, -1)) & (rows == _before(rows, -1))
        goes_on &= ~tf.gather(tf.constant(begins_entity), best)
        is_entity = kind >= 0
        numbers = tf.cumsum(tf.cast(is_entity & ~goes_on, tf.int32)) - 1
        first = tf.boolean_mask(numbers, is_entity)
        count = tf.reduce_max(tf.concat([first + 1, [0]], 0))

        def of_entities(reduce, x):
            return reduce(tf.boolean_mask(x, is_entity), first, count)

        start = of_entities(tf.math.unsorted_segment_min, starts)
        end = of_entities(tf.math.unsorted_segment_max, ends)
        row = of_entities(tf.math.unsorted_segment_min, rows)
        return {
            "row": row,
            "label": tf.gather(tf.constant(names, tf.string), of_entities(tf.math.unsorted_segment_min, kind)),
            "text": tf.strings.substr(tf.gather(texts, row), start, end - start),
            "start": start,
            "end": end,
            "probability": of_entities(tf.math.unsorted_segment_mean, probability),
        }

    def _words(self, texts):
        """The words of all texts in one row: number of the text, start, end, each (W,), and probabilities (W, C)."""
        words, starts = split_words(texts)
        packed, word_ids = self.packer.words(words)
        inputs = self._inputs(packed)
        probabilities = tf.nn.softmax(tf.cast(self.model(inputs, training=False), tf.float32))  # (B, T, C)
        is_first = first_tokens(word_ids[:, : tf.shape(probabilities)[1]])
        text_and_token = tf.where(is_first)
        rows = text_and_token[:, 0]
        places = tf.gather(words.row_starts(), rows) + tf.cast(tf.gather_nd(word_ids, text_and_token), tf.int64)
        starts = tf.gather(starts.values, places)
        ends = starts + tf.strings.length(tf.gather(words.values, places))
        return tf.cast(rows, tf.int32), starts, ends, tf.boolean_mask(probabilities, is_first)


def _before(x, filler):
    """The element before each, in a row (n,)."""
    return tf.concat([[filler], x[:-1]], 0)[: tf.shape(x)[0]]


def _kinds(labels: Sequence[str]) -> tuple[list[int], list[str], list[bool]]:
    """For each label the number of its kind (-1 for "O") and whether it begins an entity; and the names of kinds."""
    bare = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
    names = sorted({name for name in bare if name != "O"})
    kinds = [-1 if name == "O" else names.index(name) for name in bare]
    return kinds, names, [not label.startswith("I-") for label in labels]
