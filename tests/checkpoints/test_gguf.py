"""Tiny GGUF files, written with the package gguf as llama.cpp's converter does."""

import gguf
import numpy as np
import pytest
import torch

from keras_tfm.checkpoints import load, load_chat_template, load_tokenizer
from keras_tfm.checkpoints.gguf import HalvesOfHeads
from keras_tfm.tokenizers.byte_alphabet import BYTE_SYMBOLS
from tests.checkpoints.families import tiny
from tests.huggingface import logits_of

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
IDS = np.random.default_rng(0).integers(0, 29, (2, 9)).astype("int32")


def permuted(weight, num_heads):
    """llama.cpp's order of the rows of queries and keys."""
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(path, model, architecture="llama", changes=(), tensors=lambda tensors: tensors):
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(str(path), architecture)
    numbers = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 64,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.rope.dimension_count": config.hidden_size // config.num_attention_heads,
        **dict(changes),
    }
    for name, value in numbers.items():
        writer.add_uint32(name, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    tokens = [*BYTE_SYMBOLS, "ab", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0]['content'] + eos_token }}")
    held = {}
    for name, tensor in model.state_dict().items():
        *place, layer, _ = name.split(".")
        weight = tensor.detach().numpy()
        weight = permuted(weight, heads[layer]) if layer in heads else weight
        block = f"blk.{place[2]}." if "layers" in place else ""
        held[f"{block}{NAMES[layer]}.weight"] = weight
    for name, weight in tensors(held).items():
        writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=["llama2", "smollm"])
def case(request, tmp_path_factory):
    theirs = tiny(request.param)
    return theirs, write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", theirs)


def test_a_gguf_file_gives_the_logits_of_the_model_that_it_was_made_from(case):
    theirs, path = case
    np.testing.assert_allclose(load(path)(IDS), logits_of(theirs, IDS), atol=1e-5, rtol=1e-5)


def test_half_precision_is_dequantized(tmp_path):
    theirs = tiny("llama2")
    path = write(
        tmp_path / "half.gguf",
        theirs,
        tensors=lambda held: {k: v.astype("float16") if v.ndim == 2 else v for k, v in held.items()},
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.half().float())
    np.testing.assert_allclose(load(path)(IDS), logits_of(theirs, IDS), atol=1e-5, rtol=1e-5)


def test_tokenizer_and_chat_template_are_read(case):
    tokenizer = load_tokenizer(case[1])
    assert tokenizer.encode("xab<|im_end|>") == [BYTE_SYMBOLS.index("x"), 256, 257]
    assert tokenizer.end_of_text_id == 257
    assert load_chat_template(case[1])([{"role": "user", "content": "Hi"}]) == "Hi<|im_end|>"


def test_the_order_of_rows_is_invertible():
    rule = HalvesOfHeads("kernel", "heads")
    get = {"heads": 3}.get
    tensor = np.random.default_rng(0).normal(size=(12, 5))
    np.testing.assert_array_equal(rule.join(rule.split(tensor, get), get), tensor)


def test_files_that_are_not_supported_are_refused(tmp_path):
    theirs = tiny("llama2")
    with pytest.raises(ValueError, match="llama architecture. Received: 'mamba'"):
        load(write(tmp_path / "mamba.gguf", theirs, architecture="mamba"))
    with pytest.raises(ValueError, match="must be known. Received: expert_count=8"):
        load(write(tmp_path / "experts.gguf", theirs, changes={"llama.expert_count": 8}))
    with pytest.raises(ValueError, match="must turn. Received: rope.dimension_count=2"):
        load(write(tmp_path / "partial.gguf", theirs, changes={"llama.rope.dimension_count": 2}))
    path = write(tmp_path / "extra.gguf", theirs, tensors=lambda held: {**held, "more": np.zeros((2, 2), "float32")})
    with pytest.raises(ValueError, match=r"not used: more \(2, 2\)"):
        load(path)
    for name, content in {"short": path.read_bytes()[:200], "none": b"GGML", "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="whole GGUF file"):
            load(tmp_path / f"{name}.gguf")
