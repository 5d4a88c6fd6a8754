"""Whatever stands in a config.json: it is read, or refused with a ValueError that names the key."""

import contextlib
import copy
import json

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from keras_tfm.checkpoints import load
from keras_tfm.checkpoints.architecture import architecture_of, architectures_of, model_types
from keras_tfm.checkpoints.config_keys import read_config
from tests.checkpoints.families import FAMILIES, tiny
from tests.checkpoints.seq2seq_families import SEQ2SEQ, tiny_seq2seq
from tests.checkpoints.test_encoders import FAMILIES as ENCODERS
from tests.checkpoints.test_encoders import tiny as tiny_encoder
from tests.huggingface import logits_of

NONSENSE = (
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    10**400,
    float("inf"),
    float("nan"),
    "x",
    "",
    [],
    [1],
    [[1], [2]],
    {},
    {"a": 1},
)


def paths_of(config):
    for key, value in config.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in paths_of(value))


def changed(config, path, value):
    config = copy.deepcopy(config)
    target = config
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return config


def without(config, path):
    config = copy.deepcopy(config)
    target = config
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return config


def read(config):
    return read_config(architecture_of(config).config, config)


CONFIGS = {name: lambda name=name: tiny(name) for name in FAMILIES} | {
    name: lambda name=name: tiny_encoder(name, "ForSequenceClassification") for name in ENCODERS
}
CONFIGS |= {name: lambda name=name: tiny_seq2seq(name) for name in SEQ2SEQ}
SCALINGS = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {
        "original_max_position_embeddings": 16,
        "factor": 2.0,
        "beta_fast": 32,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
    "longrope": {"factor": 2.0, "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0], "attention_factor": 1.0},
}


def check_all_changes(config):
    read(config)
    for path in paths_of(config):
        for spoilt in (without(config, path), *(changed(config, path, value) for value in NONSENSE)):
            with contextlib.suppress(ValueError):
                read(spoilt)


@pytest.mark.parametrize("name", CONFIGS)
def test_nonsense_in_any_place_of_a_config_is_a_value_error(name):
    check_all_changes(json.loads(CONFIGS[name]().config.to_json_string()))


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("dialect", ["old", "new"])
def test_nonsense_in_any_place_of_a_scaling_is_a_value_error(kind, dialect):
    config = json.loads(tiny("llama2").config.to_json_string())
    parameters = {"rope_type": kind, **SCALINGS[kind]}
    config["rope_parameters"] = {**parameters, "rope_theta": 500.0} if dialect == "new" else None
    config |= {"rope_scaling": parameters, "rope_theta": 500.0} if dialect == "old" else {}
    check_all_changes(config)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gpt2", {"n_embd": [1], "n_inner": None}, "`n_embd`"),
        ("llama2", {"num_attention_heads": 0, "head_dim": None}, "`num_attention_heads`"),
        ("llama2", {"hidden_size": None, "head_dim": None}, "`hidden_size`"),
        ("llama2", {"rope_parameters": {"rope_type": "linear"}}, "'linear' must have .*'factor'"),
        ("llama2", {"rope_parameters": {"rope_theta": [1]}}, r"`rope_theta` .* Received: \[1\]"),
        ("llama2", {"rope_parameters": {"rope_theta": "x"}}, "`rope_theta` .* Received: 'x'"),
        ("llama2", {"rope_parameters": {"rope_type": ["x"]}}, r"`rope_type` .* Received: \['x'\]"),
        ("llama2", {"architectures": 5}, "`architectures` .* Received: 5"),
        ("llama2", {"attention_bias": "no"}, "`attention_bias` .* Received: 'no'"),
        ("qwen2_window", {"max_window_layers": "x", "layer_types": None}, "`max_window_layers` .* 'x'"),
        ("qwen2_window", {"layer_types": [[1], [2]]}, r"`layer_types` .* Received: \[\[1\], \[2\]\]"),
    ],
)
def test_the_key_is_named(name, config, message):
    with pytest.raises(ValueError, match=message):
        read({**json.loads(tiny(name).config.to_json_string()), **config})


@pytest.mark.parametrize("name", ["llama2", "qwen2_window", "gpt2"])
def test_keys_that_change_nothing_in_transformers_change_nothing_here(name):
    config = json.loads(tiny(name).config.to_json_string())
    more = {"auto_map": {"AutoModelForCausalLM": "code.Model"}}  # not run, without trust in remote code
    if name.startswith("qwen2"):
        more["attention_bias"] = False  # it has these biases all the same
    architecture = architecture_of(config)
    without_more, with_more = (read_config(architecture.config, each) for each in (config, {**config, **more}))
    for arguments in (without_more, with_more):
        arguments.pop("rotary", None)  # a layer, with a name of its own
    assert with_more == without_more


