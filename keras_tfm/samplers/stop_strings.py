"""Stop strings as an automaton over tokens: they are found wherever token borders fall."""

import functools
import re
from collections.abc import Iterable

import numpy as np

from keras_tfm.samplers.token_tables import TokenTables

# All stop strings of a call together: each byte is a row of the tables that the compiled loop reads.
MOST_BYTES = 1024


class StopStrings:
    """Strings that end a text, and the tables that find them in the compiled loop.

    Args:
        strings: str each, or one str; of 1,024 bytes together in UTF-8.
        token_bytes: the bytes of each token of the vocabulary, in order.

    Attributes:
        pattern: regular expression that finds them, in Python and in RE2.
        beginnings: one that finds what is not yet the whole of one, or None if each is a single character.

    Raises:
        ValueError: for an empty string, one with bytes that no token has, or too many bytes. TypeError: for anything
            but str.

    Example:
        >>> StopStrings(["\\n\\n", "User:"], [tokenizer.token_bytes(i) for i in range(tokenizer.vocabulary_size)])
    """

    def __init__(self, strings: str | Iterable[str], token_bytes: Iterable[bytes]):
        self.strings = strings_of(strings)
        token_bytes = list(token_bytes)
        self.tables = TokenTables.of_bytes(*stop_string_automaton(self.strings, token_bytes), token_bytes)
        beginnings = {string[:length] for string in self.strings for length in range(1, len(string))}
        # In the common ground of Python's expressions and RE2's, which cuts served texts.
        self.pattern = _any_of(self.strings)
        self.beginnings = _any_of(sorted(beginnings, key=len, reverse=True)) if beginnings else None

    def cut(self, text: str) -> str:
        """The text up to the first of the strings."""
        found = re.search(self.pattern, text)
        return text[: found.start()] if found else text

    def num_safe(self, text: str) -> int:
        """How many characters of an unfinished text may be streamed: they cannot become part of a stop string."""
        found = self._held.search(text)
        return found.start() if found else len(text)

    @functools.cached_property
    def _held(self) -> re.Pattern:
        """Compiled once for all pieces of a stream, by the first of them."""
        return re.compile(rf"(?:{self.pattern}|{self.beginnings or self.pattern})\Z")


def _any_of(strings: Iterable[str]) -> str:
    return "(?:" + "|".join(map(re.escape, strings)) + ")"


def strings_of(strings: str | Iterable[str]) -> tuple[str, ...]:
    """Stop strings as a tuple: one str is one string."""
    if isinstance(strings, str):
        return (strings,)
    if isinstance(strings, bytes) or not isinstance(strings, Iterable):
        raise TypeError(f"`stop_strings` must be a str, or a list of str. Received: {strings!r}.")
    return tuple(strings)


def stop_string_automaton(
    stop_strings: str | Iterable[str], token_bytes: Iterable[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """The automaton of Aho and Corasick over bytes.

    Args:
        stop_strings: str each, not empty.
        token_bytes: the bytes of each token of the vocabulary, in order.

    Returns:
        (table int32 (states, classes), classes uint8 (256,) of bytes): state 0 has seen nothing, state 1 a whole stop
        string (and stays).

    Raises:
        ValueError: as `StopStrings`.

    Reference: Aho and Corasick 1975, "Efficient string matching: an aid to bibliographic search".
    """
    patterns = [_encoded(text) for text in stop_strings]
    if (size := sum(map(len, patterns))) > MOST_BYTES:
        raise ValueError(
            f"Stop strings may have {MOST_BYTES} bytes together. Received: {size} bytes in {len(patterns)} strings. "
            "Stop at their beginnings."
        )
    writable = set(b"".join(token_bytes))
    for text, pattern in zip(stop_strings, patterns, strict=True):
        if missing := bytes(set(pattern) - writable):
            raise ValueError(
                f"A stop string must be made of bytes that the vocabulary's tokens have. Received: {text!r}, of which "
                f"no token has {missing!r}; it would never come."
            )
    letters = sorted(set(b"".join(patterns)))
    classes = np.zeros(256, "uint8")  # all other bytes are of class 0
    classes[letters] = np.arange(1, len(letters) + 1)

    # The tree of the strings' beginnings; a whole string is state 1, beyond which nothing matters.
    children: list[dict[int, int]] = [{}, {}]
    for pattern in patterns:
        state = 0
        for i, letter in enumerate(classes[list(pattern)].tolist()):
            if i == len(pattern) - 1:
                children[state][letter] = 1
            elif letter not in children[state]:
                children.append({})
                children[state][letter] = len(children) - 1
            if (state := children[state][letter]) == 1:
                break

    # Level by level: where a state has no child, it goes where the longest ending of it that is a beginning goes.
    table = np.zeros((len(children), len(letters) + 1), "int32")
    table[1] = 1
    level = [(0, 0)]  # (state, that ending's state)
    while level:
        following = []
        for state, ending in level:
            going = table[ending].copy() if state else table[0]
            for letter, child in children[state].items():
                if going[letter] != 1 and child != 1:
                    following.append((child, int(going[letter])))
                going[letter] = 1 if going[letter] == 1 else child
            table[state] = going
        level = following
    return table, classes


def _encoded(text) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"`stop_strings` must be a str, or a list of str. Received: {text!r} in it.")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"A stop string must not hold half a surrogate pair. Received: {text!r}.") from error
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise ValueError(
            f"A stop string must not hold U+FFFD, which stands for bytes that are no text. Received: {text!r}."
        )
    if not encoded:
        raise ValueError(f"A stop string must not be empty. Received: stop_strings={[text]}.")
    return encoded
