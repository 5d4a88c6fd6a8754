"""What BERT's tokenizer does to texts before it looks for pieces: special tokens, rules, characters and words."""

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.word_splitter import SEPARATOR, replace_invalid_utf8, special_token_pattern

PADDING, UNKNOWN, CLASS, SEPARATOR_TOKEN, MASK = BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# All that any version of Unicode has assigned, but for private use; the rest stays as it is. A test looks at every code
# point.
_ASSIGNED = (range(0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE1000))
_PRIVATE_PLANES = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_NUM_CODE_POINTS = 0x110000
_PAGE = 256  # code points whose entries lie together; equal pages are kept once


class BertRules(NamedTuple):
    """How text is made plain before it is cut into pieces.

    Args:
        lowercase: bool, characters become lower case one by one, whatever stands beside them (no final sigma).
        strip_accents: bool, characters are decomposed (NFD) and lose their nonspacing marks.
        split_on_cjk: bool, each ideograph is a word by itself.
    """

    lowercase: bool
    strip_accents: bool
    split_on_cjk: bool


class CharacterTable(NamedTuple):
    """What the rules make of each code point.

    Args:
        replacements: dict from code point to what it becomes, where that is something else; "" if it is taken out.
        spaces: inclusive ranges of code points that divide words.
        alone: inclusive ranges of code points that are words by themselves: punctuation and ideographs.
    """

    replacements: Mapping[int, str]
    spaces: tuple[tuple[int, int], ...]
    alone: tuple[tuple[int, int], ...]


@functools.cache
def character_table(rules: BertRules) -> CharacterTable:
    """The table of `rules`, read off the library `tokenizers`, character by character.

    Its crates freeze several versions of Unicode (categories of 8, lower case of 16), none of which is Python's: only
    asking gives the ids that its tokenizers give. It takes half a second.

    Args:
        rules: BertRules.

    Returns:
        CharacterTable.
    """
    import tokenizers

    normalize = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=rules.split_on_cjk,
        strip_accents=rules.strip_accents,
        lowercase=rules.lowercase,
    ).normalize_str
    split = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    replacements, spaces, alone = {}, [], []
    for code_point in itertools.chain(*_ASSIGNED):
        character = chr(code_point)
        spaced = normalize(character)
        replacement = spaced.strip(" ")
        if replacement != character:
            replacements[code_point] = replacement
        if not replacement:
            if spaced:
                spaces.append(code_point)
        elif spaced != replacement or (not replacement.isalnum() and len(split(f"a{spaced}")) > 1):
            alone.append(code_point)
    for plane in _PRIVATE_PLANES:
        replacements |= dict.fromkeys(plane, normalize(chr(plane.start)))
    return CharacterTable(replacements, _ranges(spaces), _ranges(alone))


def _ranges(code_points: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Sorted code points as inclusive ranges (first, last)."""
    numbered = enumerate(code_points)
    runs = (list(run) for _, run in itertools.groupby(numbered, lambda item: item[1] - item[0]))
    return tuple((run[0][1], run[-1][1]) for run in runs)


class BertSplitter:
    """Cuts texts into special tokens, punctuation, ideographs and words, each with the white space before it.

    Nothing is left out, so that lengths tell where a word begins. White space at the end of a text is a word too.

    Args:
        table: CharacterTable.
        special_tokens: strings that are words by themselves wherever they occur; of several that begin at the same
            place, the longest counts.

    Call arguments:
        texts: string (N,). Invalid UTF-8 is replaced by U+FFFD as by Python's `bytes.decode("utf-8", "replace")`.

    Returns:
        RaggedTensor of strings (N, words). Words may be empty; only special tokens hold special tokens, and nothing
        else.

    Reference:
        Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805; `BasicTokenizer` in
        https://github.com/google-research/bert/blob/master/tokenization.py
    """

    def __init__(self, table: CharacterTable, special_tokens: Iterable[str] = ()):
        space, alone = _class(table.spaces), _class(table.alone)
        word = f"[{space}]*(?:[{alone}]|[^{space}{alone}]+)"
        special = special_token_pattern(special_tokens)
        if special:
            # Once between separators, special tokens are matched first and so stay whole.
            self._replacements: tuple[tuple[str, bytes], ...] = (
                (special, SEPARATOR + rb"\0" + SEPARATOR),
                (f"{special}|{word}", rb"\0" + SEPARATOR),
            )
        else:
            self._replacements = ((word, rb"\0" + SEPARATOR),)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = replace_invalid_utf8(texts)
        for pattern, rewrite in self._replacements:
            texts = tf.strings.regex_replace(texts, pattern, rewrite)
        return tf.strings.split(texts, sep=SEPARATOR)


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges)


class CharacterMapper(tf.Module):
    """Replaces each character of words by none, one or several, and remembers where these came from.

    Args:
        replacements: dict from code point to what it becomes; other code points stay as they are.

    Call arguments:
        words: string (W,), valid UTF-8.

    Returns:
        Three RaggedTensors (W, characters) of int32: code points after replacement, and where in the bytes of the word
        the character that each came from starts and ends.
    """

    def __init__(self, replacements: Mapping[int, str]):
        super().__init__(name="character_mapper")
        # Entry 0 stands for "as it is".
        entries = {text: number for number, text in enumerate(dict.fromkeys(replacements.values()), start=1)}
        table = np.zeros(_NUM_CODE_POINTS, np.int32)
        table[list(replacements)] = [entries[text] for text in replacements.values()]
        pages: dict[bytes, int] = {}
        page_numbers = [pages.setdefault(page.tobytes(), len(pages)) for page in table.reshape(-1, _PAGE)]
        lengths = [1, *map(len, entries)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._page_numbers = tf.constant(page_numbers, tf.int32)
            self._pages = tf.constant(np.frombuffer(b"".join(pages), np.int32))
            self._lengths = tf.constant(lengths, tf.int32)
            self._starts = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int32)
            self._code_points = tf.constant([0, *map(ord, "".join(entries))], tf.int32)

    def __call__(self, words: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        characters, starts = tf.strings.unicode_decode_with_offsets(words, "UTF-8")
        row_ends = tf.strings.length(words)  # in bytes
        code_points, starts = characters.values, tf.cast(starts.values, tf.int32)
        pages = tf.gather(self._page_numbers, code_points // _PAGE)
        entries = tf.gather(self._pages, pages * _PAGE + code_points % _PAGE)
        lengths = tf.gather(self._lengths, entries)
        # A character ends where the next one of its word starts, and the last one with the word.
        is_last = tf.scatter_nd(
            tf.boolean_mask(characters.row_limits(), row_ends > 0)[:, None] - 1,
            tf.boolean_mask(row_ends, row_ends > 0),
            tf.shape(starts, tf.int64),
        )
        ends = tf.where(is_last > 0, is_last, tf.concat([starts[1:], [0]], axis=0))

        source = tf.repeat(tf.range(tf.size(lengths)), lengths)  # of each new character
        last = tf.cumsum(lengths)
        place = tf.range(tf.size(source)) - tf.gather(last - lengths, source)  # among those of the same source
        entry = tf.gather(entries, source)
        replaced = tf.gather(self._code_points, tf.gather(self._starts, entry) + place)
        replaced = tf.where(tf.equal(entry, 0), tf.gather(code_points, source), replaced)
        row_splits = tf.gather(tf.concat([[0], last], axis=0), characters.row_splits)

        def of_words(values: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_row_splits(values, tf.cast(row_splits, tf.int64), validate=False)

        return of_words(replaced), of_words(tf.gather(starts, source)), of_words(tf.gather(ends, source))
