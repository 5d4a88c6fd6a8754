"""Texts to WordPiece ids and their places in the text, in the graph."""

import tensorflow as tf

from keras_tfm.tokenizers.bert_characters import character_table
from keras_tfm.tokenizers.bert_splitter import BertSplitter
from keras_tfm.tokenizers.character_mapper import CharacterMapper
from keras_tfm.tokenizers.piece_matcher import PieceMatcher
from keras_tfm.tokenizers.word_piece_vocabulary import MAX_CHARACTERS, UNKNOWN, WordPieceVocabulary


class PieceCutter(tf.Module):
    """Splits texts into words, makes the characters of each different word plain, and cuts it into pieces, once.

    Args:
        vocabulary: WordPieceVocabulary.

    Call arguments:
        texts: string (B,).

    Returns:
        Three RaggedTensors of int32 (B, tokens): ids, and where each token starts and ends in the bytes of its text.
    """

    def __init__(self, vocabulary: WordPieceVocabulary):
        super().__init__(name="piece_cutter")
        table = character_table(vocabulary.rules)
        self._split = BertSplitter(table, vocabulary.special_tokens)
        self._map = CharacterMapper(table.replacements)
        self._match = PieceMatcher(vocabulary.token_ids, vocabulary.token_ids[UNKNOWN], MAX_CHARACTERS)
        special = vocabulary.special_tokens or {b"\xff": -1}  # a table must not be empty; no text holds this
        with tf.init_scope(), tf.device("CPU:0"):
            self._special_ids = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(list(special), list(special.values()), tf.string, tf.int32),
                default_value=-1,
            )

    def __call__(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        with tf.device("CPU:0"):
            words = self._split(texts)  # (B, words)
            distinct, index = tf.unique(words.values)
            ids, starts, ends = self._pieces(distinct)
            # Words leave no gaps: each begins where those before it in its text end.
            lengths = tf.strings.length(words.values)
            begins = tf.cumsum(lengths, exclusive=True)
            begins -= tf.repeat(tf.gather(tf.concat([begins, [0]], 0), words.row_starts()), words.row_lengths())

            def of_texts(pieces: tf.RaggedTensor, shift: tf.Tensor | None = None) -> tf.RaggedTensor:
                pieces = tf.gather(pieces, index)  # (words of all texts, pieces)
                if shift is not None:
                    pieces = pieces.with_values(pieces.values + tf.repeat(shift, pieces.row_lengths()))
                return words.with_values(pieces).merge_dims(1, 2)

            return of_texts(ids), of_texts(starts, begins), of_texts(ends, begins)

    def _pieces(self, words: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Of each word (W,) the ids, and where they start and end in its bytes, each (W, pieces)."""
        special = self._special_ids.lookup(words)
        is_special = special >= 0
        characters, first_bytes, last_bytes = self._map(tf.where(is_special, "", words))
        ids, begins, closes = self._match(characters)
        starts = begins.with_values(tf.gather(first_bytes.values, begins.values))
        ends = closes.with_values(tf.gather(last_bytes.values, closes.values - 1))

        def add_special(pieces: tf.RaggedTensor, values: tf.Tensor) -> tf.RaggedTensor:
            one_each = tf.RaggedTensor.from_row_lengths(
                tf.boolean_mask(values, is_special), tf.cast(is_special, tf.int64), validate=False
            )
            return tf.concat([pieces, one_each], axis=1)  # a word has either

        lengths = tf.strings.length(words)
        return add_special(ids, special), add_special(starts, tf.zeros_like(special)), add_special(ends, lengths)
