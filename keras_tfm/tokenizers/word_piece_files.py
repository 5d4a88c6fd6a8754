"""Files of a WordPiece tokenizer: tokenizer.json of Hugging Face, BERT's vocab.txt with tokenizer_config.json."""

import json
import os
from pathlib import Path
from typing import Any

from keras_tfm.tokenizers.bert_characters import BertRules
from keras_tfm.tokenizers.files import parts_of, read_json, replace_file
from keras_tfm.tokenizers.word_piece_vocabulary import CLASS, MAX_CHARACTERS, SEPARATOR, UNKNOWN, WordPieceVocabulary


def read_vocabulary(path: str | os.PathLike, lowercase: bool | None) -> WordPieceVocabulary:
    """Reads a tokenizer.json, a vocab.txt, or a folder that holds one of them; see `WordPieceTokenizer.from_file`."""
    path = Path(path)
    file = path if path.is_file() else next(filter(Path.is_file, (path / "tokenizer.json", path / "vocab.txt")), None)
    if file is None:
        raise FileNotFoundError(
            "`path` must be a tokenizer.json or a vocab.txt, or a folder with one of them. "
            f"Received: {str(path)!r}, " + ("without these." if path.is_dir() else "which does not exist.")
        )
    if file.suffix != ".json":
        return WordPieceVocabulary(_parse_pieces(file), _rules_beside(file, lowercase))
    vocabulary = vocabulary_from_json(read_json(file))
    if lowercase not in (None, vocabulary.rules.lowercase):
        raise ValueError(
            f"`lowercase` must be what {str(file)!r} says, {vocabulary.rules.lowercase}, or None. "
            f"Received: lowercase={lowercase}."
        )
    return vocabulary


def write_vocabulary(vocabulary: WordPieceVocabulary, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json, vocab.txt and tokenizer_config.json; each is complete before it takes its name."""
    if broken := [token for token in vocabulary.tokens if "\n" in token or token != token.rstrip()]:
        raise ValueError(
            "Tokens must have no line ends and no white space at their end, or vocab.txt cannot hold them. "
            f"Received: {broken[:3]}."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rules = vocabulary.rules
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": rules.lowercase,
        "strip_accents": rules.strip_accents,
        "tokenize_chinese_chars": rules.split_on_cjk,
    }
    replace_file(folder / "vocab.txt", "".join(f"{token}\n" for token in vocabulary.tokens))
    replace_file(folder / "tokenizer_config.json", json.dumps(config, indent=1))
    replace_file(folder / "tokenizer.json", json.dumps(vocabulary_to_json(vocabulary), ensure_ascii=False, indent=1))


def vocabulary_from_json(document: Any) -> WordPieceVocabulary:
    """Reads the content of a tokenizer.json, and refuses what would tokenize otherwise than we do.

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
    lowercase, strip_accents = bool(normalizer.get("lowercase")), normalizer.get("strip_accents")
    rules = BertRules(
        lowercase=lowercase,
        strip_accents=lowercase if strip_accents is None else bool(strip_accents),
        split_on_cjk=bool(normalizer.get("handle_chinese_chars")),
    )
    for added in added_tokens:
        content = added["content"]
        for field in ("single_word", "lstrip", "rstrip", "normalized"):
            _expect(f"{field} of the added token {content!r}", bool(added.get(field)), False)
        _expect(f"id of the added token {content!r}", added["id"], token_ids.setdefault(content, added["id"]))
    return WordPieceVocabulary(token_ids, rules, [added["content"] for added in added_tokens])


def vocabulary_to_json(vocabulary: WordPieceVocabulary) -> dict[str, Any]:
    """The content of a tokenizer.json that the library `tokenizers` loads."""
    rules, flags = vocabulary.rules, {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": token, **flags, "special": True}
            for token, token_id in sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": rules.split_on_cjk,
            "strip_accents": rules.strip_accents,
            "lowercase": rules.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _post_processor(vocabulary.token_ids),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_CHARACTERS,
            "vocab": dict(vocabulary.token_ids),
        },
    }


def _post_processor(token_ids: dict[str, int]) -> dict[str, Any] | None:
    """[CLS] a [SEP] b [SEP], if the vocabulary has these."""
    if CLASS not in token_ids or SEPARATOR not in token_ids:
        return None

    def special(token: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    first, second = ({"Sequence": {"id": name, "type_id": segment}} for segment, name in enumerate("AB"))
    single = [special(CLASS, 0), first, special(SEPARATOR, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, second, special(SEPARATOR, 1)],
        "special_tokens": {
            token: {"id": token, "ids": [token_ids[token]], "tokens": [token]} for token in (CLASS, SEPARATOR)
        },
    }


def _rules_beside(file: Path, lowercase: bool | None) -> BertRules:
    """The rules of a vocab.txt, which does not tell them: from tokenizer_config.json beside it, or the caller."""
    config_file = file.with_name("tokenizer_config.json")
    config = read_json(config_file) if config_file.is_file() else {}
    if lowercase is None:
        lowercase = config.get("do_lower_case")
    if lowercase is None:
        raise ValueError(
            f"`lowercase` must be True (uncased) or False (cased), since {str(file)!r} has no tokenizer_config.json "
            "beside it that tells. Received: lowercase=None."
        )
    strip_accents = config.get("strip_accents")
    return BertRules(
        lowercase=bool(lowercase),
        strip_accents=bool(lowercase if strip_accents is None else strip_accents),
        split_on_cjk=bool(config.get("tokenize_chinese_chars", True)),
    )


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
