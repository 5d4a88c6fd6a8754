"""Qwen 3: Llama with normalized queries and keys."""

from keras_tfm.checkpoints.config_keys import Always, Only
from keras_tfm.checkpoints.families.llama import architecture, shared_config
from keras_tfm.checkpoints.families.qwen2 import WINDOWS

ARCHITECTURES = (
    architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        (
            *shared_config(num_key_value_heads=32, head_dim=128),
            WINDOWS,
            Only("attention_bias", False),
            Always("biases", ()),
            Always("query_key_norm", True),
        ),
    ),
)
