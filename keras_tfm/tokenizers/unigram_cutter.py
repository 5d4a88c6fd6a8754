"""Unigram: the most probable way to cut words into pieces, for many words at once, in the graph."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.code_points import KeyFinder, Trie

_UNKNOWN_PENALTY = 10.0  # below the least score, as in SentencePiece


class UnigramCutter(tf.Module):
    """Cuts words into the pieces whose scores add up to the most, by the algorithm of Viterbi.

    All words take one character in an iteration; the longest come first, so that those at work are a slice. A character
    that is no piece may be an unknown one, at ten less than the least score. Of ways that are equally good the one
    counts whose last piece is longest, and so on before it.

    Args:
        scores: dict from piece to score.
        ids: dict from piece to id.
        least_score: float, from which the penalty of unknown characters counts. Default: the least of the scores.
        dtype: in which scores add up: float32 as in `sentencepiece`, or float64 as in `tokenizers`.

    Call arguments:
        words: RaggedTensor of int32 (W, characters), code points; best without duplicates.

    Returns:
        Two RaggedTensors of int32 (W, tokens): ids, -1 for an unknown character, and the character at which each
        begins, counted over all words. Then float (W,): by how much the best way to reach any place of the word is
        better than the second best, at least.

    Reference:
        Kudo 2018, "Subword Regularization", section 3.2, https://arxiv.org/abs/1804.10959
    """

    def __init__(
        self, scores: Mapping[str, float], ids: Mapping[str, int], least_score: float, dtype: tf.DType = tf.float32
    ):
        super().__init__(name="unigram_cutter")
        self._find = KeyFinder(Trie.of(list(scores)))
        numpy_type = dtype.as_numpy_dtype
        unknown = numpy_type(least_score) - numpy_type(_UNKNOWN_PENALTY)
        with tf.init_scope(), tf.device("CPU:0"):
            # After the pieces: the unknown character, and what is no piece at all.
            self._scores = tf.constant(np.array([*scores.values(), unknown, -np.inf], numpy_type))
            self._ids = tf.constant([*(ids[piece] for piece in scores), -1], tf.int32)
        self._unknown, self._none = len(scores), len(scores) + 1

    def __call__(self, words: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor]:
        codes, lengths = words.values, tf.cast(words.row_lengths(), tf.int32)
        word, starts = tf.cast(words.value_rowids(), tf.int32), tf.cast(words.row_starts(), tf.int32)
        time = tf.range(tf.size(codes)) - tf.gather(starts, word)
        # The order of time: the first characters of all words, the longest word first, then their second ones, ...
        order = tf.argsort(lengths, direction="DESCENDING", stable=True)
        rank = tf.tensor_scatter_nd_update(order, order[:, None], tf.range(tf.size(order)))
        widths = tf.math.bincount(time)  # how many words have so many characters
        begins = tf.cumsum(widths, exclusive=True)
        timed = tf.gather(begins, time) + tf.gather(rank, word)  # where each character is in that order

        ending = self._ending(codes, tf.gather(starts + lengths, word), timed)
        columns, gaps = self._best_columns(ending, widths, begins)
        sizes = tf.shape(ending)[1] - columns
        is_end = self._is_end(sizes, lengths, starts, rank, begins)
        ends = tf.cast(tf.where(is_end)[:, 0], tf.int32)
        here = tf.gather(timed, ends)
        pieces = tf.gather_nd(ending, tf.stack([here, tf.gather(columns, here)], axis=1))
        # Pieces leave no gaps.
        values = tf.gather(self._ids, pieces), tf.concat([[0], ends + 1], axis=0)[:-1]
        pieces_before = tf.concat([[0], tf.cumsum(tf.cast(is_end, tf.int64))], axis=0)
        row_splits = tf.gather(pieces_before, words.row_splits)
        rows = (tf.RaggedTensor.from_row_splits(value, row_splits, validate=False) for value in values)
        return *rows, tf.math.unsorted_segment_min(tf.gather(gaps, timed), word, tf.size(lengths))

    def _ending(self, codes, limits, timed) -> tf.Tensor:
        """int32 (N, longest): for each character, in the order of time, the pieces that end there, longest first."""
        places, sizes, pieces = self._find.all(codes, limits)
        longest = tf.maximum(tf.reduce_max(sizes), 1)
        ending = tf.fill([tf.size(codes), longest], self._none)
        ending = tf.concat([ending[:, :-1], tf.fill([tf.size(codes), 1], self._unknown)], axis=1)
        at = tf.stack([tf.gather(timed, places + sizes - 1), longest - sizes], axis=1)
        return tf.tensor_scatter_nd_update(ending, at, pieces)

    def _best_columns(self, ending, widths, begins) -> tuple[tf.Tensor, tf.Tensor]:
        """int32 (N,), in the order of time, which of the pieces that end with each character is the best; and by how
        much, float (N,)."""
        num_times = tf.size(widths)
        columns, gaps = (
            tf.TensorArray(dtype, num_times + 1, element_shape=[None], infer_shape=False).write(
                num_times,
                tf.zeros([0], dtype),  # for texts without any
            )
            for dtype in (tf.int32, self._scores.dtype)
        )
        # The best scores of all that comes before each of the last characters, of each word.
        num_words, longest = tf.reduce_max(tf.concat([widths, [0]], axis=0)), tf.shape(ending)[1]
        window = tf.fill([num_words, longest], tf.constant(-np.inf, self._scores.dtype))
        window = tf.concat([window[:, 1:], tf.zeros([num_words, 1], window.dtype)], axis=1)

        def step(time, window, columns, gaps):
            width, begin = widths[time], begins[time]
            scores = window[:width] + tf.gather(self._scores, ending[begin : begin + width])
            column, best = tf.argmax(scores, axis=1, output_type=tf.int32), tf.reduce_max(scores, axis=1)
            others = tf.where(tf.one_hot(column, longest, True, False), tf.constant(-np.inf, scores.dtype), scores)
            columns, gaps = columns.write(time, column), gaps.write(time, best - tf.reduce_max(others, axis=1))
            return time + 1, tf.concat([window[:width, 1:], best[:, None]], axis=1), columns, gaps

        _, _, columns, gaps = tf.while_loop(
            lambda time, *_: time < num_times,
            step,
            (tf.constant(0), window, columns, gaps),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), *[tf.TensorShape(None)] * 2),
        )
        return columns.concat(), gaps.concat()

    def _is_end(self, sizes, lengths, starts, rank, begins) -> tf.Tensor:
        """bool (N,), whether a piece of the best way ends with each character, from the first word to the last."""
        words = tf.cast(tf.where(lengths > 0)[:, 0], tf.int32)
        found = tf.TensorArray(tf.int32, 1, True, element_shape=[None], infer_shape=False)

        def step(words, left, number, found):
            found = found.write(number, tf.gather(starts, words) + left - 1)
            left -= tf.gather(sizes, tf.gather(begins, left - 1) + tf.gather(rank, words))
            here = tf.where(left > 0)[:, 0]
            return tf.gather(words, here), tf.gather(left, here), number + 1, found

        flexible = tf.TensorShape([None])
        *_, found = tf.while_loop(
            lambda words, *_: tf.size(words) > 0,
            step,
            (words, tf.gather(lengths, words), tf.constant(1), found.write(0, tf.zeros([0], tf.int32))),
            shape_invariants=(flexible, flexible, tf.TensorShape([]), tf.TensorShape(None)),
        )
        ends = found.concat()
        return tf.scatter_nd(ends[:, None], tf.ones_like(ends), tf.shape(sizes)) > 0
