"""A tokenizer for the words of the tests, and small encoders."""

import string

import keras
import pytest

from keras_tfm.models import build_bert
from keras_tfm.tokenizers import WordPieceTokenizer

WORDS = (
    "a good bad fair day night what the is in lives she he new york paris rome anna bob who where does live london "
    "and or was very cafe , . : ? !"
)


@pytest.fixture(scope="session")
def tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase
    tokens = dict.fromkeys([*special, *WORDS.split(" "), *letters, *(f"##{letter}" for letter in letters)])
    return WordPieceTokenizer({token: i for i, token in enumerate(tokens)})


@pytest.fixture(scope="session")
def make_encoder(tokenizer):
    def make():
        keras.utils.set_random_seed(0)
        return build_bert(
            vocabulary_size=tokenizer.vocabulary_size,
            max_sequence_length=24,
            num_layers=1,
            num_heads=2,
            hidden_dim=16,
            dropout=0.0,
        )

    return make
