"""A stream gives every token of its files once, in rows, and goes on from any place as if it had not stopped."""

import bz2
import gzip
import itertools
import json
import logging
import lzma
import shutil
import tracemalloc

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm import data
from keras_tfm.data import sources
from keras_tfm.data.epochs import position_of
from tests.data.conftest import CharacterTokenizer

LENGTH, BATCH = 5, 4
TEXTS = [f"{number}: " + "text, größer " * (number % 7) for number in range(60)]
TOKENIZER = CharacterTokenizer(end_of_text_id=ord("|"))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 200)
    monkeypatch.setattr(sources, "_ROWS", 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same texts in every form, cut in three files each."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(3):
        texts = TEXTS[number * 20 : number * 20 + 20]
        lines = "".join(json.dumps({"text": text, "id": number}) + "\n" for text in texts).encode()
        (folder / f"{number}.jsonl").write_bytes(lines)
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
        (folder / f"{number}.jsonl.bz2").write_bytes(bz2.compress(lines))
        (folder / f"{number}.jsonl.xz").write_bytes(lzma.compress(lines))
        with pa.CompressedOutputStream(str(folder / f"{number}.jsonl.zst"), "zstd") as file:
            file.write(lines)
        (folder / f"{number}.txt").write_text("\n".join(texts), encoding="utf-8")
        pa.parquet.write_table(
            pa.table({"id": [1] * 20, "text": texts}), folder / f"{number}.parquet", row_group_size=9
        )
    return folder


def stream(files, **options):
    options = {"shuffle_rows": 0, "num_epochs": 1, **options}
    return data.stream(files, TOKENIZER, LENGTH, BATCH, **options)


def read(dataset, limit=10**6):
    """The batches of rows, without the threads of `tf.data`."""
    batches, position = [], position_of(dataset)
    (size,) = position.sizes()
    for block in position.blocks() if limit else ():
        batches += [block[first : first + size].tolist() for first in range(0, len(block), size)]
        if len(batches) >= limit:
            break
    return batches[:limit]


def text_of(dataset):
    """The running text of rows in their order."""
    rows = [row for batch in read(dataset) for row in batch]
    assert all(row[-1] == after[0] for row, after in itertools.pairwise(rows))
    return chr(rows[0][0]) + "".join(chr(token) for row in rows for token in row[1:])


def expected_text(documents):
    text = "".join(f"{document}|" for document in documents if document)
    return text[: (len(text) - 1) // LENGTH * LENGTH + 1]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zst", "parquet"])
def test_every_document_is_read_once_whatever_holds_it(folder, ending):
    assert text_of(stream(f"{folder}/*.{ending}")) == expected_text(TEXTS)


def test_a_text_file_is_one_document_or_one_a_line(folder):
    files = [folder / f"{number}.txt" for number in range(3)]
    whole = ["\n".join(TEXTS[number * 20 : number * 20 + 20]) for number in range(3)]
    assert text_of(stream(files)) == expected_text(whole)
    assert text_of(stream(files, document="line")) == expected_text(TEXTS)


def test_any_address_of_fsspec_is_read(folder):
    with fsspec.open("memory://texts/0.jsonl.gz", "wb") as file:
        file.write((folder / "0.jsonl.gz").read_bytes())
    assert text_of(stream("memory://texts/*.gz")) == expected_text(TEXTS[:20])


def test_an_endless_stream_loses_nothing_between_passes(folder):
    dataset = stream(f"{folder}/*.jsonl", num_epochs=None)
    assert dataset.element_spec == (tf.TensorSpec([BATCH, LENGTH], tf.int32),) * 2
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    twice = "".join(f"{text}|" for text in TEXTS) * 2
    first = 0
    for token_ids, next_ids in dataset.take(230):
        assert twice[first : first + BATCH * LENGTH] == "".join(map(chr, token_ids.numpy().ravel()))
        first += BATCH * LENGTH
        assert twice[first] == chr(next_ids[-1, -1].numpy())
    assert first > len(twice) * 3 // 4


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet", "txt"])
def test_shards_read_every_document_once(folder, ending):
    shards = [
        text_of(stream(f"{folder}/*.{ending}", num_shards=2, shard_index=index, document="line")) for index in range(2)
    ]
    found = sorted(text for shard in shards for text in shard.split("|")[:-1])
    left_out = set(TEXTS) - set(found)
    assert len(left_out) <= 2, left_out  # the last one of each, of which fewer than a row is left
    assert set(found) <= {*TEXTS, *(text[:-1] for text in TEXTS)}
    assert len(found) == len(set(found))


def test_shuffled_rows_are_the_rows_in_another_order_each_time(folder):
    def rows(**options):
        return [tuple(row) for batch in read(stream(f"{folder}/*.jsonl", **options)) for row in batch]

    shuffled = rows(shuffle_rows=40, seed=1)
    assert shuffled == rows(shuffle_rows=40, seed=1)
    assert shuffled != rows(shuffle_rows=40, seed=2)
    in_order = rows()
    assert len(shuffled) == len(in_order)
    assert shuffled != in_order
    one_file = stream(f"{folder}/0.jsonl", shuffle_rows=40)  # one order of files: the rows are the same
    assert sorted(tuple(row) for batch in read(one_file) for row in batch) == sorted(
        tuple(row) for batch in read(stream(f"{folder}/0.jsonl")) for row in batch
    )


RUNS = {
    "jsonl": {},
    "jsonl.gz": {"shuffle_rows": 40},
    "jsonl.zst": {"shuffle_rows": 9},
    "parquet": {"shuffle_rows": 40, "seed": 3},
    "txt": {"shuffle_rows": 12, "document": "file"},
}


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
@pytest.mark.parametrize("ending", RUNS)
def test_a_stream_goes_on_from_any_place_bit_for_bit(folder, ending, shard):
    options = {**RUNS[ending], "num_epochs": None, "shard_index": shard[0], "num_shards": shard[1]}
    whole = read(stream(f"{folder}/*.{ending}", **options), 150)

    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 60), min_size=1, max_size=2))
    def interrupted(steps):
        found, note = [], None
        for count in [*steps, 10]:
            dataset = stream(f"{folder}/*.{ending}", **options)  # as a new process would make it
            position = position_of(dataset.map(lambda x, y: (x, y)))
            position.seek(len(found), note)
            found += read(dataset, count)
            note = position.note(len(found))
        assert found == whole[: len(found)]

    interrupted()


