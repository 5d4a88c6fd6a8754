"""A tiny policy over characters, and pairs of answers for it."""

import numpy as np
import pytest

from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import CharacterTokenizer

CHARACTERS = "0123456789+= "


@pytest.fixture(scope="session")
def tokenizer():
    return CharacterTokenizer(CHARACTERS, ["<|endoftext|>"])


@pytest.fixture
def policy(tokenizer):
    return tiny_policy(tokenizer)


def tiny_policy(tokenizer):
    return build_gpt(
        vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=16
    )


def random_pairs(seed=0, pairs=4, length=9):
    """Inputs (B, 2, T) with ragged prompts and answers, and log-probabilities (B, 2, T - 1), 0 at padding."""
    rng = np.random.default_rng(seed)
    shape = (pairs, 2, length)
    ends = rng.integers(5, length + 1, shape[:2])[..., None]
    starts = rng.integers(1, 4, shape[:2])[..., None]
    places = np.arange(length)
    inputs = {
        "token_ids": rng.integers(0, 10, shape).astype("int32"),
        "padding_mask": places < ends,
        "answer_mask": (places >= starts) & (places < ends),
    }
    log_probs = -rng.exponential(1.0, (2, *shape[:2], length - 1)).astype("float32") * inputs["padding_mask"][..., 1:]
    return inputs, log_probs[0], log_probs[1]
