"""tensorflow-datasets: the builder over local files, and what `tfds.load` gives."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_tfm.data import pack
from keras_tfm.data.text_corpus import TextCorpus, cut_text

SPEECHES = "".join(f"SPEAKER {number}:\nA line of text,\nand another café.\n\n" for number in range(40))


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "my plays.txt"
    file.write_bytes(SPEECHES.encode())
    return file


def prepared(path, folder, **options) -> TextCorpus:
    builder = TextCorpus(path, data_dir=folder, **options)
    builder.download_and_prepare()
    return builder


def texts(builder, split) -> list[str]:
    return [row["text"].decode() for row in builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator()]


def test_the_two_splits_are_the_file_cut_between_speeches(corpus, tmp_path):
    builder = prepared(corpus, tmp_path / "data", validation_fraction=0.2)
    (train,), (validation,) = texts(builder, "train"), texts(builder, "validation")
    assert train + validation == SPEECHES
    assert train.endswith("café.\n\n")
    assert validation.startswith("SPEAKER ")
    assert 0.18 < len(validation) / len(SPEECHES) < 0.24
    assert builder.as_dataset(split="train").element_spec == {"text": tf.TensorSpec([], tf.string)}


def test_a_prepared_corpus_feeds_the_same_pipeline_as_its_text(corpus, tmp_path, characters):
    builder = prepared(corpus, tmp_path / "data")
    train = texts(builder, "train")
    packed = pack(builder.as_dataset(split="train"), characters, 16)
    np.testing.assert_array_equal(packed.token_ids, pack(train, characters, 16).token_ids)


def test_several_files_are_one_example_each(corpus, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(b"a line\n" * 30 + b"no \xff UTF-8\r\n")
    builder = prepared([corpus, str(other)], tmp_path / "data")
    train, validation = texts(builder, "train"), texts(builder, "validation")
    whole = {first + second for first in train for second in validation}
    assert len(train) == len(validation) == 2
    assert {SPEECHES, "a line\n" * 30 + "no \ufffd UTF-8\r\n"} <= whole


def test_a_changed_file_or_fraction_is_prepared_anew(corpus, tmp_path):
    first = prepared(corpus, tmp_path / "data")
    same = TextCorpus(corpus, data_dir=tmp_path / "data")
    other_fraction = TextCorpus(corpus, 0.3, data_dir=tmp_path / "data")
    corpus.write_bytes(SPEECHES.encode() + b"More.\n")
    changed = prepared(corpus, tmp_path / "data")
    assert same.data_dir == first.data_dir
    assert len({first.data_dir, other_fraction.data_dir, changed.data_dir}) == 3
    assert texts(changed, "validation")[0].endswith("More.\n")


def test_it_pickles_and_loads_by_name(corpus, tmp_path):
    builder = prepared(corpus, tmp_path / "data", validation_fraction=0.2)
    assert texts(pickle.loads(pickle.dumps(builder)), "train") == texts(builder, "train")
    options = {"path": corpus, "validation_fraction": 0.2}
    (row,) = tfds.load("text_corpus", split="train", data_dir=tmp_path / "data", builder_kwargs=options)
    assert row["text"].numpy().decode() == texts(builder, "train")[0]


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("a" * 71 + "\n\nb\n" + "c" * 27, "a" * 71 + "\n\n"),  # a blank line near the place, 76
        ("a" * 50 + "\n\n" + "b" * 20 + "\nb\n" + "c" * 27, "a" * 50 + "\n\n" + "b" * 20 + "\nb\n"),  # none near
        ("a" * 20, "a" * 15),  # no line either
        ("\n" * 20, "\n" * 15),
    ],
)
def test_text_is_cut_at_the_largest_border_near(text, train):
    assert cut_text(text, 0.25) == (train, text[len(train) :])


def test_tiny_shakespeare_feeds_the_pipeline(characters_with_end):
    with tfds.testing.mock_data(num_examples=3):
        dataset = tfds.load("tiny_shakespeare", split="train")
        rows = [row["text"] for row in dataset.as_numpy_iterator()]
        packed = pack(dataset, characters_with_end, 4)
    assert packed.num_documents == 3
    assert packed.token_ids.tolist() == list(b"".join(row + b"|" for row in rows))


def test_importing_the_library_does_not_import_tensorflow_datasets():
    code = "import keras_tfm, keras_tfm.data, sys; print('tensorflow_datasets' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split() == ["False"]


def test_a_missing_tensorflow_datasets_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_tfm.data.text_corpus")
    with pytest.raises(ImportError, match=r'need the package tensorflow_datasets. .*pip install "\.\[datasets\]"'):
        importlib.import_module("keras_tfm.data.text_corpus")


def test_wrong_arguments_are_refused(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must name files that exist. Received: '.*none\.txt'"):
        TextCorpus(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"`path` must name a file or more. Received: path=\[\]"):
        TextCorpus([])
    for fraction in (0, 1, 1.5):
        with pytest.raises(ValueError, match=f"Received: validation_fraction={fraction}"):
            TextCorpus(corpus, fraction, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"Received: 1 characters \(short\.txt\)"):
        cut_text("a", 0.1, "short.txt")
