"""Pure functions on `keras.ops`: tensors in, tensors out, no variables."""

from keras_tfm.ops.activations import gelu_sigmoid, gelu_tanh
from keras_tfm.ops.attention import method_up_to, scaled_dot_product_attention
from keras_tfm.ops.decoding_state import DecodingState, Memory
from keras_tfm.ops.positions import (
    Visibility,
    alibi_slopes,
    apply_rotary,
    attention_mask,
    last_real,
    next_positions,
    padding_mask,
    relative_position_buckets,
    rotary_inverse_frequencies,
    sinusoidal_encoding,
)
from keras_tfm.ops.random import AttentionDropout, random_bits, random_uniform
from keras_tfm.ops.tensors import gather_positions, take_rows
from keras_tfm.ops.token_log_probs import logit_statistics, token_log_probs

__all__ = [
    "AttentionDropout",
    "DecodingState",
    "Memory",
    "Visibility",
    "alibi_slopes",
    "apply_rotary",
    "attention_mask",
    "gather_positions",
    "gelu_sigmoid",
    "gelu_tanh",
    "last_real",
    "logit_statistics",
    "method_up_to",
    "next_positions",
    "padding_mask",
    "random_bits",
    "random_uniform",
    "relative_position_buckets",
    "rotary_inverse_frequencies",
    "scaled_dot_product_attention",
    "sinusoidal_encoding",
    "take_rows",
    "token_log_probs",
]


def __dir__() -> list[str]:
    return __all__
