"""How a config.json becomes the arguments of a builder, and back: the objects of a family's config map.

Each object claims keys of the config (`keys`), reads them to arguments (`read`) and writes arguments back (`write`).
What no object claims is an error, so that no setting is passed over in silence.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_tfm.ops import gelu_sigmoid, gelu_tanh

# What says nothing of the forward pass outside of training: notes, habits of generation, rates of dropout.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_flash_attn_2_enabled",
        "_name_or_path",
        "_num_labels",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "attn_pdrop",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "eos_token_ids",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "language",
        "length_penalty",
        "max_length",
        "max_position_embeddings",
        "min_length",
        "model_max_length",
        "model_type",
        "n_ctx",
        "n_special",
        "name",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "pad_token_id",
        "predict_special_tokens",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "xla_device",
    }
)
# Their names in configurations; of several names of one function the first is written.
ACTIVATIONS = {
    "gelu": keras.activations.gelu,
    "gelu_python": keras.activations.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
    "quick_gelu": gelu_sigmoid,
}
# What means the same as a config without the key, in every family.
_NOTHING = dict.fromkeys(("add_cross_attention", "is_decoder", "is_encoder_decoder", "tie_encoder_decoder"), False)
_REQUIRED = object()
LARGEST = sys.float_info.max  # JSON has integers that no float holds
MOST_LAYERS = 10_000
_LONGEST_MESSAGE, _END = 1000, 200  # characters


@dataclasses.dataclass(frozen=True)
class Size:
    """A whole number of at least 1.

    Args:
        key: name in the config.
        argument: name in the builder.
        default: what a config without the key means, or a function of the config that says it. Default: required.
        most: int, the largest number that can be meant.
        also: other names of the key, in older files.
    """

    key: str
    argument: str
    default: Any = _REQUIRED
    most: int = 2**31 - 1
    also: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the config that this object takes care of."""
        return (self.key, *self.also)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The builder's arguments that the config gives."""
        older = [name for name in self.also if config.get(name) is not None]
        key = older[0] if older and config.get(self.key) is None else self.key
        value = value_at(config, key, self.default)
        self._check(value)
        return {self.argument: value}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that give these arguments: the inverse of `read`."""
        return {self.key: arguments[self.argument]}

    def _check(self, value):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= self.most:
            raise ValueError(
                f"`{self.key}` of the config must be an integer from 1 to {self.most}. Received: {value!r}."
            )


class Number(Size):
    """A positive number."""

    def _check(self, value):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            raise ValueError(f"`{self.key}` of the config must be a positive number. Received: {value!r}.")


class Flag(Size):
    """True or false."""

    def _check(self, value):
        if not isinstance(value, bool):
            raise ValueError(f"`{self.key}` of the config must be true or false. Received: {value!r}.")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some names, each of which stands for a value.

    Args:
        key, argument, default: as in `Size`; the default is a name.
        values: name -> value. Of several names of a value the default is written, or else the first.
    """

    key: str
    argument: str
    values: Mapping[str, Any]
    default: Any = _REQUIRED

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        name = value_at(config, self.key, self.default)
        if not isinstance(name, str) or name not in self.values:
            raise ValueError(f"`{self.key}` of the config must be one of {sorted(self.values)}. Received: {name!r}.")
        return {self.argument: self.values[name]}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name, value in self.values.items() if value is arguments[self.argument]]
        if not names:
            raise ValueError(
                f"`{self.argument}` must be something that `{self.key}` of a config has a name for: "
                f"{sorted(self.values)}. Received: {arguments[self.argument]!r}."
            )
        return {self.key: self.default if self.default in names else names[0]}


@dataclasses.dataclass(frozen=True)
class Only:
    """A setting of which one value is supported; a config without the key, or with null, means that one, too.

    Args:
        key: name in the config.
        value: the supported one, which is written.
        also: other values that mean the same.
    """

    key: str
    value: Any
    also: tuple = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if value_at(config, self.key, self.value) not in (self.value, *self.also):
            raise ValueError(
                f"`{self.key}` of the config must be {self.value!r}; nothing else is supported here. "
                f"Received: {config[self.key]!r}."
            )
        return {}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {self.key: self.value}


