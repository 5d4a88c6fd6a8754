"""GPT-2's pre-tokenizer: cuts texts into words, in the graph."""

from collections.abc import Iterable

import tensorflow as tf

# RE2's `\s` is ASCII only. This is Unicode's White_Space, as the Rust library understands `\s`.
_SPACE = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"

# RE2 as built into TensorFlow 2.21 knows Unicode 15, tokenizers 0.23 knows Unicode 16: these characters are new there.
# A test compares every code point, so that a change on either side is noticed.
_LETTER = (
    r"\p{L}\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}"
    r"\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7}"
    r"\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}"
    r"\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2EBF0}-\x{2EE5D}"
)
_NUMBER = (
    r"\p{N}\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{16130}-\x{16139}\x{16D70}-\x{16D79}"
    r"\x{1CCF0}-\x{1CCF9}\x{1E5F1}-\x{1E5FA}"
)

# GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
_WORD = f"'s|'t|'re|'ve|'m|'ll|'d| ?[{_LETTER}]+| ?[{_NUMBER}]+| ?[^{_SPACE}{_LETTER}{_NUMBER}]+|[{_SPACE}]+"
# RE2 has no look-ahead. What `\s+(?!\S)` does is to leave the last white space before a word out of its run.
_LAST_SPACE = f"([{_SPACE}])([{_SPACE}][^{_SPACE}])"

_VALID_UTF8 = r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*"

# A byte that valid UTF-8 never holds, so that no text needs escaping and no pattern matches across it.
_SEPARATOR = b"\xff"


class WordSplitter:
    """Cuts texts into special tokens and the words of GPT-2's regular expression.

    Args:
        special_tokens: strings that are words by themselves wherever they occur; of several that begin at the same
            place, the longest counts.

    Call arguments:
        texts: string (N,). Invalid UTF-8 is replaced by U+FFFD as by Python's `bytes.decode("utf-8", "replace")`.

    Returns:
        RaggedTensor of strings (N, words). Words may be empty; only special tokens hold special tokens.

    Reference:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; the expression is in
        https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """

    def __init__(self, special_tokens: Iterable[str] = ()):
        # RE2 takes the first alternative that matches: longest first.
        longest_first = sorted(special_tokens, key=len, reverse=True)
        special = "|".join("".join(f"\\x{{{ord(letter):x}}}" for letter in token) for token in longest_first)
        if special:
            # Once between separators, special tokens are matched first in every step and so stay whole.
            self._replacements = (
                (special, _SEPARATOR + rb"\0" + _SEPARATOR),
                (f"({special})|{_LAST_SPACE}", rb"\1\2" + _SEPARATOR + rb"\3"),
                (f"{special}|{_WORD}", rb"\0" + _SEPARATOR),
            )
        else:
            self._replacements = ((_LAST_SPACE, rb"\1" + _SEPARATOR + rb"\2"), (_WORD, rb"\0" + _SEPARATOR))

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.cond(
            tf.reduce_all(tf.strings.regex_full_match(texts, _VALID_UTF8)),
            lambda: texts,
            lambda: tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"),
        )
        for pattern, rewrite in self._replacements:
            texts = tf.strings.regex_replace(texts, pattern, rewrite)
        return tf.strings.split(texts, sep=_SEPARATOR)
