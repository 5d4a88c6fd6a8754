"""Running text to words that can be labelled, in the graph."""

from typing import Any

import tensorflow as tf

from keras_tfm.tokenizers.inputs import as_string_tensor
from keras_tfm.tokenizers.word_splitter import SEPARATOR, replace_invalid_utf8

_SPACE = r"[\t-\r \x{85}\p{Z}]"
_MARK = r"[\p{P}$+<=>^`|~]"
_OTHER = r"[^\p{P}$+<=>^`|~]"
# White space, dashes between words, ellipses and ideographs stand alone.
_ALONE = rf"{_SPACE}+|[—…]|--+|\.\.\.+|\p{{Han}}"
# What is between white space: marks, a word (first what may end with a full stop: J. U.S. Ph.D.), 's, marks.
_WORD = rf"^({_MARK}*?)(\p{{L}}\.|(?:\p{{L}}{{1,3}}\.){{2,}}|{_OTHER}(?s:.*?))?(['\x{{2019}}][sS])?({_MARK}*)$"
_PARTS = SEPARATOR.join([rb"\1", rb"\2", rb"\3", rb"\4"])


def split_words(texts: Any) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Cuts texts into words as corpora of named entities have them, and tells where each begins.

    Words are what stands between white space, without the punctuation around it: `("Mary-Ann` is `("` and `Mary-Ann`,
    `London.` is `London` and `.`, and what is inside stays: `O'Brien`, `3.5`, `AT&T`. The full stop of an initial or
    an abbreviation stays with it (`J.`, `U.S.`, `Ph.D.`), an English `'s` is a word by itself, as are dashes (— or --)
    and ellipses wherever they stand, and each Chinese ideograph.

    `EntityRecognition` labels these words, so train with words cut alike: those of CoNLL-2003 are.

    Args:
        texts: list, array or tensor of strings (B,). Bytes that are no UTF-8 are replaced by U+FFFD.

    Returns:
        words, RaggedTensor of strings (B, words); and starts, int32 RaggedTensor (B, words), the byte of UTF-8 at which
        each begins.

    Raises:
        ValueError: for another rank. TypeError: for anything but strings.

    Example:
        >>> words, starts = split_words(["Mr. O'Brien left the U.S. (via London)."])
        >>> [word.decode() for word in words.numpy()[0]]
        ['Mr', '.', "O'Brien", 'left', 'the', 'U.S.', '(', 'via', 'London', ').']

    Reference:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task",
        https://aclanthology.org/W03-0419/
    """
    texts = as_string_tensor(texts)
    if texts.shape.rank != 1:
        raise ValueError(f"`texts` must be several strings (B,). Received: shape={texts.shape}.")
    with tf.device("CPU:0"):
        texts = replace_invalid_utf8(texts)
        pieces = tf.strings.split(tf.strings.regex_replace(texts, _ALONE, SEPARATOR + rb"\0" + SEPARATOR), SEPARATOR)
        parts = tf.strings.split(tf.strings.regex_replace(pieces.values, _WORD, _PARTS), SEPARATOR)
        words = pieces.with_values(parts).merge_dims(1, 2)  # with empty ones and white space: nothing is left out
        lengths = tf.strings.length(words.values)
        first = tf.gather(tf.cumsum(tf.concat([[0], lengths], 0)), words.row_splits[:-1])  # byte of each text
        starts = tf.cumsum(lengths, exclusive=True) - tf.repeat(first, words.row_lengths())
        is_word = words.with_values(~tf.strings.regex_full_match(words.values, f"{_SPACE}*"))
        return tf.ragged.boolean_mask(words, is_word), tf.ragged.boolean_mask(words.with_values(starts), is_word)


def first_tokens(word_ids: tf.Tensor) -> tf.Tensor:
    """Which tokens are the first of their word: those that its label is taught at and read from.

    Args:
        word_ids: int32 (B, T), the word of each token or -1, as `SentencePacker.words` gives them.

    Returns:
        bool (B, T).
    """
    before = tf.pad(word_ids, [[0, 0], [1, 0]], constant_values=-1)[:, :-1]
    return (word_ids >= 0) & (word_ids != before)
