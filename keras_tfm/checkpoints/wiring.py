"""Whether two models compute the same function of their weights, seen from their configurations."""

from collections.abc import Mapping
from typing import Any

# What changes training, names or precision only, or is seen to elsewhere.
_IMMATERIAL = {
    "adapters",  # `save` wants them to be in the kernels
    "autocast",
    "build_config",
    "checkpoint",
    "dropout",
    "dtype",
    "method",
    "name",
    "parts_adapted",
    "parts_trainable",
    "remat",
    "stochastic_depth",
    "trainable",
}


def difference(model, other) -> str | None:
    """Where two models are wired differently, in words; None if they are not."""
    return _difference(_material(model.get_config()), _material(other.get_config()), type(model).__name__)


def _material(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            key: _material(value)
            for key, value in config.items()
            if key not in _IMMATERIAL and not key.endswith(("_initializer", "_regularizer", "_constraint"))
        }
    return [_material(item) for item in config] if isinstance(config, list | tuple) else config


def _difference(first: Any, second: Any, place: str) -> str | None:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        pairs = [(f"{place}.{key}", first.get(key), second.get(key)) for key in keys]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else f"{place.replace('.config', '')} is {first!r}, must be {second!r}"
    return next(filter(None, (_difference(one, two, place) for place, one, two in pairs)), None)
