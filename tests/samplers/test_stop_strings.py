"""Stop strings are found wherever token borders fall."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tfm.samplers import StopStrings
from keras_tfm.samplers.stop_strings import MOST_BYTES, stop_string_automaton
from keras_tfm.samplers.token_tables import TokenTables

PIECES = [b"a", b"b", b"ab", b"aba", b"c", b"", b"bb"]


def walk(tables, token_ids):
    state = 0
    for token_id in token_ids:
        state = tables.transitions[state, tables.kinds[token_id]]
    return state


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=12), st.lists(st.text("abc", min_size=1), min_size=1))
def test_the_automaton_finds_what_a_search_in_the_text_finds(token_ids, strings):
    strings = [string for string in strings if set(string) <= set("abc")]
    text = b"".join(PIECES[i] for i in token_ids).decode()
    assert (walk(StopStrings(strings, PIECES).tables, token_ids) == 1) == any(string in text for string in strings)


def test_tables_say_what_the_bytes_say_one_by_one():
    table, classes = stop_string_automaton(["aba", "cc"], PIECES)
    tables = StopStrings(["aba", "cc"], PIECES).tables
    states = np.repeat(np.arange(len(table), dtype="int32"), len(PIECES))
    tokens = np.tile(np.arange(len(PIECES), dtype="int32"), len(table))
    expected = []
    for state, token in zip(states, tokens, strict=True):
        for byte in PIECES[token]:
            state = table[state, classes[byte]]
        expected.append(int(state))
    assert np.asarray(tables.next(states, tokens)).tolist() == expected


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_a_full_table_is_kept_whatever_is_put_together(seed, num_states, num_tokens):
    full = np.random.default_rng(seed).integers(-1, min(num_states, 2), (num_states, num_tokens))
    tables = TokenTables.of(full)
    assert (tables.transitions[:num_states, tables.kinds] == full).all()
    assert len(set(tables.kinds.tolist())) == len(np.unique(full, axis=1).T)


def test_text_is_cut_before_the_first_and_held_while_one_may_come():
    stops = StopStrings(["User:", "\n\n"], [bytes([i]) for i in range(256)])
    assert stops.cut("Hello User: \n\n") == "Hello "
    assert stops.cut("Hello") == "Hello"
    assert stops.num_safe("Hello Us") == 6
    assert stops.num_safe("Hello\n") == 5
    assert stops.num_safe("Hello") == 5


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ([""], "stop_strings=\\[''\\]"),
        (["ax"], "'ax', of which no token has b'x'"),
        (["a" * (MOST_BYTES + 1)], "Received: 1025 bytes in 1 strings"),
        (["\ud800"], "half a surrogate pair"),
        (["a\ufffd"], r"U\+FFFD, which stands for bytes that are no text"),
    ],
)
def test_strings_that_cannot_be_found_raise(strings, message):
    with pytest.raises(ValueError, match=message):
        StopStrings(strings, PIECES)


@pytest.mark.parametrize(("strings", "message"), [([5], "Received: 5 in it"), (5, "Received: 5"), (b"ab", "b'ab'")])
def test_what_is_no_string_raises(strings, message):
    with pytest.raises(TypeError, match=message):
        StopStrings(strings, PIECES)


def test_one_string_is_one_string():
    assert StopStrings("ab", PIECES).strings == ("ab",)


def test_the_longest_strings_are_followed_to_their_end():
    string = "ab" * (MOST_BYTES // 2)
    stops = StopStrings(string, PIECES)
    tokens = [PIECES.index(b"ab")] * (MOST_BYTES // 2)
    assert walk(stops.tables, tokens[:-1]) != 1
    assert walk(stops.tables, tokens) == 1
