"""Constructor arguments that are layers, initializers or activations: revive them from a config, clone them."""

import keras
from keras import ops

from keras_tfm.arguments import as_integer


def revive(part):
    """The object itself, or the one that a serialized dict describes: what lets `from_config` be `cls(**config)`."""
    return keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part


def as_layer(part, name: str, example: str, optional: bool = False):
    """`revive`, for an argument that must be a layer, or None if `optional`; a TypeError for anything else."""
    part = revive(part)
    if not isinstance(part, keras.layers.Layer) and not (optional and part is None):
        kind = "a class" if isinstance(part, type) else f"of type {type(part).__name__}"
        raise TypeError(
            f"`{name}` must be a layer{' or None' if optional else ''}, for example `{example}`. "
            f"Received: {name}={part!r:.80}, {kind}."
        )
    return part


def set_template(layer, name: str, template) -> None:
    """Keeps a copy of a layer from which others are cloned as an attribute, so that it is no part of `layer`.

    As a part, it would be saved and quantized, and be the same object as another part that the caller made of it.
    """
    if template is not None:
        template = template.__class__.from_config(template.get_config())
    vars(layer)[name] = template  # Keras tracks what `setattr` is given


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


def refuse_ragged(x, name: str) -> None:
    """Raises for TensorFlow's ragged tensors, which layers would take for rows of one length."""
    if hasattr(x, "row_splits"):
        raise TypeError(
            f"`{name}` must be a dense tensor. Received: a ragged one. Make it dense with `x.to_tensor()`, and say "
            "which tokens are real with a mask: `tf.sequence_mask(x.row_lengths())`."
        )


def check_rank(x, rank: int, name: str, letters: str) -> None:
    """Raises unless `x` is dense with `rank` axes; `letters` names them, for example "(B, T, D)"."""
    refuse_ragged(x, name)
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
