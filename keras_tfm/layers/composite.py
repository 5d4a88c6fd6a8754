"""Layers made of layers: parts given as objects or configs, built, cloned, and their settings kept in the config."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_tfm import compat
from keras_tfm.types import Config, Shape


class Composite(keras.layers.Layer):
    """A layer made of other layers, which stays frozen, and quantized, down to its last part.

    Keras passes `trainable` on to the parts that exist when it is set, not to those that `build` makes later. And what
    is set on a part that the layer makes itself is in no config. So it is applied again once all parts exist, and the
    config holds what differs.

    Args:
        parts_trainable: dict from a part's path, such as "query_dense", to its `trainable`, where that is not the
            layer's.
        parts_quantized: dict from a part's path to its dtype policy, where Keras' `quantize` has changed it.
        parts_adapted: dict from a projection's path to the configs of its adapters.
        **kwargs: those of `keras.layers.Layer`: `name`, `dtype`, `trainable`. Subclasses pass on nothing else unnamed.
    """

    def __init__(
        self,
        parts_trainable: dict | None = None,
        parts_quantized: dict | None = None,
        parts_adapted: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._settings = (parts_trainable or {}, parts_quantized or {}, parts_adapted or {})  # of parts `build` makes

    def __setattr__(self, name: str, value: Any) -> None:
        is_now_built = name == "built" and value and not self.built  # Keras sets it when `build` is done, and once more
        super().__setattr__(name, value)
        if is_now_built:
            if not self.trainable:
                freeze_parts(self)
            set_parts(self, *self._settings)
            self._settings = ({}, {}, {})

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Traced, as Keras does without a `compute_output_shape`: caches and scores have shapes of their own.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> Config:
        trainable, quantized, adapted = self._settings
        return {
            **super().get_config(),
            "parts_trainable": {**trainable, **trainable_settings(self)},
            "parts_quantized": {**quantized, **quantized_settings(self)},
            "parts_adapted": {**adapted, **adapted_settings(self)},
        }


def freeze_parts(layer: keras.layers.Layer) -> None:
    """Freezes all parts of a layer that is frozen: to set its `trainable` once more to the same would tell nobody."""
    for part in compat.all_layers(layer, include_self=False):
        part.trainable = False


def set_parts(layer: keras.layers.Layer, trainable: dict, quantized: dict, adapted: dict) -> None:
    """Sets on the parts of a built layer what the three functions below said of another."""
    for path, adapters in adapted.items():
        for adapter in adapters:
            _part_at(layer, path).add_adapter(revive(adapter))
    for path, value in trainable.items():
        _part_at(layer, path).trainable = value
    for path, policy in quantized.items():
        _part_at(layer, path).dtype_policy = revive(policy)  # quantizes, if the policy says so


def trainable_settings(layer: keras.layers.Layer) -> dict[str, bool]:
    """Paths of the parts whose `trainable` is not that of what they are a part of, outer ones first.

    Parts given to the constructor have configs of their own, which say it. Those of a frozen layer are named all the
    same: the layer tells all its parts that they are frozen.
    """
    return {path: part.trainable for path, part, owner in _parts(layer) if part.trainable != owner.trainable}


def quantized_settings(layer: keras.layers.Layer) -> dict[str, Config | None]:
    """Paths of the parts that Keras' `quantize` has changed, with their dtype policies."""
    return {
        path: serialize(part.dtype_policy)
        for path, part, owner in _parts(layer, given=False)
        if part.quantization_mode is not None and part.quantization_mode != owner.quantization_mode
    }


def adapted_settings(layer: keras.layers.Layer) -> dict[str, list]:
    """Paths of the projections that have adapters, with the adapters' configs."""
    return {
        path: [serialize(adapter) for adapter in adapters]
        for path, part, _ in _parts(layer, given=False)
        if (adapters := getattr(part, "adapters", None))
    }


def parts_of(layer: keras.layers.Layer) -> Iterator[tuple]:
    """(path, part, what it is a part of) of all parts, however deep, each once."""
    return _parts(layer, given=True)


def _parts(layer, given: bool | None = None) -> Iterator[tuple]:
    """(path, part, what it is a part of) of all parts whose config is not to be had elsewhere.

    given: whether parts that were given to the constructor count. Default: if the layer is frozen.
    """
    is_all = not layer.trainable if given is None else given
    kind: Any = type(layer)
    left_out: frozenset[str] = frozenset() if is_all else _arguments(kind)
    missing = {id(part) for part in compat.all_layers(layer, include_self=False)}  # templates are not among them

    def walk(owner, place, left_out):
        for name, part in _own_parts(owner):
            if id(part) in missing and name.split(".")[0] not in left_out:
                missing.discard(id(part))
                yield f"{place}{name}", part, owner
                yield from walk(part, f"{place}{name}.", ())

    yield from walk(layer, "", left_out)


def _own_parts(layer) -> Iterator[tuple]:
    """(attribute, layer) and (attribute.index, layer) of the layers right below a layer."""
    for name, value in compat.attributes(layer).items():
        if name.startswith("_"):
            continue
        if isinstance(value, keras.layers.Layer):
            yield name, value
        elif isinstance(value, list | tuple):
            yield from ((f"{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, keras.layers.Layer))


@functools.cache
def _arguments(cls: Any) -> frozenset[str]:
    """The names of all arguments of the class' constructors."""
    constructors = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    return frozenset(name for constructor in constructors[:-1] for name in inspect.signature(constructor).parameters)


def _part_at(layer, path: str):
    for name in path.split("."):
        layer = layer[int(name)] if name.isdigit() else getattr(layer, name)
    return layer


def revive(part: Any) -> Any:
    """The object itself, or the one that a serialized dict describes: what lets `from_config` be `cls(**config)`."""
    return keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part


def as_layer(part: Any, name: str, example: str, optional: bool = False) -> Any:
    """`revive`, for an argument that must be a layer, or None if `optional`; a TypeError for anything else."""
    part = revive(part)
    if not isinstance(part, keras.layers.Layer) and not (optional and part is None):
        kind = "a class" if isinstance(part, type) else f"of type {type(part).__name__}"
        raise TypeError(
            f"`{name}` must be a layer{' or None' if optional else ''}, for example `{example}`. "
            f"Received: {name}={part!r:.80}, {kind}."
        )
    return part


def set_template(layer: keras.layers.Layer, name: str, template: keras.layers.Layer) -> None:
    """Keeps a copy of a layer from which others are cloned as an attribute, so that it is no part of `layer`.

    As a part, it would be saved and quantized, and be the same object as another part that the caller made of it.
    """
    if template is not None:
        template = template.__class__.from_config(template.get_config())
    vars(layer)[name] = template  # Keras tracks what `setattr` is given


def serialize(part: Any) -> Config | None:
    """The dict that `revive` turns back into `part`; None stays None."""
    return None if part is None else keras.saving.serialize_keras_object(part)


def clone(part: Any) -> Any:
    """A fresh, unbuilt copy of a layer or initializer with the same configuration, named anew; None stays None."""
    if part is None:
        return None
    config = part.get_config()
    config.pop("name", None)
    return part.__class__.from_config(config)


def forget_compiled(model: keras.layers.Layer) -> None:
    """Lets `fit`, `evaluate` and `predict` compile a model anew, of which a part has changed."""
    if isinstance(model, keras.Model):
        model.train_function = model.test_function = model.predict_function = None


def build_part(layer: keras.layers.Layer, *shapes: Shape) -> None:
    """Builds a sublayer, unless reviving it from a config (or its owner) has done so already."""
    if not layer.built:
        layer.build(*shapes)
