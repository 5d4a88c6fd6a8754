"""Deterministic finite automata over bytes, compiled from expressions within limits of size.

An expression is one of the tuples below, or an `Automaton`.
"""

import bisect
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

# What building one grammar may cost. Each state of the finished automaton is a row of the tables that the compiled loop
# reads, and each step of work takes some tenths of a microsecond: some seconds at most.
MOST_STATES = 2**14
MOST_PARTS = 2**18
MOST_STEPS = 2**22

SURROGATES = (0xD800, 0xDFFF)
_LAST_CHARACTER = 0x10FFFF
# How JSON writes what may not stand in a string as it is; other control characters are left out.
_JSON_ESCAPES = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 0x22: '"', 0x5C: "\\"}


class TooLarge(ValueError):
    """An expression whose automaton would pass the limits."""


class Literal(NamedTuple):
    """These bytes."""

    value: bytes


class Characters(NamedTuple):
    """A character class: one of the code points in `ranges` ((first, last), ...) as UTF-8; in JSON, escaped."""

    ranges: tuple
    in_json: bool = False


class Concatenation(NamedTuple):
    """The parts in order."""

    parts: tuple


class Alternation(NamedTuple):
    """Any of the options; without options it matches no text."""

    options: tuple


class Repetition(NamedTuple):
    """The part, `least` to `most` times; None = unbounded."""

    part: Any
    least: int = 0
    most: int | None = None


class Graph(NamedTuple):
    """All paths from state 0 to an accepting state in `ends`; steps: transitions (source, part, target)."""

    steps: tuple
    ends: tuple


class Intersection(NamedTuple):
    """Texts that both expressions match."""

    one: Any
    other: Any


class Difference(NamedTuple):
    """Texts that `one` matches and `other` does not."""

    one: Any
    other: Any


NOTHING = Alternation(())
EMPTY = Literal(b"")


def optional(part: Any) -> Repetition:
    """The part, or nothing."""
    return Repetition(part, 0, 1)


def characters_without(*excluded: tuple[int, int]) -> tuple:
    """The ranges of all characters but those of the given ranges; surrogates are none."""
    ranges, first = [], 0
    for low, high in sorted([*excluded, SURROGATES]):
        if first < low:
            ranges.append((first, low - 1))
        first = max(first, high + 1)
    return (*ranges, (first, _LAST_CHARACTER)) if first <= _LAST_CHARACTER else tuple(ranges)


@dataclasses.dataclass(frozen=True)
class Automaton:
    """A deterministic finite automaton over bytes; state 0 is the start, and an accepting state is reachable from all.

    classes: uint8 (256,), the equivalence class of each byte. table: int32 (states, classes), transitions, -1 where
    a byte is refused. ends: bool (states,), the accepting ones. Without states it accepts no text at all.
    """

    classes: np.ndarray
    table: np.ndarray
    ends: np.ndarray

    @property
    def num_states(self) -> int:
        return len(self.table)

    def reads(self, text: bytes) -> bool:
        """Whether the automaton accepts the text."""
        state = 0 if self.num_states else -1
        for byte in text:
            state = -1 if state < 0 else self.table[state, self.classes[byte]]
        return bool(state >= 0 and self.ends[state])


class Budget:
    """What is left of the limits while one grammar is built."""

    def __init__(self):
        self.parts = MOST_PARTS
        self.steps = MOST_STEPS

    def take(self, parts: int = 0, steps: int = 0) -> None:
        """Raises TooLarge when nothing is left."""
        self.parts -= parts
        self.steps -= steps
        if self.parts < 0 or self.steps < 0:
            raise TooLarge(
                f"a grammar may have {MOST_PARTS} parts and take {MOST_STEPS} steps to build; this one needs more"
            )

    def check_states(self, num_states: int) -> None:
        if num_states > MOST_STATES:
            raise TooLarge(f"a grammar may have {MOST_STATES} states; this one needs more")


def automaton_of(expression: Any, budget: Budget | None = None) -> Automaton:
    """The automaton that accepts exactly the texts that the expression matches.

    Raises:
        TooLarge: before more than the limits of this file is done.

    Reference: Aho, Sethi, Ullman 1986, "Compilers", section 3.7 (subset construction).
    """
    budget = budget or Budget()
    nfa = _Nfa(budget)
    start = nfa.new_state()
    end = nfa.add(expression, start)
    return _deterministic(nfa, start, end, budget)


