"""The site of the documentation has every page, package and example; where it is built, a browser can read it."""

import functools
import html
import http.server
import importlib.util
import re
import shutil
import sys
import threading
import tomllib
import urllib.parse
from pathlib import Path

import pytest

import keras_tfm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = DOCS / "_build" / "html"


@pytest.fixture(scope="module")
def example_runs():
    """docs/example_runs.py, which is no part of a package."""
    sys.path.insert(0, str(DOCS))
    import example_runs

    yield example_runs
    sys.path.remove(str(DOCS))


def test_every_page_is_in_the_contents():
    contents = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), flags=re.DOTALL)
    named = {line for block in contents for line in block.splitlines() if line and not line.startswith(":")}
    assert named == {path.stem for path in DOCS.glob("*.md")} - {"index"}, "docs/index.md must list every page"


def test_every_package_is_in_the_api():
    named = re.findall(r"^   keras_tfm\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(named) == sorted(keras_tfm.__all__), "docs/api.md must list the packages of keras_tfm"


def test_every_example_that_can_be_run_has_a_page(example_runs):
    labs, programs = example_runs.labs(), example_runs.programs()
    runnable = {path for path in (ROOT / "examples").rglob("*.py") if "__main__" in path.read_text("utf-8")}
    assert runnable <= {*labs, *programs}
    for path in labs:
        cells = example_runs.cells_of(path)
        assert cells[0].is_text
        assert cells[0].content.startswith("# ")
        code = "".join(cell.content for cell in cells if not cell.is_text)
        text = path.read_text("utf-8")
        assert len(re.sub(r"\s", "", code)) == len(re.sub(r"(?m)^# %%( \[markdown\]\n(#.*\n?)*)?|\s", "", text))


def test_every_example_has_a_kept_run_that_git_has_too(example_runs):
    names = {path.stem for path in example_runs.labs() + example_runs.programs()}
    assert names == {folder.name for folder in example_runs.RUNS.glob("*/")}
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert not {"runs", "runs/", "docs/runs", "docs/runs/"} & set(ignored)


def test_kept_runs_have_all_that_their_pages_show(example_runs):
    for folder in example_runs.RUNS.glob("*/"):
        run = example_runs.kept_run(folder.name)
        pictures = [picture for output in run["outputs"] for picture in output["pictures"]]
        assert sorted(pictures) == sorted(path.name for path in folder.glob("*.png"))
        assert {"code", "date", "seconds", "processor", "versions"} <= run.keys()
        assert max(path.stat().st_size for path in folder.iterdir()) < 250_000


def test_no_kept_run_names_a_folder_of_the_machine_that_made_it(example_runs):
    for folder in example_runs.RUNS.glob("*/"):
        run = example_runs.kept_run(folder.name)
        shown = [run["arguments"], *(output["printed"] for output in run["outputs"])]
        around = re.escape(str(example_runs.ROOT.parent).lstrip("/"))
        folders = re.findall(rf"(?<![\w.:/])/(?:home|mnt|opt|root|tmp|usr|var|Users|{around})\b\S*", "\n".join(shown))
        assert not folders, f"{folder.name} names {folders}"


def test_arguments_of_a_kept_run_can_be_typed_again(example_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(example_runs, "ROOT", tmp_path)
    monkeypatch.setattr(example_runs, "RUNS", tmp_path / "runs")
    program = tmp_path / "program.py"
    program.write_text('"""A program."""\nimport sys\nprint(len(sys.argv[1:]))\n')
    example_runs.keep(program, ["--say", "two words"])
    run = example_runs.kept_run("program")
    assert run["arguments"] == "--say 'two words'"
    assert run["outputs"] == [{"printed": "2\n", "pictures": []}]


def test_a_program_finds_what_another_wrote_and_its_own_prints_and_pictures_are_kept(
    example_runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(example_runs, "ROOT", tmp_path)
    monkeypatch.setattr(example_runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(example_runs, "BEFORE", {"serve": "train"})
    code = '"""A program."""\nimport pathlib\nfolder = pathlib.Path("runs")\n'
    train = 'folder.mkdir()\n(folder / "loss.png").touch()\n(folder / "model").write_text("seven")\nprint("trained")\n'
    serve = 'print((folder / "model").read_text())\n(folder / "text.png").touch()\n'
    for name, lines in (("train", train), ("serve", serve)):
        (tmp_path / f"{name}.py").write_text(code + lines)
    example_runs.keep(tmp_path / "serve.py", [])
    assert example_runs.kept_run("serve")["outputs"] == [{"printed": "seven\n", "pictures": ["text.png"]}]


def test_programs_that_run_before_others_are_there(example_runs):
    names = {path.stem for path in example_runs.programs()}
    assert names >= {*example_runs.BEFORE, *example_runs.BEFORE.values()}


def test_kept_runs_show_what_their_texts_say_at_full_size(example_runs):
    def numbers(name, pattern):
        printed = "".join(output["printed"] for output in example_runs.kept_run(name)["outputs"])
        return {row: float(number) for row, number in re.findall(pattern, printed, flags=re.MULTILINE)}

    losses = numbers("lab_3_positions", r"^(\w+) +(?:\d+\.\d *){3} (\d+\.\d)$")  # at the last places
    assert sorted(losses, key=losses.get) == ["relative", "alibi", "rotary", "sinusoidal"]
    right = numbers("lab_5_fine_tuning", r"^([a-z].*?) {2,}(0\.\d+)")
    assert right["all blocks, 0.0002"] > right["head alone"] > right["naive Bayes"]
    assert right["naive Bayes"] > max(right["all blocks, 1e-05"], right["all blocks, 0.01"])
    scores = numbers("question_answering", r"(exact_match|f1) (0\.\d+)")
    assert scores["exact_match"] > 0.8, "the fact alone, of either person, would answer half"
    right = numbers("pretrain_bert", r"^  (hidden tokens|next sentence): +(0\.\d+)")
    assert right["hidden tokens"] > 0.3, "before it looks at neighbours, 0.15"
    assert right["next sentence"] > 0.75
    losses = numbers("position_encodings", r"^(\w+) +(?:\d+\.\d *){3} (\d+\.\d)$")
    assert losses["alibi"] == min(losses.values()), "what reads beyond the training best"
    scores = numbers("translate", r"^(LSTM, .*?|Transformer.*?) {2,}(\d+\.\d)")
    assert list(scores) == sorted(scores, key=scores.get)
    assert scores["Transformer"] > 2 * scores["LSTM, one fixed vector"]
    scores = numbers("summarize", r"^(before|after) {2,}.* (\d+\.\d)$")
    assert scores["after"] > 80 > 0 == scores["before"], "right topics"
    right = numbers("instruct", r"^\[.*\] (always the same|after) .* (0\.\d+)$")
    assert right["after"] > right["always the same"]
    for name in ("align_dpo", "align_ppo"):
        rewards = numbers(name, r"mean reward (before|after).*?: (0\.\d+)")
        assert rewards["after"] > rewards["before"] + 0.1, name
    right = numbers("align_grpo", r"right (before|after): (0\.\d+)")
    assert right["after"] > 0.9 > 0.2 > right["before"]


def test_a_run_is_of_its_code_and_not_of_its_words(example_runs, tmp_path):
    lab = tmp_path / "lab.py"
    hashes = []
    for words, code in (("one", "x = 1"), ("two", "x = 1"), ("two", "x = 2")):
        lab.write_text(f"# %% [markdown]\n# # A lab of {words}\n\n# %%\n{code}\n")
        hashes.append(example_runs.code_hash(lab))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_citation_has_the_version_and_the_licence_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"\nversion: {keras_tfm.__version__}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation


def test_what_a_run_printed_is_kept_as_one_reads_it(example_runs):
    bars = "".join(f"\x1b[1m{step}/3\x1b[0m ━━━ 1s - loss: {4 - step}\n" for step in (1, 2, 3))
    printed = f"From {example_runs.ROOT}/examples/data/a.txt\nEpoch 1/2\n{bars}\b\b\r\nEpoch 2/2\n{bars}1/3 of it\n"
    last = "3/3 ━━━ 1s - loss: 1\n"
    assert example_runs.as_read(printed) == f"From examples/data/a.txt\nEpoch 1/2\n{last}\nEpoch 2/2\n{last}1/3 of it\n"


@pytest.fixture(scope="module")
def site():
    """The address of the built site, on this machine."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    handler = functools.partial(QuietHandler, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def browser():
    if (chromium := shutil.which("chromium")) is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("there is no Chromium, or no playwright to click with")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_links_and_pictures_of_the_built_site_are_there(site):
    pages = {path: path.read_text("utf-8") for path in SITE.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            address, _, anchor = html.unescape(link).partition("#")
            if re.match(r"(https?|mailto|data|javascript):", address):
                continue
            target = (path.parent / urllib.parse.unquote(address.partition("?")[0])).resolve() if address else path
            assert target.exists(), f"{path.relative_to(SITE)} links to {link}"
            if anchor and target in anchors:
                assert urllib.parse.unquote(anchor) in anchors[target], f"{path.relative_to(SITE)} links to {link}"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_open_without_errors_network_or_sideways_scrolling(site, browser, width):
    page, wrong = browser.new_page(viewport={"width": width, "height": 844}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(site) else wrong.append(request.url))
    found = [path.stem for path in DOCS.glob("*.md")] + [
        "api/keras_tfm.layers",
        "api/keras_tfm.layers.TransformerBlock",
    ]
    found += ["examples/labs/index", "examples/labs/lab_1_attention", "examples/programs/train_gpt"]
    for name in found:
        page.goto(f"{site}/{name}.html")
        assert page.locator("h1").first.is_visible()
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways <= 0, f"{name} is {sideways} pixels wider than {width}"
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken
    assert not wrong
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "title"),
    [("TransformerBlock", "TransformerBlock"), ("your own sampler", "Write: decoding"), ("killed", "one process")],
)
def test_search_finds(site, browser, words, title):
    page = browser.new_page()
    page.goto(site)
    page.locator("input[name=q]").first.fill(words)
    page.keyboard.press("Enter")
    page.locator("ul.search li a", has_text=title).first.wait_for(timeout=20_000)
    page.close()
