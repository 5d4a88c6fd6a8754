"""The texts and files that a tokenizer is trained on."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_tfm.tokenizers.byte_alphabet import check_encodable

_BLOCK = 2**24  # characters


class TrainingTexts:
    """Iterates over what stands between special tokens, so that nothing is learned from these, and counts."""

    def __init__(self, texts_or_files: str | Path | Iterable[str | Path], special_tokens: tuple[str, ...]):
        if isinstance(texts_or_files, bytes) or not isinstance(texts_or_files, Iterable | Path):
            raise TypeError(
                "`texts_or_files` must be a str (text), a pathlib.Path (file) or an iterable of these. "
                f"Received: {texts_or_files!r}."
            )
        self._sources = [texts_or_files] if isinstance(texts_or_files, str | Path) else texts_or_files
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if special_tokens else None
        self.num_texts = 0
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            self.num_texts += 1
            for text in _blocks(source):
                for piece in self._special.split(text) if self._special else [text]:
                    self.num_characters += len(piece)
                    yield piece


def _blocks(source: str | Path) -> Iterator[str]:
    """A text as it is, or a file in blocks of lines, so that a corpus need not fit into memory."""
    if isinstance(source, str):
        check_encodable(source)
        yield source
    elif isinstance(source, Path):
        with source.open(encoding="utf-8", errors="replace", newline="") as file:
            while lines := file.readlines(_BLOCK):
                yield "".join(lines)
    else:
        raise TypeError(f"Each text must be a str (text) or a pathlib.Path (file). Received: {source!r}.")
