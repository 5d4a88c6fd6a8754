"""Weights in 16, 8 and 4 bits multiply and are looked up as their floats say, on every backend."""

import keras
import numpy as np
import pytest

from keras_tfm.layers.weights import Bfloat16Rows, Int4Groups, Int8Rows, Int8RowsAndInputs

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(5, 40)).astype("float32")
X = RNG.normal(size=(2, 3, 40)).astype("float32")
# Of a sum of 40 products of size 1: what rounds inputs, too, is off by 40 roots of the step that it rounds to.
ERRORS = {Int8Rows: 1e-5, Int4Groups: 1e-5, Int8RowsAndInputs: 0.1, Bfloat16Rows: 0.1}


@pytest.mark.parametrize("kind", ERRORS)
def test_products_are_those_of_the_floats(kind):
    rounded = kind(*map(keras.ops.convert_to_tensor, kind.of(MATRIX)))
    floats = keras.ops.convert_to_numpy(rounded.floats(40))
    y = keras.ops.convert_to_numpy(rounded.product(keras.ops.convert_to_tensor(X)))
    np.testing.assert_allclose(y, X @ floats.T, rtol=0, atol=ERRORS[kind])


@pytest.mark.parametrize("kind", [Int8Rows, Int8RowsAndInputs, Bfloat16Rows])
def test_rows_are_those_of_the_floats(kind):
    rounded = kind(*map(keras.ops.convert_to_tensor, kind.of(MATRIX)))
    floats = keras.ops.convert_to_numpy(rounded.floats(40))
    rows = keras.ops.convert_to_numpy(rounded.rows(np.array([[3, 0], [4, 3]])))
    np.testing.assert_allclose(rows, floats[[[3, 0], [4, 3]]], rtol=1e-6)
