"""The files of a byte pair tokenizer: tokenizer.json of Hugging Face, vocab.json and merges.txt of GPT-2."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tfm.files import local_path, read_json, read_json_object, replace_file
from keras_tfm.tokenizers.added_tokens import added_tokens_of, json_of_added_tokens
from keras_tfm.tokenizers.post_processor import post_processor_of, tokens_around
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, parts_of, single_part
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS, pattern_of, pre_tokenizer_of

if TYPE_CHECKING:
    from keras_tfm.tokenizers.byte_pair import BytePairTokenizer

# GPT-2's own release used the second pair of names.
_GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_MERGES_HEADER = "#version: 0.2"
_NFC = {"type": "NFC"}


def read_arguments(path: str | os.PathLike, add_special_tokens: bool = False) -> dict[str, Any]:
    """The arguments of a `BytePairTokenizer`, from a tokenizer.json, or a folder with one or with GPT-2's two files.

    Raises:
        FileNotFoundError: if there are no such files.
        ValueError: if they do not hold byte-level BPE as implemented here.
    """
    path = local_path(path)
    if path.is_file():
        return arguments_from_json(read_json(path), add_special_tokens)
    if (path / "tokenizer.json").is_file():
        return arguments_from_json(read_json(path / "tokenizer.json"), add_special_tokens)
    if (found := read_gpt2_files(path)) is not None:
        token_ids, merges = found
        return {"vocabulary": token_ids, "merges": merges, "special_tokens": _unmade_tokens(token_ids, merges)}
    raise FileNotFoundError(
        "`path` must be a tokenizer.json, or a folder with tokenizer.json, vocab.json and merges.txt, or encoder.json "
        f"and vocab.bpe. Received: {str(path)!r}, " + ("without these." if path.is_dir() else "which does not exist.")
    )


def read_gpt2_files(folder: Path) -> tuple[dict[str, int], list[tuple[str, ...]]] | None:
    """The vocabulary and the merges of vocab.json and merges.txt, or encoder.json and vocab.bpe; None without them."""
    for tokens_name, merges_name in _GPT2_FILES:
        if (folder / tokens_name).is_file() and (folder / merges_name).is_file():
            merges = _parse_merges((folder / merges_name).read_text(encoding="utf-8"))
            return read_json_object(folder / tokens_name), merges
    return None


def write_tokenizer(tokenizer: "BytePairTokenizer", folder: str | os.PathLike) -> None:
    """Writes vocab.json, merges.txt and last tokenizer.json, which is read first; each comes whole."""
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merges = "\n".join([_MERGES_HEADER, *(f"{left} {right}" for left, right in tokenizer.merges)]) + "\n"
    replace_file(folder / "vocab.json", json.dumps(dict(tokenizer.vocabulary), ensure_ascii=False))
    replace_file(folder / "merges.txt", merges)
    replace_file(folder / "tokenizer.json", json.dumps(json_of(tokenizer), ensure_ascii=False, indent=1))


def arguments_from_json(document: Any, add_special_tokens: bool = False) -> dict[str, Any]:
    """The arguments of a `BytePairTokenizer`, from a tokenizer.json; what would tokenize otherwise is refused.

    `truncation` and `padding` are set anew by each call, in transformers too, and are not read.
    """
    model, token_ids, added_tokens = parts_of(document)
    _expect("model.type", model.get("type", "BPE"), "BPE")
    for field in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        _expect(f"model.{field}", model.get(field) or None, None)
    _expect("model.byte_fallback", bool(model.get("byte_fallback")), False)
    normalizer = single_part(document.get("normalizer"), "normalizers")
    if normalizer != _NFC:
        _expect("normalizer", normalizer, None)
    words, add_prefix_space = _words_of(single_part(document.get("pre_tokenizer"), "pretokenizers"))
    decoder = single_part(document.get("decoder"), "decoders") or {"type": "ByteLevel"}
    _expect("decoder.type", decoder.get("type"), "ByteLevel")
    special_tokens = added_tokens_of(added_tokens, token_ids)
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str | list) for merge in merges):
        raise ValueError(f"`model.merges` of a tokenizer.json must be a list of pairs. Received: {str(merges)[:60]}.")
    begin, end = tokens_around(document.get("post_processor"), token_ids)
    return {
        "vocabulary": token_ids,
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in merges],
        "special_tokens": special_tokens,
        "words": words,
        "whole_words": bool(model.get("ignore_merges")),
        "normalization": "nfc" if normalizer == _NFC else None,
        "drops_bytes": True,  # as the Rust library does without an unknown token
        "add_prefix_space": add_prefix_space,
        "begin_tokens": begin if add_special_tokens else [],
        "end_tokens": end if add_special_tokens else [],
        "post_processor": document.get("post_processor"),
    }


def _words_of(pre_tokenizer: dict[str, Any] | None) -> tuple[str, bool]:
    """The name of the pattern that cuts texts into words, and whether a space is put before texts."""
    for add_prefix_space in (False, True):
        if (words := pattern_of(pre_tokenizer, add_prefix_space)) is not None:
            return words, add_prefix_space
    raise ValueError(
        f"`pre_tokenizer` of a tokenizer.json must cut words as one of {tuple(WORD_PATTERNS)} does. "
        f"Received: {str(pre_tokenizer)[:150]}."
    )


def json_of(tokenizer: "BytePairTokenizer") -> dict[str, Any]:
    """The content of a tokenizer.json that the library `tokenizers` loads."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": json_of_added_tokens(tokenizer.added_tokens, tokenizer.vocabulary),
        "normalizer": _NFC if tokenizer.normalization else None,
        "pre_tokenizer": pre_tokenizer_of(tokenizer.words, tokenizer.add_prefix_space),
        "post_processor": _post_processor(tokenizer),
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


def _post_processor(tokenizer: "BytePairTokenizer") -> dict[str, Any] | None:
    """What the file said that the tokenizer was read from, or what puts its tokens around texts."""
    if tokenizer.post_processor is not None:
        return dict(tokenizer.post_processor)
    return post_processor_of(tokenizer.begin_tokens, tokenizer.end_tokens, tokenizer.vocabulary)


def _expect(field: str, received: Any, expected: Any) -> None:
    if received != expected:
        raise ValueError(
            f"Only byte-level BPE is supported; `{field}` of a tokenizer.json must be {expected!r}. "
            f"Received: {str(received)[:100]}."
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
