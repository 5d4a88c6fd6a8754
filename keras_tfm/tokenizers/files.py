"""Reading and writing of a tokenizer's files."""

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} must be JSON in UTF-8. Received: {error}.") from error


def parts_of(document: Any) -> tuple[dict[str, Any], dict[str, int], list[dict[str, Any]]]:
    """What every tokenizer.json has: the model, a copy of its vocabulary, and the added tokens in order of their ids.

    Raises:
        ValueError: if one of them, or a part that may be null, is not of the type that it must be.
    """
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise ValueError(f"A tokenizer.json must hold an object with a `model`. Received: {str(document)[:60]}.")
    for field in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(document.get(field), dict | None):
            raise ValueError(f"`{field}` of a tokenizer.json must be an object. Received: {str(document[field])[:60]}.")
    vocabulary, added_tokens = document["model"].get("vocab"), document.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not all(map(_is_id, vocabulary.values())):
        raise ValueError(
            f"`model.vocab` of a tokenizer.json must map tokens to integers. Received: {str(vocabulary)[:60]}."
        )
    if not isinstance(added_tokens, list) or not all(
        isinstance(added, dict) and isinstance(added.get("content"), str) and _is_id(added.get("id"))
        for added in added_tokens
    ):
        raise ValueError(
            "`added_tokens` of a tokenizer.json must be a list of objects with `id` and `content`. "
            f"Received: {str(added_tokens)[:60]}."
        )
    return document["model"], dict(vocabulary), sorted(added_tokens, key=lambda added: added["id"])


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and then renames it, so that no reader sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
