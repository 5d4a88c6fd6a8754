"""Automata read what Python reads: regular expressions by `re`, sets by Python's own operations, UTF-8 by its codec."""

import re

import numpy as np
import pytest

from keras_tfm.samplers.automata import (
    Alternation,
    Characters,
    Concatenation,
    Difference,
    Intersection,
    Literal,
    Repetition,
    automaton_of,
    characters_without,
)
from keras_tfm.samplers.regular_expressions import expression_of

LETTERS = "abcdefkKsS\u017f\u212axyß ẞ,é\nü😀1٣-_0"
PATTERNS = (
    "",
    "a|",
    "^abc$",
    "^a$|^b$",
    "(a|^b)",
    r"\Aab\Z",
    "a*?b+",
    "x{0}y{2,}",
    "(?:ab|a)(?:bc|c)?",
    "(?x) a b # c",
    "(?i)straße[k-m]",
    "(?i)[^k]",
    "(?i:K)s",
    "(?a)\\w\\W",
    r"\w{1,3}\d?",
    r"[^\W\d]x",
    r"[\s,]",
    r"\D",
    ".",
    "(?s).",
    "[é-ü😀-😃]+",
)


def some_texts(random, count):
    letters = list(LETTERS)
    return ["".join(random.choice(letters, random.integers(0, 5))) for _ in range(count)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_read_as_by_python(pattern):
    automaton, compiled = automaton_of(expression_of(pattern)), re.compile(pattern)
    for text in some_texts(np.random.default_rng(0), 300):
        assert automaton.reads(text.encode()) == bool(compiled.fullmatch(text)), text


def random_pattern(random, depth=3):
    kind = int(random.integers(6)) if depth else 0
    if kind <= 1:
        return str(random.choice(["a", "b", "[ab]", "[^a]", "é", "."]))
    inner = [random_pattern(random, depth - 1) for _ in range(2)]
    if kind == 2:
        return f"(?:{inner[0]}|{inner[1]})"
    if kind == 3:
        return f"(?:{inner[0]}){random.choice(['*', '+', '?', '{2}', '{0,2}', '{1,}'])}"
    return "".join(inner)


def test_random_patterns_and_what_is_made_of_two():
    random = np.random.default_rng(1)
    for _ in range(60):
        patterns = [random_pattern(random) for _ in range(2)]
        one, other = map(expression_of, patterns)
        both, without = automaton_of(Intersection(one, other)), automaton_of(Difference(one, other))
        for _ in range(40):
            text = "".join(random.choice(list("abé"), random.integers(0, 6)))
            is_one, is_other = (bool(re.fullmatch(pattern, text)) for pattern in patterns)
            assert automaton_of(one).reads(text.encode()) == is_one, (patterns, text)
            assert both.reads(text.encode()) == (is_one and is_other), (patterns, text)
            assert without.reads(text.encode()) == (is_one and not is_other), (patterns, text)


def test_all_characters_and_no_other_bytes_are_utf8():
    automaton = automaton_of(Characters(characters_without()))
    random = np.random.default_rng(2)
    codes = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF, *random.integers(0, 0xD800, 300)]
    assert all(automaton.reads(chr(code).encode()) for code in codes)
    for _ in range(2000):
        piece = random.integers(0, 256, random.integers(1, 5)).astype("uint8").tobytes()
        try:
            is_one = len(piece.decode()) == 1
        except UnicodeDecodeError:
            is_one = False
        assert automaton.reads(piece) == is_one, piece


def test_every_state_is_on_a_way_to_an_end():
    dead_end = Concatenation((Literal(b"ab"), Alternation(())))
    assert automaton_of(Alternation((dead_end, Literal(b"ac")))).num_states == 3
    assert automaton_of(Repetition(dead_end, 1)).num_states == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "unterminated subpattern"),
        ("a{2,1}", "min repeat greater"),
        ("[z-a]", "bad character range"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "a back-reference"),
        ("a++", "a possessive repeat"),
        (r"\bab", "word borders nowhere; this has a 'boundary'"),
        ("a^b", "at the ends only"),
        ("a$b", "at the ends only"),
        ("(a$)*", "at the ends only"),
        (r"\p{L}", "bad escape"),
    ],
)
def test_what_cannot_be_followed_is_named(pattern, message):
    with pytest.raises(ValueError, match=message):
        expression_of(pattern)
