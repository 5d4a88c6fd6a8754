"""Training of a byte pair vocabulary, by the Rust library `tokenizers`."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers.added_tokens import AddedToken
from keras_tfm.tokenizers.byte_pair_files import arguments_from_json
from keras_tfm.tokenizers.byte_pair_vocabulary import as_byte_pair_special_tokens
from keras_tfm.tokenizers.inputs import TrainingTexts


def train_byte_pair_arguments(
    texts_or_files: str | Path | Iterable[str | Path], vocabulary_size: int, special_tokens: Iterable[str | AddedToken]
) -> dict[str, Any]:
    """Learns merges from texts; gives the arguments of a `BytePairTokenizer`, whose method `train` says more."""
    import tokenizers

    special_tokens = as_byte_pair_special_tokens(special_tokens)
    contents = [token.content for token in special_tokens]
    vocabulary_size = as_integer("vocabulary_size", vocabulary_size)
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
        special_tokens=contents,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    texts = TrainingTexts(texts_or_files, contents)
    tokenizer.train_from_iterator(texts, trainer)
    if not texts.num_characters:
        raise ValueError(
            f"There must be text to train on. Received: {texts.num_texts} texts with no characters but special tokens."
        )
    arguments = {**arguments_from_json(json.loads(tokenizer.to_str())), "special_tokens": special_tokens}
    if (size := len(arguments["vocabulary"])) < vocabulary_size:
        warnings.warn(
            f"The text holds too few pairs for `vocabulary_size={vocabulary_size}`; the tokenizer has "
            f"{size} tokens. Train on more text, or build the model with "
            "`tokenizer.vocabulary_size`.",
            stacklevel=3,
        )
    return arguments
