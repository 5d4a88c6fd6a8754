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


@pytest.mark.parametrize("name", ktfm.__all__)
def test_every_public_function_says_its_types(name):
    package = importlib.import_module(f"keras_tfm.{name}")
    missing = [
        f"{where}({', '.join(names)})"
        for exported in package.__all__
        for where, function in functions_of(getattr(package, exported), exported)
        if (names := untyped(function))
    ]
    assert not missing


@pytest.mark.parametrize("package", ["layers", "models"])
def test_constructors_name_their_arguments(package):
    # `**kwargs` is for Keras' own (`name`, `dtype`, `trainable`) and for what `get_config` notes of parts.
    own = {"self", "kwargs", "name", "dtype", "trainable", "parts_trainable", "parts_quantized", "parts_adapted"}
    for exported in getattr(ktfm, package).__all__:
        kind = getattr(getattr(ktfm, package), exported)
        if inspect.isclass(kind) and "__init__" in vars(kind):
            bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("keras_tfm.layers")]
            passed_on = {name for base in bases if "__init__" in vars(base) for name in parameters(base.__init__)}
            assert passed_on - own <= set(parameters(kind.__init__)), exported


def functions_of(value, name: str) -> list[tuple]:
    """(name, function) of what a user calls of an exported function or class: its public methods that are ours."""
    if inspect.isfunction(value):
        return [(name, value)]
    if not inspect.isclass(value) or not value.__module__.startswith("keras_tfm"):
        return []
    own = {"__init__", "__call__"}
    found = []
    for attribute, member in vars(value).items():
        # Of a property, of `functools.cached_property`, of a class method.
        wrapped = (getattr(member, place, None) for place in ("fget", "func", "__func__"))
        function = next(filter(None, wrapped), member)
        is_public = not attribute.startswith("_") or attribute in own
        # What a `Protocol` adds is of another module.
        if is_public and inspect.isfunction(function) and function.__module__.startswith("keras_tfm"):
            found.append((f"{name}.{attribute}", function))
    return found


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def untyped(function) -> list[str]:
    """Names of the parameters without an annotation, and "return"."""
    signature = inspect.signature(function)
    names = [name for name, one in signature.parameters.items() if one.annotation is inspect.Parameter.empty]
    names = [name for name in names if name not in ("self", "cls")]
    has_return = signature.return_annotation is not inspect.Signature.empty or function.__name__ == "__init__"
    return names if has_return else [*names, "return"]
