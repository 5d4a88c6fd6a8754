"""What `TokenEmbedding` does beside looking vectors up."""

import numpy as np
import pytest

from keras_tfm.layers import TokenEmbedding
from tests.harness import float32


def test_a_logit_cap_bounds_logits_smoothly():
    plain, capped = (TokenEmbedding(7, 4, logit_cap=cap, embeddings_initializer="ones") for cap in (None, 2.0))
    x = np.linspace(-3, 3, 12, dtype="float32").reshape(1, 3, 4)
    for layer in (plain, capped):
        layer.build((None, None))
    logits = float32(plain(x, reverse=True))
    np.testing.assert_allclose(float32(capped(x, reverse=True)), 2 * np.tanh(logits / 2), atol=1e-6)
    assert TokenEmbedding.from_config(capped.get_config()).logit_cap == 2.0
    with pytest.raises(ValueError, match="`logit_cap` must be positive. Received: logit_cap=-1"):
        TokenEmbedding(7, 4, logit_cap=-1)


def test_logits_are_scaled_and_have_a_bias_and_a_table_may_be_another_ones():
    one = TokenEmbedding(7, 4)
    one.build((None, None))
    other = TokenEmbedding(7, 4, logit_scale=0.5, logit_bias=True, table=one.embedding)
    other.build((None, None))
    bias = np.arange(7, dtype="float32")
    other.bias.assign(bias)
    x = np.ones((1, 2, 4), "float32")
    expected = 0.5 * float32(one(x, reverse=True)) + bias
    np.testing.assert_allclose(float32(other(x, reverse=True)), expected, rtol=1e-6)
    one.embedding.embeddings.assign(np.ones((7, 4)))
    np.testing.assert_array_equal(float32(other(np.array([[1]]))), np.ones((1, 1, 4)))
