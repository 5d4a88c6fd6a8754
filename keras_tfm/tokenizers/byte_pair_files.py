"""The files of a byte pair tokenizer: tokenizer.json of Hugging Face, vocab.json and merges.txt of GPT-2."""

import json
import os
from typing import TYPE_CHECKING, Any

from keras_tfm.files import local_path, read_json, read_json_object, replace_file
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, parts_of
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS, pattern_of

if TYPE_CHECKING:
    from keras_tfm.tokenizers.byte_pair import BytePairTokenizer

# GPT-2's own release used the second pair of names.
_GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_MERGES_HEADER = "#version: 0.2"
_NFC = {"type": "NFC"}
# They add special tokens around a text or correct offsets; neither is done here.
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing", "RobertaProcessing")


def read_arguments(path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of a `BytePairTokenizer`, from a tokenizer.json, or a folder with one or with GPT-2's two files.

    Raises:
        FileNotFoundError: if there are no such files.
        ValueError: if they do not hold byte-level BPE as implemented here.
    """
    path = local_path(path)
    if path.is_file():
        return arguments_from_json(read_json(path))
    if (path / "tokenizer.json").is_file():
        return arguments_from_json(read_json(path / "tokenizer.json"))
    for tokens_name, merges_name in _GPT2_FILES:
        if (path / tokens_name).is_file() and (path / merges_name).is_file():
            token_ids = read_json_object(path / tokens_name)
            merges = _parse_merges((path / merges_name).read_text(encoding="utf-8"))
            return {"vocabulary": token_ids, "merges": merges, "special_tokens": _unmade_tokens(token_ids, merges)}
    raise FileNotFoundError(
        "`path` must be a tokenizer.json, or a folder with tokenizer.json, vocab.json and merges.txt, or encoder.json "
        f"and vocab.bpe. Received: {str(path)!r}, " + ("without these." if path.is_dir() else "which does not exist.")
    )


def write_tokenizer(tokenizer: "BytePairTokenizer", folder: str | os.PathLike) -> None:
    """Writes vocab.json, merges.txt and last tokenizer.json, which is read first; each comes whole."""
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merges = "\n".join([_MERGES_HEADER, *(f"{left} {right}" for left, right in tokenizer.merges)]) + "\n"
    replace_file(folder / "vocab.json", json.dumps(dict(tokenizer.vocabulary), ensure_ascii=False))
    replace_file(folder / "merges.txt", merges)
    replace_file(folder / "tokenizer.json", json.dumps(json_of(tokenizer), ensure_ascii=False, indent=1))


def arguments_from_json(document: Any) -> dict[str, Any]:
    """The arguments of a `BytePairTokenizer`, from a tokenizer.json; what would tokenize otherwise is refused."""
    model, token_ids, added_tokens = parts_of(document)
    _expect("model.type", model.get("type", "BPE"), "BPE")
    for field in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        _expect(f"model.{field}", model.get(field) or None, None)
    _expect("model.byte_fallback", bool(model.get("byte_fallback")), False)
    for field in ("truncation", "padding"):
        _expect(field, document.get(field), None)
    normalizer = document.get("normalizer")
    if normalizer != _NFC:
        _expect("normalizer", normalizer, None)
    words = _words_of(document.get("pre_tokenizer") or {})
    _expect("decoder.type", (document.get("decoder") or {"type": "ByteLevel"}).get("type"), "ByteLevel")
    for part in _parts(document.get("post_processor") or {"type": "ByteLevel"}):
        if part.get("type") not in _POST_PROCESSORS:
            _expect("post_processor.type", part.get("type"), "ByteLevel")

    for added in added_tokens:
        content = added["content"]
        for field in ("single_word", "rstrip"):
            _expect(f"{field} of the added token {content!r}", bool(added.get(field)), False)
        _expect(f"id of the added token {content!r}", added["id"], token_ids.setdefault(content, added["id"]))
    _check_order(added_tokens, normalizer)
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str | list) for merge in merges):
        raise ValueError(f"`model.merges` of a tokenizer.json must be a list of pairs. Received: {str(merges)[:60]}.")
    return {
        "vocabulary": token_ids,
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in merges],
        "special_tokens": [added["content"] for added in added_tokens],
        "words": words,
        "whole_words": bool(model.get("ignore_merges")),
        "normalization": "nfc" if normalizer == _NFC else None,
        "plain_tokens": [added["content"] for added in added_tokens if not added.get("special")],
        "drops_bytes": True,  # as the Rust library does without an unknown token
        "post_processor": document.get("post_processor"),
        "lstrip_tokens": [added["content"] for added in added_tokens if added.get("lstrip")],
    }


def _check_order(added_tokens: list[dict[str, Any]], normalizer: dict[str, Any] | None) -> None:
    """Raises if it matters that the Rust library looks for tokens with `normalized` after the others."""
    tokens: dict[bool, list[str]] = {True: [], False: []}
    for added in added_tokens:
        if added["content"].strip(" "):  # runs of spaces overlap with no other token
            tokens[bool(added.get("normalized"))].append(added["content"])
    if not tokens[True] or not tokens[False]:
        return
    if normalizer is not None or _overlap(*tokens.values()) or _overlap(*reversed(tokens.values())):
        raise ValueError(
            "Only byte-level BPE is supported whose added tokens all have `normalized`, or all have not, or no "
            f"normalizer and no overlaps. Received: normalized={tokens[True][:3]}, the others {tokens[False][:3]}."
        )


def _overlap(first: list[str], second: list[str]) -> bool:
    """Whether a token of the first may end where one of the second begins, or hold it."""
    begins = {token[:i] for token in second for i in range(1, len(token) + 1)}
    ends = {token[i:] for token in first for i in range(len(token))}
    return bool(begins & ends) or any(inner in token for token in first for inner in second)


def _words_of(pre_tokenizer: dict[str, Any]) -> str:
    """The name of the pattern that cuts texts into words."""
    if (words := pattern_of(pre_tokenizer)) is not None:
        return words
    if pre_tokenizer.get("type") == "Sequence":
        _expect("pre_tokenizer", pre_tokenizer, [WORD_PATTERNS[name].pre_tokenizer for name in WORD_PATTERNS])
    _expect("pre_tokenizer.type", pre_tokenizer.get("type"), "ByteLevel")
    _expect("pre_tokenizer.add_prefix_space", pre_tokenizer.get("add_prefix_space", True), False)
    _expect("pre_tokenizer.use_regex", pre_tokenizer.get("use_regex", True), True)
    raise ValueError(f"Received: pre_tokenizer={pre_tokenizer!r}.")


def _parts(processor: dict[str, Any]) -> list[dict[str, Any]]:
    if processor.get("type") != "Sequence":
        return [processor]
    parts = processor.get("processors")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"`post_processor.processors` must be a list of objects. Received: {str(parts)[:60]}.")
    return parts


def json_of(tokenizer: "BytePairTokenizer") -> dict[str, Any]:
    """The content of a tokenizer.json that the library `tokenizers` loads."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": token in tokenizer.lstrip_tokens,
                "rstrip": False,
                "normalized": not token.strip(" "),  # as those who have runs of spaces write them
                "special": token not in tokenizer.plain_tokens,
            }
            for token, token_id in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": _NFC if tokenizer.normalization else None,
        "pre_tokenizer": WORD_PATTERNS[tokenizer.words].pre_tokenizer,
        "post_processor": tokenizer.post_processor and dict(tokenizer.post_processor),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole_words,
            "vocab": dict(tokenizer.vocabulary),
            "merges": [list(pair) for pair in tokenizer.merges],
        },
    }


def _expect(field: str, received: Any, expected: Any) -> None:
    if received != expected:
        raise ValueError(
            "Only byte-level BPE with a regular expression that is known here is supported; "
            f"`{field}` must be {expected!r}. "
            f"Received: {received!r}."
        )


def _parse_merges(text: str) -> list[tuple[str, ...]]:
    lines = text.split("\n")  # not splitlines: it knows line ends that a symbol could be
    if lines[0].startswith("#version"):
        del lines[0]
    return [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip("\r")]


def _unmade_tokens(token_ids: dict[str, int], merges: list[tuple[str, ...]]) -> list[str]:
    """Tokens that are neither bytes nor products of merges: GPT-2's files name their special tokens in no other way."""
    made = {*BYTE_SYMBOLS, *map("".join, merges)}
    return sorted((token for token in token_ids if token not in made), key=token_ids.__getitem__)
