"""The rows of the builders' tables have the published number of parameters; nothing is allocated."""

import pytest

from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.models import build_bloom, build_gemma2, build_gpt, build_gpt_neox, build_llama
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
