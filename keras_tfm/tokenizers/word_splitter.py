"""Pre-tokenizers of byte pair tokenizers: cut texts into words, in the graph."""

import tensorflow as tf

from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS, Step

_VALID_UTF8 = r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*"

# A byte that valid UTF-8 never holds, so that no text needs escaping and no pattern matches across it.
SEPARATOR = b"\xff"


class WordSplitter:
    """Cuts texts into the words of a regular expression.

    Args:
        pattern: whose expression: "gpt2", "llama3", "qwen2", "smollm" or "bloom".

    Call arguments:
        texts: string (N,), valid UTF-8.

    Returns:
        RaggedTensor of strings (N, words). Words may be empty.

    Reference:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; the expression is in
        https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """

    def __init__(self, pattern: str = "gpt2"):
        self._replacements = tuple(map(_replacement, WORD_PATTERNS[pattern].steps))

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        for pattern, rewrite in self._replacements:
            texts = tf.strings.regex_replace(texts, pattern, rewrite)
        return tf.strings.split(texts, sep=SEPARATOR)


def _replacement(step: Step) -> tuple[str, bytes]:
    """(pattern, rewrite) that put separators into a text."""
    if step.place == "between":
        return step.pattern, rb"\1" + SEPARATOR + rb"\2"
    return step.pattern, (SEPARATOR if step.place == "around" else b"") + rb"\0" + SEPARATOR


def replace_invalid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """string (N,) with U+FFFD for bytes that are no UTF-8, as by Python's `bytes.decode("utf-8", "replace")`."""
    return tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(texts, _VALID_UTF8)),
        lambda: texts,
        lambda: tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"),
    )
