"""The cases that Keras' own MultiHeadAttention handles right: layer against layer, with copied weights."""

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests.harness import float32

T, S, D, N, H = 6, 4, 8, 2, 5
X = np.random.default_rng(0).normal(size=(3, T, D)).astype("float32")
CONTEXT = np.random.default_rng(1).normal(size=(3, S, D)).astype("float32")
PADDING = np.array([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]], bool)
WHO = np.random.default_rng(2).random((3, T, T)) < 0.6
WHO[:, :, 0] = True  # nobody is left without a key: there Keras returns the mean of all values


def copied(layer, *shapes):
    """Keras' layer with the weights of ours."""
    rng = np.random.default_rng(3)
    layer.build(*shapes)
    layer.set_weights([rng.normal(size=weight.shape) * 0.5 for weight in layer.weights])
    theirs = keras.layers.MultiHeadAttention(N, H, use_bias=layer.use_bias)
    theirs.build(*(shapes if len(shapes) == 2 else shapes * 2))
    denses = layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense
    weights = [np.asarray(keras.ops.convert_to_numpy(weight)) for dense in denses for weight in dense.weights]
    theirs.set_weights([w.reshape(t.shape) for w, t in zip(weights, theirs.weights, strict=True)])
    return theirs


@pytest.mark.parametrize("method", ["plain", "lean"])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("case", ["all", "causal", "padding", "matrix", "causal_matrix", "per_head"])
def test_self_attention_equals_keras(method, use_bias, case):
    ours = layers.MultiHeadSelfAttention(N, head_dim=H, causal="causal" in case, use_bias=use_bias, method=method)
    theirs = copied(ours, X.shape)
    our_arguments, their_arguments, real = {}, {"use_causal_mask": "causal" in case}, slice(None)
    if case == "padding":
        our_arguments["mask"], real = PADDING, PADDING
        their_arguments["attention_mask"] = PADDING[:, None, :] & PADDING[:, :, None]
    if "matrix" in case:
        our_arguments["attention_mask"] = their_arguments["attention_mask"] = WHO
    if case == "per_head":
        mask = np.stack([WHO, WHO[::-1]], axis=1)
        our_arguments["attention_mask"] = their_arguments["attention_mask"] = mask
    y, expected = ours(X, **our_arguments), theirs(X, X, **their_arguments)
    np.testing.assert_allclose(float32(y)[real], float32(expected)[real], atol=1e-5)


@pytest.mark.parametrize("method", ["plain", "lean"])
def test_cross_attention_equals_keras(method):
    ours = layers.MultiHeadCrossAttention(N, head_dim=H, method=method)
    theirs = copied(ours, X.shape, CONTEXT.shape)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    y = ours(X, context=CONTEXT, context_mask=mask)
    expected = theirs(X, CONTEXT, attention_mask=np.repeat(mask[:, None], T, axis=1))
    np.testing.assert_allclose(float32(y), float32(expected), atol=1e-5)


@pytest.mark.parametrize("method", ["plain", "lean"])
def test_permuting_the_weights_of_heads_permutes_the_heads(method):
    layer = layers.MultiHeadSelfAttention(4, head_dim=3, causal=True, method=method)
    layer.build(X.shape)
    order = np.array([2, 0, 3, 1])
    columns = (order[:, None] * 3 + np.arange(3)).ravel()
    y = float32(layer(X))
    scores = None
    if method == "plain":
        scores = float32(layer(X, return_attention_scores=True)[1])
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
        dense.kernel.assign(keras.ops.convert_to_numpy(dense.kernel)[:, columns])
        dense.bias.assign(keras.ops.convert_to_numpy(dense.bias)[columns])
    layer.output_dense.kernel.assign(keras.ops.convert_to_numpy(layer.output_dense.kernel)[columns])
    np.testing.assert_allclose(float32(layer(X)), y, atol=1e-5)
    if method == "plain":
        np.testing.assert_allclose(float32(layer(X, return_attention_scores=True)[1]), scores[:, order], atol=1e-6)
