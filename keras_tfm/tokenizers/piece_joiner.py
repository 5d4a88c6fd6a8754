"""The joining of WordPiece tokens to text, in the graph."""

from typing import Any

import tensorflow as tf

from keras_tfm.tokenizers.arguments import as_id_tensor
from keras_tfm.tokenizers.word_piece_vocabulary import WordPieceVocabulary


class PieceJoiner(tf.Module):
    """Writes tokens one after another: words with a space before them, "##" pieces and . , ! ? without.

    Args:
        vocabulary: WordPieceVocabulary.

    Call arguments:
        token_ids: integers (T,) or (B, T), or RaggedTensor (B, tokens).
        skip_special_tokens: bool, leave special tokens out.

    Returns:
        string () or (B,), as the WordPiece decoder of `tokenizers` writes it; so a "##" piece that comes first keeps
        its "##".
    """

    def __init__(self, vocabulary: WordPieceVocabulary):
        import tokenizers

        super().__init__(name="piece_joiner")
        write = tokenizers.decoders.WordPiece(prefix="##", cleanup=True).decode
        with tf.init_scope(), tf.device("CPU:0"):
            self._first = tf.constant([write([token]) for token in vocabulary.tokens], tf.string)
            self._later = tf.constant([write(["x", token])[1:] for token in vocabulary.tokens], tf.string)
            self._is_special = tf.constant([token in vocabulary.special_tokens for token in vocabulary.tokens])

    def __call__(self, token_ids: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        token_ids = as_id_tensor(token_ids)
        if token_ids.shape.rank == 1:
            return self(token_ids[None], skip_special_tokens)[0]
        with tf.device("CPU:0"):
            rows = token_ids if isinstance(token_ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(token_ids)
            rows = tf.cast(rows, tf.int64)
            if skip_special_tokens:
                kept = ~tf.gather(self._is_special, rows.values)
                rows = tf.ragged.boolean_mask(rows, rows.with_values(kept))
            first, later = tf.gather(self._first, rows[:, :1]), tf.gather(self._later, rows[:, 1:])
            return tf.strings.reduce_join(tf.concat([first, later], axis=1), axis=-1)
