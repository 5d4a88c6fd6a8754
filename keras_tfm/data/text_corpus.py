"""Local text files as a dataset of tensorflow-datasets. `import keras_tfm` does not import this module."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_tfm.files import local_path
from keras_tfm.optional import required

tfds: Any = required("tensorflow_datasets", "datasets", "Text corpora")


class TextCorpus(tfds.core.GeneratorBasedBuilder):
    """Text files of your own in the form that `tfds.load("tiny_shakespeare")` gives: {"text": string}, in two splits.

    "train" holds the first part of each file and "validation" the rest, one example for each file. A file is cut at a
    blank line if there is one near, else at the end of a line, else anywhere; the two parts together are the file.
    Bytes that are no UTF-8 become U+FFFD. Nothing is downloaded. Files with other content, or another fraction, are
    another config, so that what was prepared before is never mistaken for them.

    Args:
        path: a file, or an iterable of files, as str or Path.
        validation_fraction: float between 0 and 1, about the part of each file that is left for validation.
        **kwargs: `data_dir` and the other keyword arguments of `tfds.core.GeneratorBasedBuilder`. `data_dir` is where
            the prepared examples are kept; tensorflow-datasets' own folder if None.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if there is no file, `validation_fraction` is not between 0 and 1, or a file is too short to be cut.

    Example:
        >>> from keras_tfm.data.text_corpus import TextCorpus
        >>> builder = TextCorpus("examples/data/shakespeare.txt", data_dir="/tmp/corpus")
        >>> builder.download_and_prepare()
        >>> texts = builder.as_dataset(split="train")
        >>> dataset = keras_tfm.data.language_model_dataset(texts, tokenizer, sequence_length=256, batch_size=16)
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent  # else tensorflow-datasets looks for this class among its own

    def __init__(
        self, path: str | os.PathLike | Iterable[str | os.PathLike], validation_fraction: float = 0.1, **kwargs
    ):
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        if not paths:
            raise ValueError(f"`path` must name a file or more. Received: path={path!r}.")
        if not 0 < validation_fraction < 1:
            raise ValueError(
                "`validation_fraction` must be between 0 and 1, both left out. "
                f"Received: validation_fraction={validation_fraction!r}."
            )
        self._paths = [local_path(file).absolute() for file in paths]
        self._validation_fraction = float(validation_fraction)
        name = re.sub(r"\W+", "_", self._paths[0].stem)[:40]
        kwargs.setdefault("config", tfds.core.BuilderConfig(name=f"{name}-{self._fingerprint()}"))
        super().__init__(**kwargs)
        # What the base class pickles: the arguments that make this builder anew.
        self._original_state = {"path": self._paths, "validation_fraction": self._validation_fraction, **kwargs}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self._validation_fraction).encode())
        for file in self._paths:
            if not file.is_file():
                raise FileNotFoundError(f"`path` must name files that exist. Received: {str(file)!r}.")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:12]

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description="Text files.", features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        parts = [cut_text(_read(file), self._validation_fraction, str(file)) for file in self._paths]
        train, validation = zip(*parts, strict=True)
        return {"train": self._generate_examples(train), "validation": self._generate_examples(validation)}

    def _generate_examples(self, texts: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
        for number, text in enumerate(texts):
            yield number, {"text": text}


def cut_text(text: str, validation_fraction: float, name: str = "text") -> tuple[str, str]:
    """Cuts a text in two near 1 - `validation_fraction` of its length: before that, after a blank line or a line."""
    target = round(len(text) * (1 - validation_fraction))
    if not 0 < target < len(text):
        raise ValueError(
            f"A text must be long enough to leave {validation_fraction} of it for validation. "
            f"Received: {len(text)} characters ({name})."
        )
    reach = max(1, min(target, len(text) - target) // 4)  # near: neither part changes by more than a quarter
    for border in ("\n\n", "\n"):
        place = text.rfind(border, target - reach, target)
        if place >= 0:
            return text[: place + len(border)], text[place + len(border) :]
    return text[:target], text[target:]


def _read(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace")  # no change of line ends
