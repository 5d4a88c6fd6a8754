"""Text and token generation: the loop, its compilation, strings in and out, and texts that go on."""

from keras_tfm.generation.options import Generation, GenerationOptions
from keras_tfm.generation.session import TextSession
from keras_tfm.generation.text_generator import TextGenerator
from keras_tfm.generation.text_to_text import TextToText

__all__ = ["Generation", "GenerationOptions", "TextGenerator", "TextSession", "TextToText"]


def __dir__() -> list[str]:
    return __all__
