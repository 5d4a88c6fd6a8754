"""Batches that differ from epoch to epoch, in a way that (seed, epoch) decides."""

import weakref
from collections.abc import Callable
from typing import Any, Protocol

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

    Example:
        >>> rows = tf.data.Dataset.from_tensor_slices(tf.range(100)).batch(8)  # data of your own, alike in each epoch
        >>> dataset = epochs_of_batches(lambda epoch: rows, lambda epoch, step, batch: batch, num_batches=13)
    """
    position = Position(initial_epoch, num_batches, choose)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        return choose(epoch).enumerate().map(lambda step, chosen: (epoch, step, chosen))

    def from_here(_: tf.Tensor) -> tf.data.Dataset:
        epoch, step = position.read()
        epoch = epoch if new_each else tf.constant(initial_epoch, tf.int64)
        rest = one_epoch(epoch).skip(step)  # before batches are made: it costs next to nothing
        if not repeat:
            return rest
        return rest.concatenate(tf.data.Dataset.counter(epoch + int(new_each), step=int(new_each)).flat_map(one_epoch))

    def batch_of(epoch: tf.Tensor, step: tf.Tensor, chosen: Any) -> tuple:
        return epoch, step, make_batch(epoch, step, chosen)

    def count(epoch: tf.Tensor, step: tf.Tensor, batch: tuple) -> tuple:
        if not repeat:
            position.end(epoch, when=step == num_batches - 1)
        return batch

    dataset = tf.data.Dataset.range(1).flat_map(from_here).map(batch_of)  # the position is read for the first batch
    cardinality = tf.data.INFINITE_CARDINALITY if repeat else num_batches
    dataset = prefetched(compat.with_cardinality(dataset, cardinality))
    dataset = dataset.map(count)  # after prefetch: what was fetched may never be taken
    set_position(dataset, position)
    return dataset


class DataPosition(Protocol):
    """Where reading a dataset begins: all that a run needs to know to go on."""

    @property
    def start(self) -> int:
        """The batch that the dataset begins with at first."""

    @property
    def num_batches(self) -> int | None:
        """In an epoch; None for data without epochs."""

    @property
    def shard(self) -> tuple[int, int] | None:
        """(index, count) if the dataset gives the share of one of several processes; None if it gives all."""

    def sizes(self) -> set[int] | None:
        """How many rows batches have; None if that cannot be told without reading them."""

    def note(self, batch: int) -> str | None:
        """What is to be kept beside the number of a batch so that `seek` finds it; None for nothing."""

    def seek(self, batch: int, note: str | None = None) -> None:
        """Whoever reads the dataset from now on begins with this batch."""


def set_position(dataset: tf.data.Dataset, position: DataPosition) -> None:
    """From now on, `position_of` gives this position for the dataset."""
    _POSITIONS[dataset] = position


def position_of(dataset: tf.data.Dataset) -> DataPosition | None:
    """The position of a dataset of this package, or of one that was made of it by `map`, `prefetch` and options.

    Returns:
        Its position, or None for a dataset that is made of anything else.
    """
    source: tf.data.Dataset | None = dataset
    while source is not None and source not in _POSITIONS:
        source = compat.dataset_below(source)
    return None if source is None else _POSITIONS[source]


def shuffled(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """int64 (count,): 0, 1, ..., count - 1 in the order of this seed and epoch."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return compat.stateless_shuffle(tf.range(count, dtype=tf.int64), key)


def prefetched(dataset: tf.data.Dataset, count: int = 4) -> tf.data.Dataset:
    """A few elements ahead, without autotuning.

    Its thread is not woken when an iterator goes (TensorFlow 2.21): each `fit`, `evaluate` and epoch's validation may
    end with a wait of up to a minute. There is nothing to tune here either.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(count).with_options(options)


class Position:
    """Which batch is the first that a dataset gives when it is read: their number from the beginning of epoch 0 on.

    A table holds it, since a distribution strategy would mirror a variable.

    Args:
        initial_epoch: int, where the dataset begins at first.
        num_batches: int, in an epoch.
        choose: of `epochs_of_batches`.
    """

    shard = None

    def __init__(self, initial_epoch: int, num_batches: int, choose: Callable[[tf.Tensor], tf.data.Dataset]):
        self._choose = choose
        self.num_batches = max(1, num_batches)  # an empty dataset has a beginning, too
        self.start = initial_epoch * self.num_batches
        with tf.device("CPU:0"):
            self._table = compat.mutable_table(default=self.start)

    def read(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Epoch and step, int64 () each."""
        place = self._table.lookup(tf.constant(0, tf.int64))
        return place // self.num_batches, place % self.num_batches

    def sizes(self) -> set[int] | None:
        """How many rows batches have; None if that cannot be told without reading them."""
        chosen = self._choose(tf.constant(self.start // self.num_batches, tf.int64))
        if not isinstance(chosen.element_spec, tf.TensorSpec) or chosen.element_spec.shape.rank != 1:
            return None
        return {int(size) for size in chosen.map(tf.size).unique()}

    def note(self, batch: int) -> None:
        """The number says all."""

    def seek(self, batch: int, note: str | None = None) -> None:
        """Whoever reads the dataset from now on begins with this batch."""
        self._table.insert(tf.constant(0, tf.int64), tf.constant(batch, tf.int64))

    def end(self, epoch: tf.Tensor, when: tf.Tensor) -> None:
        """Whoever reads the dataset after this begins with the epoch that follows."""

        def insert() -> tf.Tensor:
            self._table.insert(tf.constant(0, tf.int64), (epoch + 1) * self.num_batches)
            return tf.constant(True)

        tf.cond(when, insert, lambda: tf.constant(False))


_POSITIONS: "weakref.WeakKeyDictionary[tf.data.Dataset, DataPosition]" = weakref.WeakKeyDictionary()
