"""Training of a SentencePiece model, by the library `sentencepiece`."""

import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_tfm.arguments import as_integer
from keras_tfm.optional import required
from keras_tfm.tokenizers.inputs import TrainingTexts
from keras_tfm.tokenizers.sentence_piece_proto import read_proto
from keras_tfm.tokenizers.vocabulary import as_strings

ALGORITHMS = {"unigram": "unigram", "byte pair": "bpe"}
_LONGEST = 4000  # bytes of a line; the library passes over longer ones


def train_model(
    texts_or_files: str | Path | Iterable[str | Path],
    vocabulary_size: int,
    algorithm: str,
    special_tokens: Iterable[str],
    byte_fallback: bool,
    options: dict[str, Any],
) -> bytes:
    """Learns pieces from texts; gives a tokenizer.model. The method `SentencePieceTokenizer.train` says more."""
    vocabulary_size = as_integer("vocabulary_size", vocabulary_size)
    special_tokens = as_strings("special_tokens", special_tokens)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"`algorithm` must be one of {list(ALGORITHMS)}. Received: algorithm={algorithm!r}.")
    sentencepiece = required("sentencepiece", "sentencepiece", "Trainings of SentencePiece models")
    texts, file = TrainingTexts(texts_or_files, special_tokens), io.BytesIO()
    arguments = {
        "num_threads": 1,  # the same text gives the same pieces
        "minloglevel": 2,
        "hard_vocab_limit": False,
        "control_symbols": list(special_tokens),
        "byte_fallback": byte_fallback,
        **options,
    }
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=file,
            model_type=ALGORITHMS[algorithm],
            vocab_size=vocabulary_size,
            **arguments,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(
            "`vocabulary_size` must suit the text, and the text must not be empty. Received: "
            f"vocabulary_size={vocabulary_size} for {texts.num_characters:,} characters. sentencepiece says: {error}"
        ) from error
    size = len(read_proto(file.getvalue()).pieces)
    if size < vocabulary_size:
        warnings.warn(
            f"The text holds too few pieces for `vocabulary_size={vocabulary_size}`; the tokenizer has {size} tokens. "
            "Train on more text, or build the model with `tokenizer.vocabulary_size`.",
            stacklevel=3,
        )
    return file.getvalue()


def _lines(texts: TrainingTexts) -> Iterator[str]:
    """Lines, the long ones cut; nothing is learned across the ends of lines."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LONGEST // 4):
                yield line[start : start + _LONGEST // 4]
