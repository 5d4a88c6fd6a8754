"""What SentencePiece does to texts before it looks for pieces: characters, spaces and the space before a text."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.code_points import (
    CODE_POINT_BITS,
    Characters,
    CodePointTable,
    KeyFinder,
    Trie,
    after,
    before,
    num_bytes,
    read_from_left,
    repeated,
)
from keras_tfm.tokenizers.unicode_nfc import UnicodeNormalization

WORD_SIGN = "▁"
_SPACE, _SIGN = ord(" "), ord(WORD_SIGN)
_GRAPHEME_BYTES = 6  # from which on the library `tokenizers` takes the characters of a grapheme one by one
_MOST_NODES = 2**22  # those of "nmt_nfkc" are 320,000
_OTHER, _EXTENDS, _PREPENDS, _CONTROL = range(4)  # kinds of characters, for graphemes
_DIVIDER = "\n"  # no grapheme goes across it
_SEPARATOR = "\ue000"  # for private use: no normalizer changes it


class Replacements(NamedTuple):
    """What is replaced by what.

    Args:
        trie: Trie of what is replaced; the values are numbers of texts.
        codes: int32, the code points of all texts.
        starts, lengths: int32, where each text begins in them, and how long it is.
    """

    trie: Trie
    codes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, replacements: Mapping[str, str]) -> "Replacements":
        """Those of a dict from what is replaced to what by."""
        lengths = np.array([*map(len, replacements.values())], np.int32)
        codes = np.array([*map(ord, "".join(replacements.values())), 0], np.int32)
        return cls(Trie.of([*replacements]), codes, np.cumsum(lengths, dtype=np.int32) - lengths, lengths)


def read_charsmap(blob: bytes) -> Replacements:
    """What a `precompiled_charsmap` replaces.

    Args:
        blob: bytes: the size of a double array, the double array, and texts that each end with a zero.

    Returns:
        Replacements.

    Raises:
        ValueError: if it is none.

    Reference:
        `Normalizer::DecodePrecompiledCharsMap` in https://github.com/google/sentencepiece/blob/master/src/normalizer.cc;
        the units are those of https://github.com/s-yata/darts-clone
    """
    try:
        size = int.from_bytes(blob[:4], "little")
        trie, values = _trie_of_units(np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64))
        texts = blob[4 + size :]
        codes = np.frombuffer(texts.decode("utf-8").encode("utf-32-le"), "<u4").astype(np.int32)
        is_head = (np.frombuffer(texts, np.uint8) & 0xC0) != 0x80
        starts = (np.cumsum(is_head) - 1)[values]  # in code points
        zeros = np.flatnonzero(codes == 0)
        lengths = zeros[np.searchsorted(zeros, starts)] - starts
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"`precompiled_charsmap` must be one of SentencePiece. Received: {len(blob):,} bytes that are none "
            f"({error})."
        ) from error
    return Replacements(trie, codes, starts.astype(np.int32), lengths.astype(np.int32))


def _trie_of_units(units: np.ndarray) -> tuple[Trie, np.ndarray]:
    """The trie of a double array of bytes, and its values, by their number in the trie."""
    labels, places = units & 0x800000FF, np.arange(len(units))
    bases = places ^ ((units >> 10) << ((units & 0x200) >> 6))
    # The children of a node with base b are the units at b ^ label.
    parents = np.where((labels > 0) & (labels < 256), places ^ labels, -1)
    by_parent = np.argsort(parents, kind="stable")
    sorted_parents = parents[by_parent]
    node = code = missing = above = np.zeros(1, np.int64)  # of which character so far, how many bytes of it are missing
    edges, values, num_nodes = [], [np.full(1, -1)], 1
    while node.size:
        first, last = (np.searchsorted(sorted_parents, bases[node], side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(node)), last - first)
        child = by_parent[
            first[row] + np.arange(len(row)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        ]
        byte, is_head = labels[child], missing[row] == 0
        length = np.select([byte < 0x80, byte < 0xC0, byte < 0xE0, byte < 0xF0, byte < 0xF8], [0, 9, 1, 2, 3], 9)
        code = np.where(is_head, byte & (0x7F >> length + (length > 0)), code[row] << 6 | byte & 0x3F)
        missing = np.where(is_head, length, missing[row] - 1)
        is_whole = missing == 0
        has_value = units[child] & 0x100 > 0
        if (missing > 3).any() or (~is_head & (byte & 0xC0 != 0x80)).any() or (has_value & ~is_whole).any():
            raise ValueError("keys that are not UTF-8")
        if num_nodes + len(child) > _MOST_NODES:  # branches may be shared, so there may be more nodes than units
            raise ValueError("too many keys")
        edges.append((above[row] << CODE_POINT_BITS | code)[is_whole])
        value = np.where(has_value, units[bases[child] * has_value] & 0x7FFFFFFF, -1)
        values.append(value[is_whole])
        above = np.where(is_whole, num_nodes + np.cumsum(is_whole) - 1, above[row])
        num_nodes, node = num_nodes + is_whole.sum(), child
    offsets, numbers = np.unique(np.concatenate(values), return_inverse=True)
    return Trie(np.concatenate(edges), numbers.astype(np.int32) - 1), offsets[1:]  # the first is -1, that of the root


def write_charsmap(replacements: Mapping[str, str]) -> bytes:
    """A `precompiled_charsmap`, in the simplest layout: 256 units for the children of each node."""
    texts, nodes = b"", {b"": 0}
    units: dict[int, int] = {}
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
        replacements: Replacements.
        kept: strings that stay as they are, whatever is replaced elsewhere.
        by_grapheme: bool. False: at each place the longest key counts, as in `sentencepiece`. True: keys of one
            character count, and a grapheme of several characters and less than six bytes that begins with a key becomes
            what the shortest such key says, whatever follows in it: as in `tokenizers`.
    """

    def __init__(self, replacements: Replacements, kept: Iterable[str] = (), by_grapheme: bool = False):
        super().__init__(name="character_replacer")
        self._find = KeyFinder(replacements.trie)
        self._find_kept = KeyFinder(Trie.of([*kept])) if kept else None
        self._by_grapheme = by_grapheme
        if by_grapheme:
            found = graphemes()
            kinds = dict.fromkeys(found.extends, _EXTENDS) | dict.fromkeys(found.prepends, _PREPENDS)
            kinds |= dict.fromkeys(found.controls, _CONTROL)
            self._kinds = CodePointTable(list(kinds), list(kinds.values()), _OTHER)
        with tf.init_scope(), tf.device("CPU:0"):
            self._codes, self._starts, self._lengths = map(tf.constant, replacements[1:])

    def __call__(self, characters: Characters, begins_text: tf.Tensor) -> Characters:
        may_change = tf.reduce_any(self._find.may_be_there(characters.codes))
        replaced = tf.cond(may_change, lambda: tuple(self._replaced(characters)), lambda: tuple(characters))
        return Characters(*(tf.ensure_shape(x, [None]) for x in replaced))

    def _replaced(self, characters: Characters) -> Characters:
        codes = characters.codes
        length, text = self._graphemes(characters) if self._by_grapheme else self._longest(characters)
        is_key = text >= 0
        keys = tf.where(is_key)
        ends = keys + tf.cast(tf.gather(length, keys), tf.int64)
        begun = tf.concat([tf.cast(is_key, tf.int32), [0]], axis=0)
        within = tf.cumsum(tf.tensor_scatter_nd_sub(begun, ends, tf.ones_like(keys[:, 0], tf.int32)))[:-1]
        # Of a key its first character becomes the text, and the others are gone.
        counts = tf.where(is_key, tf.gather(self._lengths, tf.maximum(text, 0)), 1 - within)
        source, place = repeated(counts)
        number = tf.gather(text, source)
        start = tf.gather(self._starts, tf.maximum(number, 0))
        new = tf.gather(self._codes, start + tf.where(number >= 0, place, 0))
        last = source + tf.maximum(tf.gather(length, source), 1) - 1
        return Characters(
            tf.where(number >= 0, new, tf.gather(codes, source)),
            tf.gather(characters.rows, source),
            tf.gather(characters.starts, source),
            tf.gather(characters.ends, tf.where(number >= 0, last, source)),
        )

    def _longest(self, characters: Characters) -> tuple[tf.Tensor, tf.Tensor]:
        """The length of what is replaced at each place, and by which text, or -1."""
        codes, limits = characters.codes, characters.limits()
        length, text = self._find.longest(codes, limits)
        if self._find_kept is not None:
            kept, _ = self._find_kept.longest(codes, limits)
            length, text = tf.where(kept > 0, kept, length), tf.where(kept > 0, -1, text)
        return length, tf.where(read_from_left(length), text, -1)

    def _graphemes(self, characters: Characters) -> tuple[tf.Tensor, tf.Tensor]:
        """The length of what is replaced at each place, and by which text, or -1."""
        codes, is_first = characters.codes, characters.is_first()
        kind, last = self._kinds(codes), before(codes, 0)
        last_kind = before(kind, _CONTROL)
        belongs = tf.equal(kind, _EXTENDS) & (last_kind != _CONTROL)
        belongs |= tf.equal(last_kind, _PREPENDS) & (kind != _CONTROL)
        belongs |= tf.equal(last, ord("\r")) & tf.equal(codes, ord("\n"))
        grapheme = tf.cumsum(tf.cast(is_first | ~belongs, tf.int32)) - 1
        size = tf.gather(tf.math.segment_sum(tf.ones_like(codes), grapheme), grapheme)
        is_small = tf.gather(tf.math.segment_sum(num_bytes(codes), grapheme), grapheme) < _GRAPHEME_BYTES
        is_head = before(grapheme, -1) != grapheme
        places = tf.range(tf.size(codes))
        limits = tf.gather(tf.math.segment_max(places + 1, grapheme), grapheme)
        whole = tf.where(is_small & is_head & (size > 1), self._find.shortest(codes, limits), -1)
        is_replaced = tf.gather(tf.math.segment_max(whole, grapheme), grapheme) >= 0
        text = tf.where(is_replaced, whole, self._find.single(codes))
        return tf.where(whole >= 0, size, tf.cast(text >= 0, tf.int32)), text


