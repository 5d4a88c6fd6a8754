"""Transformer layers for Keras and TensorFlow: train with `fit`, write text, serve as a SavedModel."""

from keras_tfm import compile_cache

compile_cache.hush()

from keras_tfm import (  # noqa: E402 - TensorFlow is imported here, and reads its log level
    adapters,
    alignment,
    checkpoints,
    compat,
    compression,
    data,
    evaluation,
    export,
    generation,
    layers,
    losses,
    models,
    ops,
    pipelines,
    samplers,
    tokenizers,
    training,
    visualization,
)

__version__ = "0.1.0"

compile_cache.start()
compat.free_traced_gradients()

__all__ = [
    "adapters",
    "alignment",
    "checkpoints",
    "compression",
    "data",
    "evaluation",
    "export",
    "generation",
    "layers",
    "losses",
    "models",
    "ops",
    "pipelines",
    "samplers",
    "tokenizers",
    "training",
    "visualization",
]
