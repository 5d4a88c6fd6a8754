"""What is public is what is exported: `__all__` is the promise, and `dir` shows nothing else."""

import importlib
import inspect

import pytest

import keras_tfm as ktfm


@pytest.mark.parametrize("name", ktfm.__all__)
def test_what_is_exported_is_there_documented_and_all_that_is_shown(name):
    package = importlib.import_module(f"keras_tfm.{name}")
    assert dir(package) == sorted(package.__all__)
    for exported in package.__all__:
        value = getattr(package, exported)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{exported} has no docstring"


def test_what_the_docs_invite_to_can_be_written_with_public_names():
    # An own sampler with `advance`, an own memory, an own family, pipeline and tokenizer.
    for name in ("GenerationState", "Context", "Change", "write_token"):
        assert name in ktfm.samplers.__all__
    assert {"DecodingState", "Memory", "take_rows"} <= set(ktfm.ops.__all__)
    assert {"Projection", "RollingKVCache"} <= set(ktfm.layers.__all__)
    assert "TokenModel" in ktfm.models.__all__
    assert "TextPipeline" in ktfm.pipelines.__all__
    assert "Architecture" in ktfm.checkpoints.__all__
    assert "Tokenizer" in ktfm.tokenizers.__all__
