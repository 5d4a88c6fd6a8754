"""Unicode's normalization form C (characters and their marks as one code point where there is one), in the graph."""

import functools
import unicodedata
from typing import Any

import numpy as np
import tensorflow as tf

_L, _V, _T, _S = 0x1100, 0x1161, 0x11A7, 0xAC00  # the first jamo of each kind, and the first Hangul syllable
_NUM_L, _NUM_V, _NUM_T = 19, 21, 28
_PAIR = 2**21  # greater than all code points


class NormalizationC(tf.Module):
    """Decomposes characters, orders their marks, and composes them again.

    Texts without anything that could change, which are nearly all, are recognized by a regular expression.

    Call arguments:
        texts: string (N,), valid UTF-8.

    Returns:
        string (N,).

    Reference:
        Unicode Standard Annex 15, "Unicode Normalization Forms", https://www.unicode.org/reports/tr15/
    """

    def __init__(self):
        super().__init__(name="normalization_c")
        decompositions, classes, pairs, unsafe = _tables()
        self._safe = f"[^{unsafe}]*"
        with tf.init_scope(), tf.device("CPU:0"):
            self._index = _table(list(decompositions), range(len(decompositions)), -1)
            self._decompositions = tf.constant(
                [[*codes, *[-1] * (4 - len(codes))] for codes in decompositions.values()], tf.int32
            )
            self._classes = _table(list(classes), classes.values(), 0)
            self._pairs = _table([first * _PAIR + second for first, second in pairs], pairs.values(), -1)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        is_safe = tf.reduce_all(tf.strings.regex_full_match(texts, self._safe))
        return tf.cond(is_safe, lambda: texts, lambda: self._normalize(texts))

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        codes = tf.strings.unicode_decode(texts, "UTF-8")
        codes, rows = self._decompose(codes.values, codes.value_rowids())
        codes, rows, classes = self._order(codes, rows)
        state = (codes, rows, classes, tf.zeros_like(codes, tf.bool), tf.constant(True))
        shapes = (tf.TensorShape([None]),) * 4 + (tf.TensorShape([]),)
        codes, rows, *_ = tf.while_loop(lambda *state: state[-1], self._compose, state, shapes)
        codes = tf.RaggedTensor.from_value_rowids(codes, rows, tf.size(texts, tf.int64))
        return tf.ensure_shape(tf.strings.unicode_encode(codes, "UTF-8"), [None])

    def _decompose(self, codes, rows):
        index = self._index.lookup(codes)
        itself = tf.pad(codes[:, None], [[0, 0], [0, 3]], constant_values=-1)
        found = tf.gather(self._decompositions, tf.maximum(index, 0))
        syllable = codes - _S
        t = _T + syllable % _NUM_T
        jamo = tf.stack(
            [
                _L + syllable // (_NUM_V * _NUM_T),
                _V + syllable % (_NUM_V * _NUM_T) // _NUM_T,
                tf.where(t > _T, t, -1),
                tf.fill(tf.shape(codes), -1),
            ],
            axis=1,
        )
        is_syllable = (syllable >= 0) & (syllable < _NUM_L * _NUM_V * _NUM_T)
        parts = tf.where(is_syllable[:, None], jamo, tf.where(index[:, None] >= 0, found, itself))  # (codes, 4)
        kept = parts >= 0
        return tf.boolean_mask(parts, kept), tf.repeat(rows, tf.reduce_sum(tf.cast(kept, tf.int32), axis=1))

    def _order(self, codes, rows):
        """Marks after a character in the order of their classes."""
        classes = self._classes.lookup(codes)
        is_first = tf.concat([tf.ones_like(rows[:1], tf.bool), rows[1:] != rows[:-1]], axis=0)
        group = tf.cumsum(tf.cast(tf.equal(classes, 0) | is_first, tf.int32))
        order = tf.argsort(tf.cast(group, tf.int64) * 256 + tf.cast(classes, tf.int64), stable=True)
        return tf.gather(codes, order), rows, tf.gather(classes, order)

    def _compose(self, codes, rows, classes, tried, _):
        """One composition for each character that has any, with the first mark that takes part in one."""
        places = tf.range(tf.size(codes))
        is_starter = tf.equal(classes, 0)
        starters = tf.concat([[-1], tf.cast(tf.where(is_starter)[:, 0], tf.int32)], axis=0)
        starter = tf.gather(starters, tf.cumsum(tf.cast(is_starter, tf.int32), exclusive=True))  # the last one before
        at = tf.maximum(starter, 0)
        before = tf.concat([[0], classes[:-1]], axis=0)
        is_open = tf.equal(starter, places - 1) | (before < classes)
        composed = self._composed(tf.gather(codes, at), codes)
        chosen = (starter >= 0) & tf.equal(tf.gather(rows, at), rows) & is_open & (composed >= 0) & ~tried
        size = tf.size(codes)
        first = tf.math.unsorted_segment_min(tf.where(chosen, places, size), at, size)  # by starter
        chosen &= tf.equal(tf.gather(first, at), places)
        chosen &= ~tf.gather(chosen, at)  # a character that goes into another takes nothing itself
        reached = tf.gather(first, at)
        tried |= (reached < size) & (places < reached)  # what was passed over is not tried again
        done = tf.where(chosen)[:, 0]
        codes = tf.tensor_scatter_nd_update(codes, tf.gather(at, done)[:, None], tf.gather(composed, done))
        kept = ~chosen
        state = (tf.boolean_mask(x, kept) for x in (codes, rows, classes, tried))
        return *state, tf.size(done) > 0

    def _composed(self, first, second):
        """The code point of two, or -1."""
        pair = self._pairs.lookup(tf.cast(first, tf.int64) * _PAIR + tf.cast(second, tf.int64))
        lead, vowel, tail, syllable = first - _L, second - _V, second - _T, first - _S
        is_pair = (lead >= 0) & (lead < _NUM_L) & (vowel >= 0) & (vowel < _NUM_V)
        is_open = (syllable >= 0) & (syllable < _NUM_L * _NUM_V * _NUM_T) & tf.equal(syllable % _NUM_T, 0)
        has_tail = is_open & (tail > 0) & (tail < _NUM_T)
        return tf.where(is_pair, _S + (lead * _NUM_V + vowel) * _NUM_T, tf.where(has_tail, first + tail, pair))


