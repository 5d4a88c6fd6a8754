"""Many words at once against one at a time."""

import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm.tokenizers.word_piece_graph import PieceMatcher

UNKNOWN = 99


def match_one_by_one(word, vocabulary, max_characters):
    """The textbook: from the left the longest piece; the places are those in the word."""
    whole = [(UNKNOWN, 0, len(word))]
    if len(word) > max_characters:
        return whole
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return whole
        pieces.append((vocabulary[piece], start, end))
        start = end
    return pieces


def match_at_once(words, vocabulary, max_characters):
    rows = tf.ragged.constant([[ord(letter) for letter in word] for word in words], tf.int32, ragged_rank=1)
    ids, begins, closes = PieceMatcher(vocabulary, UNKNOWN, max_characters)(rows)
    before = rows.row_starts().numpy()
    return [
        [(piece, begin - shift, close - shift) for piece, begin, close in zip(*row, strict=True)]
        for *row, shift in zip(ids.to_list(), begins.to_list(), closes.to_list(), before, strict=True)
    ]


pieces = st.lists(st.tuples(st.sampled_from(["", "##"]), st.text("abc", max_size=5)).map("".join), max_size=15)


@settings(max_examples=40, deadline=None)
@given(pieces, st.lists(st.text("abc", max_size=16), max_size=12), st.integers(0, 16))
def test_matching_at_once_equals_matching_one_by_one(tokens, words, max_characters):
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, "z"]))}
    expected = [match_one_by_one(word, vocabulary, max_characters) for word in words]
    assert match_at_once(words, vocabulary, max_characters) == expected
