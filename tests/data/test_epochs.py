"""A dataset of epochs begins wherever it is told to, whatever was put on it."""

import pytest
import tensorflow as tf

from keras_tfm.data import epochs_of_batches
from keras_tfm.data.epochs import position_of, shuffled

NUM_ROWS, NUM_BATCHES = 7, 3  # batches of 3, 3 and 1


def rows(repeat=False, new_each=True, initial_epoch=0):
    def choose(epoch):
        return tf.data.Dataset.from_tensor_slices(shuffled(NUM_ROWS, 0, epoch)).batch(3)

    def make_batch(epoch, step, chosen):
        return chosen + 100 * epoch + 10 * step

    return epochs_of_batches(choose, make_batch, NUM_BATCHES, initial_epoch, repeat, new_each)


def read(dataset):
    return [batch.numpy().tolist() for batch in dataset]


@pytest.mark.parametrize("new_each", [True, False])
@pytest.mark.parametrize("place", [0, 2, 3, 7])
def test_what_is_read_after_a_place_is_set(place, new_each):
    everything = read(rows(repeat=True, new_each=new_each).take(12))
    endless = rows(repeat=True, new_each=new_each)
    position_of(endless.map(lambda x: x).prefetch(1)).seek(place)
    for _ in range(2):  # reading does not move it
        assert read(endless.take(5)) == everything[place : place + 5]

    counting = rows(new_each=new_each)
    position_of(counting).seek(place)
    iterator, left = iter(counting), NUM_BATCHES - place % NUM_BATCHES
    assert [next(iterator).numpy().tolist() for _ in range(left)] == everything[place : place + left]
    assert read(counting) == everything[place + left : place + left + NUM_BATCHES]  # the epoch that follows


def test_only_what_keeps_batches_has_a_position():
    dataset = rows()
    for changed in (dataset.take(1), dataset.shuffle(3), dataset.repeat(), dataset.unbatch(), tf.data.Dataset.range(3)):
        assert position_of(changed) is None


def test_sizes_of_batches_are_told_without_reading_them():
    assert position_of(rows()).sizes() == {3, 1}
    texts = tf.data.Dataset.from_tensors({"text": "a"})
    assert position_of(epochs_of_batches(lambda _: texts, lambda _e, _s, batch: batch, 1)).sizes() is None
