"""Stop strings as an automaton over tokens: they are found wherever token borders fall."""

import numpy as np

from keras_tfm.samplers.token_tables import TokenTables


class StopStrings:
    """Strings that end a text, and the tables that find them in the compiled loop.

    Args:
        strings: str each.
        token_bytes: the bytes of each token of the vocabulary, in order.

    Raises:
        ValueError: for an empty string, or one with bytes that no token has.

    Example:
        >>> StopStrings(["\\n\\n", "User:"], [tokenizer.token_bytes(i) for i in range(tokenizer.vocabulary_size)])
    """

    def __init__(self, strings, token_bytes):
        self.strings = tuple(strings)
        self.tables = TokenTables.of(stop_string_table(self.strings, list(token_bytes)))

    def cut(self, text: str) -> str:
        """The text up to the first of the strings."""
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(places)] if places else text

    def num_safe(self, text: str) -> int:
        """How many characters of an unfinished text cannot become part of a stop string any more."""
        held = [
            length
            for string in self.strings
            for length in range(1, min(len(string), len(text)) + 1)
            if text.endswith(string[:length])
        ]
        return len(text) - max([0, *held])


def stop_string_table(stop_strings, token_bytes) -> np.ndarray:
    """The automaton of Aho and Corasick over bytes, lifted to tokens.

    Args:
        stop_strings: str each, not empty.
        token_bytes: the bytes of each token of the vocabulary, in order.

    Returns:
        int32 (states, V): state 0 has seen nothing, state 1 a whole stop string (and stays).

    Raises:
        ValueError: for an empty stop string, or one with bytes that no token has.

    Reference: Aho and Corasick 1975, "Efficient string matching: an aid to bibliographic search".
    """
    patterns = [text.encode("utf-8") for text in stop_strings]
    if not all(patterns):
        raise ValueError(f"A stop string must not be empty. Received: stop_strings={list(stop_strings)}.")
    writable = set(b"".join(token_bytes))
    for text, pattern in zip(stop_strings, patterns, strict=True):
        if missing := bytes(set(pattern) - writable):
            raise ValueError(
                f"A stop string must be made of bytes that the vocabulary's tokens have. Received: {text!r}, of which "
                f"no token has {missing!r}; it would never come."
            )
    prefixes = [b"", None, *sorted({p[:i] for p in patterns for i in range(1, len(p))}, key=lambda p: (len(p), p))]
    numbers = {prefix: number for number, prefix in enumerate(prefixes)}

    def follow(prefix, byte):
        text = prefix + bytes([byte])
        if any(text.endswith(pattern) for pattern in patterns):
            return 1
        return next(numbers[text[i:]] for i in range(len(text) + 1) if text[i:] in numbers)

    by_byte = np.ones((len(prefixes), 257), "int32")  # state 1 stays; byte 256 stands for the end of a shorter token
    by_byte[:, 256] = np.arange(len(prefixes))
    for number, prefix in enumerate(prefixes):
        if prefix is not None:
            by_byte[number, :256] = [follow(prefix, byte) for byte in range(256)]

    longest = max(1, *map(len, token_bytes))
    padded = np.full((len(token_bytes), longest), 256, "int32")
    for row, piece in zip(padded, token_bytes, strict=True):
        row[: len(piece)] = list(piece)
    table = np.repeat(np.arange(len(prefixes), dtype="int32")[:, None], len(token_bytes), axis=1)
    for column in padded.T:
        table = by_byte[table, column[None]]
    return table
