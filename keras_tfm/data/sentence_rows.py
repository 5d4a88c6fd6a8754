"""Rows of BERT's pretraining, before anything is masked, in the graph."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.data.sentences import chunks_of_documents, full_chunks, read_sentences
from keras_tfm.tokenizers import WordPieceTokenizer


class PairRows:
    """[CLS] a [SEP] b [SEP], where b follows a in its document or, in half of the rows, is from another one.

    Args:
        texts_or_files: see `masked_lm_dataset`.
        tokenizer: WordPieceTokenizer.
        sequence_length: int, T.

    Call arguments:
        chosen: int64 (B,), numbers of rows, less than `num_rows`.
        key: int64 (2,), decides the draw.

    Returns:
        inputs without mask positions, labels {"next_sentence": int32 (B,)}, and their weights.

    Raises:
        ValueError: if there are fewer than two documents that can be cut in two.
    """

    def __init__(self, texts_or_files: Any, tokenizer: WordPieceTokenizer, sequence_length: int):
        sentences = read_sentences(texts_or_files, tokenizer)
        begins_word = tokenizer.begins_word[sentences.token_ids]
        chunks = chunks_of_documents(sentences, begins_word, sequence_length - 3)
        if (num_documents := len(np.unique(chunks.document_ends))) < 2:
            raise ValueError(
                "There must be two documents or more, of two words or more, for `next_sentence=True`. "
                f"Received: {num_documents}. A `str` is one document: divide it, for example with "
                '`text.split("\\n\\n")`, or pass `next_sentence=False`.'
            )
        self.num_rows = len(chunks.begins)
        self._sequence_length = sequence_length
        self._special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        with tf.device("CPU:0"):
            self._token_ids = tf.constant(sentences.token_ids)
            self._begins, self._ends = tf.constant(chunks.begins), tf.constant(chunks.ends)
            self._cuts, self._cut_splits = tf.constant(chunks.cuts), tf.constant(chunks.cut_splits)
            self._document_ends, self._siblings = tf.constant(chunks.document_ends), tf.constant(chunks.siblings)

    def __call__(self, chosen: tf.Tensor, key: tf.Tensor) -> tuple[dict, dict, dict]:
        # Remainders of numbers this large are as good as uniform.
        draws = tf.random.stateless_uniform([4, tf.size(chosen)], key, maxval=2**62, dtype=tf.int64, alg="philox")
        begin, end, cut = tf.gather(self._begins, chosen), tf.gather(self._ends, chosen), self._cut(chosen, draws[0])
        is_random = tf.equal(draws[1] % 2, 1)
        # Any chunk but those of the same document.
        first_sibling, num_siblings = tf.unstack(tf.gather(self._siblings, chosen), axis=1)
        other = draws[2] % (self.num_rows - num_siblings)
        other = tf.where(other >= first_sibling, other + num_siblings, other)
        other_begin = self._cut(other, draws[3])
        other_end = tf.minimum(other_begin + end - cut, tf.gather(self._document_ends, other))
        second, second_end = tf.where(is_random, other_begin, cut), tf.where(is_random, other_end, end)

        cls, sep, pad = self._special
        first_length, second_length = (cut - begin)[:, None], (second_end - second)[:, None]
        place = tf.range(self._sequence_length, dtype=tf.int64)[None]
        in_second = place - first_length - 2  # place in the second part
        source = tf.where(in_second < 0, begin[:, None] + place - 1, second[:, None] + in_second)
        ids = tf.gather(self._token_ids, tf.clip_by_value(source, 0, tf.size(self._token_ids, tf.int64) - 1))
        ids = tf.where(tf.equal(in_second, -1) | tf.equal(in_second, second_length), sep, ids)
        ids = tf.where(tf.equal(place, 0), cls, ids)
        is_token = in_second <= second_length
        inputs = {
            "token_ids": tf.where(is_token, ids, pad),
            "segment_ids": tf.cast(is_token & (in_second >= 0), tf.int32),
            "padding_mask": is_token,
        }
        labels = {"next_sentence": tf.cast(is_random, tf.int32)}
        return inputs, labels, {"next_sentence": tf.ones_like(draws[1], tf.float32)}

    def _cut(self, chunk: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        """int64 (B,), a place in each chunk where it may be cut in two."""
        first, end = tf.gather(self._cut_splits, chunk), tf.gather(self._cut_splits, chunk + 1)
        return tf.gather(self._cuts, first + draw % (end - first))


class SingleRows:
    """[CLS] text [SEP], as many whole sentences as fit, over the ends of documents.

    Args, call arguments and returns: as for `PairRows`, without labels.
    """

    def __init__(self, texts_or_files: Any, tokenizer: WordPieceTokenizer, sequence_length: int):
        sentences = read_sentences(texts_or_files, tokenizer)
        self._special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        token_ids, begins, ends = full_chunks(sentences, tokenizer.sep_token_id, sequence_length - 2)
        self.num_rows = len(begins)
        self._sequence_length = sequence_length
        with tf.device("CPU:0"):
            self._token_ids = tf.constant(token_ids)
            self._begins, self._ends = tf.constant(begins), tf.constant(ends)

    def __call__(self, chosen: tf.Tensor, key: tf.Tensor) -> tuple[dict, dict, dict]:
        del key  # nothing to draw
        begin, end = tf.gather(self._begins, chosen)[:, None], tf.gather(self._ends, chosen)[:, None]
        cls, sep, pad = self._special
        place = tf.range(self._sequence_length, dtype=tf.int64)[None]
        source = begin + place - 1
        ids = tf.gather(self._token_ids, tf.clip_by_value(source, 0, tf.size(self._token_ids, tf.int64) - 1))
        ids = tf.where(tf.equal(source, end), sep, tf.where(tf.equal(place, 0), cls, ids))
        is_token = source <= end
        token_ids = tf.where(is_token, ids, pad)
        inputs = {"token_ids": token_ids, "segment_ids": tf.zeros_like(token_ids), "padding_mask": is_token}
        return inputs, {}, {}