def test_what_was_read_before_is_not_read_again(folder, monkeypatch):
    first = stream(f"{folder}/*.jsonl", num_epochs=None)
    read(first, 60)
    note, opened = position_of(first).note(60), []
    open_file = sources._opened
    monkeypatch.setattr(sources, "_opened", lambda system, path: opened.append(path) or open_file(system, path))
    again = stream(f"{folder}/*.jsonl", num_epochs=None)
    position_of(again).seek(60, note)
    read(again, 1)
    assert opened[0].endswith("1.jsonl")


def test_a_place_in_other_data_is_refused(folder):
    first = stream(f"{folder}/*.jsonl", num_epochs=None)
    read(first, 3)
    note = position_of(first).note(3)
    for other in (stream(f"{folder}/0.jsonl", num_epochs=None), stream(f"{folder}/*.jsonl", num_epochs=None, seed=4)):
        with pytest.raises(ValueError, match="must be read on as it was read, with the same files"):
            position_of(other).seek(3, note)
    with pytest.raises(ValueError, match="must be told where a batch is"):
        position_of(first).seek(3)
    with pytest.raises(RuntimeError, match="noted while it is read"):
        position_of(first).note(10**6)


# ---- what is broken


def broken_lines(path):
    path.write_bytes(b'{"text": "one, one, one"}\n{"text": 3}\n\n{"text": "tw\xff"}\n{"no\n{"text": "two, two, two"}\n')


def test_broken_lines_are_named_and_skipped_or_fatal(tmp_path, caplog):
    broken_lines(tmp_path / "a.jsonl")
    with pytest.raises(tf.errors.OpError, match=r"a\.jsonl, line 2 cannot be read: .*it is int.*on_error="):
        next(iter(stream(tmp_path / "a.jsonl")))
    with caplog.at_level(logging.WARNING, "keras_tfm"):
        assert text_of(stream(tmp_path / "a.jsonl", on_error="skip")) == expected_text(
            ["one, one, one", "two, two, two"]
        )
    told = [record.message for record in caplog.records]
    assert [f"line {number}" in text for number, text in zip((2, 4, 5), told, strict=True)] == [True] * 3


