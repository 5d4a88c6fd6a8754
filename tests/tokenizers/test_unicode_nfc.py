"""Normalization forms C and KC in the graph, beside the Rust library's."""

import itertools
import random
import unicodedata

import pytest
import tensorflow as tf
import tokenizers

from keras_tfm.tokenizers.code_points import Characters
from keras_tfm.tokenizers.unicode_nfc import UnicodeNormalization, unicode_tables

EVERY = [*map(chr, range(1, 0xD800)), *map(chr, range(0xE000, 0x33480)), *map(chr, range(0xE0000, 0xE1000))]
MARKS = [*map(chr, unicode_tables("NFC").classes)]


@pytest.fixture(
    scope="module", params=["NFC", "NFKC", *(pytest.param(f, marks=pytest.mark.slow) for f in ("NFD", "NFKD"))]
)
def form(request):
    """Ours, and theirs on a list of texts."""
    return UnicodeNormalization(request.param), getattr(tokenizers.normalizers, request.param)().normalize_str


def check(form, texts):
    ours, theirs = form
    expected = [theirs(text) for text in texts]
    actual = [text.decode() for text in ours(tf.constant(texts)).numpy()]
    different = [(text, one, two) for text, one, two in zip(texts, actual, expected, strict=True) if one != two]
    assert not different, different[:5]


def test_every_code_point_and_its_decomposition_are_normalized(form):
    check(form, EVERY)
    check(form, [unicodedata.normalize("NFD", character) for character in EVERY])


def test_every_mark_is_ordered_before_and_after_one_of_each_class(form):
    """Python orders other marks, which ones hangs on its version: so each is compared with one of each class."""
    classes = unicode_tables("NFC").classes
    samples = [chr(mark) for mark in {rank: mark for mark, rank in classes.items()}.values()]
    check(
        form, ["a" + "".join(pair) for mark in MARKS for sample in samples for pair in ((mark, sample), (sample, mark))]
    )


def test_marks_in_any_order_and_number_are_normalized(form):
    generator = random.Random(0)
    letters = [*"aeqo>=ﬁ①", "\u09c7", "\u0915", "\u1100", "\uac00", "\u1e69", "\u212b", "\u0344", "\ufdfa"]
    others = [*MARKS, *["\u0323", "\u0302", "\u0307", "\u0338"] * 40, "\u1161", "\u11a8", "\u09be", "\u09d7"]
    texts = ["".join(generator.choices(letters, k=1) + generator.choices(others, k=n % 6)) * 2 for n in range(2000)]
    texts += ["".join(generator.choices(letters + others, k=9)) for _ in range(1000)]
    check(form, texts)
    check(
        form,
        [
            "".join(parts)
            for parts in itertools.product("ae\u1100", "\u0323\u0301\u1161", "\u0302\u11a8\u0323", "z\u0301")
        ],
    )


def test_normal_texts_are_left_alone_and_empty_ones_too(form):
    check(form, ["", "Hello", "é日本", "\u1ec7"])
    check(form, ["", "e\u0301", ""])


def test_each_character_knows_where_it_comes_from():
    characters = UnicodeNormalization("NFKC").of_characters(Characters.of(tf.constant(["xﬁe\u0323\u0302!", "e\u0301"])))
    assert "".join(map(chr, characters.codes.numpy())) == "xfi\u1ec7!é"
    assert characters.rows.numpy().tolist() == [0, 0, 0, 0, 0, 1]
    assert characters.starts.numpy().tolist() == [0, 1, 1, 2, 5, 0]
    assert characters.ends.numpy().tolist() == [1, 2, 2, 5, 6, 2]
