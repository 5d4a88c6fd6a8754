"""Finite automata over tokens, as tables in the graph."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_tfm.ops.tensors import next_power_of_two
from keras_tfm.types import Tensor

# A table of so many numbers takes 128 MB, here and in each call of the compiled loop.
MOST_ENTRIES = 2**25
# What is looked at side by side while tables are made: it stays in a processor's cache.
_BLOCK = 2**17
# Columns are told apart by so many sums with random weights: two that differ have the same sum with a chance of at most
# 2^-20 each. States are below 2^24, so that sums of less than 2^9 of them stay exact in float64.
_NUM_SUMS = 6
_WEIGHTS_BELOW = 2**20


class TokenTables(NamedTuple):
    """A finite automaton that reads tokens: state (), token -> next state.

    kinds: int32 (V,), tokens of one kind lead to the same states everywhere. transitions: int32 (states, kinds), -1
    where a token may not come.
    """

    kinds: Any
    transitions: Any

    @classmethod
    def of(cls, transitions: Any) -> "TokenTables":
        """From the full table int (states, V); states are filled up to a power of two, so that few shapes compile."""
        full = np.asarray(transitions, "int32")
        sums = _Sums(len(full), full.shape[1])
        for start in range(0, len(full), max(1, _BLOCK // full.shape[1])):
            rows = slice(start, start + max(1, _BLOCK // full.shape[1]))
            sums.add(rows, slice(None), full[rows].T)
        kinds, examples = sums.kinds()
        tables = cls(kinds, empty_transitions(len(full), len(examples)))
        tables.transitions[: len(full), : len(examples)] = full[:, examples]
        return tables

    @classmethod
    def of_bytes(
        cls, table: Tensor, classes: Tensor, token_bytes: Iterable[bytes], num_spare_kinds: int = 0
    ) -> "TokenTables":
        """From an automaton over bytes, which is walked along the bytes of every token.

        Args:
            table: int32 (states, classes), -1 where a byte may not come.
            classes: uint8 (256,), the class of each byte.
            token_bytes: the bytes of each token of the vocabulary, in order.
            num_spare_kinds: kinds that no token is of, and that may never come; they are the first ones.

        Raises:
            ValueError: if the tables would have more than `MOST_ENTRIES` entries; before they are made.
        """
        walk = _Walk(np.asarray(table, "int32"), np.asarray(classes, "uint8"), token_bytes)
        kinds, examples = walk.kinds()
        num_kinds = num_spare_kinds + len(examples)
        transitions = empty_transitions(len(table), num_kinds)
        transitions[: len(table), num_spare_kinds:num_kinds] = walk.columns(examples)
        return cls((kinds + num_spare_kinds).astype("int32"), transitions)

    def next(self, states: Tensor, tokens: Tensor) -> Tensor:
        """int32 (R,): where the rows' tokens lead."""
        num_kinds = ops.shape(self.transitions)[1]
        flat = ops.reshape(self.transitions, (-1,))
        return ops.take(flat, ops.maximum(states, 0) * num_kinds + ops.take(self.kinds, tokens))

    def allowed(self, states: Tensor) -> Tensor:
        """bool (R, V): which tokens may come."""
        return ops.take(ops.take(self.transitions, ops.maximum(states, 0), axis=0) >= 0, self.kinds, axis=1)


class _Sums:
    """Tells columns apart that are seen a few rows at a time, by their sums with random weights."""

    def __init__(self, num_rows: Tensor, num_columns):
        self._weights = np.random.default_rng(0).integers(0, _WEIGHTS_BELOW, (num_rows, _NUM_SUMS)).astype("float64")
        self._sums = np.zeros((num_columns, _NUM_SUMS), "int64")

    def add(self, rows: Tensor, columns, values) -> None:
        """values: int (columns, rows), of those rows in those columns."""
        weights, values = self._weights[rows], values.astype("float64")
        for start in range(0, len(weights), 256):
            part = slice(start, start + 256)
            self._sums[columns] += (values[:, part] @ weights[part]).astype("int64")

    def kinds(self):
        """(int32 (columns,), the kind of each; int (kinds,), a column of each)."""
        records = np.ascontiguousarray(self._sums).view(np.dtype((np.void, 8 * _NUM_SUMS))).reshape(-1)
        _, examples, kinds = np.unique(records, return_index=True, return_inverse=True)
        return kinds.reshape(-1).astype("int32"), examples


