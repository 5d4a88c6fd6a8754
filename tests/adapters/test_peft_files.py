"""Adapters in peft's files: what peft saves computes the same here, and what is saved here the same there."""

import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters, checkpoints
from keras_tfm.models import build_t5

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from tests.checkpoints.families import FAMILIES  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 29, (2, 9))
ATTENTION = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama2": ["q_proj", "v_proj", "down_proj"],
    "pythia": ["query_key_value", "dense", "dense_4h_to_h"],
}
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {r"^.*\.1\.[a-z_.]+": 3}, "alpha_pattern": {r"^.*\.0\.[a-z_.]+": 5}},
    "whole": {"modules_to_save": ["lm_head"]},
}


def theirs(family, folder):
    kind, numbers = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**numbers)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def disturbed(model):
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name or "ia3_" in name or "modules_to_save" in name:
            weight.data = weight.data + 0.3 * torch.rand_like(weight)
    return model


IA3 = {
    "gpt2": ("c_attn", "mlp.c_proj"),
    "llama2": ("k_proj", "down_proj"),
    "pythia": ("query_key_value", "dense_4h_to_h"),
}
CASES = [(family, kind) for kind in KINDS for family in ATTENTION if kind != "whole" or family == "llama2"]
CASES += [(family, "ia3") for family in IA3]


def read_and_saved_again(folder, expected, *name, num_before=0):
    """Our model with the adapter of peft; it gives these logits, as peft's does with what we save of it."""
    model = checkpoints.load(folder / "base")
    before = ops.convert_to_numpy(model(IDS))
    adapters.load(model, folder / "adapter", *name)
    found = ops.convert_to_numpy(model(IDS))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - before).max() > 1e-3

    adapters.save(model, folder / "again")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    again = peft.PeftModel.from_pretrained(base, folder / "again")
    np.testing.assert_allclose(logits(again.eval())[:, num_before:], expected, atol=1e-5)
    return model


# What peft warns of: Conv1D lies the other way, transformers renames an argument.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("family", "kind"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[1] not in ("lora", "ia3"))) for case in CASES],
)
def test_what_peft_saves_is_read_and_comes_back(family, kind, tmp_path):
    base = theirs(family, tmp_path / "base")
    if kind == "ia3":
        config = peft.IA3Config(target_modules=list(IA3[family]), feedforward_modules=[IA3[family][1]])
    else:
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=ATTENTION[family], **KINDS[kind])
    expected_model = disturbed(peft.get_peft_model(base, config)).eval()
    expected_model.save_pretrained(tmp_path / "adapter")
    expected = logits(expected_model)

    model = read_and_saved_again(tmp_path, expected, "theirs")
    adapters.merge(model)
    checkpoints.save(model, tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(logits(merged.eval()), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "family", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama2", "gemma2"))]
)
def test_virtual_tokens_are_read_and_come_back(family, tmp_path):
    base = theirs(family, tmp_path / "base")
    expected_model = peft.get_peft_model(base, peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3)).eval()
    expected_model.save_pretrained(tmp_path / "adapter")
    model = read_and_saved_again(tmp_path, logits(expected_model)[:, 3:], num_before=3)
    config = tmp_path / "again" / "adapter_config.json"
    config.write_text(config.read_text().replace('"num_virtual_tokens": 3', '"num_virtual_tokens": 4'))
    with pytest.raises(ValueError, match=r"must be \{'prompt_embeddings': \(4, .*Received .*\(3, "):
        adapters.load(model, tmp_path / "again", "other")


def test_an_encoder_decoder_whose_tensor_map_is_a_function(tmp_path):
    model = build_t5(vocabulary_size=29, num_layers=1, num_heads=2, head_dim=4, hidden_dim=8, intermediate_dim=16)
    adapters.add_lora(model, rank=2)
    before = adapters_of(model)
    for lora in before:
        lora.up.assign(np.random.default_rng(1).normal(size=lora.up.shape))
    adapters.save(model, tmp_path / "adapter")
    adapters.remove(model)
    adapters.load(model, tmp_path / "adapter")
    assert len(before) == 6  # of queries and values of both attentions of the decoder, and of the encoder's
    for lora, expected in zip(adapters_of(model), before, strict=True):
        for name in ("down", "up"):
            np.testing.assert_array_equal(*(ops.convert_to_numpy(getattr(x, name)) for x in (lora, expected)))


def test_a_kind_that_peft_does_not_know_is_refused(tmp_path):
    model = build_t5(vocabulary_size=29, num_layers=1, num_heads=2, head_dim=4, hidden_dim=8, intermediate_dim=16)
    adapters.add_bottlenecks(model, 2)
    with pytest.raises(ValueError, match=r"LoRA, IA3 or virtual tokens for peft's files. Received: \['Bottleneck'\]"):
        adapters.save(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def adapters_of(model):
    return [lora for projection in adapters.projections_of(model).values() for lora in projection.adapters]
