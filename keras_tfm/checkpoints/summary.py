"""What a checkpoint is, told from its config and the headers of its files."""

import os
from typing import Any

from keras_tfm.checkpoints.architecture import architecture_of
from keras_tfm.checkpoints.config_keys import read_config
from keras_tfm.checkpoints.loader import folder_of
from keras_tfm.checkpoints.reader import SafetensorsFiles, Source, read_json
from keras_tfm.checkpoints.tensors import num_elements


def summary(path_or_repo_id: str | os.PathLike) -> dict[str, Any]:
    """Family, sizes and files of a checkpoint; no weights are read.

    Args:
        path_or_repo_id: as in `load`.

    Returns:
        dict from a name to what is to be printed.

    Raises:
        FileNotFoundError, ValueError: as `load` does, for files, families and settings that are not supported.
    """
    folder = folder_of(path_or_repo_id)
    if folder.suffix == ".gguf":
        from keras_tfm.checkpoints.gguf import GgufFile, arguments_of

        file = GgufFile(folder)
        told = {"architecture": f"GGUF, {file.field('general.architecture')}", "name": file.field("general.name")}
        return {**told, **_sizes(arguments_of(file)), **_tensors(file)}
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if config is None:
        raise FileNotFoundError(f"The folder must hold config.json. Received: {folder}, without it.")
    architecture = architecture_of(config)
    arguments = read_config(architecture.config, config)
    files = sorted(file.name for file in folder.iterdir() if file.name.startswith(("tokenizer", "vocab", "chat_")))
    return {
        "architecture": f"{architecture.name} ({architecture.model_type})",
        **_sizes(arguments),
        **_tensors(SafetensorsFiles(folder)),
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


def _tensors(source: Source) -> dict[str, Any]:
    shapes = source.shapes()
    return {"tensors": len(shapes), "weights": f"{sum(map(num_elements, shapes.values())):,}"}