def test_a_text_that_is_no_utf8_and_a_line_without_end_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sources, "_LONGEST_LINE", 300)
    (tmp_path / "a.txt").write_bytes(b"good, good\nbad \xff\n" + b"x" * 1000 + b"\nend of it\n")
    assert text_of(stream(tmp_path / "a.txt", on_error="skip")) == expected_text(["good, good\nend of it\n"])
    assert "a.txt, line 2" in caplog.text
    assert "a.txt, line 3" in caplog.text
    assert "at most 300 bytes" in caplog.text


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_a_broken_file_is_named_and_what_can_be_read_of_it_is_read(folder, tmp_path, caplog, ending):
    whole = (folder / f"1.{ending}").read_bytes()
    for number in (0, 2):
        shutil.copy(folder / f"{number}.{ending}", tmp_path)
    (tmp_path / f"1.{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"1\.{ending} cannot be read"):
        read(stream(f"{tmp_path}/*.{ending}"))
    found = text_of(stream(f"{tmp_path}/*.{ending}", on_error="skip")).split("|")
    assert f"1.{ending}" in caplog.text
    assert set(TEXTS[:20] + TEXTS[40:59]) <= set(found)
    assert set(found[:-1]) <= set(TEXTS)


def test_parquet_without_the_column_and_rows_without_text_are_named(tmp_path, caplog):
    pa.parquet.write_table(pa.table({"text": ["one, one", None, "two, two"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r'a\.parquet .*must be a column "body" among'):
        read(stream(tmp_path / "a.parquet", column="body"))
    assert text_of(stream(tmp_path / "a.parquet", on_error="skip")) == expected_text(["one, one", "two, two"])
    assert "a.parquet, row group 0, row 1 is left out" in caplog.text


def test_no_text_is_told_instead_of_looking_for_it_forever(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="There must be text in `files`"):
        read(stream(tmp_path / "a.txt", num_epochs=None))
    (tmp_path / "a.txt").write_text("short but a text")
    with pytest.raises(ValueError, match="for shard 1 of 2"):
        read(stream(tmp_path / "a.txt", num_epochs=None, num_shards=2, shard_index=1))


def test_wrong_arguments_are_told(folder):
    with pytest.raises(FileNotFoundError, match="must name files that exist"):
        stream("nowhere/*.txt")
    with pytest.raises(ValueError, match="`num_shards` must divide `batch_size`"):
        stream(f"{folder}/0.txt", num_shards=3)
    with pytest.raises(ValueError, match="`shard_index` must be below"):
        stream(f"{folder}/0.txt", shard_index=1)
    for name in ("form", "document", "on_error"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            stream(f"{folder}/0.txt", **{name: "other"})
    with pytest.raises(TypeError, match="must be names of files, or a dataset"):
        read(stream({"text": text} for text in TEXTS))


# ---- datasets of other libraries


class Countdown:
    """What `grain.IterDataset` promises."""

    def __iter__(self):
        return CountdownIterator()


class CountdownIterator:
    def __init__(self):
        self._next = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self._next == len(TEXTS):
            raise StopIteration
        self._next += 1
        return {"text": TEXTS[self._next - 1]}

    def get_state(self):
        return {"next": self._next}

    def set_state(self, state):
        self._next = state["next"]


def examples(kind):
    rows = [{"text": text} for text in TEXTS]
    if kind == "list":
        return rows
    if kind == "grain":
        return Countdown()
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(rows)
    return dataset if kind == "datasets" else dataset.to_iterable_dataset(num_shards=3)


@pytest.mark.parametrize("kind", ["list", "grain", "datasets", "datasets that stream"])
def test_examples_of_other_libraries(kind):
    assert text_of(stream(examples(kind))) == expected_text(TEXTS)
    whole = read(stream(examples(kind), num_epochs=None, shuffle_rows=8), 150)
    found, note = [], None
    for count in (30, 70, 50):
        dataset = stream(examples(kind), num_epochs=None, shuffle_rows=8)
        position_of(dataset).seek(len(found), note)
        found += read(dataset, count)
        note = position_of(dataset).note(len(found))
    assert found == whole


# ---- memory


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 2**12)
    peaks = []
    for size in (2**18, 2**20):
        (tmp_path / "a.txt").write_text("some words in a line\n" * (size // 21))
        files = sources.Files(tmp_path / "a.txt", "text", None, "file", "raise")
        tracemalloc.start()
        assert sum(len(text) for piece in files.pieces(0, None, None) for text in piece.documents()) > size - 42
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    np.testing.assert_allclose(peaks[1], peaks[0], rtol=0.5)
