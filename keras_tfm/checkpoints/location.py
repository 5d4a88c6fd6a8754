"""Where a checkpoint is: on this machine, or in a repository that is downloaded."""

import os
from collections.abc import Iterable
from pathlib import Path

from keras_tfm.files import local_path
from keras_tfm.optional import required

# What is downloaded: no pickles, no code, and not Mistral's consolidated.safetensors, which holds the weights again.
SETTINGS = ("*.json", "*/config.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "*.jinja")
WEIGHTS = ("model*.safetensors",)


def existing(path_or_repo_id: str | os.PathLike) -> Path | None:
    """The path, if it exists; None if it may be a repository's name.

    Raises:
        FileNotFoundError: if it is neither.
    """
    path = local_path(path_or_repo_id)
    if path.exists():
        return path
    name = str(path_or_repo_id)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"`path_or_repo_id` must exist. Received: {name!r}, which does not.")
    return None


def download(name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """The folder with the files of a repository whose names fit a pattern.

    Args:
        name: the repository, such as "openai-community/gpt2".
        revision: branch, tag or commit.
        patterns: of file names.

    Raises:
        FileNotFoundError: without the package huggingface_hub, or if it cannot download them.
    """
    try:
        hub = required("huggingface_hub", "checkpoints", "Downloads of repositories")
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (ImportError, OSError, ValueError) as error:
        raise FileNotFoundError(
            "`path_or_repo_id` must be a folder, a file, or a repository that can be downloaded. "
            f"Received: {name!r}. There is no such file or folder here, and as a repository: {error}"
        ) from error
