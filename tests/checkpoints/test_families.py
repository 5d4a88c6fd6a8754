"""Every family and variant: their checkpoint gives our model the same logits, and ours gives theirs the same."""

import json
import shutil

import numpy as np
import pytest
import transformers

from keras_tfm.checkpoints import filling, load, save
from keras_tfm.export.saved_model import DEFAULT_TOTAL_TOKENS, total_tokens_of
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


def test_a_served_model_has_the_limit_that_its_config_tells(case):
    theirs, _, ours = case
    told = getattr(theirs.config, "max_position_embeddings", DEFAULT_TOTAL_TOKENS)  # BLOOM's positions have no end
    assert total_tokens_of(ours) == told


def in_the_old_dialect(config: dict) -> dict:
    """What transformers 4 would have written."""
    config = dict(config)
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if rope := config.pop("rope_parameters", None):
        rope = dict(rope)
        is_neox = config["model_type"] == "gpt_neox"
        config["rotary_emb_base" if is_neox else "rope_theta"] = rope.pop("rope_theta")
        if (part := rope.pop("partial_rotary_factor", None)) is not None:
            config["rotary_pct"] = part
        kind = rope.pop("rope_type")
        name = "type" if kind == "linear" else "rope_type"  # transformers 4 itself had two
        config["rope_scaling"] = None if kind == "default" else {name: kind, **rope}
    return config


def test_the_dialect_of_transformers_4_gives_the_same_logits(case, tmp_path):
    theirs, folder, ours = case
    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    path.write_text(json.dumps(in_the_old_dialect(json.loads(path.read_text()))))
    assert "rope_parameters" not in path.read_text()
    old = load(tmp_path / "old")
    check_equal(old(TOKEN_IDS), logits_of(theirs, TOKEN_IDS))
    for first, second in zip(ours.weights, old.weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_reading_in_the_smallest_blocks_changes_nothing(case, monkeypatch):
    _, folder, ours = case
    monkeypatch.setattr(filling, "_BLOCK", 1)
    for first, second in zip(ours.weights, load(folder).weights, strict=True):
        np.testing.assert_array_equal(first, second)


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
