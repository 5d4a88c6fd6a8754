"""Packages that the library does not bring along: each is asked for by name, with the extra that installs it."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from keras_tfm.optional import required

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BROUGHT = {"keras_tfm", "keras", "numpy", "tensorflow", "tokenizers", *sys.stdlib_module_names}
# What `chat_template.py` imports after it has asked for jinja2, of which it is made; and Keras' backend.
EXCUSED = {("template_sandbox.py", "jinja2"), ("jitted.py", "jax")}
OTHER_NAMES = {"sklearn": "scikit-learn"}  # where a package is not imported by its own name
TREES = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "keras_tfm").rglob("*.py")}


def distribution(text: str) -> str:
    """The name of a requirement or a module, as registries compare names."""
    for end in "[<>=;.":
        text = text.partition(end)[0]
    name = text.strip().lower().replace("_", "-")
    return OTHER_NAMES.get(name, name)


def test_nothing_is_imported_that_may_be_missing():
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - BROUGHT:
                assert (file, name) in EXCUSED, f"{file} imports {name}: take it from `optional.required`"


def test_each_extra_that_an_error_names_installs_the_package():
    asked = [
        [argument.value for argument in node.args[:2]]
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "required"
        if all(isinstance(argument, ast.Constant) for argument in node.args[:2])
    ]
    assert len(asked) > 8
    for package, extra in asked:
        listed = {distribution(requirement) for requirement in PROJECT["optional-dependencies"][extra]}
        assert distribution(package) in listed, f"{package} is not in the extra {extra}"


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    assert required("json", "none", "These") is sys.modules["json"]
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy", raising=False)
    with pytest.raises(
        ImportError, match=r'^Checkpoints need the package safetensors\. .* pip install "\.\[checkpoints\]"$'
    ):
        required("safetensors.numpy", "checkpoints", "Checkpoints")


def test_nothing_tells_to_install_by_a_name_that_is_not_published():
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    files += [path for folder in ("keras_tfm", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        assert not any(f"install keras{mark}tfm" in path.read_text(encoding="utf-8") for mark in "-_"), path
