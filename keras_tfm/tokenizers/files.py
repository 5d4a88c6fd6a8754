"""Reading and writing of a tokenizer's files."""

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must be JSON in UTF-8. Received: {error}.") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and then renames it, so that no reader sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
