"""Makes of each example, and of its kept run, a source that sphinx-gallery turns into a page."""

import re
import shutil
import textwrap
from pathlib import Path

from example_runs import EXAMPLES, RUNS, cells_of, code_hash, kept_run, labs, programs

DOCS = Path(__file__).parent
SOURCES = DOCS / "_gallery"  # written here, read by sphinx-gallery
HEADS = {
    "labs": (
        "Labs",
        "From words as vectors to decoding, in order; each goes from a formula to the library's layer. They are "
        "scripts of cells, which run as they are and open as notebooks: :doc:`how to run them </labs>`.",
    ),
    "programs": (
        "Programs",
        "Whole tasks, from data to a served model, from the command line. They stand in `examples/`, and take minutes.",
    ),
}


class Order:
    """Sorts labs as their README names them, and programs by name."""

    def __init__(self, folder):
        text = (EXAMPLES / "labs" / "README.md").read_text("utf-8")
        self.names = re.findall(r"`(\w+\.py)`", text)

    def __call__(self, name):
        return (self.names.index(name) if name in self.names else len(self.names), name)


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def commented(text: str) -> str:
    """A cell of text, as sphinx-gallery reads it."""
    return "# %%\n" + "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def from_markdown(text: str, name: str) -> str:
    """reStructuredText that includes the markdown; headings are turned, since an included text may have none."""
    parts = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    out = []
    for place, part in enumerate(parts):
        if place % 2:
            hashes, title = part.split(" ", 1)
            out.append(heading(re.sub(r"`", "``", title), "=-~"[len(hashes) - 1]))
        elif part.strip():
            path = SOURCES / "text" / f"{name}_{place}.md"
            path.write_text(part.strip() + "\n", "utf-8")
            out.append(f".. include:: /_gallery/text/{path.name}\n   :parser: myst_parser.sphinx_\n")
    return "\n".join(out)


def title_of_program(first_line: str) -> str:
    """What a program's docstring says first, short enough for a heading."""
    title = re.split(r"[:;.?](?: |$)", first_line)[0]
    return title if len(title) < 60 else title.split(",")[0]


def from_docstring(text: str) -> str:
    """reStructuredText of a program's docstring: a title, paragraphs, and commands as they are typed."""
    first, *paragraphs = text.split("\n\n")
    out = [heading(title_of_program(first), "="), first, ""]
    for paragraph in paragraphs:
        if re.match(r"(pip|python) ", paragraph):
            out.append(".. code-block:: bash\n\n" + textwrap.indent(paragraph, "   "))
        else:
            out.append(paragraph)
        out.append("")
    return "\n".join(out)


def provenance(path: Path, run: dict | None) -> str:
    """What a reader must know of the numbers and pictures of a page."""
    if run is None:
        return ".. note::\n   This page shows the program alone: no run of it is kept beside the documentation.\n"
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    arguments = f" with ``{run['arguments']}``" if run["arguments"] else ""
    made = f"{run['date']}{arguments}, in {run['seconds']} seconds on {run['processor']}, {versions}"
    if run["code"] == code_hash(path):
        return f".. note::\n   What is printed and drawn here comes from a run of this very code: {made}.\n"
    return f".. warning::\n   The code has changed since the run that printed and drew what is shown here: {made}.\n"


def output_of(name: str, output: dict) -> str:
    """What a cell printed and drew."""
    out = []
    if output["printed"].strip():
        out += [".. rst-class:: run-output", "", ".. code-block:: none", ""]
        out += [textwrap.indent(output["printed"].rstrip(), "   "), ""]
    for picture in output["pictures"]:
        words = Path(picture).stem.replace("_", " ")
        out += [f".. image:: /runs/{name}/{picture}", f"   :alt: {words}", "   :class: run-picture", ""]
    return "\n".join(out)


def lab_head(text: str, name: str) -> str:
    """The first cell of a lab; sphinx-gallery shows its first paragraph under its picture."""
    title, first, *others = text.split("\n\n", 2)
    out = [heading(title.removeprefix("# "), "="), first, ""]
    return "\n".join([*out, *(from_markdown(other, name) for other in others)])


def source_of(path: Path) -> str:
    """A script in the form of sphinx-gallery: a docstring with a title, and cells of text and of code."""
    run, cells = kept_run(path.stem), cells_of(path)
    if run and len(run["outputs"]) != sum(not cell.is_text for cell in cells):
        run = None  # of code that was cut into other cells
    outputs = iter(run["outputs"] if run else [])
    first, rest = cells[0], cells[1:]
    is_lab = path.parent.name == "labs"
    head = lab_head(first.content, f"{path.stem}_0") if is_lab else from_docstring(first.content)
    link = f":download:`{path.name} </../{path.relative_to(DOCS.parent)}>`"
    parts = [f'r"""\n{head}\n{provenance(path, run)}\nThe script: {link}\n"""\n']
    pictures = [picture for output in (run["outputs"] if run else []) for picture in output["pictures"]]
    if pictures:
        thumbnail = RUNS / path.stem / pictures[-1]
        parts.append(f"# sphinx_gallery_thumbnail_path = {str(thumbnail.relative_to(DOCS))!r}\n")
    for place, cell in enumerate(rest, 1):
        if cell.is_text:
            parts.append(commented(from_markdown(cell.content, f"{path.stem}_{place}")))
            continue
        parts.append("# %%\n" * (place > 1 and not rest[place - 2].is_text) + cell.content + "\n")
        if shown := output_of(path.stem, next(outputs, {"printed": "", "pictures": []})):
            parts.append(commented(shown))
    return "\n".join(parts)


def write_sources() -> None:
    """Writes all sources anew; pages of an earlier build, which sphinx-gallery would keep, go."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.rmtree(DOCS / "examples", ignore_errors=True)
    (SOURCES / "text").mkdir(parents=True)
    for folder, paths in (("labs", labs()), ("programs", programs())):
        (SOURCES / folder).mkdir()
        title, words = HEADS[folder]
        (SOURCES / folder / "GALLERY_HEADER.rst").write_text(f"{heading(title, '=')}\n{words}\n", "utf-8")
        for path in paths:
            (SOURCES / folder / path.name).write_text(source_of(path), "utf-8")
