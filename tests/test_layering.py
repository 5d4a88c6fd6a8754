"""Who may import whom, read from the source with `ast`; and what library code may not contain."""

import ast
import importlib.util
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_tfm"
FILES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT = {
    "ops": {"ops"},
    "layers": {"ops", "layers"},
    "losses": {"ops", "losses"},
    "models": {"ops", "layers", "losses", "samplers", "generation", "models"},
    "samplers": {"ops", "samplers"},
    "generation": {"ops", "samplers", "generation"},
    "tokenizers": {"tokenizers"},
    "adapters": {"layers", "models", "checkpoints", "adapters"},
    "alignment": {"ops", "layers", "adapters", "data", "generation", "tokenizers", "alignment"},
    "compression": {"layers", "compression"},
    "checkpoints": {"ops", "layers", "models", "samplers", "tokenizers", "generation", "pipelines", "checkpoints"},
    "data": {"tokenizers", "data"},
    "visualization": {"ops", "layers", "models", "visualization"},
    "pipelines": {"layers", "models", "tokenizers", "pipelines"},
    "training": {"data", "layers", "training"},
    "evaluation": {"models", "generation", "samplers", "pipelines", "checkpoints", "evaluation"},
    "export": {"ops", "layers", "generation", "samplers", "tokenizers", "pipelines", "export"},
}
# Files beside the packages, which anybody may import.
GROUND = {"arguments", "compat", "files", "optional", "structure", "types"}
# (file, what it imports inside a function): ways round the arrows, each with its reason.
LAZY = {
    ("generation/text_generator.py", "export"): "`TextGenerator.export` is a shortcut to the package above it",
    ("pipelines/text_pipeline.py", "export"): "`TextPipeline.export` is a shortcut to the package above it",
}


# Attributes that begin with an underscore and are public all the same.
PUBLIC = {"_asdict", "_replace"}  # of a NamedTuple


def imports(path: Path) -> set[tuple[str, bool]]:
    """(subpackage of keras_tfm, whether inside a function) for each import of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            modules = [node.module]
            if node.module == "keras_tfm":
                modules = [f"keras_tfm.{alias.name}" for alias in node.names]
        for module in modules:
            if module.split(".")[0] == "keras_tfm":
                found.add(([*module.split("."), ""][1], id(node) in inside))
    return found


def test_every_folder_has_a_rule():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders <= set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_nothing_points_against_the_arrows(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for subpackage, lazy in imports(path):
            excused = lazy and (name, subpackage) in LAZY
            excused = excused or subpackage in GROUND
            assert subpackage in MAY_IMPORT[folder] or excused, f"{name} imports keras_tfm.{subpackage}"


def test_the_loop_knows_ids_only():
    assert {subpackage for subpackage, _ in imports(PACKAGE / "generation" / "loop.py")} <= {"ops", "samplers", "types"}


def test_the_ground_imports_nothing_of_the_package_but_itself():
    assert not imports(PACKAGE / "compat.py")
    assert imports(PACKAGE / "structure.py") == {("compat", False)}


def test_private_and_experimental_apis_stand_in_compat_alone():
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    ours = set().union(*(names_made(tree) for tree in trees.values()))
    for name, tree in trees.items():
        if name != "compat.py":
            assert not foreign_names(tree, ours), f"{name}: {sorted(foreign_names(tree, ours))}"


def names_made(tree: ast.Module) -> set[str]:
    """Names of functions, classes, methods, fields, and of attributes that a file sets on its `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def foreign_names(tree: ast.Module, ours: set[str]) -> set[str]:
    """What a file uses of others that they do not promise to keep."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {"keras.src" for module in modules if module.startswith("keras.src")}
            found |= {"tensorflow.*" for module in modules if module.startswith("tensorflow.")}
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.endswith("__") and node.attr not in ours | PUBLIC
            if private or node.attr in ("src", "raw_ops") or "experimental" in node.attr:
                found.add(node.attr)
        elif isinstance(node, ast.keyword) and "experimental" in (node.arg or ""):
            found.add(node.arg)
    return found


def test_a_private_name_would_be_found():
    texts = {
        "from keras.src import backend": "keras.src",
        "from tensorflow.python.ops import array_ops": "tensorflow.*",
        "layer._tracker.lock()": "_tracker",
        "tf.experimental.dlpack": "experimental",
        "SaveOptions(experimental_image_format=True)": "experimental_image_format",
    }
    for text, name in texts.items():
        assert foreign_names(ast.parse(text), {"_made"}) == {name}
    assert not foreign_names(ast.parse("self._made; state._replace(a=1); keras.ops.add(x, y); x.__name__"), {"_made"})


@pytest.mark.parametrize("folder", ["ops", "layers", "models", "samplers"])
def test_the_computing_parts_do_not_import_tensorflow(folder):
    # They are written on keras.ops; only generation, tokenizers, data and export need TensorFlow itself, and a graph, a
    # loop and a product a setting each that keras.ops does not pass on (in a function, on the TensorFlow backend).
    excused = {PACKAGE / "ops" / name for name in ("attention.py", "tensors.py", "tiles.py")}
    for path in set((PACKAGE / folder).rglob("*.py")) - excused:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(module.split(".")[0] == "tensorflow" for module in modules), path


def test_there_is_no_utils_module():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "common")]


def test_library_code_has_no_bare_asserts():
    for path in FILES:
        asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path}: lines {asserts}"


@pytest.mark.parametrize("page", ["architecture", pytest.param("models", marks=pytest.mark.slow)])
def test_what_is_drawn_from_the_code_is_as_the_code_is(page):
    spec = importlib.util.spec_from_file_location("draw", PACKAGE.parent / "docs" / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert draw.main("--check", page) is None  # it exits where a picture is another
