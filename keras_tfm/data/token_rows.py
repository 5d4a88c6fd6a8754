"""Rows of tokens of different lengths, in batches with little padding."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.epochs import epochs_of_batches, shuffled

BLOCK = 1024  # texts that are packed in one call


@dataclasses.dataclass(frozen=True, eq=False)
class TokenRows:
    """Packed examples without their padding.

    Args:
        lengths: int64 array (N,), tokens in each row.
        per_token: dict of arrays (tokens of all rows,); 0 becomes their padding.
        per_row: dict of arrays (N, ...).
        padding_id: int, the padding of `per_token["token_ids"]`.
        sequence_length: int, T, the length of the longest row that is possible.
    """

    lengths: np.ndarray
    per_token: Mapping[str, np.ndarray]
    per_row: Mapping[str, np.ndarray]
    padding_id: int
    sequence_length: int

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[tuple[Mapping, Mapping, Mapping]], padding_id: int, sequence_length: int
    ) -> "TokenRows":
        """From (inputs, what else there is for each token, what there is for each row), tensors with N rows in all."""
        lengths, per_token, per_row = [], [], []
        for inputs, others, rows in blocks:
            is_token = inputs["padding_mask"].numpy()
            lengths.append(is_token.sum(1))
            kept = {"token_ids": inputs["token_ids"], "segment_ids": inputs["segment_ids"], **others}
            per_token.append({key: np.asarray(value)[is_token] for key, value in kept.items()})
            per_row.append(rows)
        return cls(np.concatenate(lengths), _joined(per_token), _joined(per_row), padding_id, sequence_length)

    def dataset(
        self,
        finish: Callable[[dict, dict, dict], tuple],
        batch_size: int,
        length_buckets: bool,
        shuffle: bool,
        seed: int,
    ) -> tf.data.Dataset:
        """Batches of rows, padded to the longest one of the batch, in an order that (seed, epoch) decides.

        With `shuffle` and `length_buckets`, a batch holds rows of about the same length; see `batches_by_length`.
        Lengths are rounded up in steps of an eighth (8, 16, ..., 64, 80, ..., 128, 160, ...), so that there are few
        shapes.

        Args:
            finish: (inputs, the rest of `per_token`, `per_row`), each with B rows, to what the dataset gives.
            batch_size: int, B.
            length_buckets: bool, False pads all rows to T.
            shuffle: bool, a new order in each epoch; else that of the rows.
            seed: int.
        """
        with tf.device("CPU:0"):
            # Without buckets all rows are of one length, and sorting them changes nothing.
            widths = np.minimum(rounded_up(self.lengths), self.sequence_length)
            buckets = tf.constant(widths if length_buckets else np.zeros_like(widths), tf.int64)
            splits = tf.constant(np.cumsum([0, *self.lengths]), tf.int64)
            per_token = {key: tf.constant(values) for key, values in self.per_token.items()}
            per_row = {key: tf.constant(values) for key, values in self.per_row.items()}
        choose, num_batches = batches_by_length(buckets, batch_size, shuffle, seed)

        def make_batch(_epoch: tf.Tensor, _step: tf.Tensor, chosen: tf.Tensor) -> tuple:
            first, end = tf.gather(splits, chosen), tf.gather(splits, chosen + 1)
            places = tf.ragged.range(first, end)
            width = tf.reduce_max(tf.gather(buckets, chosen)) if length_buckets else self.sequence_length
            padded = {key: self._padded(key, tf.gather(values, places), width) for key, values in per_token.items()}
            inputs = {key: padded.pop(key) for key in ("token_ids", "segment_ids")}
            inputs["padding_mask"] = tf.range(width, dtype=tf.int64) < (end - first)[:, None]
            return finish(inputs, padded, {key: tf.gather(values, chosen) for key, values in per_row.items()})

        return epochs_of_batches(choose, make_batch, num_batches, new_each=shuffle)

    def _padded(self, key: str, rows: tf.RaggedTensor, width: tf.Tensor | int) -> tf.Tensor:
        padding = tf.cast(self.padding_id if key == "token_ids" else 0, rows.dtype)
        if isinstance(width, int):
            return rows.to_tensor(padding, shape=[None, width])  # a static shape
        return rows.to_tensor(padding, shape=tf.stack([tf.constant(-1, tf.int64), width]))


def batches_of_arrays(
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    shuffle: bool,
    seed: int,
    finish: Callable[[dict], Any] = dict,
    drop_partial_batch: bool = False,
) -> tf.data.Dataset:
    """Batches of rows of arrays, as dicts or as what `finish` makes of them, in orders that (seed, epoch) decide.

    Args:
        arrays: dict of arrays (N, ...).
        batch_size: int, B.
        shuffle, seed: see `batches_by_length`.
        finish: dict of tensors (B, ...) to what the dataset gives.
        drop_partial_batch: bool, an epoch ends with its last whole batch.
    """
    num_rows = len(next(iter(arrays.values())))
    with tf.device("CPU:0"):
        tensors = {name: tf.constant(values) for name, values in arrays.items()}
    choose, num_batches = batches_by_length(tf.zeros([num_rows], tf.int64), batch_size, shuffle, seed)
    if drop_partial_batch and num_rows % batch_size:
        chosen, num_batches = choose, num_batches - 1

        def choose(epoch: tf.Tensor) -> tf.data.Dataset:
            return chosen(epoch).filter(lambda batch: tf.size(batch) == batch_size)

    def make_batch(_epoch: tf.Tensor, _step: tf.Tensor, chosen: tf.Tensor) -> Any:
        if num_rows % batch_size == 0 or drop_partial_batch:
            chosen = tf.ensure_shape(chosen, [batch_size])
        return finish({name: tf.gather(values, chosen) for name, values in tensors.items()})

    return epochs_of_batches(choose, make_batch, num_batches, new_each=shuffle)


def _joined(blocks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([np.asarray(block[key]) for block in blocks]) for key in blocks[0]}


def batches_by_length(
    buckets: tf.Tensor, batch_size: int, shuffle: bool, seed: int
) -> tuple[Callable[[tf.Tensor], tf.data.Dataset], int]:
    """Which rows go into each batch: rows are shuffled, sorted by bucket and cut into batches, which are shuffled.

    Args:
        buckets: int64 (N,), of the rows; those of one bucket go together.
        batch_size: int, B. One batch of an epoch may have fewer rows.
        shuffle: bool, a new order in each epoch, as (seed, epoch) decide; else the rows in their own order.
        seed: int.

    Returns:
        `choose` and `num_batches` of `epochs_of_batches`.
    """
    batch_size = as_integer("batch_size", batch_size, least=1)
    seed = as_integer("seed", seed, least=0)
    num_rows = len(buckets)
    num_batches = -(-num_rows // batch_size)

    def choose(epoch: tf.Tensor) -> tf.data.Dataset:
        if not shuffle:
            return tf.data.Dataset.range(num_rows).batch(batch_size)
        order = shuffled(num_rows, seed, epoch)
        order = tf.gather(order, tf.argsort(tf.gather(buckets, order), stable=True))
        batches = tf.data.Dataset.from_tensor_slices(shuffled(num_batches, seed, epoch))
        return batches.map(lambda batch: order[batch * batch_size : (batch + 1) * batch_size])

    return choose, num_batches


def rounded_up(lengths: np.ndarray) -> np.ndarray:
    """Lengths to the next multiple of 8 up to 64, of 16 up to 128, of 32 up to 256, and so on."""
    steps = np.maximum(8, 2 ** np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64) // 8)
    return -(-lengths // steps) * steps
