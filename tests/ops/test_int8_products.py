"""Products in 8 bits: the same numbers from oneDNN, from floats, and from NumPy."""

import keras
import numpy as np
import pytest

from keras_tfm.ops import int8_products

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow")


@pytest.fixture(scope="module")
def numbers():
    """(rows, weights, scale, their product in float64); 3,000 inputs, whose sums exceed what a float32 counts to."""
    rng = np.random.default_rng(0)
    rows, weights = (rng.integers(-127, 128, shape).astype("int8") for shape in ((4, 3000), (3000, 5)))
    scale = rng.uniform(0.1, 2, 5).astype("float32")
    return rows, weights, scale, rows.astype("float64") @ weights.astype("float64") * scale


def close_to(expected):
    return pytest.approx(expected, abs=1e-6 * np.abs(expected).max())


def test_products_of_floats_give_the_numbers(numbers):
    *arguments, expected = numbers
    assert keras.ops.convert_to_numpy(int8_products.int8_product(*arguments)) == close_to(expected)


@needs_tensorflow
@pytest.mark.parametrize("is_portable", [False, True])
def test_graphs_give_the_numbers_and_portable_ones_have_no_operation_of_onednn(numbers, is_portable):
    import tensorflow as tf

    from keras_tfm import compat

    rows, weights, scale, expected = numbers
    weights, scale = tf.Variable(weights), tf.Variable(scale)

    @tf.function(input_signature=[tf.TensorSpec([None, 3000], tf.int8)], autograph=False)
    def product(rows):
        return int8_products.int8_product(rows, weights, scale)

    if is_portable:
        with int8_products.portable_products():
            graph = product.get_concrete_function().graph
    else:
        graph = product.get_concrete_function().graph
    has_operation = "_QuantizedMatMul" in {operation.type for operation in graph.get_operations()}
    assert has_operation == (compat.has_int8_product() and not is_portable)
    for count in (1, 4):
        assert product(tf.constant(rows[:count])).numpy() == close_to(expected[:count])


@needs_tensorflow
def test_xla_takes_products_of_floats(numbers):
    import tensorflow as tf

    *arguments, expected = numbers
    product = tf.function(int8_products.int8_product, jit_compile=True)
    assert product(*map(tf.constant, arguments)).numpy() == close_to(expected)


def test_rows_are_rounded_each_by_its_own_scale():
    x = np.random.default_rng(0).normal(size=(5, 7)) * [[1e-3], [1], [100], [0], [5]]
    x = x.astype("float32")
    rows, step = map(keras.ops.convert_to_numpy, int8_products.round_rows(x))
    largest = np.abs(x).max(axis=1, keepdims=True)
    assert (np.abs(rows * step - x) <= 0.5001 * largest / 127 + 1e-30).all()
    assert np.abs(rows).max(axis=1).tolist() == [127, 127, 127, 0, 127]


def test_a_row_that_is_no_number_gives_none_and_leaves_the_others_alone(numbers):
    _, weights, scale, _ = numbers
    x = np.random.default_rng(0).normal(size=(2, 3000)).astype("float32")
    x[0, 0] = np.nan
    rows, step = int8_products.round_rows(x)
    y = keras.ops.convert_to_numpy(int8_products.int8_product(rows, weights, scale) * step)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


@needs_tensorflow
def test_a_row_that_is_no_number_gives_none_in_a_graph_too(numbers):
    import tensorflow as tf

    _, weights, scale, _ = numbers
    x = np.random.default_rng(0).normal(size=(4, 3000)).astype("float32")
    x[0, 1], x[1, -1], x[2] = np.nan, np.inf, 0

    @tf.function(autograph=False)
    def product(x):
        rows, step = int8_products.round_rows(x)
        return int8_products.int8_product(rows, weights, scale) * step

    y = product(tf.constant(x)).numpy()
    assert not np.isfinite(y[:2]).any()
    assert (y[2] == 0).all()
    expected = x[3] @ (weights * scale)
    assert y[3] == pytest.approx(expected, abs=float(0.05 * np.abs(expected).max()))
