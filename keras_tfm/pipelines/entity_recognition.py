"""Strings in, named entities out."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_tfm.models import TokenClassifier
from keras_tfm.pipelines.text_pipeline import TextPipeline
from keras_tfm.tokenizers import WordPieceTokenizer
from keras_tfm.tokenizers.text_words import first_tokens, split_words

_STRATEGIES = ("simple", "first", "average", "max")


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

    With an `aggregation_strategy` it labels as the pipeline "token-classification" of transformers does: tokens of the
    running text ("simple"), or what transformers takes for words, which is for BERT all tokens from one without "##" to
    the next, and for RoBERTa what is between spaces. Labels without "B-" and "I-" are joined then, too.

    Signature of the SavedModel:
        serving_default: texts string (B,) -> for each of E entities row int32, the number of its text; label and text,
            string; start and end int32, in bytes of UTF-8; probability float32, the mean of its words'. All are (E,).

    Args:
        model: `TokenClassifier`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or a RoBERTa's from `load_tokenizer`.
        sequence_length: int, tokens that are read of a text, [CLS] and [SEP] included. Default: what the model allows.
        aggregation_strategy: None, words of `split_words`; "simple", each token has its own label; "first", "average"
            or "max", a word has that of its first token, of the mean of its tokens' probabilities, or of the token
            with the highest one.

    Raises:
        ValueError: for another `aggregation_strategy`.

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

    def __init__(
        self,
        model: TokenClassifier,
        tokenizer: Any,
        sequence_length: int | None = None,
        aggregation_strategy: str | None = None,
    ):
        if aggregation_strategy not in (None, *_STRATEGIES):
            raise ValueError(
                f"`aggregation_strategy` must be None or one of {list(_STRATEGIES)}. "
                f"Received: {aggregation_strategy!r}."
            )
        self.aggregation_strategy = aggregation_strategy
        super().__init__(model, tokenizer, sequence_length)

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
        as_transformers = self.aggregation_strategy is not None
        rows, starts, ends, probabilities = (self._token_words if as_transformers else self._words)(texts)
        kinds, names, begins_entity = _kinds(self.model.class_names, joins_plain=as_transformers)
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

        places = tf.range(tf.size(rows))
        begin = of_entities(tf.math.unsorted_segment_min, places)
        row, start = tf.gather(rows, begin), tf.gather(starts, begin)
        end = tf.gather(ends, of_entities(tf.math.unsorted_segment_max, places))
        return {
            "row": row,
            "label": tf.gather(tf.constant(names, tf.string), tf.gather(kind, begin)),
            "text": tf.strings.substr(tf.gather(texts, row), start, tf.maximum(end - start, 0)),
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

    def _token_words(self, texts):
        """As `_words`, of tokens of the running text, or of the words that transformers makes of them."""
        packed, starts, ends = self.packer.with_offsets(texts)
        inputs = self._inputs(packed)
        probabilities = tf.nn.softmax(tf.cast(self.model(inputs, training=False), tf.float32))  # (B, T, C)
        length = tf.shape(probabilities)[1]
        is_token = starts[:, :length] >= 0  # without [CLS], [SEP] and padding
        rows = tf.cast(tf.where(is_token)[:, 0], tf.int32)
        ids, starts, ends = (tf.boolean_mask(x[:, :length], is_token) for x in (packed["token_ids"], starts, ends))
        probabilities = tf.boolean_mask(probabilities, is_token)  # (tokens, C)
        if self.aggregation_strategy == "simple":
            return rows, starts, ends, probabilities
        goes_on = self._goes_on(ids, tf.gather(texts, rows), starts, ends) & tf.equal(rows, _before(rows, -1))
        word = tf.cumsum(tf.cast(~goes_on, tf.int32)) - 1
        places = tf.range(tf.size(word))
        first = tf.math.segment_min(places, word)
        if self.aggregation_strategy == "average":
            of_words = tf.math.segment_mean(probabilities, word)
        elif self.aggregation_strategy == "first":
            of_words = tf.gather(probabilities, first)
        else:
            highest = tf.reduce_max(probabilities, axis=1)
            is_best = tf.equal(highest, tf.gather(tf.math.segment_max(highest, word), word))
            best = tf.math.segment_min(tf.where(is_best, places, tf.int32.max), word)
            of_words = tf.gather(probabilities, best)
        last = tf.math.segment_max(places, word)
        return tf.gather(rows, first), tf.gather(starts, first), tf.gather(ends, last), of_words

    def _goes_on(self, ids, texts, starts, ends):
        """bool (tokens,), whether each belongs to the word before it, as transformers sees it."""
        if isinstance(self.tokenizer, WordPieceTokenizer):
            tokens = tf.constant([self.tokenizer.id_to_token(i) for i in range(self.tokenizer.vocabulary_size)])
            written = tf.strings.length(tf.gather(tokens, ids), "UTF8_CHAR")
            is_longer = written != tf.strings.length(tf.strings.substr(texts, starts, ends - starts), "UTF8_CHAR")
            return is_longer & (ids != self.tokenizer.unk_token_id)
        here = tf.strings.substr(texts, tf.minimum(starts, tf.strings.length(texts)), tf.ones_like(starts))
        before = tf.strings.substr(texts, tf.maximum(starts - 1, 0), tf.ones_like(starts))
        unknown = self.tokenizer.checkpoint_roles.get("unk_token")
        is_known = ids != (-1 if unknown is None else self.tokenizer.token_to_id(unknown))
        return (starts > 0) & (here != " ") & (before != " ") & is_known


def _before(x, filler):
    """The element before each, in a row (n,)."""
    return tf.concat([[filler], x[:-1]], 0)[: tf.shape(x)[0]]


def _kinds(labels: Sequence[str], joins_plain: bool) -> tuple[list[int], list[str], list[bool]]:
    """For each label the number of its kind (-1 for "O") and whether it begins an entity; and the names of kinds."""
    bare = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
    names = sorted({name for name in bare if name != "O"})
    kinds = [-1 if name == "O" else names.index(name) for name in bare]
    return kinds, names, [label.startswith("B-") or not (joins_plain or label.startswith("I-")) for label in labels]
