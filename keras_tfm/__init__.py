"""Transformer layers for Keras and TensorFlow: train with `fit`, write text, serve as a SavedModel."""

from keras_tfm import data, export, generation, layers, models, ops, samplers, tokenizers, visualization

__version__ = "0.1.0"

__all__ = [
    "data",
    "export",
    "generation",
    "layers",
    "models",
    "ops",
    "samplers",
    "tokenizers",
    "visualization",
]