def _table(keys, values, default):
    keys = np.fromiter(keys, np.int64 if max(keys) > 2**31 else np.int32)
    values = np.fromiter(values, np.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


@functools.cache
def _tables():
    """(code -> its full decomposition, code -> class of a mark, (code, code) -> their composition, unsafe codes)."""
    decompositions, classes, pairs, unsafe = {}, {}, {}, set()
    for code in (*range(0x80, 0xAC00), *range(0xF900, 0x32000)):
        character = chr(code)
        if combining := unicodedata.combining(character):
            classes[code] = combining
            unsafe.add(code)
        full = unicodedata.normalize("NFD", character)
        if full == character:
            continue
        decompositions[code] = [ord(part) for part in full]
        single = unicodedata.decomposition(character).split()
        if unicodedata.normalize("NFC", character) != character:
            unsafe.add(code)
        elif len(single) == 2:
            first, second = (int(part, 16) for part in single)
            pairs[first, second] = code
            unsafe.add(second)
    unsafe |= {*range(_V, _V + _NUM_V), *range(_T + 1, _T + _NUM_T)}
    ranges: list[str] = []
    start: Any = None
    last: Any = None
    for code in [*sorted(unsafe), None]:
        if start is None:
            start = code
        elif code != last + 1:
            ranges.append(rf"\x{{{start:X}}}-\x{{{last:X}}}")
            start = code
        last = code
    return decompositions, classes, pairs, "".join(ranges)
