"""Tiny GGUF files, written with the package gguf as llama.cpp's converter does."""

import io
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from keras_tfm.checkpoints import load, load_chat_template, load_tokenizer, save
from keras_tfm.checkpoints.gguf import HalvesOfHeads
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS
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
    get = {"heads": 3, "kernel": np.zeros((5, 12))}.get
    tensor = np.random.default_rng(0).normal(size=(12, 5))
    np.testing.assert_array_equal(rule.join(rule.split(tensor, get), get), tensor)


def test_the_divisors_of_llama_3_1_are_read(tmp_path):
    divisors = np.float32([1.0, 4.0])
    theirs = tiny("llama2")
    path = write(tmp_path / "a.gguf", theirs, tensors=lambda held: {**held, "rope_freqs.weight": divisors})
    theirs.model.rotary_emb.inv_freq /= torch.tensor(divisors)  # what llama.cpp does
    ours = load(path)
    np.testing.assert_allclose(ours(IDS), logits_of(theirs, IDS), atol=1e-5, rtol=1e-5)
    save(ours, tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(ours(IDS), logits_of(again, IDS), atol=1e-5, rtol=1e-5)


def test_the_suffix_may_be_in_capitals(case, tmp_path):
    shutil.copy(case[1], tmp_path / "TINY.GGUF")
    load(tmp_path / "TINY.GGUF")


def write_tokenizer(path, model="gpt2", words="smollm", tokens=(*BYTE_SYMBOLS, "ab"), merges=("a b",), **more):
    """A file with a tokenizer alone; `more` are fields by the end of their names."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(words)
    for name, values in {"tokens": tokens, "merges": merges, **more}.items():
        if isinstance(values, bool):
            writer.add_bool(f"tokenizer.ggml.{name}", values)
        elif isinstance(values, int):
            writer.add_uint32(f"tokenizer.ggml.{name}", values)
        elif values is not None:
            writer.add_array(f"tokenizer.ggml.{name}", list(values))
    writer.add_chat_template("{{ eos_token }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tokens_of_the_users_are_read_in_a_text_and_stay_in_the_answer(tmp_path):
    tokens = (*BYTE_SYMBOLS, "ab", "<think>", "<pad>")
    types = [1] * 257 + [4, 3]
    path = write_tokenizer(tmp_path / "a.gguf", tokens=tokens, token_type=types, padding_token_id=258)
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("<think><pad>") == [257, 258]
    assert tokenizer.decode([257, 258], skip_special_tokens=True) == "<think>"
    assert dict(tokenizer.checkpoint_roles) == {"pad_token": "<pad>"}
    assert tokenizer.encode("<pad>ab", allow_special=False)[-2:] == tokenizer.encode(">ab")


@pytest.mark.parametrize(("begins", "ends"), [(True, False), (False, True), (None, None)])
def test_files_say_what_is_put_around_a_text_and_a_saved_folder_says_it_too(tmp_path, begins, ends):
    flags = {"add_bos_token": begins, "add_eos_token": ends}
    more = {"token_type": [1] * 257 + [3, 3], "bos_token_id": 257, "eos_token_id": 258, **flags}
    tokenizer = load_tokenizer(
        write_tokenizer(tmp_path / "a.gguf", tokens=(*BYTE_SYMBOLS, "ab", "<s>", "</s>"), **more)
    )
    assert tokenizer.encode("ab") == [*([257] if begins else []), 256, *([258] if ends else [])]
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode("ab") == tokenizer.encode("ab")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": None}, "`tokenizer.ggml.tokens` .* list of str. Received: None"),
        ({"merges": None}, "`tokenizer.ggml.merges` .* list of str. Received: None"),
        ({"token_type": [1]}, "one value for each of the 257 tokens. Received: 1 values"),
        ({"eos_token_id": 9999}, "`tokenizer.ggml.eos_token_id` .* from 0 to 256. Received: 9999"),
        ({"model": "bert"}, "The model itself loads; its tokenizer may be had from"),
        ({"model": "gpt2", "words": "klingon"}, "Received: 'gpt2', cut as 'klingon'"),
        ({"model": "llama"}, "`tokenizer.ggml.scores` .* list of float. Received: None"),
    ],
)
def test_tokenizers_that_are_not_supported_are_refused(tmp_path, fields, message):
    path = write_tokenizer(tmp_path / "a.gguf", **fields)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)
    if "eos_token_id" in fields:
        with pytest.raises(ValueError, match=message):
            load_chat_template(path)


def test_a_sentence_piece_tokenizer_gives_the_ids_of_the_model_that_it_was_made_from(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
    lines, file = corpus.read_text(encoding="utf-8").splitlines(), io.BytesIO()
    user_defined = ["▁▁", "▁▁▁▁", "<i>"]
    sentencepiece.SentencePieceTrainer.train(
        user_defined_symbols=user_defined,
        sentence_iterator=iter(lines[:1500]),
        model_writer=file,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    pieces = range(theirs.vocab_size())
    kinds = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in pieces
    ]
    tokens = [theirs.id_to_piece(i) for i in pieces]
    for symbol in user_defined:  # with spaces, as llama.cpp writes them
        kinds[tokens.index(symbol)], tokens[tokens.index(symbol)] = 4, symbol.replace("▁", " ")
    path = write_tokenizer(
        tmp_path / "a.gguf",
        model="llama",
        tokens=tokens,
        scores=[theirs.get_score(i) for i in pieces],
        token_type=kinds,
        merges=None,
        unknown_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    ours, texts = load_tokenizer(path), [*lines[3000:4000], "naïve  日本", "two  spaces\t", "     five <i>x"]
    assert ours.encode(texts, add_special_tokens=False) == theirs.encode(texts)
    assert ours.encode("a") == [1, *theirs.encode("a")]  # unless the file denies it, as in llama.cpp
    assert ours.decode(ours.encode(texts[0]), skip_special_tokens=True) == texts[0]
    assert (ours.end_of_text_id, ours.begin_of_text_id) == (2, 1)
    assert ours.encode("</s>a", False) == [2, *theirs.encode("a")]  # control tokens are found, with a space after them
    ours.save(tmp_path)
    assert sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model")).encode(texts) == theirs.encode(texts)


def test_files_that_are_not_supported_are_refused(tmp_path):
    theirs = tiny("llama2")
    with pytest.raises(ValueError, match="llama architecture. Received: 'mamba'"):
        load(write(tmp_path / "mamba.gguf", theirs, architecture="mamba"))
    with pytest.raises(ValueError, match="`expert_count` of the config must be 0; .* Received: 8"):
        load(write(tmp_path / "experts.gguf", theirs, changes={"llama.expert_count": 8}))
    for key, value in {"rope.scale_linear": 2, "rope.scaling.factor": 4, "attention.causal": 0}.items():
        with pytest.raises(ValueError, match=f"`{key}` of the config must be .* Received: {value}"):
            load(write(tmp_path / "other.gguf", theirs, changes={f"llama.{key}": value}))
    neutral = {"expert_count": 0, "rope.scale_linear": 1, "attention.causal": 1, "rope.scaling.finetuned": 0}
    load(write(tmp_path / "neutral.gguf", theirs, changes={f"llama.{key}": value for key, value in neutral.items()}))
    with pytest.raises(ValueError, match="must turn. Received: rope.dimension_count=2"):
        load(write(tmp_path / "partial.gguf", theirs, changes={"llama.rope.dimension_count": 2}))
    path = write(tmp_path / "extra.gguf", theirs, tensors=lambda held: {**held, "more": np.zeros((2, 2), "float32")})
    with pytest.raises(ValueError, match=r"not used: more \(2, 2\)"):
        load(path)
    for name, content in {"short": path.read_bytes()[:200], "none": b"GGML", "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="whole GGUF file"):
            load(tmp_path / f"{name}.gguf")
