"""The rotary embedding in a config, in the dialects of transformers 4 and 5."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_tfm.checkpoints.config_keys import LARGEST, value_at
from keras_tfm.layers import (
    DynamicNtkScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryEmbedding,
    YarnScaling,
)

_LENGTH = ("original_max_position_embeddings", "original_max_sequence_length")
# Name in a config -> the scaling, and (name in a config, name of the field) of its numbers.
_SCALINGS = {
    "linear": (LinearScaling, (("factor", "factor"),)),
    "dynamic": (DynamicNtkScaling, (("factor", "factor"), _LENGTH)),
    "llama3": (
        Llama3Scaling,
        (
            ("factor", "factor"),
            ("low_freq_factor", "low_frequency_factor"),
            ("high_freq_factor", "high_frequency_factor"),
            _LENGTH,
        ),
    ),
    "yarn": (
        YarnScaling,
        (
            ("factor", "factor"),
            ("beta_fast", "beta_fast"),
            ("beta_slow", "beta_slow"),
            ("mscale", "magnitude"),
            ("mscale_all_dim", "magnitude_all_dims"),
            ("attention_factor", "fixed_attention_factor"),
            ("truncate", "truncate"),
            _LENGTH,
        ),
    ),
    "longrope": (
        LongRopeScaling,
        (
            ("factor", "factor"),
            ("short_factor", "short_factor"),
            ("long_factor", "long_factor"),
            ("attention_factor", "fixed_attention_factor"),
            _LENGTH,
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The argument `rotary`: base, scaling and the part of the features that turns.

    transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 one dict `rope_parameters`; both are read and,
    so that either version finds its own, both are written.

    Args:
        theta_key, part_key: what version 4 calls the base and the part that turns, in this family.
        part: the part that turns if the config does not say it.
        head_dim: features of a head if the config does not say it. Default: the width divided by the number of heads.
    """

    theta_key: str = "rope_theta"
    part_key: str = "partial_rotary_factor"
    part: float = 1.0
    head_dim: int | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.theta_key, self.part_key, "rope_scaling", "rope_parameters", "max_position_embeddings")

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        older, newer = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
        for name, parameters in {"rope_scaling": older, "rope_parameters": newer}.items():
            if not isinstance(parameters, dict):
                raise ValueError(f"`{name}` of the config must be an object. Received: {parameters!r}.")
        older, newer = _with_one_type(older), _with_one_type(newer)
        given = {
            "rope_theta": config.get(self.theta_key),
            "partial_rotary_factor": config.get(self.part_key),
            **older,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for name in set(given) & set(newer):
            if given[name] != newer[name]:
                raise ValueError(
                    f"`rope_parameters` of the config and its older keys must say the same. Received: {name}="
                    f"{newer[name]!r} and {given[name]!r}."
                )
        given.update({name: value for name, value in newer.items() if value is not None})
        theta, part = given.pop("rope_theta", 10_000.0), given.pop("partial_rotary_factor", self.part)
        for name, number in {self.theta_key: theta, self.part_key: part}.items():
            if not _is_number(number) or number <= 0:
                raise ValueError(f"`{name}` of the config must be a positive number. Received: {number!r:.60}.")
        if part > 1:
            raise ValueError(f"`{self.part_key}` of the config must be at most 1. Received: {part!r}.")
        head_dim = self._head_dim(config)
        rotary_dim = int(head_dim * part)
        return {
            "rotary": RotaryEmbedding(
                max_wavelength=float(theta),
                rotary_dim=None if rotary_dim == head_dim else rotary_dim,
                scaling=_scaling(given, config),
            )
        }

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        rotary = arguments["rotary"]
        if not isinstance(rotary, RotaryEmbedding) or rotary.interleaved:
            raise ValueError(
                "`rotary` must be a RotaryEmbedding that is not interleaved: this family of checkpoints has no other "
                f"positions. Received: rotary={'interleaved' if rotary is not None else None}."
            )
        parameters: dict[str, Any] = {"rope_type": "default"}
        for name, (kind, numbers) in _SCALINGS.items():
            if type(rotary.scaling) is kind:
                parameters = {"rope_type": name, **{key: getattr(rotary.scaling, field) for key, field in numbers}}
        if rotary.scaling is not None and parameters["rope_type"] == "default":
            raise ValueError(
                f"The rotary scaling must be one of {sorted(_SCALINGS)} to be written. Received: {rotary.scaling!r}."
            )
        parameters = {name: value for name, value in parameters.items() if value is not None}
        config = {
            self.theta_key: rotary.max_wavelength,
            "rope_scaling": None if rotary.scaling is None else dict(parameters),
        }
        parameters["rope_theta"] = rotary.max_wavelength
        head_dim = arguments.get("head_dim") or arguments["hidden_dim"] // arguments["num_heads"]
        part = (rotary.rotary_dim or head_dim) / head_dim
        if part != self.part or part != 1.0:
            config[self.part_key] = parameters["partial_rotary_factor"] = part
        if parameters["rope_type"] == "dynamic":
            config["max_position_embeddings"] = rotary.scaling.original_max_sequence_length
        return {**config, "rope_parameters": parameters}

    def _head_dim(self, config) -> int:
        sizes = [
            config.get("head_dim") or self.head_dim or 0,
            value_at(config, "hidden_size"),
            value_at(config, "num_attention_heads"),
        ]
        if not all(isinstance(size, int) and 0 <= size < 2**31 for size in sizes) or not sizes[2]:
            raise ValueError(
                "`head_dim`, `hidden_size` and `num_attention_heads` of the config must be integers of at least 1. "
                f"Received: {sizes}."
            )
        return sizes[0] or sizes[1] // sizes[2]


def _with_one_type(parameters: dict) -> dict:
    """The parameters with `rope_type` alone, which was once called `type`.

    transformers 5 writes both where it was given the older, and reads `rope_type` if they differ.
    """
    parameters = dict(parameters)
    older = parameters.pop("type", None)
    if parameters.get("rope_type") is None and older is not None:
        parameters["rope_type"] = older
    return parameters


def _scaling(given: dict, config):
    """The scaling that a config's rotary parameters ask for, or None."""
    kind = given.pop("rope_type", "default")
    if kind == "default":
        if given:
            raise ValueError(f"Rotary parameters of type 'default' must have no others. Received: {given}.")
        return None
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise ValueError(f"The `rope_type` of a config must be one of {sorted(_SCALINGS)}. Received: {kind!r}.")
    scaling, numbers = _SCALINGS[kind]
    if "mscale" in given and not given.get("mscale_all_dim"):
        del given["mscale"]  # transformers reads it only beside the other
    fields = {field: given.pop(name) for name, field in numbers if name in given}
    length_key, length_field = _LENGTH
    if (length_key, length_field) in numbers and length_field not in fields:
        fields[length_field] = value_at(config, length_key, lambda config: value_at(config, "max_position_embeddings"))
    if given:
        raise ValueError(f"Rotary parameters of type {kind!r} must be known. Received: {given}.")
    required = {field.name for field in dataclasses.fields(scaling) if field.default is dataclasses.MISSING}
    wrong = [name for name, field in numbers if not _is_valid(field, fields.get(field), field in required)]
    if wrong:
        raise ValueError(
            f"`rope_parameters` or `rope_scaling` of type {kind!r} must have {wrong} as numbers (factors of pairs as "
            f"lists, `truncate` as true or false). Received: {fields}."
        )
    return scaling(**fields)


def _is_valid(field: str, value, is_required: bool) -> bool:
    """Whether a scaling may have this value; its own constructor checks how large numbers are."""
    if value is None:
        return not is_required
    if field == "truncate":
        return isinstance(value, bool)
    if field in ("short_factor", "long_factor"):
        return isinstance(value, list | tuple) and all(_is_number(one) for one in value)
    return _is_number(value)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
