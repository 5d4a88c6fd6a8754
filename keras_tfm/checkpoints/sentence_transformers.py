"""Folders of the library sentence-transformers: an encoder and how its vectors become one."""

import json
from pathlib import Path

from keras_tfm.checkpoints.reader import read_json
from keras_tfm.layers import FirstTokenPooling, MeanPooling
from keras_tfm.models import SentenceEncoder

MODULES = "modules.json"
_POOLINGS = {"pooling_mode_mean_tokens": MeanPooling, "pooling_mode_cls_token": FirstTokenPooling}
_KNOWN = ("Transformer", "Pooling", "Normalize")


def sentence_encoder(encoder, folder: Path) -> SentenceEncoder:
    """The encoder with the pooling of the folder; the vectors have length 1 whether the folder says so or not.

    Raises:
        ValueError: for modules other than the encoder, a pooling by mean or first token, and the normalization.
    """
    try:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        paths = {kind: module["path"] for kind, module in zip(kinds, modules, strict=True)}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder / MODULES} must be a list of modules. Received one that gives: {error!r}."
        ) from error
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds) - set(_KNOWN):
        raise ValueError(f"The modules of a sentence encoder must be {_KNOWN}. Received: {kinds}.")
    if paths["Transformer"] or "/" in paths["Pooling"] or ".." in paths["Pooling"]:
        raise ValueError(f"The encoder must be in the folder itself, the pooling beside it. Received: {paths}.")
    pooling = read_json(folder / paths["Pooling"] / "config.json")
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode") and value is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(f"The pooling of a sentence encoder must be one of {sorted(_POOLINGS)}. Received: {modes}.")
    return SentenceEncoder(encoder, _POOLINGS[modes[0]](dtype="float32", name="pooling"))
