"""Runs examples, and keeps what they print and draw for their pages in the documentation.

python docs/example_runs.py                     # every lab whose code has changed since its run was kept
python docs/example_runs.py lab_1_attention     # these
python docs/example_runs.py train_gpt --steps 300      # a program, with its arguments

A run is a folder of docs/runs: run.json and pictures. It belongs to the code that it was made with, by the hash of the
code without comments between cells; `make docs` runs nothing, and says on each page whose run it shows.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RUNS = Path(__file__).parent / "runs"
BEFORE = {"serve_saved_model": "train_gpt"}  # program -> the one whose files it reads, run before it in the same folder


class Cell(NamedTuple):
    """A piece of an example: markdown, or code."""

    is_text: bool
    content: str


def labs() -> list[Path]:
    """The examples that are made of cells."""
    return [path for path in sorted((EXAMPLES / "labs").glob("*.py")) if path.read_text("utf-8").startswith("# %%")]


def programs() -> list[Path]:
    """The examples that are run from a command line, without the files that they share."""
    return [path for path in sorted(EXAMPLES.glob("*.py")) if "python examples/" + path.name in path.read_text("utf-8")]


def cells_of(path: Path) -> list[Cell]:
    """The cells of a lab; of a program its docstring and all that follows."""
    text = path.read_text("utf-8")
    if not text.startswith("# %%"):
        _, docstring, code = text.split('"""', 2)
        return [Cell(True, docstring.strip()), Cell(False, code.strip())]
    found = []
    for kind, content in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", text, flags=re.MULTILINE):
        is_text = "[markdown]" in kind
        content = re.sub(r"^# ?", "", content, flags=re.MULTILINE) if is_text else content
        found.append(Cell(is_text, content.strip()))
    return [cell for cell in found if cell.content]


def code_hash(path: Path) -> str:
    """Changes with the code of an example, not with what is said about it."""
    code = "\n".join(cell.content for cell in cells_of(path) if not cell.is_text)
    return hashlib.md5(code.encode()).hexdigest()


def kept_run(name: str) -> dict | None:
    """run.json of an example, if there is one."""
    path = RUNS / name / "run.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def run_cells(path: Path, printed_to: Path) -> None:
    """Runs a lab in this process and writes what each cell prints and draws; called in a process of its own."""
    sys.path[:0] = [str(ROOT), str(path.parent), str(EXAMPLES)]
    variables, outputs, known = {"__name__": "__main__", "__file__": str(path)}, [], set()
    for cell in cells_of(path):
        if cell.is_text:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(cell.content, str(path), "exec"), variables)
        drawn = sorted(set(Path("runs").rglob("*.png")) - known, key=lambda picture: picture.stat().st_mtime_ns)
        known.update(drawn)
        outputs.append({"printed": as_read(printed.getvalue()), "pictures": [str(picture) for picture in drawn]})
    printed_to.write_text(json.dumps(outputs), "utf-8")


def as_read(printed: str) -> str:
    """What was printed, without colours, earlier states of a progress bar and this machine's folders."""
    lines = re.sub(r"\x1b\[[\d;]*m|[\b\r]", "", printed).replace(f"{ROOT}/", "").splitlines(keepends=True)
    bars = [re.match(r" *\d+/(\d+) ━", line) for line in lines]
    is_last = [not (bar and after and bar[1] == after[1]) for bar, after in itertools.pairwise([*bars, None])]
    return "".join(line for line, kept in zip(lines, is_last, strict=True) if kept)


def run_program(path: Path, arguments: list[str]) -> list[dict]:
    """Runs a program; what it printed and drew, as of one cell."""
    known = set(Path("runs").rglob("*.png"))
    done = subprocess.run([sys.executable, path, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    drawn = set(Path("runs").rglob("*.png")) - known
    pictures = [picture for picture in drawn if picture.stat().st_size < 1_000_000]
    pictures.sort(key=lambda picture: picture.stat().st_mtime_ns)
    return [{"printed": as_read(done.stdout), "pictures": [str(picture) for picture in pictures]}]


def processor() -> str:
    """Its name and cores, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpu.read_text("utf-8")) if cpu.is_file() else None
    return f"{os.cpu_count()} cores of {found[1] if found else 'a processor without a name'}"


def keep(path: Path, arguments: list[str]) -> None:
    """Runs an example in a folder of its own and replaces its kept run."""
    folder = RUNS / path.stem
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        Path("examples").symlink_to(EXAMPLES)
        if path.stem in BEFORE:
            run_program(path.with_stem(BEFORE[path.stem]), [])
        start = time.time()
        if path in labs():
            command = "import sys; sys.path.insert(0, sys.argv[1]); import example_runs, pathlib; "
            command += "example_runs.run_cells(*map(pathlib.Path, sys.argv[2:]))"
            given = [Path(__file__).parent, path, "outputs.json"]
            subprocess.run([sys.executable, "-c", command, *given], check=True)
            outputs = json.loads(Path("outputs.json").read_text("utf-8"))
        else:
            outputs = run_program(path, arguments)
        seconds = time.time() - start
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for output in outputs:
            output["pictures"] = [shutil.copy(picture, folder) for picture in output["pictures"]]
            output["pictures"] = [Path(picture).name for picture in output["pictures"]]
    run = {
        "code": code_hash(path),
        "arguments": shlex.join(arguments),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds),
        "processor": processor(),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
        "outputs": outputs,
    }
    (folder / "run.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{path.stem}: {run['seconds']} s, kept in {folder.relative_to(ROOT)}", flush=True)


def main(arguments: list[str]) -> None:
    paths = {path.stem: path for path in labs() + programs()}
    names = [name for name in arguments if name in paths]
    options = [argument for argument in arguments if argument not in paths]
    if options and len(names) != 1:
        raise SystemExit(f"Give names of examples, {sorted(paths)}, or one and its arguments. Received: {arguments}.")
    if not names:
        names = [path.stem for path in labs() if (kept_run(path.stem) or {}).get("code") != code_hash(path)]
    for name in names:
        keep(paths[name], options)


if __name__ == "__main__":
    main(sys.argv[1:])
