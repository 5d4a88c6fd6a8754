"""Activations as the feed-forwards compute them: Keras' numbers, whatever the form."""

import keras
import numpy as np
import pytest

from keras_tfm.ops.activations import activate

X = np.linspace(-12, 12, 10001, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gelu_is_that_of_keras_up_to_rounding(dtype):
    x = keras.ops.cast(X, dtype)
    y = activate(keras.activations.gelu, x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    expected = keras.ops.cast(keras.activations.gelu(keras.ops.cast(x, "float32")), "float32")
    y, expected = (keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in (y, expected))
    relative, absolute = {"float32": (2e-7, 1e-6), "bfloat16": (2e-2, 1e-2), "float16": (2e-3, 1e-3)}[dtype]
    np.testing.assert_allclose(y, expected, rtol=relative, atol=absolute)


def test_other_activations_are_called_as_they_are():
    np.testing.assert_array_equal(activate(keras.activations.relu, X), keras.activations.relu(X))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow")
def test_gelu_of_float32_has_no_erfc_in_a_graph_and_its_gradient_is_right():
    import tensorflow as tf

    @tf.function(autograph=False)
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = activate(keras.activations.gelu, x)
        return tape.gradient(y, x)

    x = tf.constant(X)
    operations = {operation.type for operation in slope.get_concrete_function(x).graph.get_operations()}
    assert "Erf" in operations
    assert "Erfc" not in operations
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = keras.activations.gelu(x)
    np.testing.assert_allclose(slope(x), tape.gradient(y, x), atol=2e-6)
