"""The regular expression against the Rust library's."""

import itertools

import tensorflow as tf
import tokenizers

from keras_tfm.tokenizers.vocabulary import symbols_to_bytes
from keras_tfm.tokenizers.word_splitter import WordSplitter
from tests.tokenizers.test_word_patterns import ASSIGNED


def words_of(texts):
    rows = WordSplitter()(tf.constant(texts)).to_list()
    return [[word for word in row if word] for row in rows]


def hugging_face_words(text):
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [symbols_to_bytes(word) for word, _ in byte_level.pre_tokenize_str(text)]


def test_every_code_point_is_of_the_same_class_as_in_hugging_face():
    # In order, the code points form runs of letters, numbers, spaces and others: any other class moves a border.
    every = "".join(map(chr, ASSIGNED))
    assert words_of([every]) == [hugging_face_words(every)]


def test_every_mix_of_spaces_and_classes_is_cut_as_in_hugging_face():
    neighbours = ["", "a", "1", "!", "'"]
    texts = [
        before + "".join(spaces) + after + "s "
        for spaces in itertools.product(" \n\u3000", repeat=3)
        for before, after in itertools.product(neighbours, repeat=2)
    ]
    assert words_of(texts) == [hugging_face_words(text) for text in texts]
