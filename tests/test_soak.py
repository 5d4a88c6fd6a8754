"""The soak test counts wrong answers and exceptions, and finds none in what it asks."""

import itertools
import json

import pytest

from benchmarks import soak


def test_wrong_answers_and_exceptions_are_counted():
    numbers, first = itertools.count(), itertools.count()

    def fail():
        if next(first):
            raise ValueError("no more")

    result = soak.soak(soak.Case("fakes", [lambda: 7, lambda: next(numbers), fail]), num_threads=2, seconds=0.05)
    assert result["first_exception"] == "ValueError: no more"
    assert 0 < result["wrong"] < result["calls"] - result["exceptions"]
    right = soak.soak(soak.Case("right", [lambda: 7]), num_threads=2, seconds=0.05)
    assert right["calls"] > 0
    assert right["wrong"] == right["exceptions"] == 0


@pytest.mark.slow
def test_no_answer_is_wrong_for_a_few_seconds(tmp_path, capsys):
    assert soak.main(["--minutes", "0.05", "--json", str(tmp_path / "soak.json")]) == 0
    cases = json.loads((tmp_path / "soak.json").read_text())["cases"]
    assert [case["name"] for case in cases] == ["served generator", "Python generator", "served classifier"]
    assert all(case["calls"] >= 20 and case["wrong"] == case["exceptions"] == 0 for case in cases)
    assert "| served classifier |" in capsys.readouterr().out
