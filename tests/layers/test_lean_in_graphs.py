"""Lean attention where TensorFlow runs it: in fit, in a loop, in a SavedModel of unknown lengths."""

import sys

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests.harness import float32, fresh_process

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs and SavedModels are TensorFlow's", allow_module_level=True)

import tensorflow as tf

D = 8
X = np.random.default_rng(0).normal(size=(2, 11, D)).astype("float32")


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(sys.modules["keras_tfm.ops.attention"], "QUERY_TILE", 4)
    monkeypatch.setattr(sys.modules["keras_tfm.ops.attention"], "KEY_TILE", 3)


def attention(method, **options):
    layer = layers.MultiHeadSelfAttention(2, causal=True, num_key_value_heads=1, method=method, **options)
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    layer.set_weights([0.5 * rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


def model_of(layer, length=None):
    inputs = keras.Input((length, D))
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("length", "jit_compile"),
    [(None, True), (11, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, False), (11, True)))],
)
def test_fit_has_the_losses_of_the_plain_method(jit_compile, length):
    losses = []
    for method in ("plain", "lean"):
        model = model_of(attention(method, dropout=0.2), length)
        model.compile(keras.optimizers.SGD(1e-2), "mse", jit_compile=jit_compile)
        keras.utils.set_random_seed(3)
        model.layers[-1].seed_generator.state.assign([1, 2])
        losses.append(model.fit(X, X, epochs=3, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow
def test_a_saved_model_takes_any_length(tmp_path):
    model = model_of(attention("auto"))  # the length is unknown: lean
    model.export(tmp_path / "model", verbose=False)
    expected = float32(model(X))
    np.savez(tmp_path / "arrays.npz", x=X, expected=expected)
    script = """
import sys
import numpy as np
import tensorflow as tf
arrays = np.load(sys.argv[1] + "/arrays.npz")
loaded = tf.saved_model.load(sys.argv[1] + "/model")  # kept: the function does not own its variables
serve = loaded.serve
# 1e-5: a graph and other sizes may sum in another order.
np.testing.assert_allclose(serve(arrays["x"]), arrays["expected"], atol=1e-5)
np.testing.assert_allclose(serve(arrays["x"][:1, :5]), arrays["expected"][:1, :5], atol=1e-5)
print("keras_tfm" in sys.modules)
"""
    assert fresh_process(script, tmp_path).strip() == "False"


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_runs_inside_a_loop(jit_compile):
    layers_ = {method: attention(method) for method in ("plain", "lean")}

    @tf.function(jit_compile=jit_compile)
    def three_times(x, method):
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, layers_[method](x)), (0, x))[1]

    np.testing.assert_allclose(three_times(X, "lean"), three_times(X, "plain"), atol=1e-5)