class _Nfa:
    """A nondeterministic automaton under construction, with transitions on ranges of bytes and epsilon transitions.

    Reference: Thompson 1968, "Regular Expression Search Algorithm", https://doi.org/10.1145/363347.363387
    """

    def __init__(self, budget):
        self.budget = budget
        self.transitions: list[list[tuple[int, int, int]]] = []
        self.epsilons: list[list[int]] = []

    def new_state(self) -> int:
        self.budget.take(parts=1)
        self.transitions.append([])
        self.epsilons.append([])
        return len(self.transitions) - 1

    def add(self, part, start: int) -> int:
        """Adds the states of a part after `start`, to which no transition leads back; returns its end state."""
        self.budget.take(steps=1)
        return getattr(self, f"_add_{type(part).__name__.lower()}")(part, start)

    def _add_literal(self, part, start):
        for byte in part.value:
            following = self.new_state()
            self.transitions[start].append((byte, byte, following))
            start = following
        return start

    def _add_characters(self, part, start):
        end = self.new_state()
        suffixes = {(): end}  # equal suffixes of characters share their states
        for sequence in _byte_sequences(part.ranges, part.in_json):
            for i in range(len(sequence) - 1, 0, -1):
                if sequence[i:] not in suffixes:
                    suffixes[sequence[i:]] = self.new_state()
                    self.transitions[suffixes[sequence[i:]]].append((*sequence[i], suffixes[sequence[i + 1 :]]))
            self.transitions[start].append((*sequence[0], suffixes[sequence[1:]]))
        return end

    def _add_concatenation(self, part, start):
        for item in part.parts:
            start = self.add(item, start)
        return start

    def _add_alternation(self, part, start):
        end = self.new_state()
        for option in part.options:
            self.epsilons[self.add(option, start)].append(end)
        return end

    def _add_repetition(self, part, start):
        for _ in range(part.least):
            start = self.add(part.part, start)
        end = self.new_state()
        if part.most is None:
            self.epsilons[start].append(end)
            self.epsilons[self.add(part.part, end)].append(end)
            return end
        for _ in range(part.most - part.least):
            self.epsilons[start].append(end)
            start = self.add(part.part, start)
        self.epsilons[start].append(end)
        return end

    def _add_graph(self, part, start):
        states = {0: self.new_state()}
        self.epsilons[start].append(states[0])
        for source, label, target in part.steps:
            for name in (source, target):
                if name not in states:
                    states[name] = self.new_state()
            self.epsilons[self.add(label, states[source])].append(states[target])
        end = self.new_state()
        for name in part.ends:
            if name in states:
                self.epsilons[states[name]].append(end)
        return end

    def _add_intersection(self, part, start):
        return self._add_automaton(_product(part.one, part.other, self.budget, is_both=True), start)

    def _add_difference(self, part, start):
        return self._add_automaton(_product(part.one, part.other, self.budget, is_both=False), start)

    def _add_automaton(self, automaton, start):
        states = [self.new_state() for _ in range(automaton.num_states)]
        end = self.new_state()
        if not states:
            return end
        self.epsilons[start].append(states[0])
        # Bytes side by side that lead to the same state are one range.
        rows = automaton.table[:, automaton.classes]
        for state, row, is_end in zip(states, rows, automaton.ends, strict=True):
            borders = np.flatnonzero(np.diff(row)) + 1
            for low, high in zip([0, *borders], [*borders, 256], strict=True):
                if row[low] >= 0:
                    self.transitions[state].append((int(low), int(high) - 1, states[row[low]]))
            if is_end:
                self.epsilons[state].append(end)
        return end


def _deterministic(nfa: _Nfa, start: int, end: int, budget: Budget) -> Automaton:
    """The DFA of an NFA, by the subset construction: each of its states is a set of states of the NFA."""
    borders = sorted({0, *(border for row in nfa.transitions for low, high, _ in row for border in (low, high + 1))})
    borders = [border for border in borders if border < 256]
    transitions = [
        [
            (bisect.bisect_right(borders, low) - 1, bisect.bisect_right(borders, high), target)
            for low, high, target in row
        ]
        for row in nfa.transitions
    ]
    closures: dict[int, frozenset] = {}

    def closure(source: int) -> frozenset:
        """The epsilon closure of a state of the NFA, without states that have no transition of their own."""
        if source not in closures:
            seen, stack = {source}, [source]
            while stack:
                for target in nfa.epsilons[stack.pop()]:
                    if target not in seen:
                        seen.add(target)
                        stack.append(target)
            budget.take(steps=len(seen))
            closures[source] = frozenset(one for one in seen if transitions[one] or one == end)
        return closures[source]

    numbers: dict[frozenset, int] = {closure(start): 0}
    states = [closure(start)]
    by_targets: dict[frozenset, int] = {}
    table = []
    for state in states:  # grows meanwhile
        targets: list[set] = [set() for _ in borders]
        for source in state:
            for low, high, target in transitions[source]:
                budget.take(steps=high - low)
                for i in range(low, high):
                    targets[i].add(target)
        row = []
        for group in map(frozenset, targets):
            if group and group not in by_targets:
                union = frozenset().union(*map(closure, group))
                budget.take(steps=len(union))
                if union not in numbers:
                    numbers[union] = len(states)
                    states.append(union)
                    budget.check_states(len(states))
                by_targets[group] = numbers[union]
            row.append(by_targets[group] if group else -1)
        table.append(row)
    classes = np.searchsorted(borders, np.arange(256), side="right") - 1
    return _trimmed(classes, np.asarray(table, "int32"), np.asarray([end in state for state in states]))