class _Walk:
    """An automaton over bytes on its way along all tokens at once, those that begin alike together."""

    def __init__(self, table, classes, token_bytes):
        num_states, num_classes = table.shape
        # One state more, without a way on, is where what may not come leads.
        following = np.concatenate([table, np.full((1, num_classes), -1, "int32")])
        following[following < 0] = num_states
        self._following = np.ascontiguousarray(following.T)  # (classes, states + 1)
        self._num_states = num_states
        spelled = [piece.translate(classes.tobytes()) for piece in token_bytes]
        for dead in np.flatnonzero((table < 0).all(axis=0)).tolist():  # nothing comes after what never may
            spelled = [spelling[: spelling.find(dead) + 1] or spelling for spelling in spelled]
        self._spellings = sorted(set(spelled))
        numbers = {spelling: number for number, spelling in enumerate(self._spellings)}
        self._of_token = np.array([numbers[spelling] for spelling in spelled], "int64")

    def kinds(self):
        """(int32 (V,), the kind of each token; the spellings (kinds,), one of each)."""
        sums = _Sums(self._num_states, len(self._spellings))
        for rows, numbers, values in self._blocks(self._spellings):
            sums.add(rows, numbers, values)
        kinds, examples = sums.kinds()
        return kinds[self._of_token], [self._spellings[i] for i in examples]

    def columns(self, spellings):
        """int32 (states, spellings): where each leads."""
        result = np.empty((self._num_states, len(spellings)), "int32")
        for rows, numbers, values in self._blocks(spellings):
            result[rows, numbers] = np.where(values == self._num_states, -1, values).T
        return result

    def _blocks(self, spellings):
        """Yields (slice of states, numbers of spellings, states (spellings, states) that these lead to)."""
        levels = _levels(spellings)
        widest = max(len(classes) for _, classes, _, _ in levels) if levels else 1
        height = max(8, _BLOCK // widest)
        empty = np.array([i for i, spelling in enumerate(spellings) if not spelling], "int64")
        for start in range(0, self._num_states, height):
            rows = slice(start, min(start + height, self._num_states))
            reached = np.arange(rows.start, rows.stop)[None]
            if len(empty):
                yield rows, empty, np.repeat(reached, len(empty), axis=0)
            for parents, classes, nodes, numbers in levels:
                reached = self._following[classes[:, None], reached[parents]]
                if len(numbers):
                    yield rows, numbers, reached[nodes]


def _levels(spellings) -> list[tuple]:
    """The tree of the spellings' beginnings, one level a length: (the place of each beginning's own beginning in the
    level before, its last class; the places of those that are spellings, and their numbers)."""
    levels, before = [], {b"": 0}
    for length in range(1, 1 + max(map(len, spellings), default=0)):
        places: dict[bytes, int] = {}
        parents, classes, nodes, numbers = [], [], [], []
        for number, spelling in enumerate(spellings):
            if len(spelling) < length:
                continue
            beginning = spelling[:length]
            if beginning not in places:
                places[beginning] = len(places)
                parents.append(before[beginning[:-1]])
                classes.append(beginning[-1])
            if len(spelling) == length:
                nodes.append(places[beginning])
                numbers.append(number)
        levels.append(tuple(np.array(part, "int64") for part in (parents, classes, nodes, numbers)))
        before = places
    return levels


def empty_transitions(num_states: int, num_kinds: int) -> np.ndarray:
    """int32 (states, kinds), both filled up to powers of two: -1.

    Raises:
        ValueError: for more than `MOST_ENTRIES` entries.
    """
    shape = next_power_of_two(num_states), next_power_of_two(num_kinds)
    if shape[0] * shape[1] > MOST_ENTRIES:
        raise ValueError(
            f"the tables of an automaton may have {MOST_ENTRIES} entries; this one has {num_states} states and tells "
            f"{num_kinds} kinds of tokens apart, {shape[0] * shape[1]} entries in powers of two"
        )
    return np.full(shape, -1, "int32")
