"""Pre-tokenizers of byte pair tokenizers: cut texts into words, in the graph."""

from collections.abc import Iterable

import tensorflow as tf

from keras_tfm.tokenizers.word_patterns import SPACE, WORD_PATTERNS, Step

_SURELY_COMPILES = 10**5  # characters of a pattern of special tokens; those of 10**7 are too many for RE2
_VALID_UTF8 = r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*"

# A byte that valid UTF-8 never holds, so that no text needs escaping and no pattern matches across it.
SEPARATOR = b"\xff"


class WordSplitter:
    """Cuts texts into special tokens and the words of a regular expression.

    Args:
        special_tokens: strings that are words by themselves wherever they occur; of several that begin at the same
            place, the longest counts.
        pattern: whose expression: "gpt2", "llama3", "qwen2", "smollm" or "bloom".
        normalization: `NormalizationC` for what stands between special tokens, or None.
        lstrip_tokens: special tokens with which the white space before them goes away.

    Call arguments:
        texts: string (N,). Invalid UTF-8 is replaced by U+FFFD as by Python's `bytes.decode("utf-8", "replace")`.

    Returns:
        RaggedTensor of strings (N, words). Words may be empty; only special tokens hold special tokens.

    Reference:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; the expression is in
        https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """

    def __init__(self, special_tokens: Iterable[str] = (), pattern: str = "gpt2", normalization=None, lstrip_tokens=()):
        special = special_token_pattern(special_tokens, lstrip_tokens)
        # Once between separators, special tokens are matched first in every step and so stay whole.
        self._first = ((special, SEPARATOR + rb"\0" + SEPARATOR),) if special else ()
        self._replacements = tuple(_replacement(step, special) for step in WORD_PATTERNS[pattern].steps)
        self._normalization = normalization
        stripped = special_token_pattern(lstrip_tokens)
        self._stripped = f"^[{SPACE}]+({stripped})$" if stripped else ""

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = replace_invalid_utf8(texts)
        for pattern, rewrite in self._first:
            texts = tf.strings.regex_replace(texts, pattern, rewrite)
        if self._normalization is not None:
            pieces = tf.strings.split(texts, sep=SEPARATOR)
            pieces = pieces.with_values(self._normalization(pieces.values))
            texts = tf.strings.reduce_join(pieces, axis=1, separator=SEPARATOR)
        for pattern, rewrite in self._replacements:
            texts = tf.strings.regex_replace(texts, pattern, rewrite)
        words = tf.strings.split(texts, sep=SEPARATOR)
        if self._stripped:
            words = words.with_values(tf.strings.regex_replace(words.values, self._stripped, rb"\1"))
        return words


def _replacement(step: Step, special: str) -> tuple[str, bytes]:
    """(pattern, rewrite) that leave special tokens as they are."""
    if step.place == "between":
        return (
            (f"({special})|{step.pattern}", rb"\1\2" + SEPARATOR + rb"\3")
            if special
            else (step.pattern, rb"\1" + SEPARATOR + rb"\2")
        )
    before = SEPARATOR if step.place == "around" else b""
    return (f"{special}|{step.pattern}" if special else step.pattern), before + rb"\0" + SEPARATOR


def special_token_pattern(special_tokens: Iterable[str], lstrip_tokens: Iterable[str] = ()) -> str:
    """A regular expression of RE2 that matches the longest special token at a place; "" if there are none.

    Those of `lstrip_tokens` are matched with the white space before them.
    """
    # RE2 takes the first alternative that matches: longest first.
    longest_first = sorted(special_tokens, key=len, reverse=True)
    pattern = "|".join(
        (f"[{SPACE}]*" if token in lstrip_tokens else "") + "".join(f"\\x{{{ord(letter):x}}}" for letter in token)
        for token in longest_first
    )
    if len(pattern) > _SURELY_COMPILES:
        try:
            with tf.init_scope():
                tf.strings.regex_full_match("", pattern)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                "`special_tokens` must be shorter: TensorFlow's regular expressions cannot find them. "
                f"Received: {len(longest_first)} of {sum(map(len, longest_first)):,} characters in all, the longest of "
                f"{len(longest_first[0]):,}."
            ) from error
    return pattern


def replace_invalid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """string (N,) with U+FFFD for bytes that are no UTF-8, as by Python's `bytes.decode("utf-8", "replace")`."""
    return tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(texts, _VALID_UTF8)),
        lambda: texts,
        lambda: tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"),
    )
