"""Models to folders that Hugging Face transformers loads."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tfm import compat
from keras_tfm.checkpoints.architecture import Architecture, architectures
from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.config_keys import read_config, write_config
from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.checkpoints.sentence_transformers import modules_of, without_pooler
from keras_tfm.checkpoints.tensors import Part, num_elements, parts_of
from keras_tfm.checkpoints.tokenizer import write_tokenizer_config
from keras_tfm.checkpoints.wiring import difference
from keras_tfm.files import check_is_free, written_whole
from keras_tfm.models import SentenceEncoder
from keras_tfm.ops.tensors import known_value
from keras_tfm.optional import required
from keras_tfm.tokenizers import Tokenizer

_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}


def save(
    model: keras.Model,
    path: str | os.PathLike,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    architecture: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    chat_template: ChatTemplate | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder that `transformers.AutoModel...from_pretrained` loads, with equal logits.

    The folder gets config.json, model.safetensors (or shards with an index) and the tokenizer's files. It is written
    beside its place and then renamed. A model from `load` keeps what its config.json said beside the wiring, such as
    the ids of special tokens, and its generation_config.json; a tokenizer from `load_tokenizer` what its folder said of
    it, such as its class, the roles of its tokens, and the chat templates. A `SentenceEncoder` is written as a folder
    of sentence-transformers.

    Args:
        model: of a wiring that a family of checkpoints has, whether from `load` or from a builder.
        path: a folder that does not exist yet, unless `overwrite`.
        tokenizer: with a method `save(folder)`, such as `BytePairTokenizer`, or None.
        dtype: of the tensors: "float32", "bfloat16" or "float16".
        architecture: Hugging Face's class, such as "LlamaForCausalLM". Default: the one the model was loaded from, or
            the first that fits: name it for a RoBERTa from `build_bert`, or be given the equal BERT.
        max_shard_bytes: int, the largest file of weights.
        chat_template: `ChatTemplate`, which is written beside the tokenizer. Default: that of the tokenizer's folder.
        overwrite: bool, whether a folder that exists is replaced. Between the old and the new one, it is not there for
            a moment.

    Raises:
        FileExistsError: if `path` exists, without `overwrite`.
        ValueError: if no architecture has the model's wiring, for an unknown dtype, or if a weight is too large for it.

    Example:
        >>> ktfm.checkpoints.save(model, "my-gpt2", tokenizer)
        >>> transformers.AutoModelForCausalLM.from_pretrained("my-gpt2")
    """
    if not overwrite:
        check_is_free(path)
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be one of {sorted(_DTYPES)}. Received: dtype={dtype!r}.")
    _refuse_adapters(model)
    noted = getattr(model, "checkpoint", {})
    name = architecture or noted.get("architecture")
    encoder, modules = (model.encoder, modules_of(model)) if isinstance(model, SentenceEncoder) else (model, {})
    known, config = architecture_for(encoder, name)
    config = {**noted.get("notes", {}), **config, "dtype": dtype, "torch_dtype": dtype}
    with written_whole(path, overwrite) as unfinished:
        unfinished.mkdir()
        if tokenizer is not None:
            tokenizer.save(unfinished)
            write_tokenizer_config(unfinished, tokenizer, chat_template, _longest_input(config))
        _write_tensors(list(parts_of(known.tensors_of(encoder), encoder)), unfinished, dtype, max_shard_bytes)
        if (generation := noted.get("generation_config")) is not None:
            modules = {**modules, "generation_config.json": dict(generation)}
        for name, content in {"config.json": config, **modules}.items():
            _write_json(unfinished / name, content)


def _refuse_adapters(model: keras.Model) -> None:
    for layer in compat.all_layers(model):
        if active := [adapter.name for adapter in getattr(layer, "adapters", ()) if adapter.is_active]:
            raise ValueError(
                f"A model must be without adapters that are not in its kernels. Received: {active} in {layer.path}. "
                "`keras_tfm.adapters.merge(model)` puts them there; `keras_tfm.adapters.save` writes them alone."
            )


def _longest_input(config: dict[str, Any]) -> int | None:
    """The most tokens that the model of a config.json reads; None if it does not say."""
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if longest is not None and config["model_type"] == "roberta":  # whose positions begin after that of padding
        longest -= config.get("pad_token_id", 1) + 1
    return longest


def architecture_for(model: keras.Model, name: str | None = None) -> tuple[Architecture, dict[str, Any]]:
    """The architecture that has the model's wiring, and the config.json that says so.

    Args:
        model: any model.
        name: the architecture that it must be. Default: the first that fits.

    Raises:
        ValueError: if there is none.
    """
    known = architectures()
    if name is not None and name not in known:
        raise ValueError(f"`architecture` must be one of {sorted(known)}. Received: {name!r}.")
    named = list(known.values()) if name is None else [known[name]]
    poolerless = [one for one in map(without_pooler, named) if one not in named]
    reasons: dict[str, str] = {}
    for candidate in (*named, *poolerless):
        try:
            return candidate, _config_of(model, candidate)
        except ValueError as error:
            reasons.setdefault(candidate.name, str(error))
        except (AttributeError, TypeError, IndexError, KeyError):  # `describe` on a model of quite another kind
            reasons.setdefault(candidate.name, "another kind of model")
    raise ValueError(
        "`model` must have the wiring of an architecture that checkpoints can hold. Received a "
        f"{type(model).__name__} {model.name!r} that is none of these:\n"
        + "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
    )


def _config_of(model: keras.Model, architecture: Architecture) -> dict[str, Any]:
    """The config.json of this model, proven by building what it says; ValueError if the model is wired otherwise."""
    config = write_config(architecture.config, architecture.describe(model))
    arguments = read_config(architecture.config, config)
    if told := difference(model, build_empty(lambda: architecture.build(**arguments))):
        raise ValueError(f"{told}.")
    return {"architectures": [architecture.name], "model_type": architecture.model_type, **config}


def _write_tensors(parts: list[Part], folder: Path, dtype: str, max_shard_bytes: int) -> None:
    safetensors = required("safetensors.numpy", "checkpoints", "Hugging Face checkpoints")
    shards = list(_shards(parts, _DTYPES[dtype], max_shard_bytes))
    index = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        safetensors.save_file(
            {part.name: _tensor(part, dtype) for part in shard}, folder / name, metadata={"format": "pt"}
        )
        index.update({part.name: name for part in shard})
    if len(shards) > 1:
        total = sum(num_elements(part.shape) for part in parts) * _DTYPES[dtype]
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _shards(parts: list[Part], item_size: int, max_shard_bytes: int) -> Iterator[list[Part]]:
    """Consecutive tensors of at most so many bytes together, or a single one."""
    shard: list[Part] = []
    size = 0
    for part in parts:
        num_bytes = num_elements(part.shape) * item_size
        if shard and size + num_bytes > max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(part)
        size += num_bytes
    yield shard


def _tensor(part: Part, dtype: str) -> np.ndarray:
    values = [known_value(variable) for variable in part.variables]
    tensor = part.rule.join(values, part.get)
    with np.errstate(over="ignore"):  # answered below
        rounded = np.ascontiguousarray(tensor.astype(keras.backend.standardize_dtype(dtype)))
    if dtype == "float16" and np.isinf(rounded).any() and not np.isinf(tensor).any():
        raise ValueError(
            f"Weights of a float16 file must be at most {np.finfo('float16').max:,.0f} in size. Received: "
            f"{np.abs(tensor).max():,.0f} in {part.name!r}. Pass dtype='bfloat16', or 'float32'."
        )
    return rounded


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
