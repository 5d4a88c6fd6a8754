"""Texts as code points, in the graph: tables by code point, and tries that find keys at every place."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

NUM_CODE_POINTS = 0x110000
CODE_POINT_BITS = 21
_PAGE = 256  # code points whose entries lie together


class Characters(NamedTuple):
    """The characters of several texts, one after another, and where in the texts they came from.

    Args:
        codes: int32 (N,), code points.
        rows: int32 (N,), the number of the text that each belongs to; sorted.
        starts, ends: int32 (N,), the characters of its text, counted from its beginning, that each came from.
    """

    codes: tf.Tensor
    rows: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor

    @classmethod
    def of(cls, texts: tf.Tensor) -> "Characters":
        """Those of texts, string (R,), which must be valid UTF-8."""
        codes = tf.strings.unicode_decode(texts, "UTF-8")
        rows = tf.cast(codes.value_rowids(), tf.int32)
        starts = tf.range(tf.size(rows)) - tf.gather(tf.cast(codes.row_starts(), tf.int32), rows)
        return cls(codes.values, rows, starts, starts + 1)

    def gather(self, places: tf.Tensor) -> "Characters":
        """Those at the places (M,), which are sorted."""
        return Characters(*(tf.gather(x, places) for x in self))

    def where(self, is_kept: tf.Tensor) -> "Characters":
        """Those that are kept, bool (N,)."""
        return self.gather(tf.where(is_kept)[:, 0])

    def is_first(self) -> tf.Tensor:
        """bool (N,), whether each is the first of its text."""
        return tf.concat([tf.ones_like(self.rows[:1], tf.bool), self.rows[1:] != self.rows[:-1]], axis=0)

    def limits(self) -> tf.Tensor:
        """int32 (N,), for each the place after the last one of its text."""
        after = tf.range(1, tf.size(self.rows) + 1)
        return tf.gather(tf.math.segment_max(after, self.rows), self.rows)


class CharacterPlaces(NamedTuple):
    """Where the characters of several texts lie, to tell places in bytes as whole characters, and back.

    Args:
        begins: int32 (N + R,), the byte at which each character begins, of all R texts with a byte after each.
        first: int32 (R,), the number of each text's first character.
    """

    begins: tf.Tensor
    first: tf.Tensor

    @classmethod
    def of(cls, texts: tf.Tensor) -> "CharacterPlaces":
        """Those of texts, string (R,), which must be valid UTF-8."""
        codes = tf.strings.unicode_decode(tf.strings.join([texts, "\0"]), "UTF-8")
        return cls(tf.cumsum(num_bytes(codes.values), exclusive=True), tf.cast(codes.row_starts(), tf.int32))

    def characters(self, starts: tf.RaggedTensor, ends: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Characters, counted in their text (R, places), of bytes; parts of one count as the whole."""
        first = tf.gather(self.first, starts.value_rowids())
        of_text = tf.gather(self.begins, first)
        start = tf.searchsorted(self.begins, of_text + starts.values, side="right") - 1
        end = tf.searchsorted(self.begins, of_text + ends.values, side="left")
        return starts.with_values(start - first), ends.with_values(end - first)

    def bytes(self, characters: tf.RaggedTensor) -> tf.RaggedTensor:
        """Bytes, counted in their text (R, places), at which characters begin."""
        first = tf.gather(self.first, characters.value_rowids())
        begins = tf.gather(self.begins, first + characters.values) - tf.gather(self.begins, first)
        return characters.with_values(begins)


def num_bytes(codes: tf.Tensor) -> tf.Tensor:
    """int32, of how many bytes UTF-8 makes each code point."""
    return 1 + sum(tf.cast(codes >= first, tf.int32) for first in (0x80, 0x800, 0x10000))


def before(x: tf.Tensor, first) -> tf.Tensor:
    """For each element (N,) the one before it; `first` for the first."""
    return tf.concat([tf.cast([first], x.dtype), x[:-1]], axis=0)


def after(x: tf.Tensor, last) -> tf.Tensor:
    """For each element (N,) the one after it; `last` for the last."""
    return tf.concat([x[1:], tf.cast([last], x.dtype)], axis=0)


