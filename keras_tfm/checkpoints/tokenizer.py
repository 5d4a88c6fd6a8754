"""Tokenizers from the folders of checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keras_tfm.files import read_json_object
from keras_tfm.tokenizers import BytePairTokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer
from keras_tfm.tokenizers.sentence_piece import FILE_NAMES

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LARGEST_VOCABULARY = 2**20
_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def tokenizer_in(folder: Path, document: dict[str, Any] | None, vocabulary_size: Any, end_of_text: str | None):
    """The tokenizer of a folder.

    Args:
        folder: the folder.
        document: content of its tokenizer.json, or None if there is none.
        vocabulary_size: `vocab_size` of config.json; whatever is no sensible number is passed over.
        end_of_text: the token at which a text ends, or None.

    Raises:
        FileNotFoundError: if there are no files of a tokenizer.
        ValueError: for a kind that is not implemented.
    """
    kind = _kind(folder, document)
    size = vocabulary_size if isinstance(vocabulary_size, int) and vocabulary_size <= _LARGEST_VOCABULARY else None
    if kind == "WordPiece":
        return WordPieceTokenizer.from_file(folder) if document is None else WordPieceTokenizer.from_json(document)
    if kind == "SentencePiece":
        model = next(folder / name for name in FILE_NAMES if (folder / name).is_file()).read_bytes()
        size = max(SentencePieceTokenizer(model).vocabulary_size, size or 0)
        return SentencePieceTokenizer(model, size, end_of_text)
    if kind == "WordLevel":
        tokenizer = CharacterTokenizer.from_json(document)
        end_of_text = end_of_text if end_of_text in tokenizer.special_tokens else tokenizer.end_of_text
        return CharacterTokenizer(tokenizer.characters, tokenizer.special_tokens, end_of_text)
    if kind != "BPE":
        raise ValueError(
            f"A tokenizer must be byte-level BPE, WordPiece or a SentencePiece model. Received: {kind} in {folder}, "
            "without tokenizer.model or spiece.model. Put that file there."
        )
    tokenizer = BytePairTokenizer.from_file(folder) if document is None else BytePairTokenizer.from_json(document)
    return filled_up(tokenizer, size, end_of_text)


def filled_up(tokenizer: BytePairTokenizer, vocabulary_size: int | None, end_of_text: str | None) -> BytePairTokenizer:
    """The tokenizer, filled up to the model's size, with the end of text that the checkpoint names.

    The tokens that fill it up are in the vocabulary only: nothing in a text is read as one.
    """
    size = tokenizer.vocabulary_size
    end_of_text = end_of_text if end_of_text in tokenizer.special_tokens else None
    own = tokenizer.end_of_text_id
    if size >= (vocabulary_size or 0) and end_of_text in (None, None if own is None else tokenizer.id_to_token(own)):
        return tokenizer  # nothing changes, and making one takes most of a second
    tokens = {tokenizer.id_to_token(i): i for i in range(size)}
    tokens.update({f"<|unused_{i}|>": i for i in range(size, vocabulary_size or 0)})
    return tokenizer.changed(vocabulary=tokens, end_of_text=end_of_text)


def with_roles(tokenizer, roles: Mapping[str, str]):
    """The tokenizer, on which it is noted which token is the first, the last, ..., for `save`.

    Args:
        tokenizer: from a checkpoint.
        roles: role, such as "pad_token" -> token; those that are not in the vocabulary are left out.
    """
    # No dict: a tf.Module would track it as a part of itself.
    tokenizer.checkpoint_roles = MappingProxyType({role: one for role, one in roles.items() if _has(tokenizer, one)})
    return tokenizer


def roles_in(special_tokens_map: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Role, such as "eos_token" -> token, from tokenizer_config.json or, in older folders, special_tokens_map.json."""
    config = {**special_tokens_map, **tokenizer_config}
    roles = {}
    for role in ROLES:
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if not isinstance(token, str | None):
            raise ValueError(
                f"`{role}` of tokenizer_config.json must be a string, or an object with `content`. "
                f"Received: {config[role]!r}."
            )
        if token is not None:
            roles[role] = token
    return roles


def _kind(folder: Path, document: dict[str, Any] | None) -> str:
    has_sentence_piece = any((folder / name).is_file() for name in FILE_NAMES)
    if document is not None:
        model = document.get("model")
        kind = str(model.get("type", "BPE")) if isinstance(model, dict) else "unknown"
        if kind == "BPE" and isinstance(model, dict) and model.get("byte_fallback"):
            kind = "BPE with byte fallback"
        return "SentencePiece" if has_sentence_piece and kind not in ("BPE", "WordPiece") else kind
    if (folder / "vocab.txt").is_file():
        return "WordPiece"
    if has_sentence_piece:
        return "SentencePiece"
    return "BPE"  # `from_file` says what is missing


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _has(tokenizer, token: str) -> bool:
    try:
        tokenizer.token_to_id(token)
    except ValueError:
        return False
    return True


def write_tokenizer_config(folder: Path, tokenizer, chat_template: str | None = None) -> None:
    """tokenizer_config.json: the class for transformers, the roles of special tokens, and the chat template."""
    config = _optional_json(folder / "tokenizer_config.json")  # of WordPiece, which writes its rules there
    if not isinstance(tokenizer, SentencePieceTokenizer):  # of which the model's type in config.json tells the class
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    if isinstance(tokenizer, WordPieceTokenizer):
        config.update({role: token for role, token in _BERT_ROLES.items() if token in tokenizer.special_tokens})
    config.update(getattr(tokenizer, "checkpoint_roles", {}))
    if getattr(tokenizer, "end_of_text_id", None) is not None:
        config["eos_token"] = tokenizer.id_to_token(tokenizer.end_of_text_id)
    if chat_template is not None:
        config["chat_template"] = chat_template
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
