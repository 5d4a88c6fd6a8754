"""Training of a byte pair vocabulary, by the Rust library `tokenizers`."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_tfm.tokenizers.byte_alphabet import check_encodable
from keras_tfm.tokenizers.byte_pair_files import vocabulary_from_json
from keras_tfm.tokenizers.byte_pair_vocabulary import BytePairVocabulary, check_special_tokens

_BLOCK = 2**24  # characters


def train_byte_pair_vocabulary(
    texts_or_files: str | Path | Iterable[str | Path], vocabulary_size: int, special_tokens: Iterable[str]
) -> BytePairVocabulary:
    """Learns merges from texts; see `BytePairTokenizer.train`, whose arguments these are."""
    import tokenizers

    special_tokens = check_special_tokens(special_tokens)
    smallest = 256 + len(special_tokens)
    if vocabulary_size < smallest:
        raise ValueError(
            f"`vocabulary_size` must be at least {smallest}: 256 bytes and {len(special_tokens)} special tokens. "
            f"Received: vocabulary_size={vocabulary_size}."
        )
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(special_tokens),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    pieces = _Pieces(texts_or_files, special_tokens)
    tokenizer.train_from_iterator(pieces, trainer)
    if not pieces.num_characters:
        raise ValueError(
            f"There must be text to train on. Received: {pieces.num_texts} texts with no characters but special tokens."
        )
    vocabulary = vocabulary_from_json(json.loads(tokenizer.to_str()))
    if len(vocabulary.tokens) < vocabulary_size:
        warnings.warn(
            f"The text holds too few pairs for `vocabulary_size={vocabulary_size}`; the tokenizer has "
            f"{len(vocabulary.tokens)} tokens. Train on more text, or build the model with "
            "`tokenizer.vocabulary_size`.",
            stacklevel=3,
        )
    return vocabulary


class _Pieces:
    """Iterates over what stands between special tokens, so that no merge is learned from these, and counts."""

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
