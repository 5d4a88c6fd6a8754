"""Texts, or pairs of texts, with a label each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.data.labels import check_equally_many, class_ids, finite_floats, packer_of, warn_of_cut
from keras_tfm.data.token_rows import BLOCK, TokenRows
from keras_tfm.tokenizers import WordPieceTokenizer


def text_label_dataset(
    texts: Sequence[str],
    labels: Any,
    tokenizer: WordPieceTokenizer,
    sequence_length: int,
    batch_size: int,
    pairs: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    length_buckets: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of packed texts and labels, to train a classifier or a regressor with `fit`.

    The texts are tokenized here and now, and their ids stay in memory. A batch is as wide as its longest row, rounded
    up (to 8, 16, ..., 64, 80, ..., 128, 160, ..., T at most) so that there are few shapes; with `shuffle` and
    `length_buckets` it holds texts of about the same length, so that there is little padding.

    Args:
        texts: N strings. An empty one is [CLS] [SEP].
        labels: N names of `class_names`, or N integers from 0 on, or floats (N,) for a `TextRegressor`; (N, targets)
            for a model of your own with as many outputs.
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS] and [SEP].
        sequence_length: int, T, at least 4. Longer texts lose their ends (of a pair, the longer one), with a warning.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        pairs: N second texts.
        class_names: the names of the classes, in the order of their ids. Give them, as `model.class_names`, for
            integers, too: without them nobody knows which are too large, and `fit` raises at such a label, or with
            `jit_compile=True` has a loss of NaN.
        length_buckets: bool, False makes all batches T wide, where each new shape is compiled anew.
        shuffle: bool, a new order in each epoch; False keeps that of the texts, for `evaluate` and `predict`.
        seed: int, decides the orders.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels): a dict of `token_ids` int32 (B, T'),
        `segment_ids` int32 (B, T') and `padding_mask` bool (B, T'), with T' <= T; and int32 (B,), or float32 (B,) or
        (B, targets).

    Raises:
        ValueError: if there are no texts, not as many labels, or a label is unknown or out of range.
        TypeError: if an argument is of another type.

    Example:
        >>> texts, labels = ["the cat sat", "a hat", "the hat"], ["animal", "thing", "thing"]
        >>> tokenizer = keras_tfm.tokenizers.WordPieceTokenizer.train(texts, vocabulary_size=19)
        >>> dataset = text_label_dataset(texts, labels, tokenizer, 32, 3, class_names=["animal", "thing"])
        >>> inputs, ids = next(iter(dataset))
        >>> inputs["token_ids"].shape, sorted(ids.numpy().tolist())
        (TensorShape([3, 8]), [0, 1, 1])
    """
    packer = packer_of(tokenizer, sequence_length)
    if pairs is None:
        num_texts = check_equally_many(texts=texts, labels=labels)
    else:
        num_texts = check_equally_many(texts=texts, pairs=pairs, labels=labels)
    targets = _targets(labels, class_names)
    num_cut = 0

    def blocks():
        nonlocal num_cut
        for start in range(0, num_texts, BLOCK):
            block = slice(start, start + BLOCK)
            parts = [list(part[block]) for part in (texts, pairs) if part is not None]
            lengths = sum(tokenizer(part, add_special_tokens=False).row_lengths().numpy() + 1 for part in parts) + 1
            num_cut += int(np.count_nonzero(lengths > sequence_length))
            yield packer(*parts), {}, {"label": targets[block]}

    rows = TokenRows.from_blocks(blocks(), tokenizer.pad_token_id, sequence_length)
    warn_of_cut(num_cut, num_texts, sequence_length, "texts")
    return rows.dataset(lambda inputs, _, row: (inputs, row["label"]), batch_size, length_buckets, shuffle, seed)


def _targets(labels: Any, class_names: Sequence[str] | None) -> np.ndarray:
    if np.asarray(labels).dtype.kind != "f" or class_names is not None:
        return class_ids(labels, class_names)
    return finite_floats("labels", labels, ranks=(1, 2))