def _product(one, other, budget: Budget, is_both: bool) -> Automaton:
    """Intersection or difference, by the product construction."""
    one, other = automaton_of(one, budget), automaton_of(other, budget)
    if not one.num_states or (is_both and not other.num_states):
        return _none()
    pairs, classes = np.unique(np.stack([one.classes, other.classes]), axis=1, return_inverse=True)
    # A sink state for where the other one refuses a byte.
    sink = other.num_states
    others = np.concatenate([other.table, np.full((1, other.table.shape[1]), -1, "int32")])
    rows = one.table[:, pairs[0]], np.where(others < 0, sink, others)[:, pairs[1]]
    numbers = {(0, 0 if other.num_states else sink): 0}
    states = list(numbers)
    table = []
    for state in states:  # grows meanwhile
        row = []
        budget.take(steps=pairs.shape[1])
        for pair in zip(rows[0][state[0]].tolist(), rows[1][state[1]].tolist(), strict=True):
            if pair[0] < 0 or (is_both and pair[1] == sink):
                row.append(-1)
                continue
            if pair not in numbers:
                numbers[pair] = len(states)
                states.append(pair)
                budget.check_states(len(states))
            row.append(numbers[pair])
        table.append(row)
    ends = [one.ends[a] and (b < sink and other.ends[b]) == is_both for a, b in states]
    return _trimmed(classes.reshape(-1), np.asarray(table, "int32"), np.asarray(ends))


def leading_to(ends: Any, table: np.ndarray) -> np.ndarray:
    """bool (states,): states of a table (states, classes) from which one of `ends` is reachable; -1 = no transition."""
    before: list[list[int]] = [[] for _ in table]
    for state, row in enumerate(table):
        for target in set(row.tolist()) - {-1}:
            before[target].append(state)
    is_leading = np.asarray(ends, "bool").copy()
    stack = np.flatnonzero(is_leading).tolist()
    while stack:
        for state in before[stack.pop()]:
            if not is_leading[state]:
                is_leading[state] = True
                stack.append(state)
    return is_leading


def _trimmed(classes, table, ends) -> Automaton:
    """The automaton without dead states, with as few byte classes as possible."""
    is_alive = leading_to(ends, table)
    if not is_alive[0]:
        return _none()
    numbers = np.append(np.where(is_alive, np.cumsum(is_alive) - 1, -1), -1).astype("int32")
    columns, own_class = np.unique(numbers[table[is_alive]], axis=1, return_inverse=True)
    return Automaton(own_class.reshape(-1)[classes].astype("uint8"), columns, np.asarray(ends)[is_alive])


def _none() -> Automaton:
    return Automaton(np.zeros(256, "uint8"), np.zeros((0, 1), "int32"), np.zeros(0, "bool"))


@functools.lru_cache(maxsize=1024)
def _byte_sequences(ranges: Iterable[tuple[int, int]], in_json: bool) -> tuple:
    """The characters of the ranges as sequences of byte ranges ((first, last), ...), UTF-8."""
    sequences = []
    if in_json:
        for code, letter in _JSON_ESCAPES.items():
            if any(low <= code <= high for low, high in ranges):
                sequences.append(tuple((byte, byte) for byte in b"\\" + letter.encode()))
        ranges = _intersected(ranges, characters_without((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))
    for low, high in _intersected(ranges, characters_without()):
        sequences += _utf8_ranges(low, high)
    return tuple(sequences)


def _intersected(ranges: Iterable, others: Iterable) -> list[tuple[int, int]]:
    return [(max(a, c), min(b, d)) for a, b in ranges for c, d in others if max(a, c) <= min(b, d)]


def _utf8_ranges(low: int, high: int) -> list[tuple]:
    """The UTF-8 of the code points from `low` to `high`, as few products of byte ranges."""
    for limit in (0x7F, 0x7FF, 0xFFFF):
        if low <= limit < high:
            return [*_utf8_ranges(low, limit), *_utf8_ranges(limit + 1, high)]
    for i in range(1, len(chr(high).encode())):
        rest = (1 << 6 * i) - 1  # what the last i bytes hold
        if low & ~rest != high & ~rest:
            if low & rest:
                return [*_utf8_ranges(low, low | rest), *_utf8_ranges((low | rest) + 1, high)]
            if high & rest != rest:
                return [*_utf8_ranges(low, (high & ~rest) - 1), *_utf8_ranges(high & ~rest, high)]
    return [tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))]
