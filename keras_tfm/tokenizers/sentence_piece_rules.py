"""What SentencePiece does to texts before it looks for pieces: characters, spaces and the space before a text."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.code_points import Characters, CodePointTable, CodePointTrie, before, num_bytes, repeated

WORD_SIGN = "▁"
_SPACE, _SIGN = ord(" "), ord(WORD_SIGN)
_DEEPEST = 64  # bytes of a key of a charsmap
_GRAPHEME_BYTES = 6  # from which on the library `tokenizers` takes the characters of a grapheme one by one
_DIVIDER = "\n"  # no grapheme goes across it


def read_charsmap(blob: bytes) -> dict[str, str]:
    """What a `precompiled_charsmap` replaces, by what.

    Args:
        blob: bytes: the size of a double array, the double array, and texts that each end with a zero.

    Returns:
        dict from str to str.

    Raises:
        ValueError: if it is none.

    Reference:
        `Normalizer::DecodePrecompiledCharsMap` in https://github.com/google/sentencepiece/blob/master/src/normalizer.cc;
        the units are those of https://github.com/s-yata/darts-clone
    """
    if not blob:
        return {}
    try:
        size = int.from_bytes(blob[:4], "little")
        units, texts = np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64), blob[4 + size :]
        labels = units & 0x800000FF
        places = np.arange(len(units))
        bases = places ^ ((units >> 10) << ((units & 0x200) >> 6))
        # The children of a node with base b are the units at b ^ label.
        parents = np.where((labels > 0) & (labels < 256), places ^ labels, -1)
        by_parent = np.argsort(parents, kind="stable")
        sorted_parents = parents[by_parent]
        replacements, nodes, keys = {}, np.zeros(1, np.int64), [b""]
        for _ in range(_DEEPEST):
            if not nodes.size:
                break
            has_value = np.flatnonzero(units[nodes] & 0x100)
            for number, value in zip(has_value, units[bases[nodes[has_value]]] & 0x7FFFFFFF, strict=True):
                replacements[keys[number].decode()] = texts[value : texts.index(b"\0", value)].decode()
            first = np.searchsorted(sorted_parents, bases[nodes], "left")
            last = np.searchsorted(sorted_parents, bases[nodes], "right")
            children = [by_parent[i:j] for i, j in zip(first, last, strict=True)]
            keys = [key + bytes([labels[i]]) for key, some in zip(keys, children, strict=True) for i in some]
            nodes = np.concatenate(children) if children else nodes[:0]
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"`precompiled_charsmap` must be one of SentencePiece. Received: {len(blob):,} bytes that are none ({error})."
        ) from error
    return replacements


def write_charsmap(replacements: Mapping[str, str]) -> bytes:
    """A `precompiled_charsmap`, in the simplest layout: 256 units for the children of each node."""
    texts, nodes, units = b"", {b"": 0}, {}
    values: dict[bytes, int] = {}
    for key, text in replacements.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    prefixes = sorted({key[:i] for key in values for i in range(len(key) + 1)})
    for number, prefix in enumerate(prefixes, start=1):
        base, place = number * 256, nodes.setdefault(prefix, 0)
        units[place] = units.get(place, 0) | (place ^ base) << 10
        if prefix in values:
            units[place] |= 0x100
            units[base] = values[prefix] | 0x80000000
        for child in prefixes:
            if len(child) == len(prefix) + 1 and child.startswith(prefix):
                nodes[child] = base ^ child[-1]
                units[nodes[child]] = child[-1]
    array = np.zeros((len(prefixes) + 1) * 256, "<u4")
    array[list(units)] = list(units.values())
    return array.nbytes.to_bytes(4, "little") + array.tobytes() + texts


@dataclasses.dataclass(frozen=True)
class Graphemes:
    """Which characters belong together, as far as the charsmap of `tokenizers` asks.

    Args:
        extends: code points that belong to the character before them.
        prepends: code points to which the character after them belongs.
        controls: code points to which nothing belongs.
    """

    extends: frozenset[int]
    prepends: frozenset[int]
    controls: frozenset[int]


@functools.cache
def graphemes() -> Graphemes:
    """The graphemes of the library `tokenizers`, read off it, since its version of Unicode is not Python's."""
    import tokenizers

    mark, second = "\u0301", "\u0302"
    charsmap = write_charsmap({f"e{mark}": "E", f"{mark}{second}": "M"})
    normalize = tokenizers.normalizers.Precompiled(charsmap).normalize_str
    codes = [
        code for code in itertools.chain(range(0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE1000)) if code > 0x1F
    ]

    def those(probe: str, changed: str, is_it: bool) -> frozenset[int]:
        """The characters of which the library makes, where they stand for "*" in `probe`, `changed` or not."""
        answers = normalize(_DIVIDER.join(probe.replace("*", chr(code)) for code in codes)).split(_DIVIDER)
        return frozenset(
            code
            for code, answer in zip(codes, answers, strict=True)
            if (answer == changed.replace("*", chr(code))) == is_it
        )

    return Graphemes(
        extends=those(f"e{mark}*", "E*", False),
        prepends=those(f"*e{mark}", f"*e{mark}", True),
        controls=those(f"*{mark}{second}", "*M", True) | frozenset(range(0x20)),
    )


