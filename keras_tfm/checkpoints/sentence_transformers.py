"""Folders of the library sentence-transformers: an encoder and how its vectors become one."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.files import read_json, read_json_object
from keras_tfm.layers import FirstTokenPooling, MeanPooling
from keras_tfm.models import SentenceEncoder

MODULES = "modules.json"
_POOLINGS = {"pooling_mode_mean_tokens": MeanPooling, "pooling_mode_cls_token": FirstTokenPooling}
_KNOWN = ("Transformer", "Pooling", "Normalize")
_POOLING_FOLDER = "1_Pooling"


def without_pooler(architecture: Architecture) -> Architecture:
    """The architecture of a bare encoder, whose pooler, if the file has one, is left out; others stay as they are."""
    poolers = [name for name in architecture.tensors if ".pooler." in name]
    if not poolers or not architecture.name.endswith("Model"):
        return architecture
    return dataclasses.replace(
        architecture,
        tensors={**architecture.tensors, **dict.fromkeys(poolers)},
        build=functools.partial(architecture.build, pooler=False),
    )


def sentence_encoder(encoder, folder: Path) -> SentenceEncoder:
    """The encoder with the pooling of the folder; the vectors have length 1 whether the folder says so or not.

    Raises:
        ValueError: for modules other than the encoder, a pooling by mean or first token, and the normalization.
    """
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str)
        for module in modules
    ):
        raise ValueError(
            f"{folder / MODULES} must be a list of modules with `type` and `path`. Received: {str(modules)[:80]}."
        )
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds) - set(_KNOWN):
        raise ValueError(f"The modules of a sentence encoder must be {_KNOWN}. Received: {kinds}.")
    transformer, pooling = (module["path"] for module in modules[:2])
    if transformer or "/" in pooling or "\\" in pooling or ".." in pooling:
        raise ValueError(
            "The encoder must be in the folder itself, the pooling beside it. Received: "
            f"{transformer!r} and {pooling!r}."
        )
    path = folder / pooling / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"The pooling that {MODULES} names must be there. Received: no {path}.")
    modes = [
        name for name, value in read_json_object(path).items() if name.startswith("pooling_mode") and value is True
    ]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(f"The pooling of a sentence encoder must be one of {sorted(_POOLINGS)}. Received: {modes}.")
    model = SentenceEncoder(encoder, _POOLINGS[modes[0]](dtype="float32", name="pooling"))
    model.checkpoint_architecture, model.checkpoint_notes = encoder.checkpoint_architecture, encoder.checkpoint_notes
    return model


def modules_of(model: SentenceEncoder) -> dict[str, Any]:
    """Name of a file -> its content as JSON: what stands beside the encoder's own files."""
    modes = {name: isinstance(model.pooling, kind) for name, kind in _POOLINGS.items()}
    if not any(modes.values()):
        raise ValueError(
            f"The pooling must be one of {[kind.__name__ for kind in _POOLINGS.values()]} to be written. "
            f"Received: {type(model.pooling).__name__}."
        )
    folders = {"Transformer": "", "Pooling": _POOLING_FOLDER, "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(folders.items())
    ]
    return {MODULES: modules, f"{_POOLING_FOLDER}/config.json": {"word_embedding_dimension": model.hidden_dim, **modes}}
