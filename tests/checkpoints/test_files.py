"""Shards, types, memory, and what survives a round trip beside the weights."""

import json

import gguf
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
import sys
import numpy as np
from keras_tfm import checkpoints
from keras_tfm.models import build_llama

path, dtype = sys.argv[1:]
small = dict(vocabulary_size=9, num_layers=1, num_heads=2, num_key_value_heads=2, hidden_dim=8, intermediate_dim=8)
checkpoints.save(build_llama(**small), f"{path}.{dtype}.small")
checkpoints.load(f"{path}.{dtype}.small", dtype=dtype)(np.array([[1, 2]]))  # whatever is allocated once

def status(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) * 1024

open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
model = checkpoints.load(path, dtype=dtype)
weights = (4 if dtype == "float32" else 2) * sum(int(np.prod(weight.shape)) for weight in model.weights)
print((status("VmHWM") - before) / weights, weights)
"""
WRITE = """
import sys
from keras_tfm import checkpoints
from keras_tfm.models import build_gpt_neox, build_llama

numbers = dict(num_layers=6, num_heads=8, num_key_value_heads=8, hidden_dim=1024, intermediate_dim=3072)
checkpoints.save(build_llama(vocabulary_size=16000, **numbers), sys.argv[1] + "/llama")
neox = build_gpt_neox("pythia_70m")  # embedding and head, which is not tied, are a third of the weights each
checkpoints.save(neox, sys.argv[1] + "/neox")
checkpoints.save(neox, sys.argv[1] + "/neox_half", dtype="float16")
checkpoints.save(neox, sys.argv[1] + "/neox_brain", dtype="bfloat16")
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A folder with large checkpoints."""
    folder = tmp_path_factory.mktemp("big")
    fresh_process(WRITE, folder)
    return folder


def check_memory(path, dtype, least_bytes):
    ratio, weights = map(float, fresh_process(MEMORY, path, dtype).split())
    assert weights > least_bytes
    assert 1.0 < ratio < 1.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", "float32"),
        ("neox", "float32"),
        ("neox", "bfloat16"),
        ("neox_half", "float32"),
        ("neox_half", "float16"),
        ("neox_brain", "bfloat16"),
    ],
)
def test_loading_takes_at_most_1_3_times_the_memory_of_the_weights(big, name, dtype):
    check_memory(big / name, dtype, 130e6)


@pytest.mark.slow
def test_loading_a_quantized_gguf_takes_at_most_1_3_times_the_memory_of_the_weights(tmp_path):
    """SmolLM2's vocabulary and width, and as many entries in the header."""
    vocabulary, width, hidden, layers = 49_152, 576, 1536, 4
    writer = gguf.GGUFWriter(str(tmp_path / "big.gguf"), "llama")
    sizes = {"block_count": layers, "embedding_length": width, "feed_forward_length": hidden}
    for name, number in {**sizes, "attention.head_count": 9, "attention.head_count_kv": 3}.items():
        writer.add_uint32(f"llama.{name}", number)
    writer.add_token_list([f"token {i}" for i in range(vocabulary)])
    writer.add_token_merges([f"a b{i}" for i in range(vocabulary)])
    shapes = {"token_embd": (vocabulary, width), "output": (vocabulary, width), "output_norm": (width,)}
    for i in range(layers):
        kernels = {"attn_q": (width, width), "attn_k": (192, width), "attn_v": (192, width)}
        kernels |= {"attn_output": (width, width), "ffn_gate": (hidden, width), "ffn_up": (hidden, width)}
        kernels |= {"ffn_down": (width, hidden), "attn_norm": (width,), "ffn_norm": (width,)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in kernels.items()}
    for name, shape in shapes.items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, "float32"))
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(np.ones(shape, "float32"), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_memory(tmp_path / "big.gguf", "float32", 250e6)
