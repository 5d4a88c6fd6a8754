"""Training of a WordPiece vocabulary, by the Rust library `tokenizers`."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers.added_tokens import AddedToken, as_added_tokens
from keras_tfm.tokenizers.bert_rules import UNKNOWN, BertRules
from keras_tfm.tokenizers.inputs import TrainingTexts
from keras_tfm.tokenizers.word_piece_files import arguments_from_json

_ALPHABET = 1000  # characters that are kept, the most frequent ones; words with others become unknown


def train_word_piece_arguments(
    texts_or_files: str | Path | Iterable[str | Path],
    vocabulary_size: int,
    rules: BertRules,
    special_tokens: Iterable[str | AddedToken],
) -> dict[str, Any]:
    """Learns pieces from texts; gives the arguments of a `WordPieceTokenizer`, whose method `train` says more."""
    import tokenizers

    vocabulary_size = as_integer("vocabulary_size", vocabulary_size)
    added_tokens = as_added_tokens(special_tokens)
    contents = tuple(token.content for token in added_tokens)
    if UNKNOWN not in contents:
        raise ValueError(f"`special_tokens` must hold {UNKNOWN!r}. Received: special_tokens={contents}.")
    if vocabulary_size <= len(contents):
        raise ValueError(
            f"`vocabulary_size` must be greater than the number of special tokens, {len(contents)}. "
            f"Received: vocabulary_size={vocabulary_size}."
        )
    if isinstance(texts_or_files, Iterable) and not isinstance(texts_or_files, str | bytes):
        texts_or_files = list(texts_or_files)  # it is read twice
    # The trainer numbers "##" characters in the order of a hash table, never the same, and breaks ties by number.
    # So a first round finds the characters, and a second one is told their order.
    texts = TrainingTexts(texts_or_files, contents)
    alphabet = _train(tokenizers, texts, 0, rules, contents).get_vocab()
    in_order = sorted(set(alphabet) - set(contents), key=lambda piece: (piece.startswith("##"), piece))
    tokenizer = _train(
        tokenizers, TrainingTexts(texts_or_files, contents), vocabulary_size, rules, [*contents, *in_order]
    )
    if not texts.num_characters:
        raise ValueError(
            f"There must be text to train on. Received: {texts.num_texts} texts with no characters but special tokens."
        )
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [added for added in document["added_tokens"] if added["content"] in contents]
    arguments = {**arguments_from_json(document), "special_tokens": added_tokens, "post_processor": None}
    if (size := len(arguments["vocabulary"])) > vocabulary_size:
        raise ValueError(
            f"`vocabulary_size` must be at least {size} for this text: {len(contents)} special tokens and each "
            f"character, with and without ##. Received: vocabulary_size={vocabulary_size}."
        )
    if size < vocabulary_size:
        warnings.warn(
            f"The text holds too few words for `vocabulary_size={vocabulary_size}`; the tokenizer has {size} tokens. "
            "Train on more text, or build the model with `tokenizer.vocabulary_size`.",
            stacklevel=3,
        )
    return arguments


def _train(tokenizers, texts: TrainingTexts, vocabulary_size: int, rules: BertRules, first_tokens: Iterable[str]):
    """A `tokenizers.Tokenizer` whose vocabulary begins with `first_tokens`."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=rules.split_on_cjk,
        strip_accents=rules.strip_accents,
        lowercase=rules.lowercase,
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(first_tokens),
        limit_alphabet=_ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
