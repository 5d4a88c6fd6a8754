"""Rotary scalings: Hugging Face's frequencies and factors, row by row, and through the layer."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from keras_tfm import layers
from tests.harness import check_config, float32

HEAD_DIM, THETA, ORIGINAL = 32, 10_000.0, 64
FACTORS = np.linspace(1.0, 3.0, HEAD_DIM // 2).tolist()
CASES = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, layers.LinearScaling(4.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, layers.DynamicNtkScaling(2.0, ORIGINAL)),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
        layers.YarnScaling(4.0, ORIGINAL),
    ),
    "yarn_magnitudes": (
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": ORIGINAL,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
        },
        layers.YarnScaling(40.0, ORIGINAL, beta_fast=16.0, beta_slow=2.0, magnitude=0.7, magnitude_all_dims=1.3),
    ),
    "yarn_not_truncated": (
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": ORIGINAL,
            "truncate": False,
            "attention_factor": 1.5,
        },
        layers.YarnScaling(8.0, ORIGINAL, truncate=False, fixed_attention_factor=1.5),
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": ORIGINAL,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        layers.Llama3Scaling(8.0, ORIGINAL),
    ),
    "longrope": (
        {
            "rope_type": "longrope",
            "factor": 8.0,
            "original_max_position_embeddings": ORIGINAL,
            "short_factor": FACTORS,
            "long_factor": FACTORS[::-1],
        },
        layers.LongRopeScaling(FACTORS, FACTORS[::-1], ORIGINAL, factor=8.0),
    ),
}


def huggingface(parameters, length):
    config = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=ORIGINAL,
        rope_parameters={"rope_theta": THETA, **parameters},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=length)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("length", [5, ORIGINAL, ORIGINAL + 1, 4 * ORIGINAL])
@pytest.mark.parametrize("name", CASES)
def test_frequencies_and_attention_factor_equal_those_of_hugging_face(name, length):
    parameters, scaling = CASES[name]
    expected, factor = huggingface(parameters, length)
    frequencies = float32(scaling.inverse_frequencies(HEAD_DIM, THETA, ops.arange(length, dtype="int32")[None]))
    np.testing.assert_allclose(np.ravel(frequencies), expected, atol=1e-6, rtol=1e-6)
    assert scaling.attention_factor == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_row_is_scaled_by_its_own_length(name):
    rotary = layers.RotaryEmbedding(scaling=CASES[name][1])
    x = np.random.default_rng(0).normal(size=(2, 1, 2 * ORIGINAL, HEAD_DIM)).astype("float32")
    positions = np.tile(np.arange(2 * ORIGINAL, dtype="int32"), (2, 1))
    positions[1, 10:] = -1
    both = float32(rotary(x, positions=positions))
    alone = float32(rotary(x[1:, :, :10], positions=positions[1:, :10]))
    np.testing.assert_allclose(both[1:, :, :10], alone, atol=1e-6)
    unscaled = float32(layers.RotaryEmbedding()(x, positions=positions)) * CASES[name][1].attention_factor
    assert np.abs(both[0] - unscaled[0]).max() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_scalings_survive_json_and_the_layer_turns_by_the_scaled_angle(name):
    scaling = CASES[name][1]
    rotary = layers.RotaryEmbedding(max_wavelength=THETA, scaling=scaling)
    check_config(rotary)
    revived = layers.RotaryEmbedding.from_config(json.loads(json.dumps(rotary.get_config())))
    assert revived.scaling == scaling
    x = np.zeros((1, 1, 3, HEAD_DIM), "float32")
    x[..., : HEAD_DIM // 2] = 1.0  # the first of each pair: turned to (cos, sin)
    positions = np.array([[0, 1, 2]], "int32")
    frequencies = np.ravel(float32(scaling.inverse_frequencies(HEAD_DIM, THETA, ops.convert_to_tensor(positions))))
    y = float32(revived(x, positions=positions))[0, 0]
    angles = positions[0][:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], -1) * scaling.attention_factor
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_scalings_go_by_the_names_of_hugging_face():
    assert layers.get_rotary_scaling("linear", factor=2.0) == layers.LinearScaling(2.0)
    with pytest.raises(ValueError, match="must be one of .*'yarn'.*Received: 'su'"):
        layers.get_rotary_scaling("su", factor=2.0)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="`factor` must be at least 1. Received: factor=0.5"):
        layers.LinearScaling(0.5)
    with pytest.raises(ValueError, match="`beta_fast` must be greater than `beta_slow`.*beta_fast=1.0, beta_slow=2.0"):
        layers.YarnScaling(2.0, 64, beta_fast=1.0, beta_slow=2.0)
    with pytest.raises(
        ValueError, match="`high_frequency_factor` must be greater.*Received: high_frequency_factor=1.0"
    ):
        layers.Llama3Scaling(high_frequency_factor=1.0)
    with pytest.raises(ValueError, match="Received: 2 and 1 numbers"):
        layers.LongRopeScaling((1.0, 2.0), (1.0,), 64)
    rotary = layers.RotaryEmbedding(scaling=layers.LongRopeScaling((1.0,), (1.0,), 64))
    with pytest.raises(ValueError, match="each of the 2 pairs.*Received: 1 numbers"):
        rotary(keras.ops.ones((1, 1, 1, 4)), positions=np.array([[0]], "int32"))
