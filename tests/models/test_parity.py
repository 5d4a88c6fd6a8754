"""Our GPT and Llama are those of Hugging Face: the same weights give the same logits."""

import numpy as np
import pytest

from tests.huggingface import gpt2_pair, llama_pair, logits_of

# float32 in another order of summation; logits are of size 5.
TOLERANCE = 1e-5


def check_parity(theirs, ours, length=11):
    token_ids = np.random.default_rng(0).integers(0, 29, (3, length)).astype("int32")
    expected = logits_of(theirs, token_ids)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours(token_ids), expected, atol=TOLERANCE, rtol=TOLERANCE)

    mask = np.ones((3, length), bool)
    mask[0, :4] = False  # Hugging Face pads on the left
    padded = np.asarray(ours({"token_ids": token_ids, "padding_mask": mask}))
    np.testing.assert_allclose(padded[mask], logits_of(theirs, token_ids, mask)[mask], atol=TOLERANCE, rtol=TOLERANCE)


def test_gpt2_logits_equal_hugging_face():
    check_parity(*gpt2_pair())


@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
def test_llama_logits_equal_hugging_face(num_key_value_heads):
    check_parity(*llama_pair(num_key_value_heads=num_key_value_heads))


def test_llama_with_tied_weights_and_another_rotary_base_equals_hugging_face():
    check_parity(*llama_pair(num_key_value_heads=2, tie_weights=True, rope_theta=500.0))
