"""The replacing of characters by a table, for many words at once, in the graph."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

_PAGE = 256  # code points whose entries lie together; equal pages are kept once
_NUM_CODE_POINTS = 0x110000


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
        pages, page_numbers = np.unique(table.reshape(-1, _PAGE), axis=0, return_inverse=True)
        lengths = [1, *map(len, entries)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._page_numbers = tf.constant(page_numbers.ravel(), tf.int32)
            self._pages = tf.constant(pages.ravel(), tf.int32)
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
