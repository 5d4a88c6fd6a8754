"""The doors: a checkpoint opened, and what is most often wanted of one, in a line each."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.checkpoint import Checkpoint
from keras_tfm.checkpoints.folder import FolderCheckpoint, HubCheckpoint
from keras_tfm.checkpoints.gguf import GgufCheckpoint
from keras_tfm.checkpoints.reader import refuse_file
from keras_tfm.files import local_path
from keras_tfm.tokenizers import Tokenizer
from keras_tfm.types import DTypeLike

# Ends of file names -> the class that opens such a file. Everything else is a folder.
FORMATS: dict[str, type[Checkpoint]] = {".gguf": GgufCheckpoint}


def open(path_or_repo_id: str | os.PathLike, ignore: Iterable[str] = (), revision: str | None = None) -> Checkpoint:
    """Opens a checkpoint of Hugging Face or llama.cpp: its model, tokenizer, chat template and all, read once.

    Args:
        path_or_repo_id: a folder with config.json and model.safetensors (or shards and their index), and the files of
            a tokenizer; a .gguf file of the llama architecture; or a repository's name, such as
            "openai-community/gpt2", which the package `huggingface_hub` downloads: the weights not before they are
            needed.
        ignore: keys of config.json that nobody knows and that may be passed over.
        revision: branch, tag or commit of the repository.

    Returns:
        `Checkpoint`.

    Raises:
        FileNotFoundError: if there is no such folder, file or repository.
        ValueError: for a file of another kind, or one that is truncated or corrupt.

    Example:
        >>> checkpoint = ktfm.checkpoints.open("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> checkpoint.text_generator()("The sky is", max_new_tokens=8)
    """
    if (path := _existing(path_or_repo_id)) is None:
        return HubCheckpoint(str(path_or_repo_id), revision, ignore)
    if path.is_dir():
        return FolderCheckpoint(path, ignore)
    if path.suffix.lower() not in FORMATS:
        refuse_file(path)
    return FORMATS[path.suffix.lower()](path, ignore)


def load(
    path_or_repo_id: str | os.PathLike,
    dtype: DTypeLike | None = None,
    ignore: Iterable[str] = (),
    revision: str | None = None,
    architecture: str | None = None,
    **options: Any,
) -> keras.Model:
    """The model of a checkpoint, read strictly: `open(path_or_repo_id, ignore, revision).model(...)`.

    Args:
        path_or_repo_id, ignore, revision: as in `open`.
        dtype, architecture, **options: as in `Checkpoint.model`.

    Returns:
        The task model of the architecture: `CausalLM` for "LlamaForCausalLM", and so on.

    Raises:
        FileNotFoundError, ValueError: as `open` and `Checkpoint.model`.

    Example:
        >>> model = ktfm.checkpoints.load("HuggingFaceTB/SmolLM2-135M")
        >>> model.generate([[1, 2, 3]], max_new_tokens=8)
    """
    return open(path_or_repo_id, ignore, revision).model(dtype, architecture, **options)


def load_tokenizer(path_or_repo_id: str | os.PathLike, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint; see `Checkpoint.tokenizer`.

    Args:
        path_or_repo_id, revision: as in `open`.

    Example:
        >>> tokenizer = ktfm.checkpoints.load_tokenizer("openai-community/gpt2")
        >>> tokenizer.encode("Hello world")
        [15496, 995]
        >>> llama = ktfm.checkpoints.load_tokenizer("meta-llama/Llama-3.2-1B-Instruct")
        >>> llama.encode("Hello") == [llama.token_to_id("<|begin_of_text|>"), *llama.encode("Hello", False)]
        True
    """
    return open(path_or_repo_id, revision=revision).tokenizer()


def load_chat_template(path_or_repo_id: str | os.PathLike, revision: str | None = None) -> ChatTemplate:
    """The chat template of a checkpoint; see `Checkpoint.chat_template`.

    Args:
        path_or_repo_id, revision: as in `open`.

    Raises:
        ValueError: if there is none.
    """
    return open(path_or_repo_id, revision=revision).chat_template()


def load_stop_token_ids(path_or_repo_id: str | os.PathLike, revision: str | None = None) -> tuple[int, ...]:
    """The tokens at which a checkpoint's texts end; see `Checkpoint.stop_token_ids`.

    Args:
        path_or_repo_id, revision: as in `open`.

    Example:
        >>> stops = ktfm.checkpoints.load_stop_token_ids("meta-llama/Llama-3.2-1B-Instruct")
        >>> writer = ktfm.generation.TextGenerator(model, tokenizer, stop_token_ids=stops)
    """
    return open(path_or_repo_id, revision=revision).stop_token_ids


def summary(path_or_repo_id: str | os.PathLike, ignore: Iterable[str] = ()) -> dict[str, Any]:
    """Family, sizes and files of a checkpoint, whose weights are not read; see `Checkpoint.summary`.

    Args:
        path_or_repo_id, ignore: as in `open`.
    """
    return open(path_or_repo_id, ignore).summary()


def _existing(path_or_repo_id: str | os.PathLike) -> Path | None:
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
