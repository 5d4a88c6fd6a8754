"""Transformer layers for Keras and TensorFlow: train with `fit`, write text, serve as a SavedModel."""

from keras_tfm import generation, layers, models, ops, samplers

__version__ = "0.1.0"

__all__ = ["generation", "layers", "models", "ops", "samplers"]
