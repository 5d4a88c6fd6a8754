"""Transformer layers for Keras and TensorFlow: train with `fit`, write text, serve as a SavedModel."""

from keras_tfm import (
    checkpoints,
    data,
    export,
    generation,
    layers,
    models,
    ops,
    pipelines,
    samplers,
    tokenizers,
    training,
    visualization,
)

__version__ = "0.1.0"

__all__ = [
    "checkpoints",
    "data",
    "export",
    "generation",
    "layers",
    "models",
    "ops",
    "pipelines",
    "samplers",
    "tokenizers",
    "training",
    "visualization",
]
