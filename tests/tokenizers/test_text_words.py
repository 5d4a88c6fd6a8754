"""Running text is cut into words as corpora of entities have them, and nothing moves."""

import doctest

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_tfm.tokenizers import split_words, text_words


def words_of(text):
    return [word.decode() for word in split_words([text])[0].numpy()[0].tolist()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\u3000\n", []),
        ("She is in London.", ["She", "is", "in", "London", "."]),
        ("(New York)!?", ["(", "New", "York", ")!?"]),
        ("O'Brien O\u2019Brien d'Artagnan", ["O'Brien", "O\u2019Brien", "d'Artagnan"]),
        ("Anna's London\u2019s James' 's", ["Anna", "'s", "London", "\u2019s", "James", "'", "'s"]),
        ("J. R.R. U.S. (U.S.), Ph.D.; end.", ["J.", "R.R.", "U.S.", "(", "U.S.", "),", "Ph.D.", ";", "end", "."]),
        ("Mary-Ann AT&T 3.5% a/b", ["Mary-Ann", "AT&T", "3.5", "%", "a/b"]),
        ("Rome\u2014Paris Rome--Paris", ["Rome", "\u2014", "Paris", "Rome", "--", "Paris"]),
        ("wait...no \u2026", ["wait", "...", "no", "\u2026"]),
        ("\u5317\u4eac\u3002Paris", ["\u5317", "\u4eac", "\u3002", "Paris"]),
        ("caf\u00e9 e\u0301t\u00e9 \U0001f600!", ["caf\u00e9", "e\u0301t\u00e9", "\U0001f600", "!"]),
    ],
)
def test_words_are_cut_as_corpora_of_entities_have_them(text, words):
    assert words_of(text) == words


def test_words_that_were_cut_stay_as_they_are():
    words = ["O'Brien", "U.S.", "'s", "(", ").", "Mary-Ann", "--", "J.", "\u5317"]
    assert words_of(" ".join(words)) == words


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(st.text(st.sampled_from("aB.'\u2019s-()\u2014 \n\u3000\u5317\u00e9\0$")), max_size=4))
def test_starts_are_the_bytes_of_the_words_and_only_white_space_is_left_out(texts):
    words, starts = split_words(tf.constant(texts, tf.string))
    for text, row, places in zip(texts, words.to_list(), starts.to_list(), strict=True):
        data = text.encode()
        for word, place in zip(row, places, strict=True):
            assert data[place : place + len(word)] == word
        assert b"".join(row).decode() == "".join(text.split())


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(text_words)
    assert (result.failed, result.attempted) == (0, 2)


def test_other_ranks_and_types_are_refused():
    with pytest.raises(ValueError, match=r"several strings \(B,\). Received: shape=\(\)"):
        split_words("a b")
    with pytest.raises(TypeError, match="must be a string, or a list.*Received: 3 of type int"):
        split_words(3)
