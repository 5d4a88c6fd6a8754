"""Shards, types, memory, and what survives a round trip beside the weights."""

import json

import numpy as np
import pytest
import torch
import transformers

from keras_tfm.checkpoints import load, save
from keras_tfm.models import build_gpt, build_llama
from tests.checkpoints.families import tiny
from tests.harness import fresh_process
from tests.huggingface import logits_of

IDS = np.random.default_rng(0).integers(0, 29, (2, 9)).astype("int32")


@pytest.fixture(scope="module")
def theirs():
    return tiny("llama3")


def test_shards_of_transformers_are_read(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    np.testing.assert_allclose(load(tmp_path)(IDS), logits_of(theirs, IDS), atol=1e-5, rtol=1e-5)


def test_shards_that_are_written_are_read_by_transformers(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours", max_shard_bytes=4000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_and_written_exactly(theirs, tmp_path, dtype):
    theirs.save_pretrained(tmp_path / "whole")
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=getattr(torch, dtype))
    half.save_pretrained(tmp_path / "half")
    ours = load(tmp_path / "half")
    assert {weight.dtype for weight in ours.weights} == {"float32"}
    np.testing.assert_allclose(ours(IDS), logits_of(half.float(), IDS), atol=1e-5, rtol=1e-5)
    save(ours, tmp_path / "again", dtype=dtype)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == dtype
    for first, second in zip(ours.weights, load(tmp_path / "again").weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_dtype_policy_can_be_asked_for(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", dtype="bfloat16")
    assert {weight.dtype for weight in ours.weights} == {"bfloat16"}
    assert ours(IDS).dtype == "bfloat16"
    assert load(tmp_path / "theirs")(IDS).dtype == "float32"


def test_what_a_config_says_beside_the_wiring_is_kept(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [3, 5], "max_position_embeddings": 77}))
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["eos_token_id"] == [3, 5]
    assert config["max_position_embeddings"] == 77


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_that_was_built_here_is_read_by_transformers(family, tmp_path):
    numbers = {"vocabulary_size": 29, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    if family == "gpt2":
        model = build_gpt(**numbers, max_sequence_length=16, dropout=0.1)
    else:
        model = build_llama(**numbers, num_key_value_heads=1, intermediate_dim=12)
    save(model, tmp_path / "saved")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert theirs.config.model_type == family
    np.testing.assert_allclose(model(IDS), logits_of(theirs, IDS), atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind_by_a_save_that_fails(tmp_path, monkeypatch):
    model = build_gpt(vocabulary_size=9, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=4)

    class Broken:
        def save(self, folder):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(model, tmp_path / "saved", tokenizer=Broken())
    assert not list(tmp_path.iterdir())


MEMORY = """
import resource, sys
import numpy as np
import keras_tfm as ktfm
from keras_tfm import checkpoints
from keras_tfm.models import build_llama

small = dict(vocabulary_size=9, num_layers=1, num_heads=2, num_key_value_heads=2, hidden_dim=8, intermediate_dim=8)
checkpoints.save(build_llama(**small), sys.argv[1] + "/small")
checkpoints.load(sys.argv[1] + "/small")(np.array([[1, 2]]))  # whatever is allocated once

def status(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) * 1024

open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
model = checkpoints.load(sys.argv[1] + "/big")
weights = 4 * sum(int(np.prod(weight.shape)) for weight in model.weights)
print((status("VmHWM") - before) / weights, weights)
"""
WRITE = """
import sys
from keras_tfm import checkpoints
from keras_tfm.models import build_llama
numbers = dict(vocabulary_size=16000, num_layers=6, num_heads=8, num_key_value_heads=8, hidden_dim=1024)
checkpoints.save(build_llama(**numbers, intermediate_dim=3072), sys.argv[1] + "/big")
"""


def test_loading_takes_at_most_1_3_times_the_memory_of_the_weights(tmp_path):
    fresh_process(WRITE, tmp_path)
    ratio, weights = map(float, fresh_process(MEMORY, tmp_path).split())
    assert weights > 400e6
    assert 1.0 < ratio < 1.3
