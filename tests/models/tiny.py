"""A tiny model of every family and wiring: name -> builder. Weights are large enough that logits differ clearly."""

import keras
import numpy as np

from keras_tfm.layers import RotaryEmbedding
from keras_tfm.models import build_bloom, build_gemma2, build_gpt, build_gpt_neox, build_llama

VOCABULARY_SIZE = 17
GPT = {
    "vocabulary_size": VOCABULARY_SIZE,
    "max_sequence_length": 12,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "dropout": 0.1,  # must do nothing outside training
}
LLAMA = {
    "vocabulary_size": VOCABULARY_SIZE,
    "num_layers": 2,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 20,
}
BLOOM = {"vocabulary_size": VOCABULARY_SIZE, "num_layers": 2, "num_heads": 3, "hidden_dim": 12, "dropout": 0.1}
NEOX = {**BLOOM, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 20}
TINY = {
    "gpt_learned": lambda **options: build_gpt(**{**GPT, "position": "learned", **options}),
    "gpt_sinusoidal": lambda **options: build_gpt(**{**GPT, "position": "sinusoidal", **options}),
    "gpt_rotary": lambda **options: build_gpt(**{**GPT, "position": "rotary", **options}),
    "gpt_alibi": lambda **options: build_gpt(**{**GPT, "position": "alibi", **options}),
    "gpt_relative": lambda **options: build_gpt(**{**GPT, "position": "relative", **options}),
    "llama": lambda **options: build_llama(**{**LLAMA, **options}),
    "llama_multi_query_tied": lambda **options: build_llama(
        **{**LLAMA, "num_key_value_heads": 1, "tie_weights": True, "rotary": RotaryEmbedding(500.0), **options}
    ),
    "gemma2": lambda **options: build_gemma2(**{**LLAMA, "head_dim": 6, "windows": (4, None), **options}),
    "gpt_neox": lambda **options: build_gpt_neox(**{**NEOX, **options}),
    "bloom": lambda **options: build_bloom(**{**BLOOM, **options}),
}


def make(name, **options):
    """The model with weights of size 0.3: those of GPT-2's initialisation make all logits nearly equal."""
    model = TINY[name](**options)
    rng = np.random.default_rng(0)
    model.set_weights([0.3 * rng.normal(size=w.shape) + (w.shape[-1:] == w.shape) for w in model.weights])
    return model


def batch(num_rows=4, length=8):
    """(token_ids, next token ids): rows to memorise."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, (num_rows, length + 1)).astype("int32")
    return ids[:, :-1], ids[:, 1:]


def compile_model(model, learning_rate=1e-2, **options):
    optimizer = keras.optimizers.Adam(learning_rate)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    return model
