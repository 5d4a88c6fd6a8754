"""Nothing is passed over in silence, and bad files are refused before memory is taken."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_tfm.checkpoints import load, save
from keras_tfm.checkpoints.wiring import difference
from keras_tfm.models import build_gpt, build_llama
from tests.checkpoints.families import tiny


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    tiny("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny("llama3").save_pretrained(folder)
    return folder


@pytest.fixture
def changed(gpt2, llama, tmp_path):
    """(family, changes of config.json, function on the dict of tensors) -> a changed copy of the folder."""

    def change(family="gpt2", config=(), tensors=None):
        folder = tmp_path / "changed"
        shutil.copytree({"gpt2": gpt2, "llama": llama}[family], folder)
        document = json.loads((folder / "config.json").read_text())
        document.update(config)
        (folder / "config.json").write_text(json.dumps(document))
        if tensors is not None:
            held = load_file(folder / "model.safetensors")
            save_file(tensors(held) or held, folder / "model.safetensors")
        return folder

    return change


def test_tensors_and_variables_that_do_not_fit_are_all_listed(changed):
    def spoil(tensors):
        tensors["transformer.h.0.extra"] = np.zeros((2, 3), "float32")
        del tensors["transformer.h.1.ln_1.bias"]
        tensors["transformer.wpe.weight"] = np.zeros((9, 12), "float32")

    with pytest.raises(ValueError, match="each used once") as error:
        load(changed(tensors=spoil))
    text = str(error.value)
    assert "1 tensors are missing: transformer.h.1.ln_1.bias (12,)" in text
    assert "1 tensors were not used: transformer.h.0.extra (2, 3)" in text
    assert "1 tensors have another shape: transformer.wpe.weight must be (16, 12), is (9, 12)" in text


def test_a_variable_without_a_tensor_in_the_map_is_named(gpt2, monkeypatch):
    from keras_tfm.checkpoints.families import gpt2 as family

    without = {name: rule for name, rule in family.TENSORS.items() if "ln_f.bias" not in name}
    architecture = family.ARCHITECTURES[0].__class__(**{**vars(family.ARCHITECTURES[0]), "tensors": without})
    monkeypatch.setattr(family, "ARCHITECTURES", (architecture,))
    with pytest.raises(ValueError, match=r"1 variables of the model got no value: .*beta \(12,\)"):
        load(gpt2)


def test_masks_that_old_versions_saved_are_skipped_and_the_prefix_may_be_missing(changed, gpt2):
    def age(tensors):
        old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        old["h.0.attn.bias"] = np.ones((1, 1, 16, 16), "float32")
        old["h.1.attn.masked_bias"] = np.float32([-1e4])
        return old

    folder = changed(config={"architectures": ["GPT2Model"]}, tensors=age)
    for first, second in zip(load(folder).weights, load(gpt2).weights, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_masks_that_nobody_reads_may_be_of_any_type(gpt2, changed, dtype):
    def age(tensors):
        tensors["transformer.h.0.attn.bias"] = np.ones((1, 1, 16, 16), dtype)

    for first, second in zip(load(changed(tensors=age)).weights, load(gpt2).weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_tied_head_that_is_held_twice_must_be_the_same(changed):
    def tie(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()

    def untie(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1

    folder = changed(tensors=tie)
    load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="differ .*tie_word_embeddings.*: lm_head.weight and transformer.wte.weight"):
        load(changed(tensors=untie))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"brand_new_key": 1}, r"must be known. Received: brand_new_key=1.*ignore=\('brand_new_key',\)"),
        ({"vocab_size": 10**12}, "`vocab_size` .* from 1 to 2147483647. Received: 1000000000000"),
        ({"vocab_size": 10**9}, r"wte.weight must be \(1000000000, 12\), is \(29, 12\)"),
        ({"n_layer": 10**9}, "`n_layer` .* from 1 to 10000. Received: 1000000000"),
        ({"n_layer": 9000}, "Received: 9000 layers and 28 tensors"),
        ({"n_embd": "12"}, "`n_embd` .* integer.* Received: '12'"),
        ({"n_head": -3}, "Received: -3"),
        ({"layer_norm_epsilon": 0}, "`layer_norm_epsilon` .* positive number. Received: 0"),
        ({"activation_function": "swiglu"}, "`activation_function` .* one of .*gelu_new.* Received: 'swiglu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "must be False; .* Received: True"),
        ({"model_type": "mamba"}, r"must be one of \['bert'.*'gpt2'.* Received: 'mamba'|must be one of .*'mamba'"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, r"GPT2LMHeadModel.* Received: \['GPT2ForSequence"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(changed, config, message):
    with pytest.raises(ValueError, match=message):
        load(changed(config=config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": None, "rope_scaling": {"type": "magic", "factor": 2.0}}, "'llama3'.* Received: 'magic'"),
        ({"rope_theta": 7.0}, "must say the same. Received: rope_theta=500.0 and 7.0"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "spin": 3}},
            "must be known. Received: {'spin': 3}",
        ),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "no others. Received: {'factor': 2.0}"),
        ({"rope_parameters": [1]}, r"must be an object. Received: \[1\]"),
        ({"tie_word_embeddings": "yes"}, "true or false. Received: 'yes'"),
        ({"num_attention_heads": 0}, "Received: 0"),
        ({"hidden_act": "relu"}, "`hidden_act` .* 'silu'.* Received: 'relu'"),
        ({"hidden_size": None}, "must have `hidden_size`"),
    ],
)
def test_a_config_of_llama_that_is_not_supported_is_refused(changed, config, message):
    with pytest.raises(ValueError, match=message):
        load(changed("llama", config))


def test_keys_that_the_caller_vouches_for_are_passed_over(gpt2, changed):
    folder = changed(config={"brand_new_key": 1})
    with pytest.raises(ValueError, match="brand_new_key"):
        load(folder)
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(load(folder, ignore=("brand_new_key",))(ids), load(gpt2)(ids))


def test_both_dialects_of_rotary_parameters_give_the_same_model(llama, changed):
    rope = json.loads((llama / "config.json").read_text())["rope_parameters"]
    old = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": "float32", "dtype": None}
    folder = changed("llama", {**old, "rope_parameters": None})
    ids = np.arange(20)[None] % 29
    np.testing.assert_array_equal(load(folder)(ids), load(llama)(ids))


def test_options_of_the_builder_are_passed_on_and_those_of_the_config_refused(gpt2):
    model = load(gpt2, dropout=0.25, remat=True)
    assert model.stack.blocks[0].dropout == 0.25
    assert model.stack.remat
    with pytest.raises(ValueError, match=r"decides \['num_layers'\]"):
        load(gpt2, num_layers=3)


def test_a_truncated_or_corrupted_file_is_refused(changed):
    folder = changed()
    whole = (folder / "model.safetensors").read_bytes()
    for spoilt in (whole[:-4], whole[:100], b"", b"\xff" * 16 + whole[16:], whole[:8] + b"[" + whole[9:]):
        (folder / "model.safetensors").write_bytes(spoilt)
        with pytest.raises(ValueError, match=rf"whole safetensors file. Received: {len(spoilt):,} bytes"):
            load(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "m.bin"]
)
def test_an_index_may_name_files_of_its_folder_only(changed, name):
    folder = changed()
    index = {"weight_map": {"transformer.wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"of its own folder. Received: .*reaches for files elsewhere"):
        load(folder)


def test_a_folder_with_a_whole_file_and_shards_is_refused(changed):
    folder = changed()
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="with both, which may be two states of a model"):
        load(folder)
    (folder / "model.safetensors").unlink()
    load(folder)


@pytest.mark.parametrize("weight_map", [{"nonsense": "model.safetensors"}, {"a": 5}, {"a": None}])
def test_an_index_must_name_what_is_there(changed, weight_map):
    folder = changed()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"model.safetensors.index.json .*names? .*Received: .*(nonsense|'5'|'None')"):
        load(folder)


def test_pickles_are_refused_with_advice(changed):
    folder = changed()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(ValueError, match=r"Received: pytorch_model.bin. Pickles run code.*save_pretrained"):
            load(path)
    (folder / "pytorch_model.bin").rename(folder / "tf_model.h5")
    with pytest.raises(ValueError, match=r"Received: tf_model.h5. .* before version 5: .*from_tf=True"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_in_the_place_of_a_folder_is_refused_with_advice(gpt2, name):
    with pytest.raises(ValueError, match=rf"Received: .*{name}. Pass its folder, '{gpt2}'"):
        load(gpt2 / name)


def test_missing_files_are_named(changed, tmp_path):
    folder = changed()
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold model.safetensors .* without these"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(FileNotFoundError, match="no .*gone.safetensors"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ValueError, match="must have a `weight_map`. Received: weight_map={}"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold config.json. Received: .*without it\.$"):
        load(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="an adapter: load its base model"):
        load(folder)
    with pytest.raises(FileNotFoundError, match="must exist. Received: .*nowhere"):
        load(tmp_path / "nowhere" / "at" / "all")


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(changed, content):
    folder = changed()
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"config.json must .*Received"):
        load(folder)


@pytest.mark.parametrize(("dtype", "name"), [("int8", "I8"), ("int64", "I64"), ("bool", "BOOL"), ("float64", "F64")])
def test_weights_of_other_types_are_refused(changed, dtype, name):
    def quantize(tensors):
        tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"].astype(dtype)

    with pytest.raises(ValueError, match=rf"Received: 'transformer.wte.weight' in model.safetensors of type {name}\."):
        load(changed(tensors=quantize))


def test_a_model_of_no_family_is_not_saved(tmp_path):
    numbers = {"vocabulary_size": 9, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    sinusoidal = build_gpt(**numbers, max_sequence_length=8, position="sinusoidal")
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel: another kind of model(.|\n)*LlamaForCausalLM: "):
        save(sinusoidal, tmp_path / "saved")
    relative = build_gpt(**numbers, max_sequence_length=8, position="alibi")
    with pytest.raises(ValueError, match=r"BloomForCausalLM: .*token_embedding.norm is None, must be {"):
        save(relative, tmp_path / "saved", architecture="BloomForCausalLM")
    llama = build_llama(**numbers, num_key_value_heads=2, intermediate_dim=8, query_key_norm=True, windows=(4, None))
    with pytest.raises(ValueError, match="LlamaForCausalLM: `windows` must be"):
        save(llama, tmp_path / "saved", architecture="LlamaForCausalLM")
    with pytest.raises(ValueError, match="`architecture` must be one of .* Received: 'Llama'"):
        save(llama, tmp_path / "saved", architecture="Llama")
    with pytest.raises(ValueError, match="Received: dtype='int8'"):
        save(llama, tmp_path / "saved", dtype="int8")
    assert not list(tmp_path.iterdir())


def test_a_frozen_part_is_no_other_wiring_and_a_quantized_one_is():
    numbers = {"vocabulary_size": 9, "max_sequence_length": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    model, other = build_gpt(**numbers), build_gpt(**numbers)
    model.stack.blocks[0].self_attention.query_dense.trainable = False
    assert difference(model, other) is None
    model.stack.blocks[0].self_attention.query_dense.quantize("int8")
    assert "parts_quantized" in difference(model, other)


def test_weights_that_are_too_large_for_half_precision_are_not_saved(tmp_path):
    model = build_gpt(vocabulary_size=9, max_sequence_length=8, num_layers=1, num_heads=2, hidden_dim=8)
    model.token_embedding.embedding.embeddings.assign(np.full((9, 8), 1e6))
    with pytest.raises(ValueError, match="at most 65,504 .* Received: 1,000,000 in 'transformer.wte.weight'"):
        save(model, tmp_path / "saved", dtype="float16")
    assert not list(tmp_path.iterdir())
    save(model, tmp_path / "saved", dtype="bfloat16")


def test_the_home_folder_may_be_written_as_a_tilde(gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(load(gpt2), "~/saved")
    load("~/saved")
    assert (tmp_path / "saved" / "config.json").is_file()


def test_a_folder_that_exists_is_not_overwritten(gpt2, tmp_path):
    with pytest.raises(FileExistsError, match="must not exist yet"):
        save(load(gpt2), tmp_path)
