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
