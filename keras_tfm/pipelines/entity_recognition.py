"""Strings in, named entities out."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from keras_tfm.pipelines.text_pipeline import TextPipeline, as_texts


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

    A word gets the label of its first piece; what follows "B-PLACE" or "I-PLACE" as "I-PLACE" belongs to the same
    entity. An "I-PLACE" after something else begins one. Labels without "B-" and "I-" are entities of one word.

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
        >>> names = find.model.labels
        >>> dataset = keras_tfm.data.word_label_dataset(words, labels, tokenizer, 64, batch_size=32, class_names=names)
        >>> find.model.fit(dataset, epochs=3, shuffle=False)
        >>> find("She lives in New York.")
        [Entity(label='PLACE', text='New York', start=13, end=21, probability=0.98)]

    Reference:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task" (the labels),
        https://aclanthology.org/W03-0419/
    """

    def __call__(self, texts, batch_size: int = 32):
        """Finds entities.

        Args:
            texts: str, or list of str.
            batch_size: int; texts of about the same length are read together, which changes no answer.

        Returns:
            list of `Entity` for a str, list of lists for a list; start and end count characters.

        Raises:
            TypeError: for anything but strings.
        """
        columns = as_texts(texts)
        found: list[list[Entity]] = [[] for _ in columns]
        for rows, outputs in self._run("serving_default", columns, batch_size=batch_size):
            for row, label, piece, start, end, probability in zip(
                *(outputs[name] for name in ("row", "label", "text", "start", "end", "probability")), strict=True
            ):
                data = columns[rows[row]].encode()
                places = (len(data[:place].decode()) for place in (start, end))
                found[rows[row]].append(Entity(label.decode(), piece.decode(), *places, float(probability)))
        return found[0] if isinstance(texts, str) else found

    def _signatures(self):
        return {"serving_default": (self._find, ("texts",))}

    def _find(self, texts):
        # Places in a text that is no UTF-8 are those after its repair.
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        packed, starts, ends = self.packer.with_offsets(texts)
        inputs = self._inputs(packed)
        probabilities = tf.nn.softmax(tf.cast(self.model(inputs, training=False), tf.float32))  # (B, T, C)
        width = tf.shape(probabilities)[1]
        starts, ends, token_ids = starts[:, :width], ends[:, :width], packed["token_ids"][:, :width]

        # All pieces of all texts in one row, then the words: the end of one is that of its last piece.
        is_piece = starts >= 0
        rows = tf.repeat(tf.range(tf.shape(starts)[0])[:, None], width, axis=1)
        rows, starts, ends, token_ids, probabilities = (
            tf.boolean_mask(x, is_piece) for x in (rows, starts, ends, token_ids, probabilities)
        )
        begins = tf.gather(tf.constant(self.tokenizer.begins_word), token_ids)
        begins |= rows != _before(rows, -1)
        num_words = tf.reduce_sum(tf.cast(begins, tf.int32))
        word_ends = tf.math.unsorted_segment_max(ends, tf.cumsum(tf.cast(begins, tf.int32)) - 1, num_words)
        rows, starts, probabilities = (tf.boolean_mask(x, begins) for x in (rows, starts, probabilities))

        # Words to entities.
        kinds, names, begins_entity = _kinds(self.model.labels)
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
        end = of_entities(tf.math.unsorted_segment_max, word_ends)
        row = of_entities(tf.math.unsorted_segment_min, rows)
        return {
            "row": row,
            "label": tf.gather(tf.constant(names, tf.string), of_entities(tf.math.unsorted_segment_min, kind)),
            "text": tf.strings.substr(tf.gather(texts, row), start, end - start),
            "start": start,
            "end": end,
            "probability": of_entities(tf.math.unsorted_segment_mean, probability),
        }


def _before(x, filler):
    """The element before each, in a row (n,)."""
    return tf.concat([[filler], x[:-1]], 0)[: tf.shape(x)[0]]


def _kinds(labels: Sequence[str]) -> tuple[list[int], list[str], list[bool]]:
    """For each label the number of its kind (-1 for "O") and whether it begins an entity; and the names of kinds."""
    bare = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
    names = sorted({name for name in bare if name != "O"})
    kinds = [-1 if name == "O" else names.index(name) for name in bare]
    return kinds, names, [not label.startswith("I-") for label in labels]
