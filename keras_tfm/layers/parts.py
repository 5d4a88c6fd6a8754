"""Constructor arguments that are layers, initializers or activations: revive them from a config, clone them."""

import keras
from keras import ops

from keras_tfm.arguments import as_integer


def revive(part):
    """The object itself, or the one that a serialized dict describes: what lets `from_config` be `cls(**config)`."""
    return keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part


def serialize(part):
    """The dict that `revive` turns back into `part`; None stays None."""
    return None if part is None else keras.saving.serialize_keras_object(part)


def clone(part):
    """A fresh, unbuilt copy of a layer or initializer with the same configuration, named anew; None stays None."""
    if part is None:
        return None
    config = part.get_config()
    config.pop("name", None)
    return part.__class__.from_config(config)


def known_value(x):
    """The tensor as a NumPy array, or None while it is traced and has no value yet, whatever the backend."""
    if keras.backend.backend() == "tensorflow":
        return x.numpy() if hasattr(x, "numpy") else None
    try:
        return ops.convert_to_numpy(x)
    except (TypeError, ValueError, RuntimeError):  # JAX's and torch's answers for a tracer
        return None


def build_part(layer, *shapes) -> None:
    """Builds a sublayer, unless reviving it from a config (or its owner) has done so already."""
    if not layer.built:
        layer.build(*shapes)


def check_rank(x, rank: int, name: str, letters: str) -> None:
    """Raises unless `x` has `rank` axes; `letters` names them, for example "(B, T, D)"."""
    if len(x.shape) != rank:
        raise ValueError(f"`{name}` must have shape {letters}. Received: shape={tuple(x.shape)}.")


def check_positive(**numbers) -> None:
    """Raises unless every named number is an integer of at least 1."""
    for name, number in numbers.items():
        as_integer(name, number, 1)


def check_rate(**rates) -> None:
    """Raises unless every named rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"`{name}` must be at least 0 and less than 1. Received: {name}={rate!r}.")
