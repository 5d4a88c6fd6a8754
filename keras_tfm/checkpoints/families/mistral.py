"""Mistral: Llama with a window."""

from keras_tfm.checkpoints.config_keys import Always
from keras_tfm.checkpoints.families.llama import architecture, shared_config
from keras_tfm.checkpoints.window_keys import Windows

ARCHITECTURES = (
    architecture(
        "MistralForCausalLM",
        "mistral",
        (
            *shared_config(num_key_value_heads=8),
            Windows(is_local=lambda config, layer: True, window=4096, lists_layers=False),
            Always("biases", ()),
            Always("query_key_norm", False),
        ),
    ),
)
