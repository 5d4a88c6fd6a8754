"""The corpora of examples/data by name: `tfds.load("keras_tfm_shakespeare")`, once this module is imported."""

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfm.data.text_corpus import TextCorpus, tfds
from keras_tfm.files import local_path

_FOLDER = Path(__file__).parents[2] / "examples" / "data"  # of the repository; what is installed elsewhere has none


class KerasTfmShakespeare(TextCorpus):
    """36 plays, 4.5 MB of ASCII, in the form of `tfds.load("tiny_shakespeare")`; in the public domain.

    Importing this module makes its builders known to `tfds.load`. Nothing is downloaded: the file is that of the
    repository, `examples/data/shakespeare.txt`, where the library is used from there, or `path`.

    Args:
        path: the file. Default: that of the repository.
        validation_fraction, **kwargs: as in `TextCorpus`.

    Raises:
        FileNotFoundError: if there is no such file.

    Example:
        >>> import tensorflow_datasets as tfds
        >>> import keras_tfm.data.corpora
        >>> plays = tfds.load("keras_tfm_shakespeare", split="train", data_dir="/tmp/plays")
    """

    def __init__(self, path: str | os.PathLike | None = None, validation_fraction: float = 0.05, **kwargs: Any):
        super().__init__(_file("shakespeare.txt", path), validation_fraction, **kwargs)


class _Table(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Rows of a file of columns, whose column "split" says which split they belong to.

    Subclasses name the file, the columns and what `as_supervised=True` gives. A file with other content is another
    config, so that what was prepared before is never mistaken for it.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent  # else tensorflow-datasets looks for this class among its own
    file: str
    columns: dict[str, Any]
    supervised_keys: tuple[str, str]

    def __init__(self, path: str | os.PathLike | None = None, **kwargs: Any):
        self._path = _file(self.file, path)
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        kwargs.setdefault("config", tfds.core.BuilderConfig(name=digest[:12]))
        super().__init__(**kwargs)
        self._original_state = {"path": self._path, **kwargs}  # what the base class pickles

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").splitlines()[0],
            features=tfds.features.FeaturesDict(self.columns),
            supervised_keys=self.supervised_keys,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        with open(self._path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)):
                if row["split"] == split:
                    yield number, {name: row[name] for name in self.columns}


class KerasTfmSentimentTweets(_Table):
    """4,077 texts in the manner of tweets: {"text", "label": negative, neutral or positive, "score": -4 to 4}.

    3,477 to train and 600 to test; (text, label) with `as_supervised=True`. Hutto and Gilbert 2014, MIT, with what
    `examples/data/README.md` says of it.

    Args:
        path: the file. Default: `examples/data/sentiment_tweets.tsv` of the repository.
        **kwargs: as in `TextCorpus`.

    Raises:
        FileNotFoundError: if there is no such file.

    Example:
        >>> tweets = tfds.load("keras_tfm_sentiment_tweets", split="train", as_supervised=True)
    """

    file = "sentiment_tweets.tsv"
    columns = {  # noqa: RUF012 - read only
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["negative", "neutral", "positive"]),
        "score": tfds.features.Scalar(np.float32),
    }
    supervised_keys = ("text", "label")


class KerasTfmWordnetTopics(_Table):
    """8,400 dictionary definitions: {"text", "word": what it defines, "label": one of twelve topics}.

    7,560 to train and 840 to test; (text, label) with `as_supervised=True`. WordNet 3.0, (c) 2006 Princeton University:
    keep `examples/data/LICENSE.wordnet.txt` beside copies.

    Args:
        path: the file. Default: `examples/data/wordnet_topics.tsv` of the repository.
        **kwargs: as in `TextCorpus`.

    Raises:
        FileNotFoundError: if there is no such file.

    Example:
        >>> topics = tfds.load("keras_tfm_wordnet_topics", split="test", as_supervised=True)
    """

    file = "wordnet_topics.tsv"
    _TOPICS = "act animal artifact body communication food person place plant state substance time"
    columns = {  # noqa: RUF012 - read only
        "text": tfds.features.Text(),
        "word": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=_TOPICS.split()),
    }
    supervised_keys = ("text", "label")


class KerasTfmEnEs(_Table):
    """9,800 verses in English and Spanish: {"english", "spanish", "ref": book.chapter.verse}; in the public domain.

    9,300 to train and 500 to test; (english, spanish) with `as_supervised=True`.

    Args:
        path: the file. Default: `examples/data/en_es.tsv` of the repository.
        **kwargs: as in `TextCorpus`.

    Raises:
        FileNotFoundError: if there is no such file.

    Example:
        >>> verses = tfds.load("keras_tfm_en_es", split="train", as_supervised=True)
    """

    file = "en_es.tsv"
    columns = {name: tfds.features.Text() for name in ("english", "spanish", "ref")}  # noqa: RUF012 - read only
    supervised_keys = ("english", "spanish")


def _file(name: str, path: str | os.PathLike | None) -> Path:
    """The file that was named, or the repository's own."""
    file = _FOLDER / name if path is None else local_path(path).absolute()
    if not file.is_file():
        raise FileNotFoundError(
            f"`path` must name {name}, which lies in examples/data of the repository and is not installed with the "
            f"library. Received: path={None if path is None else str(path)!r}. Pass it to `tfds.load`: "
            'builder_kwargs={"path": ...}.'
        )
    return file
