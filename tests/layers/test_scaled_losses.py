"""Gradients of tables: one for each id, whatever its occurrences; so that an overflow of any is seen."""

import keras
import numpy as np
import pytest

from keras_tfm import layers

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's gradients list rows")

D = 4
IDS = np.array([[1, 1, 2]], "int32")  # id 1 twice: of its two gradients the first overflows
FACTORS = np.array([np.inf, 1, 1], "float32")[None, :, None]


def make_positions(dtype):
    return layers.PositionEmbedding(5, D, dtype=dtype)


def make_tokens(dtype):
    return layers.TokenEmbedding(5, D, dtype=dtype)


def make_segments(dtype):
    tokens = layers.TokenEmbedding(5, D, num_segments=3, dtype=dtype)
    return lambda ids: tokens(np.array([[0, 3, 4]], "int32"), segment_ids=ids)


def gradients_of(layer, ids, factors=1.0):
    import tensorflow as tf

    layer(ids)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(ids), "float32") * factors)
    return tape.gradient(loss, tape.watched_variables())


@pytest.mark.parametrize("make", [make_tokens, make_segments, make_positions])
@pytest.mark.parametrize("dtype", ["mixed_float16", "float16", "float32"])  # a float32 table in a float16 model, too
def test_an_overflow_of_one_occurrence_of_an_id_is_seen(make, dtype):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    assert optimizer.check_finite(gradients_of(make(dtype), IDS))
    assert not optimizer.check_finite(gradients_of(make(dtype), IDS, FACTORS))


@pytest.mark.parametrize("make", [make_tokens, make_segments, make_positions])
def test_adam_sees_the_sum_over_all_occurrences_of_an_id(make):
    table = next(gradient for gradient in gradients_of(make("float32"), IDS) if float(gradient[1, 0]) == 2)
    variable = keras.Variable(np.zeros(table.shape), dtype="float32")
    (optimizer := keras.optimizers.Adam(beta_2=0.5)).apply([table], [variable])
    (velocity,) = (each for each in optimizer.variables if each.path.endswith("velocity"))
    assert np.asarray(velocity)[:3, 0].tolist() == [0, 2, 0.5]  # half of 2 squared, and of 1 squared


def test_the_table_of_a_relative_bias_has_a_dense_gradient():
    layer = layers.RelativePositionBias(2, num_buckets=4, max_distance=8, dtype="mixed_float16")
    (gradient,) = gradients_of(layer, np.arange(5, dtype="int32")[None])
    assert keras.ops.is_tensor(gradient)
    assert float(keras.ops.sum(gradient)) == 2 * 5 * 5


def test_gradients_of_a_position_that_many_rows_have_are_summed_in_float32():
    layer = layers.PositionEmbedding(2, 1, dtype="mixed_float16")
    (gradient,) = gradients_of(layer, np.zeros((3000, 1), "int32"))
    assert float(gradient[0, 0]) == 3000  # in float16 a sum of ones ends at 2048
