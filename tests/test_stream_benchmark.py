"""The benchmark of streams sees memory that grows, and reads each form of file."""

import json

import pytest

from benchmarks import stream


def test_growth_is_that_of_memory_by_text_once_it_has_settled():
    reading = stream.Reading(10.0)
    reading.looks = [{"seconds": s, "tokens": s * 1e8, "memory_mb": 900 + (s > 1) * 70 + 3 * s} for s in range(11)]
    assert reading.growth(bytes_per_token=5.0) == pytest.approx(6.0)  # 3 MB for each half of a GB
    assert reading.tokens_per_second == 1e8


def test_a_file_that_does_not_fit_is_not_begun(tmp_path):
    with pytest.raises(SystemExit, match=r"must have .* GB left. Received: "):
        stream.make_file(tmp_path / "plays.txt", "text", 10**18)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "minutes", "places"),
    [("json", 0.05, ["the start", "the middle", "near the end"]), ("parquet", 1, ["all of it"])],
)
def test_a_file_is_read_to_its_end_or_from_several_places(form, minutes, places, tmp_path, capsys):
    sizes = ["--gigabytes", "0.02", "--minutes", str(minutes), "--train-steps", "1", "--folder", str(tmp_path)]
    stream.main([*sizes, "--form", form, "--json", str(tmp_path / "stream.json")])
    parts = json.loads((tmp_path / "stream.json").read_text())["result"]["parts"]
    assert [part["place"] for part in parts] == places
    assert parts[0]["has_ended"] == (places == ["all of it"])
    assert [path.name for path in tmp_path.iterdir()] == ["stream.json"]
    assert f"({form})" in capsys.readouterr().out
