"""The README's Python, word by word, from top to bottom in one namespace."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_snippet_of_the_readme_runs(tmp_path, monkeypatch, capsys, without_xla):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) >= 6
    namespace = {"__name__": "readme"}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert (tmp_path / "gpt.keras").is_file()
    assert (tmp_path / "serving" / "1" / "saved_model.pb").is_file()
    assert namespace["answer"]["num_tokens"].shape == (2,)
    assert capsys.readouterr().out.strip()
