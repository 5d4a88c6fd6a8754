"""BERT's pre-tokenizer: cuts texts into words and punctuation, in the graph."""

from collections.abc import Iterable

import tensorflow as tf

from keras_tfm.tokenizers.bert_characters import CharacterTable
from keras_tfm.tokenizers.word_splitter import SEPARATOR, replace_invalid_utf8, special_token_pattern


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
            self._replacements = (
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
