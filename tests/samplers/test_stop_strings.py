"""Stop strings are found wherever token borders fall."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tfm.samplers import StopStrings
from keras_tfm.samplers.stop_strings import stop_string_table
from keras_tfm.samplers.token_tables import TokenTables

PIECES = [b"a", b"b", b"ab", b"aba", b"c", b"", b"bb"]


def walk(table, token_ids):
    state = 0
    for token_id in token_ids:
        state = table[state, token_id]
    return state


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=12), st.lists(st.text("abc", min_size=1), min_size=1))
def test_the_automaton_finds_what_a_search_in_the_text_finds(token_ids, strings):
    strings = [string for string in strings if set(string) <= set("abc")]
    table = stop_string_table(strings, PIECES)
    text = b"".join(PIECES[i] for i in token_ids).decode()
    assert (walk(table, token_ids) == 1) == any(string in text for string in strings)


def test_tables_say_what_the_full_table_says():
    table = stop_string_table(["aba", "cc"], PIECES)
    tables = TokenTables.of(table)
    states = np.repeat(np.arange(len(table), dtype="int32"), len(PIECES))
    tokens = np.tile(np.arange(len(PIECES), dtype="int32"), len(table))
    assert np.asarray(tables.next(states, tokens)).tolist() == table.ravel().tolist()


def test_text_is_cut_before_the_first_and_held_while_one_may_come():
    stops = StopStrings(["User:", "\n\n"], [bytes([i]) for i in range(256)])
    assert stops.cut("Hello User: \n\n") == "Hello "
    assert stops.cut("Hello") == "Hello"
    assert stops.num_safe("Hello Us") == 6
    assert stops.num_safe("Hello\n") == 5
    assert stops.num_safe("Hello") == 5


@pytest.mark.parametrize(
    ("strings", "message"), [([""], "stop_strings=\\[''\\]"), (["ax"], "'ax', of which no token has b'x'")]
)
def test_strings_that_cannot_be_found_raise(strings, message):
    with pytest.raises(ValueError, match=message):
        StopStrings(strings, PIECES)
