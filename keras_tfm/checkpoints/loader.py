"""Checkpoints to models."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from keras_tfm.checkpoints.architecture import Architecture, architecture_of
from keras_tfm.checkpoints.config_keys import HARMLESS, read_config
from keras_tfm.checkpoints.filling import build_empty, fill
from keras_tfm.checkpoints.reader import SafetensorsFiles, Source, read_json, refuse_file
from keras_tfm.checkpoints.sentence_transformers import MODULES, sentence_encoder, without_pooler

# What is downloaded: no pickles, no code, and not Mistral's consolidated.safetensors, which holds the weights again.
_SETTINGS = ("*.json", "*/config.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "*.jinja")
_WEIGHTS = ("model*.safetensors",)


def load(
    path_or_repo_id: str | os.PathLike,
    dtype=None,
    ignore: Iterable[str] = (),
    revision: str | None = None,
    architecture: str | None = None,
    **options,
) -> keras.Model:
    """Reads a Hugging Face checkpoint into a model of this library, strictly.

    Each variable is made straight from the file, which is mapped into memory: at most 1.3 times the memory of the
    weights is needed. Nothing in the folder is executed. Rates of dropout are not read; pass `dropout=0.1`.

    Args:
        path_or_repo_id: a folder with config.json and model.safetensors (or shards and their index); a .gguf file of
            the llama architecture; or a repository's name, such as "openai-community/gpt2", which the package
            `huggingface_hub` downloads.
        dtype: dtype policy of the layers, such as "mixed_bfloat16". Default: Keras' global policy, so float32,
            whatever the file has.
        ignore: keys of config.json that nobody knows and that may be passed over.
        revision: branch, tag or commit of the repository.
        architecture: Hugging Face's class, such as "BertModel" for the bare encoder of a folder whose config.json names
            "BertForMaskedLM". Default: the one that the config names.
        **options: other arguments of the model's builder, such as `dropout` or `remat`; for "BertModel" and
            "RobertaModel" also `pooler=False`, for files without one.

    Returns:
        The task model of the architecture: `CausalLM` for "LlamaForCausalLM", `TextClassifier`
        for "BertForSequenceClassification", and so on; `SentenceEncoder` for a folder of sentence-transformers.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: for a family, a key or a value of config.json that is not supported; tensors that are missing, left
            over or of another shape; a truncated or corrupt file; pickles. All before memory is taken.

    Example:
        >>> model = ktfm.checkpoints.load("HuggingFaceTB/SmolLM2-135M")
        >>> model.generate([[1, 2, 3]], max_new_tokens=8)
    """
    folder = folder_of(path_or_repo_id, revision, (*_SETTINGS, *_WEIGHTS))
    if folder.is_file():
        from keras_tfm.checkpoints.gguf import load_gguf  # it imports this module

        return load_gguf(folder, dtype, ignore, options)
    config = config_of(folder)
    known = architecture_of(config, architecture)
    if is_sentence_encoder := architecture is None and (folder / MODULES).is_file():
        known = without_pooler(known)
    arguments = read_config(known.config, config, ignore)
    model = assemble(known, arguments, SafetensorsFiles(folder), config, dtype, options)
    return sentence_encoder(model, folder) if is_sentence_encoder else model


def config_of(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; FileNotFoundError if there is none."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"The folder must hold config.json. Received: {folder}, without it.")
    return read_json(folder / "config.json")


def assemble(
    architecture: Architecture, arguments: dict[str, Any], source: Source, config: dict, dtype=None, options=None
) -> keras.Model:
    """The model of an architecture, filled from a source; what its config says beside the wiring is noted on it."""
    options = options or {}
    if given := sorted(set(options) & set(arguments)):
        raise ValueError(f"The checkpoint's config decides {given}. Received them as options: leave them out.")
    num_tensors = len(source.shapes())
    if arguments.get("num_layers", 1) > num_tensors:
        raise ValueError(
            f"Every layer of a config must have tensors. Received: {arguments['num_layers']} layers and {num_tensors} "
            f"tensors in {source.place}."
        )
    model = build_empty(lambda: architecture.build(**arguments, **options), dtype)
    fill(model, architecture.tensors, source, architecture.prefix, architecture.copies, architecture.older)
    model.checkpoint_architecture = architecture.name
    model.checkpoint_notes = {key: value for key, value in config.items() if key in HARMLESS}
    return model


def folder_of(
    path_or_repo_id: str | os.PathLike, revision: str | None = None, patterns: Iterable[str] = _SETTINGS
) -> Path:
    """The folder, or the .gguf file; downloaded, as far as file names fit a pattern, if it is a repository's name."""
    path = Path(path_or_repo_id).expanduser()
    if path.is_file() and path.suffix.lower() != ".gguf":
        refuse_file(path)
    if path.exists():
        return path
    name = str(path_or_repo_id)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"`path_or_repo_id` must exist. Received: {name!r}, which does not.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileNotFoundError(
            f"`path_or_repo_id` must be a folder, or the package huggingface_hub installed to download a repository. "
            f"Received: {name!r}. Run: pip install keras-tfm[checkpoints]."
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"`path_or_repo_id` must be a folder or a repository that can be downloaded. Received: {name!r}: {error}"
        ) from error
