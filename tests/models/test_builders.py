"""Sizes, initialisation and the errors of the builders."""

import keras
import numpy as np
import pytest

from keras_tfm.models import build_gpt, build_llama
from keras_tfm.models import gpt as gpt_module
from tests.models.tiny import GPT, LLAMA


def test_numbers_replace_those_of_the_row():
    model = build_gpt("nano", vocabulary_size=31, num_layers=1)
    assert model.vocabulary_size == 31
    assert len(model.stack.blocks) == 1
    assert model.stack.blocks[0].self_attention.num_heads == gpt_module.SIZES["nano"]["num_heads"]


def test_gpt_starts_as_gpt2_does():
    depth = 3
    model = build_gpt("nano", num_layers=depth, num_heads=2, hidden_dim=96, vocabulary_size=200)
    kernels = []
    for block in model.stack.blocks:
        attention, feed_forward = block.self_attention, block.feed_forward
        inner = [attention.query_dense, attention.key_dense, attention.value_dense, feed_forward.intermediate_dense]
        residual = [attention.output_dense, feed_forward.output_dense]
        for layers, deviation in ((inner, 0.02), (residual, 0.02 / (2 * depth) ** 0.5)):
            for layer in layers:
                kernel = np.asarray(layer.kernel)
                kernels.append(kernel / deviation)
                # 96 * 96 draws: the standard error of the deviation is 0.7 %, of the mean 1 %.
                assert abs(kernel.std() / deviation - 1) < 0.04
                assert abs(kernel.mean() / deviation) < 0.05
                assert not np.any(layer.bias)
        for norm in (block.attention_wrap.norm_before, block.feed_forward_wrap.norm_before):
            assert np.all(np.asarray(norm.gamma) == 1)
            assert np.all(np.asarray(norm.beta) == 0)
    for table in (model.token_embedding.embedding.embeddings, model.token_embedding.position.embeddings):
        assert abs(np.asarray(table).std() / 0.02 - 1) < 0.04
    corners = {round(float(kernel[0, 0]), 6) for kernel in kernels}
    assert len(corners) == len(kernels), "two layers drew the same weights"


def test_the_seed_decides_the_weights():
    models = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        models.append(np.asarray(build_llama(**LLAMA).weights[0]))
    np.testing.assert_array_equal(models[0], models[1])
    assert np.abs(models[0] - models[2]).max() > 1e-3


def test_llama_has_no_biases_and_gpt_has_no_second_head():
    assert not any("bias" in weight.path or "beta" in weight.path for weight in build_llama(**LLAMA).weights)
    assert build_gpt(**GPT).head is None
    assert build_llama(**LLAMA).head is not None
    assert build_llama(**LLAMA, tie_weights=True).head is None


def test_intermediate_dim_of_gpt_is_four_times_the_width_unless_given():
    assert build_gpt(**GPT).stack.blocks[0].feed_forward.intermediate_dim == 4 * GPT["hidden_dim"]
    assert build_gpt(**GPT, intermediate_dim=7).stack.blocks[0].feed_forward.intermediate_dim == 7


@pytest.mark.parametrize("build", [build_gpt, build_llama])
def test_unknown_sizes_are_refused_with_the_known_ones(build):
    with pytest.raises(ValueError, match=r"`size` must be one of \[.*'nano'.*Received: size='gpt5'"):
        build("gpt5")


def test_unknown_positions_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`position` must be one of .*'rotary'.*Received: position='absolute'"):
        build_gpt("nano", position="absolute")


@pytest.mark.parametrize(
    ("build", "numbers", "name"),
    [(build_gpt, GPT, "hidden_dim"), (build_llama, LLAMA, "num_key_value_heads")],
)
def test_missing_numbers_are_named(build, numbers, name):
    numbers = {key: number for key, number in numbers.items() if key != name}
    with pytest.raises(ValueError, match=rf"Received: size=None without \['{name}'\].*'nano'"):
        build(**numbers)


@pytest.mark.parametrize("wrong", [0, -3, 2.5, "8"])
def test_numbers_that_are_no_sizes_are_refused(wrong):
    with pytest.raises(
        ValueError, match=rf"`num_layers` must be an integer of at least 1. Received: num_layers={wrong!r}"
    ):
        build_gpt("nano", num_layers=wrong)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="Received: width=12, num_heads=5"):
        build_gpt(**{**GPT, "num_heads": 5})
    with pytest.raises(ValueError, match="Received: num_heads=4, num_key_value_heads=3"):
        build_llama(**{**LLAMA, "num_key_value_heads": 3})
