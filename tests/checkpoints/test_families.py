"""Every family and variant: their checkpoint gives our model the same logits, and ours gives theirs the same."""

import numpy as np
import pytest
import transformers

from keras_tfm.checkpoints import load, save
from tests.checkpoints.families import FAMILIES, tiny
from tests.huggingface import logits_of

# float32 in another order of summation; logits are of size 5.
TOLERANCE = 1e-5
TOKEN_IDS = np.random.default_rng(0).integers(0, 29, (3, 13)).astype("int32")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    """(Hugging Face's model, its folder, ours from there)."""
    theirs, folder = tiny(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, folder, load(folder)


def check_equal(actual, expected, mask=None):
    assert np.abs(expected).max() > 0.5
    mask = np.ones(TOKEN_IDS.shape, bool) if mask is None else mask
    np.testing.assert_allclose(np.asarray(actual)[mask], expected[mask], atol=TOLERANCE, rtol=TOLERANCE)


def test_a_loaded_model_gives_the_logits_of_transformers(case):
    theirs, _, ours = case
    check_equal(ours(TOKEN_IDS), logits_of(theirs, TOKEN_IDS))
    mask = np.ones(TOKEN_IDS.shape, bool)
    mask[0, :4] = False  # Hugging Face pads on the left
    check_equal(ours({"token_ids": TOKEN_IDS, "padding_mask": mask}), logits_of(theirs, TOKEN_IDS, mask), mask)


def test_a_saved_model_gives_the_logits_in_transformers(case, tmp_path):
    _, _, ours = case
    save(ours, tmp_path / "saved")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    check_equal(ours(TOKEN_IDS), logits_of(theirs, TOKEN_IDS))


def test_what_is_saved_is_loaded_again(case, tmp_path):
    _, _, ours = case
    save(ours, tmp_path / "saved")
    again = load(tmp_path / "saved")
    for first, second in zip(ours.weights, again.weights, strict=True):
        np.testing.assert_array_equal(first, second)