class CharacterReplacer(tf.Module):
    """Replaces characters, and several at once.

    Args:
        replacements: dict from what is replaced to what by; "" to leave it out.
        by_grapheme: bool. False: at each place the longest key counts, as in `sentencepiece`. True: keys of one
            character count, and a grapheme of several characters and less than six bytes that begins with a key becomes
            what the shortest such key says, whatever follows in it: as in `tokenizers`.
    """

    def __init__(self, replacements: Mapping[str, str], by_grapheme: bool = False):
        super().__init__(name="character_replacer")
        texts = {text: number for number, text in enumerate(dict.fromkeys(replacements.values()))}
        self._trie = CodePointTrie({key: texts[text] for key, text in replacements.items()})
        self._by_grapheme = by_grapheme
        if by_grapheme:
            found = graphemes()
            kinds = (
                dict.fromkeys(found.extends, 1) | dict.fromkeys(found.prepends, 2) | dict.fromkeys(found.controls, 3)
            )
            self._kinds = CodePointTable(kinds, 0)
        lengths = [*map(len, texts)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._lengths = tf.constant(lengths, tf.int32)
            self._starts = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int32)
            self._code_points = tf.constant([*map(ord, "".join(texts)), 0], tf.int32)

    def __call__(self, characters: Characters, begins_text: tf.Tensor) -> Characters:
        is_plain = ~tf.reduce_any(self._trie.may_begin(characters.codes))
        replaced = tf.cond(is_plain, lambda: tuple(characters), lambda: tuple(self._replace(characters)))
        return Characters(*(tf.ensure_shape(x, [None]) for x in replaced))

    def _replace(self, characters: Characters) -> Characters:
        codes = characters.codes
        places = tf.range(tf.size(codes))
        if self._by_grapheme:
            length, entry = self._graphemes(characters)
        else:
            length, entry = self._trie.first_longest(codes, characters.limits())
        # The characters of a key after its first are gone.
        is_key = entry >= 0
        keys = tf.where(is_key)
        ends = keys + tf.cast(tf.gather(length, keys), tf.int64)
        begun = tf.concat([tf.cast(is_key, tf.int32), [0]], axis=0)
        within = tf.cumsum(tf.tensor_scatter_nd_sub(begun, ends, tf.ones_like(keys[:, 0], tf.int32)))[:-1]
        is_within = (within > 0) & ~is_key
        counts = tf.where(is_key, tf.gather(self._lengths, tf.maximum(entry, 0)), tf.cast(~is_within, tf.int32))
        source, place = repeated(counts)
        number = tf.gather(entry, source)
        new = tf.gather(self._code_points, tf.gather(self._starts, tf.maximum(number, 0)) + place)
        last = source + tf.maximum(tf.gather(length, source), 1) - 1
        return Characters(
            tf.where(number >= 0, new, tf.gather(codes, source)),
            tf.gather(characters.rows, source),
            tf.gather(characters.starts, source),
            tf.gather(characters.ends, last),
        )

    def _graphemes(self, characters: Characters) -> tuple[tf.Tensor, tf.Tensor]:
        """The length of what is replaced at each place, or 0, and by what, or -1."""
        codes, is_first = characters.codes, characters.is_first()
        kind, last = self._kinds(codes), before(codes, 0)
        last_kind = before(kind, 3)
        belongs = (tf.equal(kind, 1) & (last_kind < 3)) | (tf.equal(last_kind, 2) & (kind < 3))
        belongs |= tf.equal(last, ord("\r")) & tf.equal(codes, ord("\n"))
        grapheme = tf.cumsum(tf.cast(is_first | ~belongs, tf.int32)) - 1
        size = tf.gather(tf.math.segment_sum(tf.ones_like(codes), grapheme), grapheme)
        is_small = tf.gather(tf.math.segment_sum(num_bytes(codes), grapheme), grapheme) < _GRAPHEME_BYTES
        is_head = before(grapheme, -1) != grapheme
        places = tf.range(tf.size(codes))
        limits = tf.gather(tf.math.segment_max(places + 1, grapheme), grapheme)
        whole = tf.where(is_small & is_head & (size > 1), self._trie.shortest(codes, limits), -1)
        is_replaced = tf.gather(tf.math.segment_max(whole, grapheme), grapheme) >= 0
        entry = tf.where(is_replaced, whole, self._trie.single(codes))
        return tf.where(whole >= 0, size, tf.cast(entry >= 0, tf.int32)), entry


