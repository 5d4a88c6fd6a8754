"""The rows of the builders' tables have the published number of parameters; nothing is allocated."""

import pytest

from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.models import (
    build_bart,
    build_bloom,
    build_gemma2,
    build_gpt,
    build_gpt_neox,
    build_llama,
    build_marian,
    build_t5,
    build_transformer,
)
from keras_tfm.models import gemma as gemma_module


@pytest.mark.parametrize(
    ("build", "size", "count"),
    [
        (build_gpt, "gpt2_small", 124_439_808),
        (build_gpt, "gpt2_medium", 354_823_168),
        (build_gpt, "gpt2_large", 774_030_080),
        (build_gpt, "gpt2_xl", 1_557_611_200),
        (build_llama, "llama2_7b", 6_738_415_616),
        (build_llama, "llama3_8b", 8_030_261_248),
        (build_gpt_neox, "pythia_70m", 70_426_624),
        (build_gpt_neox, "pythia_160m", 162_322_944),
        (build_gpt_neox, "pythia_410m", 405_334_016),
        (build_gpt_neox, "pythia_1b", 1_011_781_632),
        (build_bloom, "bloom_560m", 559_214_592),
        (build_bloom, "bloom_1b1", 1_065_314_304),
        (build_bloom, "bloom_3b", 3_002_557_440),
        (build_gemma2, "gemma2_2b", 2_614_341_888),
        (build_gemma2, "gemma2_9b", 9_241_705_984),
        (build_t5, "t5_small", 60_506_624),
        (build_t5, "t5_3b", 2_851_598_336),
        (build_t5, "flan_t5_base", 247_577_856),
        (build_t5, "flan_t5_xxl", 11_135_332_352),
        (build_t5, "mt5_small", 300_176_768),
        # Published counts have two unused positions on each side, and no biases of logits.
        (build_bart, "bart_base", 139_420_416 - 4 * 768 + 50_265),
        (build_bart, "mbart_large", 610_851_840 - 4 * 1024 + 250_027),
        # Less two tables of 512 sinusoids.
        (build_marian, "opus_mt_en_de", 74_410_496 - 2 * 512 * 512 + 58_101),
        (build_transformer, "base", 63_082_496),  # "65 million", in the paper's table 3
    ],
)
def test_rows_have_the_published_number_of_parameters(build, size, count):
    assert build_empty(lambda: build(size)).count_params() == count


def test_numbers_replace_those_of_the_row_and_missing_ones_are_named():
    model = build_gemma2("nano", vocabulary_size=31, num_layers=1)
    assert model.vocabulary_size == 31
    assert model.stack.blocks[0].self_attention.head_dim == gemma_module.SIZES["nano"]["head_dim"]
    with pytest.raises(ValueError, match=r"without \['head_dim'\]"):
        build_gemma2(**{k: v for k, v in gemma_module.SIZES["nano"].items() if k != "head_dim"})
    with pytest.raises(ValueError, match="`size` must be one of .*'pythia_70m'"):
        build_gpt_neox("pythia_9")
    with pytest.raises(ValueError, match="`size` must be one of .*'bloom_560m'"):
        build_bloom("bloom")
