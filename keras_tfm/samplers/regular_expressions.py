"""Regular expressions, as Python's `re` reads them, as expressions of `automata.py`."""

import functools
import re
from typing import Any

import numpy as np

from keras_tfm.compat import parsed_regex
from keras_tfm.samplers.automata import NOTHING, Alternation, Characters, Concatenation, Repetition, characters_without

_STARTS = ("AT_BEGINNING", "AT_BEGINNING_STRING")
_ENDS = ("AT_END", "AT_END_STRING")
_UNREADABLE = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "ATOMIC_GROUP": "an atomic group",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a back-reference",
    "POSSESSIVE_REPEAT": "a possessive repeat",
}
_NUM_CHARACTERS = 0x110000


def expression_of(pattern: str, json: bool = False) -> Any:
    """What the pattern matches as a whole; or, for the `pattern` of a JSON schema, every text that it is found in.

    Args:
        pattern: str, without look-around, back-references, atomic groups and word borders; `^` and `$` at the ends.
        json: whether it is one of a JSON schema.

    Returns:
        An expression for `automaton_of`.

    Raises:
        ValueError: that says what in the pattern cannot be read; also `re.error`'s text.
    """
    try:
        items, flags = parsed_regex(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    reader = _Reader(json)
    return reader.found(items, flags) if json else reader.sequence(items, flags, True, True)


class _Reader:
    """Reads what `parsed_regex` gives."""

    def __init__(self, json):
        self.json = json
        self.anything = Repetition(Characters(characters_without(), json))

    def found(self, items, flags):
        """Texts with the items somewhere in them; where anchors stand at the ends, there."""
        starts = next((i for i, item in enumerate(items) if not _is_anchor(item, _STARTS)), len(items))
        ends = next((i for i, item in enumerate(reversed(items)) if not _is_anchor(item, _ENDS)), len(items))
        inner = items[starts : len(items) - ends]
        if len(inner) == 1 and inner[0][0] in ("BRANCH", "SUBPATTERN"):  # each option may have anchors of its own
            name, arguments = inner[0]
            options = arguments[1] if name == "BRANCH" else [arguments[3]]
            added, removed = (0, 0) if name == "BRANCH" else arguments[1:3]
            around = items[:starts], items[len(items) - ends :]
            return Alternation(
                tuple(self.found([*around[0], *option, *around[1]], (flags | added) & ~removed) for option in options)
            )
        part = self.sequence(inner, flags, first=starts > 0, last=ends > 0)
        before, after = () if starts else (self.anything,), () if ends else (self.anything,)
        return Concatenation((*before, part, *after))

    def sequence(self, items, flags, first, last):
        """The items one after the other; first, last: whether they stand at the beginning or the end of the text."""
        parts: list = []
        for i, item in enumerate(items):
            if _is_anchor(item, _STARTS) and first and not parts:
                continue
            if _is_anchor(item, _ENDS) and last and all(_is_anchor(other, _ENDS) for other in items[i:]):
                continue
            is_last = last and all(_is_anchor(other, _ENDS) for other in items[i + 1 :])
            parts.append(self.part(item, flags, first and not parts, is_last))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def part(self, item, flags, first, last):
        name, arguments = item
        if name == "BRANCH":
            return Alternation(tuple(self.sequence(option, flags, first, last) for option in arguments[1]))
        if name == "SUBPATTERN":
            _, added, removed, inner = arguments
            return self.sequence(inner, (flags | added) & ~removed, first, last)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = arguments
            return Repetition(self.sequence(inner, flags, first=False, last=False), least, most)
        if name == "LITERAL" and not flags & re.IGNORECASE:
            return Characters(((arguments, arguments),), self.json)
        if name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            frozen = tuple(arguments) if isinstance(arguments, list) else arguments
            return Characters(_ranges(name, frozen, int(flags), self.json), self.json)
        if name == "FAILURE":  # an empty class, which nothing matches
            return NOTHING
        if name == "AT":
            word = arguments.removeprefix("AT_").lower().replace("_", " ")
            raise ValueError(f"`^` and `$` may stand at the ends only, and word borders nowhere; this has a {word!r}")
        raise ValueError(f"{_UNREADABLE.get(name, name)} cannot be followed by a finite automaton")


def _is_anchor(item, kinds) -> bool:
    return item[0] == "AT" and item[1] in kinds


@functools.lru_cache(maxsize=512)
def _ranges(name, arguments, flags: int, json: bool) -> tuple:
    """The code points that one item matches."""
    found = _members(name, arguments, flags)
    if json:  # of \d and \w, ECMAScript counts ASCII in, Python more: of either what both say
        found = found & _members(name, arguments, flags | re.ASCII)
        if name == "ANY":
            found[[0x0D, 0x2028, 0x2029]] = False
    borders = np.flatnonzero(np.diff(np.concatenate([[False], found, [False]]).astype("int8")))
    return tuple((int(low), int(high) - 1) for low, high in borders.reshape(-1, 2))


def _members(name, arguments, flags):
    """bool (code points,): what one item matches."""
    if name == "ANY":
        found = np.ones(_NUM_CHARACTERS, "bool")
        found[0x0A] = bool(flags & re.DOTALL)
        return found
    if name in ("LITERAL", "NOT_LITERAL"):
        arguments = (*([("NEGATE", None)] if name == "NOT_LITERAL" else []), ("LITERAL", arguments))
    found = np.zeros(_NUM_CHARACTERS, "bool")
    is_negated = False
    for kind, value in arguments:
        if kind == "NEGATE":
            is_negated = True
        elif kind == "LITERAL":
            found[value] = True
        elif kind == "RANGE":
            found[value[0] : value[1] + 1] = True
        else:
            found |= _category(value, bool(flags & re.ASCII))
    if flags & re.IGNORECASE:
        cased, variants = _cases(bool(flags & re.ASCII))
        # A character is found if it, or what `re` takes for it, is.
        reached = np.bincount(variants[0], weights=found[cased[variants[1]]], minlength=len(cased)) > 0
        found[cased] |= reached
    return ~found if is_negated else found


@functools.cache
def _category(name: str, is_ascii: bool):
    """bool (code points,): what \\d, \\s or \\w match, or their opposites."""
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[name.rsplit("_", 1)[-1]]
    flags = re.ASCII if is_ascii else 0
    found = np.zeros(_NUM_CHARACTERS, "bool")
    for match in re.finditer(rf"\{letter}+", _all_characters(), flags):
        found[match.start() : match.end()] = True
    return ~found if "_NOT_" in name else found


@functools.cache
def _cases(is_ascii: bool):
    """(code points that have a case, pairs (2, n) of places among them whose characters `re` takes for each other)."""
    characters = [c for c in _all_characters() if c.lower() != c or c.upper() != c]
    text = "".join(characters)
    flags = re.IGNORECASE | (re.ASCII if is_ascii else 0)
    pairs = [
        (i, match.start())
        for i, character in enumerate(characters)
        for match in re.finditer(re.escape(character), text, flags)
    ]
    return np.array([ord(c) for c in characters]), np.array(pairs).T


@functools.cache
def _all_characters() -> str:
    """Every code point at its place; surrogates, which `re` would take for word characters or not, with them."""
    return "".join(map(chr, range(_NUM_CHARACTERS)))
