"""Qwen 2 and 2.5: Llama with biases on queries, keys and values."""

from keras_tfm.checkpoints.config_keys import Always, Harmless, value_at
from keras_tfm.checkpoints.families.llama import architecture, shared_config
from keras_tfm.checkpoints.window_keys import Windows

# The last layers have the window, if any.
WINDOWS = Windows(
    is_local=lambda config, layer: layer >= value_at(config, "max_window_layers", 28), window=4096, switch=True
)
ARCHITECTURES = (
    architecture(
        "Qwen2ForCausalLM",
        "qwen2",
        (
            *shared_config(num_key_value_heads=32),
            WINDOWS,
            Harmless(("attention_bias",)),  # whatever it says: transformers does not look at it either
            Always("biases", ("query_key_value",)),
            Always("query_key_norm", False),
        ),
    ),
)
