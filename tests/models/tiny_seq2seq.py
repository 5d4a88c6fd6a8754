"""A tiny encoder-decoder of every wiring: name -> builder. Weights are large enough that logits differ clearly."""

import numpy as np

from keras_tfm.models import build_bart, build_marian, build_t5, build_transformer

VOCABULARY_SIZE = 17
SIZES = {
    "vocabulary_size": VOCABULARY_SIZE,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "dropout": 0.1,  # must do nothing outside training
}
T5 = {**SIZES, "num_layers": 2, "head_dim": 5, "num_buckets": 8, "max_distance": 10}
BART = {**SIZES, "max_sequence_length": 12}
TINY = {
    "transformer": lambda **options: build_transformer(**{**SIZES, **options}),
    "transformer_pre_two_vocabularies": lambda **options: build_transformer(
        **{**SIZES, "norm_placement": "pre", "decoder_vocabulary_size": VOCABULARY_SIZE, "method": "auto", **options}
    ),
    "t5": lambda **options: build_t5(**{**T5, "gated": False, "tie_weights": True, **options}),
    "t5_gated": lambda **options: build_t5(**{**T5, "num_decoder_layers": 1, **options}),
    "bart": lambda **options: build_bart(**{**BART, **options}),
    "mbart": lambda **options: build_bart(
        **{**BART, "norm_placement": "pre", "scale_embedding": True, "num_decoder_layers": 2, **options}
    ),
    "marian": lambda **options: build_marian(**{**SIZES, **options}),
}


def make(name, seed=0, **options):
    """The model with weights of size 0.3: those of the builders make all logits nearly equal."""
    model = TINY[name](**options)
    rng = np.random.default_rng(seed)
    model.set_weights([0.3 * rng.normal(size=w.shape) + (len(w.shape) == 1) for w in model.weights])
    return model


def batch(num_rows=4, source_length=7, target_length=6):
    """(inputs, next token ids): pairs to memorise."""
    rng = np.random.default_rng(1)
    sources = rng.integers(0, VOCABULARY_SIZE, (num_rows, source_length)).astype("int32")
    targets = rng.integers(0, VOCABULARY_SIZE, (num_rows, target_length)).astype("int32")
    shifted = np.concatenate([np.zeros((num_rows, 1), "int32"), targets[:, :-1]], axis=1)
    return {"encoder_token_ids": sources, "decoder_token_ids": shifted}, targets
