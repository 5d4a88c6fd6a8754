"""Qwen 3: Llama with normalized queries and keys."""

from keras_tfm.checkpoints.config_keys import Always, Only
from keras_tfm.checkpoints.families.llama import SHARED_CONFIG, architecture
from keras_tfm.checkpoints.families.qwen2 import WINDOWS

ARCHITECTURES = (
    architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        (
            *SHARED_CONFIG,
            WINDOWS,
            Only("attention_bias", False),
            Always("biases", ()),
            Always("query_key_norm", True),
        ),
    ),
)
