"""Unicode's normalization forms in the graph: characters and their marks as one code point, or apart."""

import functools
import itertools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.code_points import Characters, CodePointTable, before, repeated

_L, _V, _T, _S = 0x1100, 0x1161, 0x11A7, 0xAC00  # the first jamo of each kind, and the first Hangul syllable
_NUM_L, _NUM_V, _NUM_T = 19, 21, 28
_NUM_SYLLABLES = _NUM_L * _NUM_V * _NUM_T
_PAIR = 2**21  # greater than all code points
# All that any version of Unicode may decompose or call a mark; Hangul syllables are reckoned with.
_CODES = (*range(0xA0, _S), *range(0xF900, 0x33480), *range(0xE0000, 0xE1000))
_DIVIDER = "\n"  # nothing is composed or moved across it


class UnicodeNormalization(tf.Module):
    """Decomposes characters, orders their marks, and composes them again in the forms "NFC" and "NFKC".

    Texts without anything that could change, which are nearly all, are recognized by a regular expression.

    Args:
        form: "NFC", "NFD", "NFKC" or "NFKD"; in those with a K, also "ﬁ" is "fi".

    Call arguments:
        texts: string (N,), valid UTF-8.

    Returns:
        string (N,).

    Reference:
        Unicode Standard Annex 15, "Unicode Normalization Forms", https://www.unicode.org/reports/tr15/
    """

    def __init__(self, form: str = "NFC"):
        super().__init__(name="unicode_normalization")
        tables = unicode_tables(form)
        self._composes = form.endswith("C")
        self._safe = f"[^{_ranges(tables.unsafe)}]*"
        parts = list(tables.decompositions.values())
        lengths = [*map(len, parts)]
        self._index = CodePointTable(list(tables.decompositions), range(len(parts)), -1)
        self._classes = CodePointTable(list(tables.classes), list(tables.classes.values()), 0)
        self._is_unsafe = CodePointTable(tables.unsafe, [1] * len(tables.unsafe), 0)
        pairs = np.array([first * _PAIR + second for first, second in tables.pairs], np.int64)
        with tf.init_scope(), tf.device("CPU:0"):
            self._parts = tf.constant([*itertools.chain(*parts)], tf.int32)
            self._lengths = tf.constant(lengths, tf.int32)
            self._starts = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int32)
            self._pairs = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(pairs, np.array([*tables.pairs.values()], np.int32)), -1
            )

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        is_safe = tf.reduce_all(tf.strings.regex_full_match(texts, self._safe))
        return tf.cond(is_safe, lambda: texts, lambda: self._normalized(texts))

    def of_characters(self, characters: Characters) -> Characters:
        """The normalized characters, each with the place of all that it is made of."""
        is_safe = ~tf.reduce_any(self._is_unsafe(characters.codes) > 0)
        normalized = tf.cond(is_safe, lambda: tuple(characters), lambda: tuple(self._changed(characters)))
        return Characters(*(tf.ensure_shape(x, [None]) for x in normalized))

    def _normalized(self, texts: tf.Tensor) -> tf.Tensor:
        codes, rows, *_ = self._changed(Characters.of(texts))
        rows = tf.RaggedTensor.from_value_rowids(codes, tf.cast(rows, tf.int64), tf.size(texts, tf.int64))
        return tf.ensure_shape(tf.strings.unicode_encode(rows, "UTF-8"), [None])

    def _changed(self, characters: Characters) -> Characters:
        characters, classes = self._ordered(self._decomposed(characters))
        if not self._composes:
            return characters
        state = (*characters, classes, tf.zeros_like(characters.codes, tf.bool), tf.constant(True))
        shapes = (tf.TensorShape([None]),) * 6 + (tf.TensorShape([]),)
        return Characters(*tf.while_loop(lambda *state: state[-1], self._compose, state, shapes)[:4])

    def _decomposed(self, characters: Characters) -> Characters:
        codes = characters.codes
        index, syllable = self._index(codes), codes - _S
        is_syllable = (syllable >= 0) & (syllable < _NUM_SYLLABLES)
        has_tail = syllable % _NUM_T > 0
        counts = tf.where(index >= 0, tf.gather(self._lengths, tf.maximum(index, 0)), 1)
        source, place = repeated(tf.where(is_syllable, 2 + tf.cast(has_tail, tf.int32), counts))
        codes, index = tf.gather(codes, source), tf.gather(index, source)
        is_syllable, syllable = tf.gather(is_syllable, source), tf.gather(syllable, source)
        jamo = tf.where(
            tf.equal(place, 0),
            _L + syllable // (_NUM_V * _NUM_T),
            tf.where(tf.equal(place, 1), _V + syllable // _NUM_T % _NUM_V, _T + syllable % _NUM_T),
        )
        start = tf.gather(self._starts, tf.maximum(index, 0))
        part = tf.gather(self._parts, start + tf.where(index >= 0, place, 0))
        codes = tf.where(is_syllable, jamo, tf.where(index >= 0, part, codes))
        return characters.gather(source)._replace(codes=codes)

    def _ordered(self, characters: Characters) -> tuple[Characters, tf.Tensor]:
        """With marks after a character in the order of their classes; and the classes."""
        classes = self._classes(characters.codes)
        group = tf.cumsum(tf.cast(tf.equal(classes, 0) | characters.is_first(), tf.int32))
        order = tf.argsort(tf.cast(group, tf.int64) * 256 + tf.cast(classes, tf.int64), stable=True)
        return characters.gather(order)._replace(rows=characters.rows), tf.gather(classes, order)

    def _compose(self, codes, rows, starts, ends, classes, tried, _):
        """One composition for each character that has any, with the first mark that takes part in one."""
        places = tf.range(tf.size(codes))
        is_starter = tf.equal(classes, 0)
        starters = tf.concat([[-1], tf.cast(tf.where(is_starter)[:, 0], tf.int32)], axis=0)
        starter = tf.gather(starters, tf.cumsum(tf.cast(is_starter, tf.int32), exclusive=True))  # the last one before
        at = tf.maximum(starter, 0)
        is_open = tf.equal(starter, places - 1) | (before(classes, 0) < classes)
        composed = self._composition(tf.gather(codes, at), codes)
        chosen = (starter >= 0) & tf.equal(tf.gather(rows, at), rows) & is_open & (composed >= 0) & ~tried
        size = tf.size(codes)
        first = tf.math.unsorted_segment_min(tf.where(chosen, places, size), at, size)  # by starter
        chosen &= tf.equal(tf.gather(first, at), places)
        chosen &= ~tf.gather(chosen, at)  # a character that goes into another takes nothing itself
        reached = tf.gather(first, at)
        tried |= (reached < size) & (places < reached)  # what was passed over is not tried again
        done = tf.where(chosen)[:, 0]
        into = tf.gather(at, done)[:, None]
        codes = tf.tensor_scatter_nd_update(codes, into, tf.gather(composed, done))
        starts = tf.tensor_scatter_nd_min(starts, into, tf.gather(starts, done))
        ends = tf.tensor_scatter_nd_max(ends, into, tf.gather(ends, done))
        state = (tf.boolean_mask(x, ~chosen) for x in (codes, rows, starts, ends, classes, tried))
        return *state, tf.size(done) > 0

    def _composition(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """The code point of two, or -1."""
        pair = self._pairs.lookup(tf.cast(first, tf.int64) * _PAIR + tf.cast(second, tf.int64))
        lead, vowel, tail, syllable = first - _L, second - _V, second - _T, first - _S
        is_pair = (lead >= 0) & (lead < _NUM_L) & (vowel >= 0) & (vowel < _NUM_V)
        is_open = (syllable >= 0) & (syllable < _NUM_SYLLABLES) & tf.equal(syllable % _NUM_T, 0)
        has_tail = is_open & (tail > 0) & (tail < _NUM_T)
        return tf.where(is_pair, _S + (lead * _NUM_V + vowel) * _NUM_T, tf.where(has_tail, first + tail, pair))


class UnicodeTables(NamedTuple):
    """What normalization knows of characters, but for Hangul syllables.

    Args:
        decompositions: dict from code point to the code points that it is made of.
        classes: dict from mark to a number by which marks are ordered, from 1 on.
        pairs: dict from two code points to the one that they make.
        unsafe: sorted code points without which a text stays as it is.
    """

    decompositions: dict[int, tuple[int, ...]]
    classes: dict[int, int]
    pairs: dict[tuple[int, int], int]
    unsafe: list[int]


@functools.cache
def unicode_tables(form: str) -> UnicodeTables:
    """The tables of a form, read off the library `tokenizers`, whose version of Unicode is not Python's."""
    import tokenizers

    normalizers = tokenizers.normalizers
    compose, apart = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    splitter = normalizers.NFKD() if "K" in form else normalizers.NFD()
    normalizer = getattr(normalizers, form)()
    characters = [*map(chr, _CODES)]
    classes = _classes(characters, apart)
    split, join = _each(splitter.normalize_str, characters), _each(normalizer.normalize_str, characters)
    pieces = _each(apart, characters)
    composed = _each(compose, characters)
    jamo = (*range(_V, _V + _NUM_V), *range(_T + 1, _T + _NUM_T))
    decompositions, pairs = {}, {}
    unsafe = {*classes, *(jamo if form.endswith("C") else range(_S, _S + _NUM_SYLLABLES))}
    for character, parts, normal, piece, whole in zip(characters, split, join, pieces, composed, strict=True):
        if parts != character:
            decompositions[ord(character)] = tuple(map(ord, parts))
        if normal != character:
            unsafe.add(ord(character))
        if len(piece) > 1 and whole == character:
            first, second = _made_of(character, piece, compose)
            pairs[first, second] = ord(character)
            unsafe.add(second)
    return UnicodeTables(decompositions, classes, pairs, sorted(unsafe))


def _each(normalize, texts: Sequence[str]) -> list[str]:
    """What is made of each text, in one call."""
    return normalize(_DIVIDER.join(texts)).split(_DIVIDER)


def _classes(characters: Sequence[str], apart) -> dict[int, int]:
    """The order of marks, from how the library orders them after a letter.

    Two marks change places if the first belongs after the second. So each is compared with one mark of each class,
    which Python names: the class of a mark never changes from one version of Unicode to the next.
    """
    low, high = "\u0334", "\u0345"  # of the first class, and of the last
    after_low = [
        text == f"a{low}{mark}"
        for mark, text in zip(characters, _each(apart, [f"a{m}{low}" for m in characters]), strict=True)
    ]
    before_high = [
        text == f"a{mark}{high}"
        for mark, text in zip(characters, _each(apart, [f"a{high}{m}" for m in characters]), strict=True)
    ]
    marks = [mark for mark, *moves in zip(characters, after_low, before_high, strict=True) if any(moves)]
    samples: dict[int, str] = {}
    for mark in marks:
        if known := unicodedata.combining(mark):
            samples.setdefault(known, mark)
    order = [samples[known] for known in sorted(samples)]
    texts = [f"a{mark}{sample}" for mark in marks for sample in order]
    moved = np.array([one != other for one, other in zip(texts, _each(apart, texts), strict=True)])
    return dict(zip(map(ord, marks), (1 + moved.reshape(len(marks), -1).sum(axis=1)).tolist(), strict=True))


def _made_of(character: str, parts: str, compose) -> tuple[int, int]:
    """The two code points that make a character, whose full decomposition is `parts`."""
    for place in reversed(range(1, len(parts))):
        first, second = compose(parts[:place] + parts[place + 1 :]), parts[place]
        if len(first) == 1 and compose(first + second) == character:
            return ord(first), ord(second)
    raise ValueError(f"A composed character must be made of two. Received: {character!r} of {parts!r}.")


def _ranges(codes: Sequence[int]) -> str:
    """Sorted code points as the inside of a class of a regular expression."""
    runs = (list(run) for _, run in itertools.groupby(enumerate(codes), lambda item: item[1] - item[0]))
    return "".join(rf"\x{{{run[0][1]:X}}}-\x{{{run[-1][1]:X}}}" for run in runs)