@dataclasses.dataclass(frozen=True)
class Always:
    """An argument of the builder that is the same for the whole family; no key says it.

    Args:
        argument: name in the builder.
        value: what it is.
    """

    argument: str
    value: Any
    keys: tuple[str, ...] = dataclasses.field(default=(), init=False)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {self.argument: self.value}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if arguments[self.argument] != self.value:
            raise ValueError(
                f"`{self.argument}` must be {self.value!r} in this family. Received: {arguments[self.argument]!r}."
            )
        return {}


@dataclasses.dataclass(frozen=True)
class Harmless:
    """Keys of one family that do not change what the model computes, beside those of `HARMLESS`."""

    keys: tuple[str, ...]

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Labels:
    """The argument `class_names`; a config has a dict from number to name, and one back."""

    keys: tuple[str, ...] = ("id2label", "label2id", "num_labels", "problem_type")

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if config.get("problem_type") not in (None, "single_label_classification"):
            raise ValueError(
                "`problem_type` of the config must be 'single_label_classification'. "
                f"Received: {config['problem_type']!r}."
            )
        names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(_count(config.get("num_labels")))}
        numbered = {str(i): name for i, name in names.items()} if isinstance(names, dict) else {}
        labels = tuple(numbered.get(str(i)) for i in range(len(numbered)))
        if len(labels) < 2 or not all(isinstance(label, str) for label in labels):
            raise ValueError(
                f"`id2label` of the config must name the labels 0, 1, ..., at least two. Received: {str(names)[:80]}."
            )
        return {"class_names": labels}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        labels = arguments["class_names"]
        return {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }


def read_config(config_map: Iterable, config: Mapping[str, Any], ignore: Iterable[str] = ()) -> dict[str, Any]:
    """The builder's arguments that a config gives.

    Args:
        config_map: the objects of a family.
        config: content of a config.json.
        ignore: keys that may be passed over.

    Raises:
        ValueError: for keys that nobody claims, or values that are not supported; all are listed.
    """
    claimed = {key for item in config_map for key in item.keys}
    wrong = []
    if unknown := sorted(key for key in set(config) - claimed - HARMLESS - set(ignore) if _says_something(config, key)):
        settings = ", ".join(f"{key}={config[key]!r}" for key in unknown)
        wrong.append(
            f"Every key of a config must be known. Received: {settings}. If they do not change what the model "
            f"computes, pass `ignore={tuple(unknown)!r}`."
        )
    arguments: dict[str, Any] = {}
    for item in config_map:
        try:
            arguments.update(item.read(config))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("\n".join(map(_shortened, wrong)))
    return arguments


def _shortened(message: str) -> str:
    """Without the middle, if a value of the file fills it: the rule stands before it, and advice behind it."""
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]} ... {message[-_END:]}"


def _says_something(config: Mapping[str, Any], key: str) -> bool:
    """Whether a key that no object claims could change the model.

    null never does, nor layers that are all alike, nor the names of code in the repository, which is not run here:
    transformers takes its own class as well, unless it is told to trust that code.
    """
    value = config[key]
    if key == "auto_map":
        return False
    if key == "layer_types" and isinstance(value, list):
        return set(map(str, value)) != {"full_attention"}
    return value is not None and not (key in _NOTHING and value is _NOTHING[key])


def write_config(config_map: Iterable, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The config that gives these arguments of a builder: the inverse of `read_config`."""
    config: dict[str, Any] = {}
    for item in config_map:
        config.update(item.write(arguments))
    return config


def value_at(config: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> Any:
    """The config's value, or what its absence (or null) means."""
    value = config.get(key)
    if value is None:
        try:
            value = default(config) if callable(default) else default
        except (TypeError, KeyError, ZeroDivisionError):  # of keys that are wrong themselves
            value = _REQUIRED
    if value is _REQUIRED:
        raise ValueError(f"A config must have `{key}`, or what it follows from. Received: {sorted(map(str, config))}.")
    return value


def _count(number) -> int:
    return number if isinstance(number, int) and 0 < number < 10_000 else 2
