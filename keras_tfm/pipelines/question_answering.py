"""A question and a text in, the piece of the text that answers out."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import check_positive
from keras_tfm.models import SpanClassifier
from keras_tfm.pipelines.text_pipeline import TextPipeline


@dataclasses.dataclass(frozen=True)
class Answer:
    """The best answer, `context[start:end]`, and how probable it and the absence of any answer are."""

    text: str
    start: int
    end: int
    probability: float
    no_answer_probability: float


class QuestionAnswering(TextPipeline):
    """Finds the answer to a question in a context of any length: in Python, or from a SavedModel.

    A long context is read in windows. The probabilities are those of a softmax over all spans of all windows, and one
    span for no answer, whose score is the lowest that any window gives it.

    Signature of the SavedModel:
        serving_default: questions string (B,), contexts string (B,) -> text string (B,); start and end int32 (B,), in
            bytes of UTF-8 of the context; probability and no_answer_probability float32 (B,).

    Args:
        model: `SpanClassifier`.
        tokenizer: `WordPieceTokenizer` of the same vocabulary, or a RoBERTa's from `load_tokenizer`.
        sequence_length: int, tokens of a window, the question included. Default: what the model allows.
        stride: int, tokens that a window shares with the one before. Default: a quarter of `sequence_length`,
            or the most that fits.
        max_answer_tokens: int, the longest answer.

    Raises:
        ValueError: if `max_answer_tokens` < 1, or `stride` does not fit `sequence_length`.

    Example:
        >>> ask = QuestionAnswering(SpanClassifier(encoder), tokenizer)
        >>> ask("Who wrote Hamlet?", "Hamlet is a play by William Shakespeare.").text
        'William Shakespeare'

    Reference:
        Devlin et al. 2018, sections 4.2 and 4.3, https://arxiv.org/abs/1810.04805
    """

    model_type = SpanClassifier

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sequence_length: int | None = None,
        stride: int | None = None,
        max_answer_tokens: int = 30,
    ):
        check_positive(max_answer_tokens=max_answer_tokens)
        self.max_answer_tokens = max_answer_tokens
        super().__init__(model, tokenizer, sequence_length)
        self.stride = self.packer.default_stride if stride is None else stride
        self.packer.windows(["a"], ["b"], self.stride)  # raises if it does not fit

    def __call__(
        self, questions: str | Iterable[str], contexts: str | Iterable[str], batch_size: int = 8
    ) -> Answer | list[Answer]:
        """Answers questions.

        Args:
            questions: str, or list of str.
            contexts: the texts to look into, alike.
            batch_size: int, questions read together, which changes no answer.

        Returns:
            `Answer` for a str, list of them for a list; start and end count characters. A context without a word gives
            the answer "" with a probability of 0.

        Raises:
            TypeError: for anything but strings. ValueError: for another number of contexts than of questions,
                unpaired surrogates, or a batch size that is no positive integer.
        """
        columns = self._columns(batch_size, questions=questions, contexts=contexts)
        whole = self._gather("serving_default", *columns, batch_size=batch_size)
        answers = []
        for row, context in enumerate(columns[1]):
            text, start, end, *probabilities = (
                whole[name][row] for name in ("text", "start", "end", "probability", "no_answer_probability")
            )
            data = context.encode()
            places = [len(data[:place].decode(errors="replace")) for place in (start, end)]
            answers.append(Answer(text.decode(), *places, *map(float, probabilities)))
        return answers[0] if isinstance(questions, str) else answers

    def _with_room(self, *columns):
        return [(question,) for question in columns[0]], self.packer.question_room

    def _signatures(self):
        return {"serving_default": (self._answer, ("questions", "contexts"))}

    def _answer(self, questions, contexts):
        # Places in a text that is no UTF-8 are those after its repair.
        contexts = tf.strings.unicode_transcode(contexts, "UTF-8", "UTF-8", errors="replace")
        packed, rows, starts, ends = self.packer.windows(questions, contexts, self.stride)
        inputs = self._inputs(packed)
        logits = self.model(inputs, training=False)
        length = tf.shape(inputs["token_ids"])[1]
        starts, ends = starts[:, :length], ends[:, :length]
        num_questions = tf.shape(contexts)[0]

        # (W, T, T): the score of each span that is one, and the lowest score that a window gives to no answer.
        place = tf.range(length)
        is_short = (place >= place[:, None]) & (place < place[:, None] + self.max_answer_tokens)
        is_span = is_short & (starts >= 0)[:, :, None] & (starts >= 0)[:, None]
        scores = tf.where(is_span, logits["start"][:, :, None] + logits["end"][:, None], -1e30)
        scores = tf.reshape(scores, [tf.shape(rows)[0], -1])
        no_answer = tf.math.segment_min(logits["start"][:, 0] + logits["end"][:, 0], rows)

        # The best span of each question's windows; `rows` is sorted, and every question has a window.
        best_of_window = tf.reduce_max(scores, axis=1)
        best = tf.math.segment_max(best_of_window, rows)
        window = tf.math.unsorted_segment_min(
            tf.where(best_of_window == tf.gather(best, rows), tf.range(tf.shape(rows)[0]), tf.int32.max),
            rows,
            num_questions,
        )
        span = tf.argmax(tf.gather(scores, window), axis=1, output_type=tf.int32)
        found = best > -1e29
        start = tf.where(found, tf.gather(tf.gather(starts, window), span // length, batch_dims=1), 0)
        end = tf.where(found, tf.gather(tf.gather(ends, window), span % length, batch_dims=1), 0)

        highest = tf.maximum(best, no_answer)
        shares = tf.reduce_sum(tf.exp(scores - tf.gather(highest, rows)[:, None]), axis=1)
        total = tf.math.segment_sum(shares, rows) + tf.exp(no_answer - highest)
        return {
            "text": tf.strings.substr(contexts, start, end - start),
            "start": start,
            "end": end,
            "probability": tf.exp(best - highest) / total,
            "no_answer_probability": tf.exp(no_answer - highest) / total,
        }
