"""Training of a byte pair vocabulary, by the Rust library `tokenizers`."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path

from keras_tfm.tokenizers.byte_pair_files import vocabulary_from_json
from keras_tfm.tokenizers.byte_pair_vocabulary import BytePairVocabulary, check_byte_pair_special_tokens
from keras_tfm.tokenizers.training_texts import TrainingTexts


def train_byte_pair_vocabulary(
    texts_or_files: str | Path | Iterable[str | Path], vocabulary_size: int, special_tokens: Iterable[str]
) -> BytePairVocabulary:
    """Learns merges from texts; see `BytePairTokenizer.train`, whose arguments these are."""
    import tokenizers

    special_tokens = check_byte_pair_special_tokens(special_tokens)
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
    texts = TrainingTexts(texts_or_files, special_tokens)
    tokenizer.train_from_iterator(texts, trainer)
    if not texts.num_characters:
        raise ValueError(
            f"There must be text to train on. Received: {texts.num_texts} texts with no characters but special tokens."
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
