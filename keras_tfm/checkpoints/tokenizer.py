"""Tokenizers from the folders of checkpoints."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keras_tfm.checkpoints.loader import folder_of
from keras_tfm.checkpoints.reader import read_json
from keras_tfm.tokenizers import BytePairTokenizer, SentencePieceTokenizer, WordPieceTokenizer

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def load_tokenizer(path_or_repo_id: str | os.PathLike, revision: str | None = None):
    """Reads the tokenizer of a Hugging Face checkpoint; its ids equal those of transformers.

    Special tokens in a text are read as such, but none are added: where a model was trained with a first token, write
    it ("<|begin_of_text|>Once ..."), as chat templates do. SentencePiece knows no special tokens in a text: see
    `SentencePieceTokenizer` and its `add_begin_of_text`. A vocabulary that is smaller than the model's is filled up
    with unused tokens, since models are often padded to a round number.

    Args:
        path_or_repo_id: a folder with tokenizer.json (or GPT-2's vocab.json and merges.txt, or BERT's vocab.txt, or
            SentencePiece's tokenizer.model or spiece.model), a .gguf file, or a repository's name, as in `load`.
        revision: branch, tag or commit of the repository.

    Returns:
        `BytePairTokenizer`, or `WordPieceTokenizer` for BERT's files, or `SentencePieceTokenizer` where the folder
        has a SentencePiece model and no tokenizer.json of the other two kinds.

    Raises:
        FileNotFoundError: if there are no such files.
        ValueError: for a kind of tokenizer that is not implemented here, such as Unigram without its
            SentencePiece model.
        ImportError: for a SentencePiece model without `pip install keras-tfm[sentencepiece]`.

    Example:
        >>> tokenizer = ktfm.checkpoints.load_tokenizer("openai-community/gpt2")
        >>> tokenizer.encode("Hello world")
        [15496, 995]
    """
    folder = folder_of(path_or_repo_id, revision)
    if folder.is_file():
        from keras_tfm.checkpoints.gguf_tokenizer import tokenizer_of  # it imports this module

        return tokenizer_of(folder)
    roles = special_tokens_of(folder)
    return with_roles(_tokenizer(folder, roles.get("eos_token")), roles)


def _tokenizer(folder: Path, end_of_text: str | None):
    kind = _kind(folder)
    if kind == "WordPiece":
        return WordPieceTokenizer.from_file(folder)
    if kind == "SentencePiece":
        tokenizer = SentencePieceTokenizer.from_file(folder)
        size = max(tokenizer.vocabulary_size, _model_size(folder) or 0)
        return SentencePieceTokenizer.from_file(folder, size, end_of_text)
    if kind != "BPE":
        raise ValueError(
            f"A tokenizer must be byte-level BPE, WordPiece or a SentencePiece model. Received: {kind} in {folder}, "
            "without tokenizer.model or spiece.model. Put that file there."
        )
    return filled_up(BytePairTokenizer.from_file(folder), _model_size(folder), end_of_text)


def filled_up(tokenizer: BytePairTokenizer, vocabulary_size: int | None, end_of_text: str | None) -> BytePairTokenizer:
    """The tokenizer, filled up to the model's size, with the end of text that the checkpoint names.

    The tokens that fill it up are in the vocabulary only: nothing in a text is read as one.
    """
    size = tokenizer.vocabulary_size
    tokens = {tokenizer.id_to_token(i): i for i in range(size)}
    tokens.update({f"<|unused_{i}|>": i for i in range(size, vocabulary_size or 0)})
    end_of_text = end_of_text if end_of_text in tokenizer.special_tokens else None
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


def special_tokens_of(folder: Path) -> dict[str, str]:
    """Role, such as "eos_token" -> token, from tokenizer_config.json or, in older folders, special_tokens_map.json."""
    config = {**_optional_json(folder / "special_tokens_map.json"), **_optional_json(folder / "tokenizer_config.json")}
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


def _kind(folder: Path) -> str:
    has_sentence_piece = any((folder / name).is_file() for name in ("tokenizer.model", "spiece.model"))
    if (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model")
        kind = str(model.get("type", "BPE")) if isinstance(model, dict) else "unknown"
        if kind == "BPE" and model.get("byte_fallback"):
            kind = "BPE with byte fallback"
        return "SentencePiece" if has_sentence_piece and kind not in ("BPE", "WordPiece") else kind
    if (folder / "vocab.txt").is_file():
        return "WordPiece"
    if has_sentence_piece:
        return "SentencePiece"
    return "BPE"  # `from_file` says what is missing


def _model_size(folder: Path) -> int | None:
    size = _optional_json(folder / "config.json").get("vocab_size")
    return size if isinstance(size, int) and size <= 2**24 else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


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
    if isinstance(tokenizer, BytePairTokenizer | SentencePieceTokenizer) and tokenizer.end_of_text_id is not None:
        config["eos_token"] = tokenizer.id_to_token(tokenizer.end_of_text_id)
    if chat_template is not None:
        config["chat_template"] = chat_template
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
