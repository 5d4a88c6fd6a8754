"""What a checkpoint is, told from its config and the headers of its files."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_tfm.checkpoints.architecture import architecture_of
from keras_tfm.checkpoints.config_keys import read_config
from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.checkpoints.loader import config_of, folder_of
from keras_tfm.checkpoints.reader import SafetensorsFiles
from keras_tfm.checkpoints.tensors import num_elements, parts_of


def summary(path_or_repo_id: str | os.PathLike, ignore: Iterable[str] = ()) -> dict[str, Any]:
    """Family, sizes and files of a checkpoint; no weights are read, nor downloaded.

    Args:
        path_or_repo_id: as in `load`.
        ignore: keys of config.json that may be passed over, as in `load`.

    Returns:
        dict from a name to what is to be printed.

    Raises:
        FileNotFoundError, ValueError: as `load` does, for files, families and settings that are not supported.
    """
    folder = folder_of(path_or_repo_id)
    if folder.is_file():
        from keras_tfm.checkpoints.gguf import GgufFile, arguments_of

        file = GgufFile(folder)
        told = {
            "architecture": f"GGUF, {file.header.get('general.architecture')}",
            "name": file.header.get("general.name"),
        }
        return {**told, **_sizes(arguments_of(file, ignore)), **_tensors(file.shapes().values())}
    config = config_of(folder)
    architecture = architecture_of(config)
    arguments = read_config(architecture.config, config, ignore)
    if folder == Path(path_or_repo_id).expanduser():
        shapes = list(SafetensorsFiles(folder).shapes().values())
    else:  # of a repository only the settings are there
        model = build_empty(lambda: architecture.build(**arguments))
        shapes = [part.shape for part in parts_of(architecture.tensors, model)]
    files = sorted(file.name for file in folder.iterdir() if file.name.startswith(("tokenizer", "vocab", "chat_")))
    return {
        "architecture": f"{architecture.name} ({architecture.model_type})",
        **_sizes(arguments),
        **_tensors(shapes),
        "tokenizer files": ", ".join(files) or "none",
    }


def _sizes(arguments: dict[str, Any]) -> dict[str, Any]:
    """The builder's arguments that a line can hold."""
    told = {
        name: value for name, value in arguments.items() if isinstance(value, str | int | float) and value is not None
    }
    rotary = arguments.get("rotary")
    if rotary is not None:
        scaling = "" if rotary.scaling is None else f", {type(rotary.scaling).__name__}"
        told["rotary"] = f"base {rotary.max_wavelength:,.0f}{scaling}"
    return {name.replace("_", " "): f"{value:,}" if type(value) is int else value for name, value in told.items()}


def _tensors(shapes: Iterable[tuple[int, ...]]) -> dict[str, Any]:
    numbers = [num_elements(shape) for shape in shapes]
    return {"tensors": len(numbers), "weights": f"{sum(numbers):,}"}
