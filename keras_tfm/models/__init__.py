"""Task models, and the builders that wire them."""

from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.gpt import build_gpt
from keras_tfm.models.llama import build_llama

__all__ = ["CausalLM", "build_gpt", "build_llama"]