@pytest.mark.parametrize("key", ["odd", "layer_types", "hidden_act", "rope_parameters", "architectures", "model_type"])
def test_a_message_is_short_whatever_a_file_holds(key):
    config = json.loads(tiny("llama2").config.to_json_string())
    value = ["x" * 30] * 1000
    config[key] = {"rope_theta": value} if key == "rope_parameters" else value
    with pytest.raises(ValueError, match="Received: ") as caught:
        read(config)
    assert len(str(caught.value)) < 3000


def test_keys_that_are_absent_mean_what_transformers_means():
    sizes = {"vocab_size": 29, "num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 8}
    for kind, head_dim, heads in (("llama", 16, 16), ("mistral", 16, 8), ("qwen3", 128, 32)):
        config = {**sizes, "model_type": kind, "num_attention_heads": 16}
        arguments = read_config(architectures_of(kind)[0].config, config)
        assert (arguments["head_dim"], arguments["num_key_value_heads"]) == (head_dim, heads)
        arguments = read_config(architectures_of(kind)[0].config, {**config, "num_key_value_heads": None})
        assert arguments["num_key_value_heads"] == 16


@pytest.mark.parametrize("name", ["llama2", "gpt2", "qwen2"])
def test_keys_that_say_nothing_are_passed_over_and_others_are_not(name):
    config = json.loads(tiny(name).config.to_json_string())
    nothing = {"quantization_config": None, "is_encoder_decoder": False, "xla_device": True, "n_special": 0}
    if name == "llama2":
        nothing |= {"layer_types": ["full_attention"] * 2, "is_decoder": False, "sliding_window": None}
    kept, expected = read({**config, **nothing}), read(config)
    assert {**kept, "rotary": None} == {**expected, "rotary": None}
    for key, value in {"quantization_config": {}, "is_encoder_decoder": True, "brand_new": False, "zero": 0}.items():
        with pytest.raises(ValueError, match=f"must be known. Received: {key}={value}"):
            read({**config, key: value})


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_older_name_of_a_scaling_is_read_wherever_transformers_5_writes_it(kind):
    config = json.loads(tiny("llama2").config.to_json_string())
    expected = read({**config, "rope_parameters": {"rope_type": kind, **SCALINGS[kind]}})["rotary"].get_config()
    for names in ({"type": kind}, {"type": kind, "rope_type": kind}, {"type": "other", "rope_type": kind}):
        parameters = {**names, **SCALINGS[kind]}
        for changes in (
            {"rope_parameters": parameters},
            {"rope_parameters": None, "rope_scaling": parameters},
            {"rope_parameters": {**parameters, "rope_theta": 1e4}, "rope_theta": 1e4, "rope_scaling": parameters},
        ):
            actual = read({**config, **changes})["rotary"].get_config()
            assert {**actual, "name": None} == {**expected, "name": None}


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_what_transformers_5_makes_of_a_config_of_version_4_gives_its_logits(kind, tmp_path):
    theirs = tiny("llama2")
    theirs.save_pretrained(tmp_path / "4")
    config = json.loads((tmp_path / "4" / "config.json").read_text())
    scaling = {"type": kind, "factor": 4.0} | ({"original_max_position_embeddings": 16} if kind == "yarn" else {})
    config |= {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": scaling}
    (tmp_path / "4" / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "4").eval()
    theirs.save_pretrained(tmp_path / "5")
    assert json.loads((tmp_path / "5" / "config.json").read_text())["rope_parameters"]["type"] == kind
    ids = np.arange(24)[None] % 29
    np.testing.assert_allclose(load(tmp_path / "5")(ids), logits_of(theirs, ids), atol=1e-5, rtol=1e-5)


def test_null_means_the_default_of_a_setting_with_one_value(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    ids = np.arange(9)[None]
    expected = load(tmp_path)(ids)
    path.write_text(json.dumps({**config, "tie_word_embeddings": None, "name": "mine"}))
    np.testing.assert_array_equal(load(tmp_path)(ids), expected)


def test_a_family_that_is_no_string_is_refused(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    for kind in (None, 5, ["gpt2"]):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match="`model_type` .* one of"):
            load(tmp_path)
    assert "gpt2" in model_types()