def repeated(counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The number of each element, as often as its count (N,) says, and 0, 1, ... for those of the same element."""
    element = tf.repeat(tf.range(tf.size(counts)), counts)
    return element, tf.range(tf.size(element)) - tf.gather(tf.cumsum(counts, exclusive=True), element)


class CodePointTable(tf.Module):
    """A number for each code point.

    Args:
        codes: int (M,), code points.
        values: int (M,), the number of each.
        default: the number of all others.

    Call arguments:
        codes: int32 (N,).

    Returns:
        int32 (N,).
    """

    def __init__(self, codes: Sequence[int] | np.ndarray, values: Sequence[int] | np.ndarray, default: int):
        super().__init__(name="code_point_table")
        codes, values = np.array(codes, np.int64), np.array(values, np.int32)
        pages, place = np.unique(codes // _PAGE, return_inverse=True)
        table = np.full([len(pages) + 1, _PAGE], default, np.int32)  # the first page is that of all others
        table[place + 1, codes % _PAGE] = values
        numbers = np.zeros(NUM_CODE_POINTS // _PAGE, np.int32)
        numbers[pages] = np.arange(1, len(pages) + 1)
        with tf.init_scope(), tf.device("CPU:0"):
            self._numbers = tf.constant(numbers)
            self._pages = tf.constant(table.reshape(-1))

    def __call__(self, codes: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._pages, tf.gather(self._numbers, codes // _PAGE) * _PAGE + codes % _PAGE)


class Trie(NamedTuple):
    """Keys as a tree of code points; node 0 is the root.

    Args:
        edges: int64 (E,), parent << CODE_POINT_BITS | code point, of the edge to each node from 1 on.
        values: int32 (E + 1,), of each node; -1 where no key ends.
    """

    edges: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[str]) -> "Trie":
        """That of keys that differ and are not empty; the value of each is its number."""
        codes = np.frombuffer("".join(keys).encode("utf-32-le"), "<u4").astype(np.int64)
        lengths = np.array([*map(len, keys)], np.int64)
        starts = np.cumsum(lengths) - lengths
        nodes, edges, size = np.zeros(len(keys), np.int64), [], 1
        active, depth, ends = np.arange(len(keys)), 0, np.zeros(len(keys), np.int64)
        while active.size:
            found, edge = np.unique(
                nodes[active] << CODE_POINT_BITS | codes[starts[active] + depth], return_inverse=True
            )
            nodes[active] = size + edge
            edges.append(found)
            size, depth = size + len(found), depth + 1
            is_end = lengths[active] == depth
            ends[active[is_end]] = nodes[active[is_end]]
            active = active[~is_end]
        values = np.full(size, -1, np.int32)
        values[ends] = np.arange(len(keys))
        return cls(np.concatenate([np.zeros(0, np.int64), *edges]), values)


class KeyFinder(tf.Module):
    """Finds keys at all places of texts at once: all go down a trie together, and those without a key drop out.

    Args:
        trie: Trie.
    """

    def __init__(self, trie: Trie):
        super().__init__(name="key_finder")
        parents, codes = trie.edges >> CODE_POINT_BITS, trie.edges & (1 << CODE_POINT_BITS) - 1
        nodes = np.arange(1, len(trie.edges) + 1, dtype=np.int32)
        is_first = parents == 0
        self._first = CodePointTable(codes[is_first], nodes[is_first], -1)
        self._is_later = CodePointTable(codes[~is_first], np.ones_like(nodes[~is_first]), 0)
        with tf.init_scope(), tf.device("CPU:0"):
            self._deeper = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    np.concatenate([[-1], trie.edges[~is_first]]),
                    np.concatenate([[-1], nodes[~is_first]]).astype(np.int32),
                ),
                -1,
            )
            self._values = tf.constant(trie.values, tf.int32)

    def may_be_there(self, codes: tf.Tensor) -> tf.Tensor:
        """bool (N,), whether a key of one character begins at each place, or perhaps a longer one."""
        goes_on = after(self._is_later(codes), 0) > 0
        return (self.single(codes) >= 0) | (goes_on & (self._first(codes) >= 0))

    def single(self, codes: tf.Tensor) -> tf.Tensor:
        """int32 (N,), the value of each code point by itself, or -1."""
        node = self._first(codes)
        return tf.where(node >= 0, tf.gather(self._values, tf.maximum(node, 0)), -1)

    def all(self, codes: tf.Tensor, limits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """All keys at all places.

        Args:
            codes: int32 (N,).
            limits: int32 (N,), the place before which a key that begins there must end.

        Returns:
            int32 (M,) each, the shorter keys before the longer: the places where keys begin, their lengths, their
            values.
        """
        place = tf.cast(tf.where(self.may_be_there(codes))[:, 0], tf.int32)
        node = self._first(tf.gather(codes, place))
        found = [tf.TensorArray(tf.int32, 1, True, element_shape=[None], infer_shape=False) for _ in range(3)]

        def noted(found, place, node, length):
            value = tf.gather(self._values, node)
            here = tf.where(value >= 0)[:, 0]
            columns = tf.gather(place, here), tf.fill(tf.shape(here), length), tf.gather(value, here)
            return [array.write(length - 1, column) for array, column in zip(found, columns, strict=True)]

        def step(place, node, length, *found):
            here = tf.where(place + length < tf.gather(limits, place))[:, 0]
            place, node = tf.gather(place, here), tf.gather(node, here)
            key = tf.bitwise.left_shift(tf.cast(node, tf.int64), CODE_POINT_BITS)
            node = self._deeper.lookup(key + tf.cast(tf.gather(codes, place + length), tf.int64))
            here = tf.where(node >= 0)[:, 0]
            place, node, length = tf.gather(place, here), tf.gather(node, here), length + 1
            return place, node, length, *noted(found, place, node, length)

        length = tf.constant(1)
        state = (place, node, length, *noted(found, place, node, length))
        flexible = tf.TensorShape([None])
        _, _, _, *found = tf.while_loop(
            lambda place, *_: tf.size(place) > 0,
            step,
            state,
            shape_invariants=(flexible, flexible, tf.TensorShape([]), *[tf.TensorShape(None)] * 3),
        )
        return tuple(array.concat() for array in found)

    def longest(self, codes: tf.Tensor, limits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The longest key at each place: its length, or 0, and its value, or -1; int32 (N,) each."""
        place, length, value = self.all(codes, limits)
        longest = tf.math.unsorted_segment_max(length, place, tf.size(codes))
        return tf.maximum(longest, 0), self._at(place, value, tf.equal(length, tf.gather(longest, place)), codes)

    def shortest(self, codes: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
        """The value of the shortest key at each place, or -1; int32 (N,)."""
        place, length, value = self.all(codes, limits)
        shortest = tf.math.unsorted_segment_min(length, place, tf.size(codes))
        return self._at(place, value, tf.equal(length, tf.gather(shortest, place)), codes)

    def _at(self, place, value, is_it, codes) -> tf.Tensor:
        here = tf.where(is_it)[:, 0]
        none = tf.fill(tf.shape(codes), -1)
        return tf.tensor_scatter_nd_update(none, tf.gather(place, here)[:, None], tf.gather(value, here))


def read_from_left(lengths: tf.Tensor) -> tf.Tensor:
    """Which keys are found by who reads from the left: those that do not begin within one that is found.

    Args:
        lengths: int32 (N,), of the key at each place, or 0.

    Returns:
        bool (N,).
    """
    keys = tf.cast(tf.where(lengths > 0)[:, 0], tf.int32)
    ends = keys + tf.gather(lengths, keys)

    def search():
        # For each key the next one that does not begin within it, and which of them a reader comes to, from the first.
        next_key = tf.concat([tf.searchsorted(keys, ends), [tf.size(keys)]], axis=0)
        is_read = tf.cast(tf.equal(tf.range(tf.size(keys) + 1), 0), tf.int32)

        def jump(is_read, next_key):
            reached = tf.boolean_mask(next_key, is_read > 0)[:, None]
            is_read = tf.tensor_scatter_nd_max(is_read, reached, tf.ones_like(reached[:, 0]))
            return is_read, tf.gather(next_key, next_key)

        is_read, _ = tf.while_loop(
            lambda _, next_key: tf.reduce_any(next_key < tf.size(keys)), jump, jump(is_read, next_key)
        )
        found = tf.boolean_mask(keys, is_read[:-1] > 0)[:, None]
        return tf.scatter_nd(found, tf.ones_like(found[:, 0]), tf.shape(lengths)) > 0

    return tf.cond(tf.reduce_any(keys[1:] < ends[:-1]), search, lambda: lengths > 0)
