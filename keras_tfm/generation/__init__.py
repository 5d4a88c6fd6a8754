"""Text and token generation: the loop, its compilation, and strings in and out."""

from keras_tfm.generation.runner import Generation
from keras_tfm.generation.text_generator import TextGenerator

__all__ = ["Generation", "TextGenerator"]