def character_replacer(name: str) -> "CharacterReplacer":
    """What a normalizer of `tokenizers` makes of each character, read off it, since its Unicode is not Python's.

    Args:
        name: its name, of one that changes characters one by one: "StripAccents", "Lowercase" or "Nmt".
    """
    import tokenizers

    codes = [code for code in (*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE1000)) if code != 0xE000]
    normalize = getattr(tokenizers.normalizers, name)().normalize_str
    texts = normalize(_SEPARATOR.join(map(chr, codes))).split(_SEPARATOR)
    changed = {chr(code): text for code, text in zip(codes, texts, strict=True) if text != chr(code)}
    return CharacterReplacer(Replacements.of(changed))


class UnicodeNormalizer(tf.Module):
    """Unicode's normalization.

    Args:
        form: as of `UnicodeNormalization`.
    """

    def __init__(self, form: str):
        super().__init__(name="unicode_normalizer")
        self._normalize = UnicodeNormalization(form)

    def __call__(self, characters: Characters, begins_text: tf.Tensor) -> Characters:
        return self._normalize.of_characters(characters)


def drop_extra_spaces(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """Without spaces at the start, after another space, and at the end, where word signs are spaces too."""
    codes = characters.codes
    is_space = tf.equal(codes, _SPACE)
    is_extra = is_space & (characters.is_first() | before(is_space, False))
    places = tf.range(tf.size(codes))
    last = tf.math.segment_max(tf.where(is_space | tf.equal(codes, _SIGN), -1, places), characters.rows)
    return characters.where(~is_extra & (places <= tf.gather(last, characters.rows)))


def join_spaces(characters: Characters, begins_text: tf.Tensor, code: int, of_any_kind: bool = False) -> Characters:
    """With one character of this code point instead of several spaces, as the expression " {2,}" finds them.

    Args:
        characters: Characters.
        begins_text: bool (R,), not used.
        code: the code point.
        of_any_kind: bool, of several characters of white space, and of single ends of lines and tabs, as the expression
            "\\s{2,}|[\\n\\r\\t]" finds them.
    """
    codes = characters.codes
    is_space = is_white_space(codes) if of_any_kind else tf.equal(codes, _SPACE)
    follows = is_space & before(is_space, False) & ~characters.is_first()
    takes = is_space & ~follows & after(follows, False)
    if of_any_kind:
        takes |= functools.reduce(tf.logical_or, [tf.equal(codes, ord(one)) for one in "\n\r\t"])
    ends = _ends_of_runs(characters, follows)
    return characters._replace(codes=tf.where(takes, code, codes), ends=ends).where(~follows)


def _ends_of_runs(characters: Characters, follows: tf.Tensor) -> tf.Tensor:
    """Where the last of those ends that follow each character and go into it."""
    run = tf.cumsum(tf.cast(~follows, tf.int32)) - 1
    return tf.gather(tf.math.segment_max(characters.ends, run), run)


def strip(
    characters: Characters, begins_text: tf.Tensor, left: bool, right: bool, spaces_alone: bool = False
) -> Characters:
    """Without white space at the ends, or without spaces there."""
    is_text = characters.codes != _SPACE if spaces_alone else ~is_white_space(characters.codes)
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
    ranges = [(0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)]
    ranges += [(0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]
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


class SuffixSigner(tf.Module):
    """Replaces characters, drops extra spaces if they are dropped, and puts a word sign after each text.

    A text of nothing but spaces that are dropped gets none; one of which nothing else is left does.

    Args:
        replace: CharacterReplacer, or None.
        drops_spaces: bool, whether extra spaces are dropped.
    """

    def __init__(self, replace: CharacterReplacer | None, drops_spaces: bool):
        super().__init__(name="suffix_signer")
        self._replace, self._drops_spaces = replace, drops_spaces

    def __call__(self, characters: Characters, begins_text: tf.Tensor) -> Characters:
        num_texts = tf.size(begins_text)
        sizes = tf.math.bincount(characters.rows, minlength=num_texts)
        if self._replace is not None:
            characters = self._replace(characters, begins_text)
        takes = sizes > 0
        if self._drops_spaces:
            # What each space was made of: the whole text, if that is all spaces.
            is_space = tf.equal(characters.codes, _SPACE)
            from_spaces = tf.where(is_space, characters.ends - characters.starts, 0)
            has_others = tf.math.bincount(tf.boolean_mask(characters.rows, ~is_space), minlength=num_texts) > 0
            takes &= has_others | (tf.math.unsorted_segment_sum(from_spaces, characters.rows, num_texts) < sizes)
            characters = drop_extra_spaces(characters, begins_text)
        rows = tf.cast(tf.where(takes)[:, 0], tf.int32)
        ends = tf.gather(sizes, rows)
        signs = Characters(tf.fill(tf.shape(rows), _SIGN), rows, ends - 1, ends)
        both = Characters(*(tf.concat(columns, axis=0) for columns in zip(characters, signs, strict=True)))
        return both.gather(tf.argsort(both.rows, stable=True))


def sign_words(characters: Characters, begins_text: tf.Tensor) -> Characters:
    """Without white space, and with a word sign before each word that does not begin with one."""
    is_space = is_white_space(characters.codes)
    begins = ~is_space & (characters.is_first() | before(is_space, True))
    characters, begins = characters.where(~is_space), tf.boolean_mask(begins, ~is_space)
    return _with_sign(characters, begins & (characters.codes != _SIGN), place=0)


class PunctuationSigner(tf.Module):
    """Puts a word sign before each punctuation mark and what follows one, where no word sign is, and before texts.

    What punctuation is has been read off the library `tokenizers`, since its Unicode is not Python's.
    """

    def __init__(self):
        import tokenizers

        super().__init__(name="punctuation_signer")
        codes = [*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE1000)]
        probe = f"a{'a'.join(map(chr, codes))}a"
        pieces = tokenizers.pre_tokenizers.Punctuation(behavior="isolated").pre_tokenize_str(probe)
        marks = [ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"]
        self._is_mark = CodePointTable(marks, [1] * len(marks), 0)

    def __call__(self, characters: Characters, begins_text: tf.Tensor) -> Characters:
        is_mark = tf.equal(self._is_mark(characters.codes), 1)
        takes = characters.is_first() | is_mark | before(is_mark, False)
        return _with_sign(characters, takes & (characters.codes != _SIGN), place=0)


def _with_sign(characters: Characters, takes: tf.Tensor, place: int) -> Characters:
    """With a word sign, in the place of whose character it is, before (0) or after (1) each that takes one."""
    source, number = repeated(1 + tf.cast(takes, tf.int32))
    is_sign = tf.gather(takes, source) & tf.equal(number, place)
    characters = characters.gather(source)
    return characters._replace(codes=tf.where(is_sign, _SIGN, characters.codes))
