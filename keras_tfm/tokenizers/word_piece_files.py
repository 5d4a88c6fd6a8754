"""Files of a WordPiece tokenizer: tokenizer.json of Hugging Face, BERT's vocab.txt with tokenizer_config.json."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tfm.files import local_path, read_json, read_json_object, replace_file
from keras_tfm.tokenizers.bert_rules import CLASS, SEPARATOR_TOKEN, UNKNOWN
from keras_tfm.tokenizers.vocabulary import parts_of
from keras_tfm.tokenizers.word_piece_graph import MAX_CHARACTERS

if TYPE_CHECKING:
    from keras_tfm.tokenizers.word_piece import WordPieceTokenizer


def read_arguments(path: str | os.PathLike, lowercase: bool | None) -> dict[str, Any]:
    """The arguments of a `WordPieceTokenizer`, from a tokenizer.json, a vocab.txt or a folder; see its `from_file`."""
    path = local_path(path)
    file = path if path.is_file() else next(filter(Path.is_file, (path / "tokenizer.json", path / "vocab.txt")), None)
    if file is None:
        raise FileNotFoundError(
            "`path` must be a tokenizer.json or a vocab.txt, or a folder with one of them. "
            f"Received: {str(path)!r}, " + ("without these." if path.is_dir() else "which does not exist.")
        )
    if file.suffix != ".json":
        return {"vocabulary": _parse_pieces(file), **_rules_beside(file, lowercase)}
    arguments = arguments_from_json(read_json(file))
    if lowercase not in (None, arguments["lowercase"]):
        raise ValueError(
            f"`lowercase` must be what {str(file)!r} says, {arguments['lowercase']}, or None. "
            f"Received: lowercase={lowercase}."
        )
    return arguments


def write_tokenizer(tokenizer: "WordPieceTokenizer", folder: str | os.PathLike) -> None:
    """Writes vocab.txt, tokenizer_config.json, and last tokenizer.json, which is read first; each comes whole."""
    tokens = list(tokenizer.vocabulary)
    if broken := [token for token in tokens if "\n" in token or token != token.rstrip()]:
        raise ValueError(
            "Tokens must have no line ends and no white space at their end, or vocab.txt cannot hold them. "
            f"Received: {broken[:3]}."
        )
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.split_on_cjk,
    }
    replace_file(folder / "vocab.txt", "".join(f"{token}\n" for token in tokens))
    replace_file(folder / "tokenizer_config.json", json.dumps(config, indent=1))
    replace_file(folder / "tokenizer.json", json.dumps(json_of(tokenizer), ensure_ascii=False, indent=1))


def arguments_from_json(document: Any) -> dict[str, Any]:
    """The arguments of a `WordPieceTokenizer`, from a tokenizer.json; what would tokenize otherwise is refused.

    `truncation`, `padding` and `post_processor` say how ids are packed, not which they are, and are not read.
    """
    model, token_ids, added_tokens = parts_of(document)
    normalizer = document.get("normalizer") or {}
    _expect("model.type", model.get("type", "WordPiece"), "WordPiece")
    _expect("model.unk_token", model.get("unk_token"), UNKNOWN)
    _expect("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), "##")
    _expect("model.max_input_chars_per_word", model.get("max_input_chars_per_word"), MAX_CHARACTERS)
    _expect("normalizer.type", normalizer.get("type"), "BertNormalizer")
    _expect("normalizer.clean_text", normalizer.get("clean_text"), True)
    _expect("pre_tokenizer.type", (document.get("pre_tokenizer") or {}).get("type"), "BertPreTokenizer")
    for added in added_tokens:
        content = added["content"]
        for field in ("single_word", "lstrip", "rstrip", "normalized"):
            _expect(f"{field} of the added token {content!r}", bool(added.get(field)), False)
        _expect(f"id of the added token {content!r}", added["id"], token_ids.setdefault(content, added["id"]))
    return {
        "vocabulary": token_ids,
        "lowercase": bool(normalizer.get("lowercase")),
        "strip_accents": normalizer.get("strip_accents"),
        "split_on_cjk": bool(normalizer.get("handle_chinese_chars")),
        "special_tokens": [added["content"] for added in added_tokens],
    }


def json_of(tokenizer: "WordPieceTokenizer") -> dict[str, Any]:
    """The content of a tokenizer.json that the library `tokenizers` loads."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": token, **flags, "special": True}
            for token, token_id in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": tokenizer.split_on_cjk,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _post_processor(tokenizer.vocabulary),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_CHARACTERS,
            "vocab": dict(tokenizer.vocabulary),
        },
    }


def _post_processor(token_ids: Mapping[str, int]) -> dict[str, Any] | None:
    """[CLS] a [SEP] b [SEP], if the vocabulary has these."""
    if CLASS not in token_ids or SEPARATOR_TOKEN not in token_ids:
        return None

    def special(token: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    first, second = ({"Sequence": {"id": name, "type_id": segment}} for segment, name in enumerate("AB"))
    single = [special(CLASS, 0), first, special(SEPARATOR_TOKEN, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, second, special(SEPARATOR_TOKEN, 1)],
        "special_tokens": {
            token: {"id": token, "ids": [token_ids[token]], "tokens": [token]} for token in (CLASS, SEPARATOR_TOKEN)
        },
    }


def _rules_beside(file: Path, lowercase: bool | None) -> dict[str, Any]:
    """The rules of a vocab.txt, which does not tell them: from tokenizer_config.json beside it, or the caller."""
    config_file = file.with_name("tokenizer_config.json")
    config = read_json_object(config_file) if config_file.is_file() else {}
    if lowercase is None:
        lowercase = config.get("do_lower_case")
    if lowercase is None:
        raise ValueError(
            f"`lowercase` must be True (uncased) or False (cased), since {str(file)!r} has no tokenizer_config.json "
            "beside it that tells. Received: lowercase=None."
        )
    return {
        "lowercase": bool(lowercase),
        "strip_accents": config.get("strip_accents"),
        "split_on_cjk": bool(config.get("tokenize_chinese_chars", True)),
    }


def _parse_pieces(file: Path) -> dict[str, int]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} must be text in UTF-8, one token in a line. Received: {error}.") from error
    pieces: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n")):  # not splitlines: a piece may be U+2028
        piece = line.rstrip()
        if piece in pieces:
            raise ValueError(
                f"Each line of {str(file)!r} must be another token. "
                f"Received: {piece!r} in lines {pieces[piece] + 1} and {number + 1}."
            )
        pieces[piece] = number
    return pieces


def _expect(field: str, received: Any, expected: Any) -> None:
    if received != expected:
        raise ValueError(
            f"Only WordPiece as in BERT is supported; `{field}` must be {expected!r}. Received: {received!r}."
        )
