"""Files of a WordPiece tokenizer: tokenizer.json of Hugging Face, BERT's vocab.txt with tokenizer_config.json."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tfm.files import local_path, read_json, read_json_object, replace_file
from keras_tfm.tokenizers.added_tokens import added_tokens_of, json_of_added_tokens
from keras_tfm.tokenizers.bert_rules import CLASS, SEPARATOR_TOKEN, UNKNOWN
from keras_tfm.tokenizers.post_processor import NO_POST_PROCESSOR, post_processor_of, tokens_around
from keras_tfm.tokenizers.vocabulary import parts_of, single_part
from keras_tfm.tokenizers.word_piece_graph import MAX_CHARACTERS

if TYPE_CHECKING:
    from keras_tfm.tokenizers.word_piece import WordPieceTokenizer


def read_arguments(path: str | os.PathLike, lowercase: bool | None, add_special_tokens: bool) -> dict[str, Any]:
    """The arguments of a `WordPieceTokenizer`, from a tokenizer.json, a vocab.txt or a folder; see its `from_file`."""
    path = local_path(path)
    file = path if path.is_file() else next(filter(Path.is_file, (path / "tokenizer.json", path / "vocab.txt")), None)
    if file is None:
        raise FileNotFoundError(
            "`path` must be a tokenizer.json or a vocab.txt, or a folder with one of them. "
            f"Received: {str(path)!r}, " + ("without these." if path.is_dir() else "which does not exist.")
        )
    if file.suffix != ".json":
        pieces = _parse_pieces(file)
        begin, end = ([token] if add_special_tokens and token in pieces else [] for token in (CLASS, SEPARATOR_TOKEN))
        return {"vocabulary": pieces, **_rules_beside(file, lowercase), "begin_tokens": begin, "end_tokens": end}
    arguments = arguments_from_json(read_json(file), add_special_tokens)
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


def arguments_from_json(document: Any, add_special_tokens: bool = False) -> dict[str, Any]:
    """The arguments of a `WordPieceTokenizer`, from a tokenizer.json; what would tokenize otherwise is refused.

    `truncation` and `padding` are set anew by each call, in transformers too, and are not read.
    """
    model, token_ids, added_tokens = parts_of(document)
    normalizer = single_part(document.get("normalizer"), "normalizers") or {}
    _expect("model.type", model.get("type", "WordPiece"), "WordPiece")
    _expect("model.unk_token", model.get("unk_token"), UNKNOWN)
    _expect("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), "##")
    _expect("model.max_input_chars_per_word", model.get("max_input_chars_per_word"), MAX_CHARACTERS)
    _expect("normalizer.type", normalizer.get("type"), "BertNormalizer")
    _expect("normalizer.clean_text", normalizer.get("clean_text"), True)
    pre_tokenizer = single_part(document.get("pre_tokenizer"), "pretokenizers") or {}
    _expect("pre_tokenizer.type", pre_tokenizer.get("type"), "BertPreTokenizer")
    special_tokens = added_tokens_of(added_tokens, token_ids)
    begin, end = tokens_around(document.get("post_processor"), token_ids)
    return {
        "vocabulary": token_ids,
        "lowercase": bool(normalizer.get("lowercase")),
        "strip_accents": normalizer.get("strip_accents"),
        "split_on_cjk": bool(normalizer.get("handle_chinese_chars")),
        "special_tokens": special_tokens,
        "begin_tokens": begin if add_special_tokens else [],
        "end_tokens": end if add_special_tokens else [],
        "post_processor": document.get("post_processor") or NO_POST_PROCESSOR,
    }


def json_of(tokenizer: "WordPieceTokenizer") -> dict[str, Any]:
    """The content of a tokenizer.json that the library `tokenizers` loads."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": json_of_added_tokens(tokenizer.added_tokens, tokenizer.vocabulary),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": tokenizer.split_on_cjk,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _post_processor(tokenizer),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_CHARACTERS,
            "vocab": dict(tokenizer.vocabulary),
        },
    }


def _post_processor(tokenizer: "WordPieceTokenizer") -> dict[str, Any] | None:
    """What the file said that it was read from; else [CLS] a [SEP] b [SEP], if the vocabulary has these."""
    if tokenizer.post_processor is not None:
        return dict(tokenizer.post_processor)
    if CLASS not in tokenizer.vocabulary or SEPARATOR_TOKEN not in tokenizer.vocabulary:
        return None
    packed: Any = post_processor_of([CLASS], [SEPARATOR_TOKEN], tokenizer.vocabulary)
    packed["pair"] = [one for one in packed["pair"] if one != {"SpecialToken": {"id": CLASS, "type_id": 1}}]
    return packed


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
