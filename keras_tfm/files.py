"""Small files: JSON with a limit of its size, and contents that appear under their name only when they are whole."""

import json
import os
from pathlib import Path
from typing import Any

_LARGEST_JSON = 64 * 2**20  # bytes; the index of a model of 1,000 billion weights has some 10 MB, as large tokenizers


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is none, or unreasonably large.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} must have at most {_LARGEST_JSON:,} bytes. Received: {path.stat().st_size:,}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON in UTF-8. Received: {error}.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: if it is no JSON, no object, or unreasonably large.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {str(content)[:60]}.")
    return content


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and then renames it, so that no reader sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
