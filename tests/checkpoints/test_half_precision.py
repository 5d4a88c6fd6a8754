"""Checkpoints that are loaded in 16 bits write what their own forward passes say."""

import pytest

import keras_tfm as ktfm
from tests.checkpoints.families import FAMILIES, tiny
from tests.models.test_half_precision import PROMPT, check_greedy


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gpt2", "llama_biases", "qwen2", "gemma2", "pythia", "bloom", "mistral", "qwen3"])
@pytest.mark.usefixtures("without_xla")
def test_loaded_checkpoints_write(name, dtype, tmp_path):
    assert name in FAMILIES
    tiny(name).save_pretrained(tmp_path)
    model = ktfm.checkpoints.load(tmp_path, dtype=dtype)
    assert model.compute_dtype == dtype
    check_greedy(model, model.generate(PROMPT, max_new_tokens=6).token_ids[0].tolist(), dtype)
