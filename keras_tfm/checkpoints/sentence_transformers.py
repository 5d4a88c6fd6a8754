"""Folders of the library sentence-transformers: an encoder, how its vectors become one, and what texts it is given."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.files import read_json
from keras_tfm.layers import FirstTokenPooling, MeanPooling
from keras_tfm.models import SentenceEncoder

MODULES = "modules.json"
_POOLINGS = {"mean": MeanPooling, "cls": FirstTokenPooling}
# What versions before 5.4 write: a key for each way of pooling, true or false.
_OLDER_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN = ("Transformer", "Pooling", "Normalize")
_POOLING_FOLDER = "1_Pooling"
# Of the encoder, by the class that wrote it; today's is the first.
_LENGTHS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert"))
_TEXTS = "config_sentence_transformers.json"
_SIMILARITY = "similarity_fn_name"


@dataclasses.dataclass(frozen=True)
class SentenceSettings:
    """What a folder says beside its encoder.

    Args:
        pooling: a name of `_POOLINGS`.
        normalize: whether vectors get the length 1.
        sequence_length: int, tokens that are read of a text; None = as many as the encoder can.
        prompts: name -> what stands before a text.
        default_prompt_name: the name of the prompt of every text for which no other is asked, or None.
        similarity: how vectors are to be compared, for `save` to write again, or None.
    """

    pooling: str
    normalize: bool
    sequence_length: int | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str | None

    def encoder(self, encoder) -> SentenceEncoder:
        """The encoder with all this on top."""
        longest = encoder.max_sequence_length
        model = SentenceEncoder(
            encoder,
            _POOLINGS[self.pooling](dtype="float32", name="pooling"),
            normalize=self.normalize,
            sequence_length=None if None in (self.sequence_length, longest) else min(self.sequence_length, longest),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
        )
        model.checkpoint = {**encoder.checkpoint, "similarity": self.similarity}
        return model


def without_pooler(architecture: Architecture) -> Architecture:
    """The architecture of a bare encoder, whose pooler, if the file has one, is left out; others stay as they are."""
    tensors = {} if callable(architecture.tensors) else architecture.tensors  # no encoder has a function there
    poolers = [name for name in tensors if ".pooler." in name]
    if not poolers or not architecture.name.endswith("Model"):
        return architecture
    return dataclasses.replace(
        architecture,
        tensors={**tensors, **dict.fromkeys(poolers)},
        build=functools.partial(architecture.build, pooler=False),
    )


def read_settings(folder: Path, read: Callable[[str], dict[str, Any] | None]) -> SentenceSettings:
    """The settings of a folder with modules.json.

    Args:
        folder: the folder.
        read: the name of a file in it -> the JSON object that it holds, None if it is not there.

    Raises:
        FileNotFoundError: if the pooling that modules.json names is not there.
        ValueError: for modules other than the encoder, a pooling by mean or first token and the normalization, or
            other settings that change the vectors in a way that is not implemented.
    """
    kinds, pooling_folder = _modules(folder)
    config = read(f"{pooling_folder}/config.json")
    if config is None:
        raise FileNotFoundError(f"The pooling that {MODULES} names must be there. Received: no {pooling_folder}.")
    lengths = next((found for name in _LENGTHS if (found := read(name)) is not None), {})
    tokens, texts = read("tokenizer_config.json") or {}, read(_TEXTS) or {}
    # sentence-transformers changes the tokenizer then; most do so anyway. WordPiece's own default is true.
    lowers = tokens.get("do_lower_case", (read("config.json") or {}).get("model_type") != "roberta")
    if lengths.get("do_lower_case") and not lowers:
        raise ValueError(
            "`do_lower_case` of a sentence encoder must be false, or that of its tokenizer true as well. "
            f"Received: {lengths['do_lower_case']!r} and {lowers!r}."
        )
    prompts, default = texts.get("prompts") or {}, texts.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(one, str | None) for one in prompts.values()):
        raise ValueError(f"`prompts` of {_TEXTS} must be an object of strings. Received: {str(prompts)[:80]}.")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ValueError(f"`default_prompt_name` of {_TEXTS} must be one of {sorted(prompts)}. Received: {default!r}.")
    return SentenceSettings(
        pooling=_pooling(config),
        normalize="Normalize" in kinds,
        sequence_length=_length(lengths, tokens),
        prompts={name: prompt or "" for name, prompt in prompts.items()},
        default_prompt_name=default,
        similarity=texts.get(_SIMILARITY),
    )


def _modules(folder: Path) -> tuple[list[str], str]:
    """The kinds of the modules, and the folder of the pooling."""
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
    if transformer or pooling in ("", ".") or "/" in pooling or "\\" in pooling or ".." in pooling:
        raise ValueError(
            "The encoder must be in the folder itself, the pooling beside it. Received: "
            f"{transformer!r} and {pooling!r}. Move the encoder's files up and let {MODULES} say so."
        )
    return kinds, pooling


def _pooling(config: dict[str, Any]) -> str:
    """The name of the pooling, in the dialects before and since version 5.4."""
    older = [mode for key, mode in _OLDER_MODES.items() if config.get(key) is True]
    modes = config.get("pooling_mode", older or "mean")
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in _POOLINGS:
        raise ValueError(f"The pooling of a sentence encoder must be one of {sorted(_POOLINGS)}. Received: {modes}.")
    if config.get("include_prompt", True) is not True:
        raise ValueError(
            "`include_prompt` of the pooling must be true: a pooling that leaves prompts out is not implemented. "
            f"Received: {config['include_prompt']!r}."
        )
    return modes[0]


def _length(lengths: dict[str, Any], tokens: dict[str, Any]) -> int | None:
    """Tokens that are read of a text: what the encoder's settings say or else, since version 5.4, the tokenizer's."""
    length = lengths.get("max_seq_length")
    if length is None:
        length = tokens.get("model_max_length")
        if not isinstance(length, int) or length > 2**31:  # transformers has 10**30 for "no limit"
            return None
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"`max_seq_length` of a sentence encoder must be a positive integer. Received: {length!r}.")
    return length


def modules_of(model: SentenceEncoder) -> dict[str, Any]:
    """Name of a file -> its content as JSON: what stands beside the encoder's own files."""
    modes = [name for name, kind in _POOLINGS.items() if isinstance(model.pooling, kind)]
    if not modes:
        raise ValueError(
            f"The pooling must be one of {[kind.__name__ for kind in _POOLINGS.values()]} to be written. "
            f"Received: {type(model.pooling).__name__}."
        )
    folders = {"Transformer": "", "Pooling": _POOLING_FOLDER, "Normalize": "2_Normalize"}
    modules = [
        # Names that all versions read.
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(folders.items())
        if kind != "Normalize" or model.normalize
    ]
    # In the older dialect, which all versions read.
    pooling = {key: mode in modes for key, mode in _OLDER_MODES.items()}
    texts = {"prompts": model.prompts, "default_prompt_name": model.default_prompt_name}
    if (similarity := model.checkpoint.get("similarity")) is not None:
        texts[_SIMILARITY] = similarity
    length = model.sequence_length or model.encoder.max_sequence_length
    return {
        MODULES: modules,
        f"{_POOLING_FOLDER}/config.json": {"word_embedding_dimension": model.hidden_dim, **pooling},
        _LENGTHS[0]: {"max_seq_length": length, "do_lower_case": False},
        _TEXTS: texts,
    }
