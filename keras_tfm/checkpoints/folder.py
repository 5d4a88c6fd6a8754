"""Folders of Hugging Face: config.json, safetensors, and the files of a tokenizer; here or in a repository."""

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import keras

from keras_tfm.checkpoints.architecture import Architecture, architecture_of
from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.checkpoint import Checkpoint
from keras_tfm.checkpoints.config_keys import HARMLESS, read_config
from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.checkpoints.reader import SETTINGS, WEIGHTS, SafetensorsFiles, Source, download
from keras_tfm.checkpoints.sentence_transformers import MODULES, SentenceSettings, read_settings, without_pooler
from keras_tfm.checkpoints.tensors import parts_of
from keras_tfm.checkpoints.tokenizer import tokenizer_in
from keras_tfm.checkpoints.tokenizer_settings import TokenizerSettings
from keras_tfm.files import read_json_object

_MORE_TEMPLATES = "additional_chat_templates"


class FolderCheckpoint(Checkpoint):
    """A folder with config.json and model.safetensors, or shards and their index; see `Checkpoint`.

    Args:
        path: the folder.
        ignore: keys of config.json that may be passed over.
    """

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json; FileNotFoundError if there is none."""
        if (config := self.json("config.json")) is None:
            if self._is_sentence_encoder(None):
                read_settings(self.path, self.json)  # says so if the encoder is elsewhere
            told = f"The folder must hold config.json. Received: {self.path}, without it."
            if (self.path / "adapter_config.json").is_file():
                told += " It is an adapter: load its base model, then `keras_tfm.adapters.load(model, path)`."
            raise FileNotFoundError(told)
        return config

    @functools.cached_property
    def source(self) -> Source:
        """The tensors."""
        return SafetensorsFiles(self.path)

    def wiring(self, architecture: str | None = None) -> tuple[Architecture, dict[str, Any]]:
        """See `Checkpoint`."""
        known = architecture_of(self.config, architecture)
        if self._is_sentence_encoder(architecture):
            known = without_pooler(known)
            _ = self._sentences  # refused before the weights are read
        start = self.generation_settings.get("decoder_start_token_id")  # transformers 5 writes it there only
        config = self.config if start is None else {**self.config, "decoder_start_token_id": start}
        return known, read_config(known.config, config, self.ignore)

    def notes(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        notes = {key: value for key, value in self.config.items() if key in HARMLESS}
        forced = ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")  # without which Marian writes nonsense
        kept = forced if self.config.get("is_encoder_decoder") is True else ()
        return {**notes, **{key: self.generation_settings[key] for key in kept if key in self.generation_settings}}

    def finish(self, model: keras.Model, architecture: str | None) -> keras.Model:
        """The model; with pooling and more, if it is a folder of sentence-transformers."""
        if (generation := self.json("generation_config.json")) is not None:
            model.checkpoint = {**model.checkpoint, "generation_config": generation}
        return self._sentences.encoder(model) if self._is_sentence_encoder(architecture) else model

    def read_tokenizer(self):
        """See `Checkpoint.tokenizer`."""
        size = (self.json("config.json") or {}).get("vocab_size")
        document = self.json("tokenizer.json")
        self._json.pop("tokenizer.json")  # large, and of no more use
        tokenizer = tokenizer_in(self.path, document, size, self._settings)
        tokenizer.checkpoint_chat_templates = self._chat_templates()
        return tokenizer

    def read_chat_template(self) -> ChatTemplate:
        """chat_template.jinja and additional_chat_templates, or `chat_template` of tokenizer_config.json."""
        templates = self._chat_templates()
        return super().read_chat_template() if templates is None else ChatTemplate(templates, self._settings.roles)

    def read_stop_token_ids(self) -> Any:
        """`eos_token_id` of generation_config.json, or else of config.json."""
        found = [(self.json(name) or {}).get("eos_token_id") for name in ("generation_config.json", "config.json")]
        return next((token_ids for token_ids in found if token_ids is not None), None)

    @functools.cached_property
    def generation_settings(self) -> dict[str, Any]:
        """generation_config.json; what it does not say, config.json of older folders does."""
        later = self.json("generation_config.json") or {}
        return {**self.config, **{name: value for name, value in later.items() if value is not None}}

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Checkpoint`."""
        known = architecture_of(self.config)
        names = sorted(
            file.name
            for file in self.path.iterdir()
            if file.name.startswith(("tokenizer", "vocab", "target_vocab", "chat_")) or file.suffix == ".spm"
        )
        return {"architecture": f"{known.name} ({known.model_type})"}, {"tokenizer files": ", ".join(names) or "none"}

    def json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file of the folder, which is read once; None if it is not there."""
        if name not in self._json:
            self._json[name] = read_json_object(self.path / name) if (self.path / name).is_file() else None
        return self._json[name]

    @functools.cached_property
    def _json(self) -> dict[str, dict[str, Any] | None]:
        return {}

    @functools.cached_property
    def _settings(self) -> TokenizerSettings:
        return TokenizerSettings(self.json)

    def _chat_templates(self) -> Mapping[str, str] | str | None:
        """The files with templates, or else those of tokenizer_config.json; None if there are none."""
        files = {file.stem: file for file in sorted((self.path / _MORE_TEMPLATES).glob("*.jinja"))}
        if (file := self.path / "chat_template.jinja").is_file():
            files = {"default": file, **files}
        if not files:
            return self._settings.chat_templates
        sources = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
        return sources["default"] if [*sources] == ["default"] else MappingProxyType(sources)

    @functools.cached_property
    def _sentences(self) -> SentenceSettings:
        return read_settings(self.path, self.json)

    def _is_sentence_encoder(self, architecture: str | None) -> bool:
        return architecture is None and (self.path / MODULES).is_file()


class HubCheckpoint(FolderCheckpoint):
    """A repository, of which the settings are downloaded first and the weights when they are asked for.

    Args:
        name: the repository, such as "openai-community/gpt2".
        revision: branch, tag or commit.
        ignore: keys of config.json that may be passed over.

    Raises:
        FileNotFoundError: if it cannot be downloaded.
    """

    def __init__(self, name: str, revision: str | None = None, ignore: Iterable[str] = ()):
        super().__init__(download(name, revision, SETTINGS), ignore)
        self.name = name
        # Weights of the commit that the settings are of, though the branch may have moved on.
        self._revision = self.path.name if self.path.parent.name == "snapshots" else revision

    @functools.cached_property
    def source(self) -> Source:
        """The tensors, downloaded when this is first looked at."""
        return SafetensorsFiles(download(self.name, self._revision, (*SETTINGS, *WEIGHTS)))

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each tensor, told from the config: nothing is downloaded for it."""
        known, arguments = self.wiring()
        model = build_empty(lambda: known.build(**arguments))
        return [part.shape for part in parts_of(known.tensors_of(model), model)]
