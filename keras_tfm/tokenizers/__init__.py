"""Tokenizers that train, encode and decode, and run inside TensorFlow graphs."""

from keras_tfm.tokenizers.byte_pair import BytePairTokenizer

__all__ = ["BytePairTokenizer"]
