"""Texts that are divided into words, with a label for each word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.data.labels import check_equally_many, class_ids, packer_of, warn_of_cut
from keras_tfm.data.token_rows import BLOCK, TokenRows
from keras_tfm.tokenizers import WordPieceTokenizer
from keras_tfm.tokenizers.text_words import first_tokens


def word_label_dataset(
    words: Sequence[Sequence[str]],
    labels: Sequence[Sequence[Any]],
    tokenizer: WordPieceTokenizer,
    sequence_length: int,
    batch_size: int,
    class_names: Sequence[str] | None = None,
    length_buckets: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of packed words with a label at the first token of each, to train a tagger with `fit`.

    The other tokens have a sample weight of 0. The words are tokenized here and now, and their ids stay in memory.

    Args:
        words: N lists of words; a list may be empty. `keras_tfm.tokenizers.split_words` cuts running text into words as
            `EntityRecognition` does.
        labels: N lists of as many labels: names of `class_names`, or integers from 0 on.
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS] and [SEP].
        sequence_length: int, T, at least 4. Words that do not fit are left out with their labels, with a warning, as
            are words without a token, such as control characters, without one.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        class_names: the names of the classes, in the order of their ids; see `text_label_dataset`.
        length_buckets, shuffle, seed: see `text_label_dataset`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels, sample weights): a dict as that of
        `text_label_dataset`; int32 (B, T'); and float32 (B, T'), 1 at the first token of each word, else 0. Keras'
        losses divide by B * T' all the same; the loss reduction "mean_with_sample_weight" divides by the sum of
        weights.

    Raises:
        ValueError: if lists are not equally long, or a label is unknown or out of range.
        TypeError: if an argument is of another type.

    Example:
        >>> words, labels = [["Romeo", "loves", "Juliet"], ["Stars"]], [["B-PER", "O", "B-PER"], ["O"]]
        >>> tokenizer = keras_tfm.tokenizers.WordPieceTokenizer.train("Romeo loves Juliet stars " * 9, 45)
        >>> dataset = word_label_dataset(words, labels, tokenizer, 8, 2, class_names=["O", "B-PER"], shuffle=False)
        >>> inputs, ids, weights = next(iter(dataset))
        >>> ids.numpy().tolist()
        [[0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]
        >>> weights.numpy().tolist()
        [[0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    packer = packer_of(tokenizer, sequence_length)
    num_texts = check_equally_many(words=words, labels=labels)
    words, labels = list(words), list(labels)
    for row, (row_words, row_labels) in enumerate(zip(words, labels, strict=True)):
        if isinstance(row_words, str) or len(row_words) != len(row_labels):
            raise ValueError(
                "Each list of words must have as many labels. "
                f"Received: {len(row_words)} words and {len(row_labels)} labels in row {row}: {str(row_words)[:60]}."
            )
    flat = [label for row in labels for label in row]
    ids = class_ids(flat, class_names) if flat else np.zeros(0, np.int32)
    rows_of_ids = tf.RaggedTensor.from_row_lengths(ids, [len(row) for row in labels])
    num_cut = 0

    def blocks():
        nonlocal num_cut
        for start in range(0, num_texts, BLOCK):
            block = slice(start, start + BLOCK)
            inputs, word_ids = packer.words([list(row) for row in words[block]])
            block_labels, weights = labels_of_first_tokens(word_ids, rows_of_ids[block])
            lengths = [len(row) for row in words[block]]
            # A row is cut if it is full and does not show its last word; words without tokens are not looked for.
            is_full = tf.reduce_all(inputs["padding_mask"], axis=1).numpy()
            num_cut += int(np.count_nonzero(is_full & (tf.reduce_max(word_ids, axis=1).numpy() + 1 < lengths)))
            yield inputs, {"label": block_labels, "weight": weights}, {}

    rows = TokenRows.from_blocks(blocks(), tokenizer.pad_token_id, sequence_length)
    warn_of_cut(num_cut, num_texts, sequence_length, "texts")
    return rows.dataset(
        lambda inputs, token, _: (inputs, token["label"], token["weight"]), batch_size, length_buckets, shuffle, seed
    )


def labels_of_first_tokens(word_ids: tf.Tensor, labels: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts the label of each word at its first token, in the graph.

    Args:
        word_ids: int32 (B, T), the word of each token or -1, as `SentencePacker.words` gives them.
        labels: RaggedTensor of integers (B, words).

    Returns:
        labels (B, T), 0 where there is none, and weights float32 (B, T), 1 where there is one, else 0.
    """
    is_first = first_tokens(word_ids)
    places = tf.where(is_first, tf.cast(word_ids, tf.int64) + labels.row_starts()[:, None], -1)
    values = tf.concat([labels.values, tf.zeros([1], labels.dtype)], axis=0)  # the last one for "none"
    places = tf.where(is_first, places, tf.size(values, tf.int64) - 1)
    return tf.gather(values, places), tf.cast(is_first, tf.float32)
