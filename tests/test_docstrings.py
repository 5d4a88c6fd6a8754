"""The example of each public docstring runs, and prints what it says.

One that leaves names to its reader is only read: what it names of this library is there, and takes what it is given.
"""

import ast
import builtins
import contextlib
import doctest
import importlib
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm
from tests.generation.plain_graphs import plain_graphs

MODULES = {"tf": tf, "np": np, "keras": keras, "ops": keras.ops, "keras_tfm": keras_tfm, "ktfm": keras_tfm}
# They read or write what only a user has: a repository of a hub, a file, several processes.
OF_A_USER = ("checkpoints.", "from_file(", "from_preset(", "TextCorpus(", "workers()", "written_whole(", "projector")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST


class SameValues(doctest.OutputChecker):
    """The values that a docstring shows, whatever holds them: a tensor, an array, a shape. Nothing shown, any value."""

    def check_output(self, want, got, optionflags):
        if not want or super().check_output(want, got, optionflags):
            return True
        wanted, given = values_of(want), values_of(got)
        return len(wanted) == len(given) > 0 and all(
            one == other if isinstance(one, str) else abs(one - other) < 1e-5
            for one, other in zip(wanted, given, strict=True)
        )


def values_of(printed):
    """Numbers and words of what is printed, in their order, without what Python says of their containers."""
    printed = re.sub(r"\b(shape=\([^)]*\)|dtype=\w+|numpy=|array|TensorShape|tf\.Tensor)", "", printed)
    found = re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?|[A-Za-z_]+", printed)
    return [one if one[-1].isalpha() or one[-1] == "_" else float(one) for one in found]


def documented(package):
    """(name, object): what is public in a package, and the methods of its classes that are ours."""
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name, value
        for kind in inspect.getmro(value) if inspect.isclass(value) else ():
            if kind.__module__.startswith("keras_tfm"):
                for method, function in vars(kind).items():
                    if inspect.isfunction(function) or isinstance(function, classmethod | staticmethod):
                        yield f"{name}.{method}", getattr(kind, method)


def examples(package):
    """(name, source of the docstring, globals): each docstring with an example, once."""
    seen, own = set(), {name: getattr(package, name) for name in package.__all__}
    for name, value in documented(package):
        text = inspect.getdoc(value) or ""
        if ">>>" in text and text not in seen:
            seen.add(text)
            public = {}
            for other in keras_tfm.__all__:
                public |= {one: getattr(getattr(keras_tfm, other), one) for one in getattr(keras_tfm, other).__all__}
            yield name, text, public | MODULES | vars(inspect.getmodule(value)) | own


def code_of(text):
    return ast.parse("".join(example.source for example in doctest.DocTestParser().get_examples(text)))


def is_whole(text, names):
    """Whether an example makes all that it uses."""
    if any(word in text[text.index(">>>") :] for word in OF_A_USER):
        return False
    nodes = list(ast.walk(code_of(text)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used <= made | names.keys() | vars(builtins).keys()


def resolved(node, names):
    """What a name or a chain of attributes is, or None for what the reader has."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = resolved(node.value, names)
        return getattr(base, node.attr) if inspect.ismodule(base) else None
    return None


def check_calls(text, names):
    """Raises where an example names what is not there, or calls it with arguments that it does not take."""
    tree = code_of(text)
    made = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = {name: value for name, value in names.items() if name not in made}
    for node in ast.walk(tree):
        called = resolved(node.func, names) if isinstance(node, ast.Call) else None
        if callable(called) and str(getattr(called, "__module__", "")).startswith("keras_tfm"):
            if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
                continue
            inspect.signature(called).bind(*node.args, **{keyword.arg: keyword.value for keyword in node.keywords})


@pytest.mark.parametrize("package_name", keras_tfm.__all__)
def test_every_example_names_what_is_there(package_name):
    for _, text, names in examples(importlib.import_module(f"keras_tfm.{package_name}")):
        check_calls(text, names)


@pytest.mark.slow
@pytest.mark.parametrize("package_name", keras_tfm.__all__)
def test_every_example_that_is_whole_runs(package_name, tmp_path):
    failures = []
    for name, text, names in examples(importlib.import_module(f"keras_tfm.{package_name}")):
        if is_whole(text, names):
            test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
            with contextlib.chdir(tmp_path), plain_graphs():
                doctest.DocTestRunner(SameValues(), verbose=False, optionflags=FLAGS).run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_values_are_compared_whatever_holds_them():
    same = SameValues()
    tensor = "<tf.Tensor: shape=(2,), dtype=float32, numpy=array([0.25, -2.3025851], dtype=float32)>"
    assert same.check_output("[0.25, -2.302585]", tensor, 0)
    assert same.check_output("(1, 3)", "TensorShape([1, 3])", 0)
    assert not same.check_output("(1, 3)", "TensorShape([1, 4])", 0)
    assert not same.check_output("[0.25]", tensor, 0)
    assert not same.check_output("[True]", "array([False])", 0)


def test_examples_that_are_not_whole_are_told_from_others():
    names = MODULES | vars(keras_tfm.layers)
    assert is_whole(">>> x = np.ones(2)\n>>> MeanPooling()(x)", names)
    assert not is_whole(">>> MeanPooling()(x)", names)
    check_calls(">>> FeedForward(8, dropout=0.1)(x)", names)
    with pytest.raises(TypeError, match="head"):
        check_calls(">>> alibi_slopes(head=8)", vars(keras_tfm.ops))
    with pytest.raises(AttributeError, match="load_it"):
        check_calls('>>> ktfm.checkpoints.load_it("gpt2")', names)
