"""Batches that differ from epoch to epoch, in a way that (seed, epoch) decides."""

from collections.abc import Callable

import tensorflow as tf

from keras_tfm import compat


def epochs_of_batches(
    choose: Callable[[tf.Tensor], tf.data.Dataset],
    make_batch: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple],
    num_batches: int,
    initial_epoch: int = 0,
    repeat: bool = False,
    new_each: bool = True,
) -> tf.data.Dataset:
    """A dataset that counts epochs as it is read, or is all epochs one after another; see `PackedTokens.dataset`.

    Args:
        choose: epoch, int64 () -> dataset of what goes into each batch, usually numbers of rows (B,).
        make_batch: epoch, step, int64 () each, and what was chosen -> the batch, a tuple.
        num_batches: int, how many `choose` gives for any epoch.
        initial_epoch: int, the epoch to begin with.
        repeat: bool, all epochs without end, with no memory.
        new_each: bool, False gives the initial epoch each time.

    Returns:
        tf.data.Dataset of known cardinality, prefetched.
    """

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        numbered = choose(epoch).enumerate()
        return numbered.map(lambda step, chosen: (epoch, step, make_batch(epoch, step, chosen)))

    def batch_of(_epoch: tf.Tensor, _step: tf.Tensor, batch: tuple) -> tuple:
        return batch

    if repeat:
        epochs = tf.data.Dataset.counter(initial_epoch, step=int(new_each))
        dataset = epochs.flat_map(one_epoch).map(batch_of)
        return _prefetched(compat.with_cardinality(dataset, tf.data.INFINITE_CARDINALITY))
    if not new_each:
        return _prefetched(one_epoch(tf.constant(initial_epoch, tf.int64)).map(batch_of))

    counter = _EpochCounter(initial_epoch)

    def count(epoch: tf.Tensor, step: tf.Tensor, batch: tuple) -> tuple:
        counter.write(epoch + 1, when=step == num_batches - 1)
        return batch

    dataset = tf.data.Dataset.range(1).flat_map(lambda _: one_epoch(counter.read()))  # once, for the first batch
    dataset = _prefetched(compat.with_cardinality(dataset, num_batches))
    return dataset.map(count)  # after prefetch: what was fetched may never be taken


def shuffled(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """int64 (count,): 0, 1, ..., count - 1 in the order of this seed and epoch."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return compat.stateless_shuffle(tf.range(count, dtype=tf.int64), key)


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A few batches ahead, without autotuning.

    Its thread is not woken when an iterator goes (TensorFlow 2.21): each `fit`, `evaluate` and epoch's validation may
    end with a wait of up to a minute. There is nothing to tune here either.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(4).with_options(options)


class _EpochCounter:
    """One number that a dataset reads and writes. A table, since a distribution strategy would mirror a variable."""

    def __init__(self, value: int):
        with tf.device("CPU:0"):
            self._table = compat.mutable_table(default=value)

    def read(self) -> tf.Tensor:
        return self._table.lookup(tf.constant(0, tf.int64))

    def write(self, value: tf.Tensor, when: tf.Tensor) -> None:
        def insert() -> tf.Tensor:
            self._table.insert(tf.constant(0, tf.int64), value)
            return tf.constant(True)

        tf.cond(when, insert, lambda: tf.constant(False))
