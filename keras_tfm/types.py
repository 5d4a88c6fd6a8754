"""What annotations call tensors and shapes, and what constructors take for a layer, an activation or a dtype."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any  # of any backend, symbolic or not; a NumPy array wherever one is converted
Shape: TypeAlias = tuple[int | None, ...]  # None = unknown
Config: TypeAlias = dict[str, Any]  # what `keras.saving.serialize_keras_object` gives
LayerLike: TypeAlias = keras.layers.Layer | Config
InitializerLike: TypeAlias = str | keras.initializers.Initializer | Config
ActivationLike: TypeAlias = str | Callable[[Tensor], Tensor]
DTypeLike: TypeAlias = str | keras.DTypePolicy | Config
PathLike: TypeAlias = str | os.PathLike[str]
