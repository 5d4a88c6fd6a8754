"""Sizes: known ones are ints; an unknown one is read alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm.ops.tensors import batch_size, size


def test_known_sizes_are_integers():
    x = ops.zeros((2, 3))
    assert (size(x, 0), size(x, -1), batch_size(x)) == (2, 3, 2)
    assert (size(np.zeros((4, 5)), 1), batch_size(np.zeros((4, 5)))) == (5, 4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere traced sizes are known")
def test_unknown_sizes_are_read_one_at_a_time():
    import tensorflow as tf

    seen = {}

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3])])
    def both(x):
        seen["batch"], seen["width"] = batch_size(x), size(x, 2)
        return size(x, 1)

    assert int(both(tf.zeros([2, 7, 3]))) == 7
    assert seen == {"batch": -1, "width": 3}
    graph = both.get_concrete_function().graph
    assert [op.type for op in graph.get_operations()].count("StridedSlice") == 1


def test_symbolic_tensors_have_no_number():
    assert size(keras.KerasTensor((None, 4)), 0) is None
