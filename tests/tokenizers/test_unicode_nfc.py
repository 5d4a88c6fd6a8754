"""Normalization form C in the graph, beside Python's and the Rust library's."""

import itertools
import random
import unicodedata

import tensorflow as tf
import tokenizers

from keras_tfm.tokenizers.unicode_nfc import NormalizationC

EVERY = [*map(chr, range(1, 0xD800)), *map(chr, range(0xE000, 0x32000))]


def check(texts):
    expected = [unicodedata.normalize("NFC", text) for text in texts]
    actual = [text.decode() for text in NormalizationC()(tf.constant(texts)).numpy()]
    different = [(text, one, two) for text, one, two in zip(texts, actual, expected, strict=True) if one != two]
    assert not different, different[:5]


def test_every_code_point_and_its_decomposition_are_normalized():
    check(EVERY)
    check([unicodedata.normalize("NFD", character) for character in EVERY])


def test_marks_in_any_order_and_number_are_normalized():
    generator = random.Random(0)
    marks = [c for c in EVERY if unicodedata.combining(c)]
    letters = [*"aeqo>=", "\u09c7", "\u0915", "\u1100", "\uac00", "\u1e69", "\u212b", "\u0344"]
    others = [*marks, *["\u0323", "\u0302", "\u0307", "\u0338"] * 40, "\u1161", "\u11a8", "\u09be", "\u09d7"]
    texts = ["".join(generator.choices(letters, k=1) + generator.choices(others, k=n % 6)) * 2 for n in range(2000)]
    texts += ["".join(generator.choices(letters + others, k=9)) for _ in range(1000)]
    check(texts)
    check(
        [
            "".join(parts)
            for parts in itertools.product("ae\u1100", "\u0323\u0301\u1161", "\u0302\u11a8\u0323", "z\u0301")
        ]
    )


def test_normal_texts_are_left_alone_and_empty_ones_too():
    check(["", "Hello", "é日本", "\u1ec7"])
    check(["", "e\u0301", ""])


def test_the_rust_library_agrees():
    rust = tokenizers.normalizers.NFC()
    generator = random.Random(1)
    marks = ["\u0323", "\u0302", "\u0307", "\u0338", "\u0301", "\u05b0", "\u05bc"]
    texts = ["".join(generator.choices("aeio>ש한", k=1) + generator.choices(marks, k=4)) for _ in range(500)]
    actual = [text.decode() for text in NormalizationC()(tf.constant(texts)).numpy()]
    assert actual == [rust.normalize_str(text) for text in texts]
