"""What BERT's tokenizer makes of each character: rules, and the table that follows from them."""

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# All that any version of Unicode has assigned, but for private use; the rest stays as it is. A test looks at every code
# point.
_ASSIGNED = (range(0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE1000))
_PRIVATE_PLANES = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


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
