"""A slice is written as Keras writes it, in plain graphs without an operation of XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.ops.tensors import graph_function, is_compiled_by_xla, slice_update

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others have one operation for all")
X = np.arange(24, dtype="int32").reshape(2, 3, 4)
PIECE = -np.ones((2, 2, 4), "int32")


def trace(jit_compile):
    """With all sizes unknown."""
    x = tf.TensorSpec([None, None, 4], tf.int32)

    @tf.function(jit_compile=jit_compile, autograph=False, input_signature=[x, tf.TensorSpec([], tf.int32), x])
    def write(x, index, piece):
        return slice_update(x, (0, index, 0), piece)

    return write


@pytest.mark.parametrize("how", ["eager", "plain", "compiled"])
@pytest.mark.parametrize(("index", "place"), [(0, 0), (1, 1), (2, 1), (100, 1), (-3, 0)])
def test_a_piece_is_written_and_never_over_the_ends(how, index, place):
    expected = X.copy()
    expected[:, place : place + 2] = PIECE
    write = (lambda *x: slice_update(x[0], (0, x[1], 0), x[2])) if how == "eager" else trace(how == "compiled")
    np.testing.assert_array_equal(write(tf.constant(X), tf.constant(index), tf.constant(PIECE)), expected)


def test_a_plain_graph_has_no_operation_of_xla():
    kinds = {
        jit_compile: {op.type for op in trace(jit_compile).get_concrete_function().graph.get_operations()}
        for jit_compile in (False, True)
    }
    assert not [kind for kind in kinds[False] if kind.startswith("Xla")]
    assert "XlaDynamicUpdateSlice" in kinds[True]  # in the place of the other, which XLA cannot compile


def test_xla_is_seen_through_loops_and_functions_inside():
    seen = []

    def look(x):
        seen.append(is_compiled_by_xla())
        return x + 1

    def outer():
        inner = graph_function(look)  # made anew, as `traced_once` does: functions share traces with and without XLA
        return tf.while_loop(lambda x: x < 3, lambda x: (inner(x),), (tf.constant(0),))

    for jit_compile in (True, False):
        tf.function(outer, jit_compile=jit_compile, autograph=False)()
    assert seen == [True, False]
    assert not is_compiled_by_xla()