def drop_extra_spaces(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """Without spaces at the start, after another space, and at the end, where word signs are spaces too."""
    codes = characters.codes
    is_space = tf.equal(codes, _SPACE)
    is_extra = is_space & (characters.is_first() | before(is_space, False))
    places = tf.range(tf.size(codes))
    last = tf.math.segment_max(tf.where(is_space | tf.equal(codes, _SIGN), -1, places), characters.rows)
    return characters.where(~is_extra & (places <= tf.gather(last, characters.rows)))


def join_spaces(characters: Characters, begins_text: tf.Tensor, code: int) -> Characters:
    """With one character of this code point instead of several spaces, as the expression " {2,}" finds them."""
    is_space = tf.equal(characters.codes, _SPACE)
    follows = is_space & before(is_space, False) & ~characters.is_first()
    limits = tf.concat([follows[1:], [False]], axis=0)
    ends = _ends_of_runs(characters, follows)
    codes = tf.where(is_space & ~follows & limits, code, characters.codes)
    return characters._replace(codes=codes, ends=ends).where(~follows)


def _ends_of_runs(characters: Characters, follows: tf.Tensor) -> tf.Tensor:
    """Where the last of those ends that follow each character and go into it."""
    run = tf.cumsum(tf.cast(~follows, tf.int32)) - 1
    return tf.gather(tf.math.segment_max(characters.ends, run), run)


def strip(characters: Characters, begins_text: tf.Tensor, left: bool, right: bool) -> Characters:
    """Without white space at the ends."""
    is_text = ~is_white_space(characters.codes)
    places = tf.range(tf.size(is_text))
    first = tf.math.segment_min(tf.where(is_text, places, tf.size(is_text)), characters.rows)
    last = tf.math.segment_max(tf.where(is_text, places, -1), characters.rows)
    is_kept = tf.ones_like(is_text)
    if left:
        is_kept &= places >= tf.gather(first, characters.rows)
    if right:
        is_kept &= places <= tf.gather(last, characters.rows)
    return characters.where(is_kept)


def is_white_space(codes: tf.Tensor) -> tf.Tensor:
    """bool (N,), what Unicode calls White_Space."""
    ranges = ((0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A))
    ranges += ((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000))
    return functools.reduce(tf.logical_or, [(codes >= first) & (codes <= last) for first, last in ranges])


def escape_spaces(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """With word signs in the place of spaces."""
    return characters._replace(codes=tf.where(tf.equal(characters.codes, _SPACE), _SIGN, characters.codes))


def prepend_sign(
    characters: Characters, begins_text: tf.Tensor, always: bool, unless_present: bool = False
) -> Characters:
    """With a word sign before each text that has characters.

    Args:
        characters: Characters of R texts.
        begins_text: bool (R,), whether nothing stands before each text.
        always: bool, also where something does.
        unless_present: bool, not where a text begins with a word sign.
    """
    takes = characters.is_first()
    if not always:
        takes &= tf.gather(begins_text, characters.rows)
    if unless_present:
        takes &= characters.codes != _SIGN
    return _with_sign(characters, takes, place=0)


def append_sign(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """With a word sign after each text that has characters."""
    is_last = tf.concat([characters.is_first()[1:], tf.ones_like(characters.rows[:1], tf.bool)], axis=0)
    return _with_sign(characters, is_last, place=1)


def sign_words(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """Without white space, and with a word sign before each word that does not begin with one."""
    is_space = is_white_space(characters.codes)
    begins = ~is_space & (characters.is_first() | before(is_space, True))
    characters, begins = characters.where(~is_space), tf.boolean_mask(begins, ~is_space)
    return _with_sign(characters, begins & (characters.codes != _SIGN), place=0)


def _with_sign(characters: Characters, takes: tf.Tensor, place: int) -> Characters:
    """With a word sign, which comes from no bytes, before (0) or after (1) each character that takes one."""
    source, number = repeated(1 + tf.cast(takes, tf.int32))
    is_sign = tf.gather(takes, source) & tf.equal(number, place)
    codes, rows, starts, ends = characters.gather(source)
    edge = (starts, ends)[place]
    return Characters(
        tf.where(is_sign, _SIGN, codes), rows, tf.where(is_sign, edge, starts), tf.where(is_sign, edge, ends)
    )
