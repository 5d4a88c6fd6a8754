"""A tokenizer whose ids can be read: the code points of the characters."""

import pytest
import tensorflow as tf


class CharacterTokenizer:
    def __init__(self, end_of_text_id: int | None = None):
        self.end_of_text_id = end_of_text_id

    def __call__(self, texts):
        return tf.strings.unicode_decode(texts, "UTF-8")


@pytest.fixture
def characters() -> CharacterTokenizer:
    return CharacterTokenizer()


@pytest.fixture
def characters_with_end() -> CharacterTokenizer:
    return CharacterTokenizer(end_of_text_id=ord("|"))
