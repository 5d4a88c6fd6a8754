"""Tokenizers that train, encode and decode, and run inside TensorFlow graphs."""

from keras_tfm.tokenizers.added_tokens import AddedToken
from keras_tfm.tokenizers.byte_pair import BytePairTokenizer
from keras_tfm.tokenizers.character import CharacterTokenizer
from keras_tfm.tokenizers.inputs import ChatText
from keras_tfm.tokenizers.marian import MarianTokenizer
from keras_tfm.tokenizers.sentence_packer import SentencePacker
from keras_tfm.tokenizers.sentence_piece import SentencePieceTokenizer
from keras_tfm.tokenizers.text_words import split_words
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.word_piece import WordPieceTokenizer

__all__ = [
    "AddedToken",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "ChatText",
    "MarianTokenizer",
    "SentencePacker",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "split_words",
]


def __dir__() -> list[str]:
    return __all__
