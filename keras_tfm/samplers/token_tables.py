"""Finite automata over tokens, as tables in the graph."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops


class TokenTables(NamedTuple):
    """A finite automaton that reads tokens: state (), token -> next state.

    kinds: int32 (V,), tokens of one kind lead to the same states everywhere. transitions: int32 (states, kinds), -1
    where a token may not come.
    """

    kinds: Any
    transitions: Any

    @classmethod
    def of(cls, transitions) -> "TokenTables":
        """From the full table int (states, V); states are filled up to a power of two, so that few shapes compile."""
        columns, kinds = np.unique(np.asarray(transitions, "int32"), axis=1, return_inverse=True)
        num_states, num_kinds = (2 ** int(np.ceil(np.log2(size))) for size in columns.shape)
        padding = ((0, num_states - columns.shape[0]), (0, num_kinds - columns.shape[1]))
        return cls(kinds.reshape(-1).astype("int32"), np.pad(columns, padding, constant_values=-1))

    def next(self, states, tokens):
        """int32 (R,): where the rows' tokens lead."""
        num_kinds = ops.shape(self.transitions)[1]
        flat = ops.reshape(self.transitions, (-1,))
        return ops.take(flat, ops.maximum(states, 0) * num_kinds + ops.take(self.kinds, tokens))

    def allowed(self, states):
        """bool (R, V): which tokens may come."""
        return ops.take(ops.take(self.transitions, ops.maximum(states, 0), axis=0) >= 0, self.kinds, axis=1)
