"""The corpora of examples/data are known to tensorflow-datasets by name."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_tfm.data import corpora

DATA = Path(__file__).parents[2] / "examples" / "data"
TABLES = {
    "sentiment_tweets": ("text", "label", "score"),
    "wordnet_topics": ("text", "label", "word"),
    "en_es": ("english", "spanish", "ref"),
}


def rows_of(name, split):
    with open(DATA / f"{name}.tsv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row["split"] == split]


def test_shakespeare_comes_in_the_form_of_tiny_shakespeare(tmp_path):
    splits = tfds.load("keras_tfm_shakespeare", data_dir=tmp_path)
    ((train,), (validation,)) = (tfds.as_numpy(splits[name]) for name in ("train", "validation"))
    assert train["text"] + validation["text"] == (DATA / "shakespeare.txt").read_bytes()
    assert 0.04 < len(validation["text"]) / len(train["text"]) < 0.07


@pytest.mark.parametrize(
    "name",
    ["sentiment_tweets", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wordnet_topics", "en_es"))],
)
def test_tables_are_those_of_the_files(name, tmp_path):
    loaded, info = tfds.load(f"keras_tfm_{name}", data_dir=tmp_path, with_info=True)
    for split in ("train", "test"):
        expected = rows_of(name, split)
        examples = list(tfds.as_numpy(loaded[split]))
        assert len(examples) == info.splits[split].num_examples == len(expected)
        found = {tuple(_plain(info.features[key], example[key]) for key in TABLES[name]) for example in examples}
        assert found == {tuple(_plain(info.features[key], row[key]) for key in TABLES[name]) for row in expected}


def _plain(feature, value):
    """A value of the file, or of an example, as the latter has it."""
    if isinstance(feature, tfds.features.Text):
        return value.encode() if isinstance(value, str) else value
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.str2int(value) if isinstance(value, str) else int(value)
    return np.float32(value)


@pytest.fixture
def small_table(tmp_path):
    file = tmp_path / "tweets.tsv"
    rows = ["train\tpositive\t2.5\tso good", "train\tnegative\t-3\tso bad", 'test\tneutral\t0\tso "so"']
    file.write_text("\n".join(["split\tlabel\tscore\ttext", *rows, ""]), encoding="utf-8")
    return file


def test_supervised_examples_are_texts_and_labels(small_table, tmp_path):
    train = tfds.load(
        "keras_tfm_sentiment_tweets",
        split="train",
        data_dir=tmp_path / "data",
        as_supervised=True,
        builder_kwargs={"path": small_table},
    )
    assert {(text.decode(), int(label)) for text, label in tfds.as_numpy(train)} == {("so good", 2), ("so bad", 0)}


def test_a_changed_file_is_prepared_anew_and_builders_pickle(small_table, tmp_path):
    first = corpora.KerasTfmSentimentTweets(small_table, data_dir=tmp_path)
    assert pickle.loads(pickle.dumps(first)).data_dir == first.data_dir
    small_table.write_text(small_table.read_text() + "test\tneutral\t0\tmore\n")
    assert corpora.KerasTfmSentimentTweets(small_table, data_dir=tmp_path).data_dir != first.data_dir


def test_what_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"`path` must name en_es\.tsv.* Received: path='/none'"):
        corpora.KerasTfmEnEs("/none")
    monkeypatch.setattr(corpora, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r'Received: path=None. .*builder_kwargs=\{"path": \.\.\.\}'):
        tfds.load("keras_tfm_shakespeare", data_dir=tmp_path)
