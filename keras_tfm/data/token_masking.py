"""The masking of tokens or of whole words for BERT's first task, in the graph."""

import math

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import WordPieceTokenizer

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay as they are
_MORE_SLOTS = 7  # of a row, for the rest of a word of 8 pieces; longer ones are rare


class TokenMasker:
    """Chooses tokens, hides most of them, and tells where they were.

    Each token that is not special is chosen with probability `mask_rate`; of n in a row `mask_rate` * n are, rounded up
    or down at random. Of these 80 % become [MASK], 10 % a random token and 10 % stay.

    With whole words, each word is chosen with that probability, whatever its length: the words of a row are laid on a
    circle in random order, and those are chosen that begin in a window of `mask_rate` * n tokens at a random place. So
    a row's number of chosen tokens is off by less than the length of a word, and right on average. (BERT's code takes
    words as long as they fit, so long ones seldom, and too few in all.) A row has slots for 7 tokens more then; only a
    word of more than 8 tokens may not fit and be left out.

    Args:
        tokenizer: `WordPieceTokenizer` with [MASK].
        mask_rate: float between 0 and 1.
        whole_word: bool, the pieces of a word are chosen together.
        max_tokens: int, the most tokens in a row that are not special; fewer than T.

    Call arguments:
        token_ids: int32 (B, T).
        key: int64 (2,), decides the draw.

    Returns:
        token_ids int32 (B, T) with tokens hidden; mask_positions int32 (B, M), increasing, then 0; mask_ids int32
        (B, M), what stood there, then 0; mask_weights float32 (B, M), 1 for each chosen token, then 0. M is
        `num_masks`.

    Reference:
        Devlin et al. 2019, "BERT", section 3.1, https://arxiv.org/abs/1810.04805; whole words: its README of May 31st,
        2019, https://github.com/google-research/bert
    """

    def __init__(self, tokenizer: WordPieceTokenizer, mask_rate: float, whole_word: bool, max_tokens: int):
        if isinstance(mask_rate, bool) or not isinstance(mask_rate, int | float) or not 0 < mask_rate < 1:
            raise ValueError(f"`mask_rate` must be a number between 0 and 1. Received: mask_rate={mask_rate!r}.")
        self._rate = mask_rate
        self.num_masks = min(max_tokens, math.ceil(mask_rate * max_tokens) + (_MORE_SLOTS if whole_word else 0))
        self._mask_id = tokenizer.mask_token_id
        is_special = np.zeros(tokenizer.vocabulary_size, bool)
        is_special[list(tokenizer.special_tokens.values())] = True
        if is_special.all():
            raise ValueError(
                "The vocabulary must hold tokens that are not special. "
                f"Received: {tokenizer.vocabulary_size} tokens, all special."
            )
        begins_word = tokenizer.begins_word if whole_word else np.ones_like(is_special)
        with tf.device("CPU:0"):
            self._is_special = tf.constant(is_special)
            self._begins_word = tf.constant(begins_word)
            self._ordinary_ids = tf.constant(np.flatnonzero(~is_special), tf.int32)

    def __call__(self, token_ids: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        keys = tf.unstack(tf.random.split(key, 4, alg="philox"), num=4)
        is_chosen = self._choose(token_ids, keys[0], keys[1])  # (B, T)
        length = tf.shape(token_ids)[1]
        places = tf.sort(tf.where(is_chosen, tf.range(length), length), axis=1)[:, : self.num_masks]  # (B, M)
        places = tf.ensure_shape(places, [token_ids.shape[0], self.num_masks])
        is_mask = places < length  # (B, M), as mask_positions, mask_ids, fate, draws and hidden
        mask_positions = tf.where(is_mask, places, 0)
        mask_ids = tf.where(is_mask, tf.gather(token_ids, mask_positions, batch_dims=1), 0)

        fate = tf.random.stateless_uniform(tf.shape(mask_ids), keys[2], alg="philox")
        draws = tf.random.stateless_uniform(
            tf.shape(mask_ids), keys[3], maxval=tf.size(self._ordinary_ids), dtype=tf.int32, alg="philox"
        )
        hidden = tf.where(fate < _MASKED + _RANDOM, tf.gather(self._ordinary_ids, draws), mask_ids)
        hidden = tf.where(fate < _MASKED, self._mask_id, hidden)
        where = tf.cast(tf.where(is_mask), tf.int32)  # (masks, 2): row, place in the row of masks
        where = tf.stack([where[:, 0], tf.boolean_mask(mask_positions, is_mask)], axis=1)  # (masks, 2): row, token
        masked = tf.tensor_scatter_nd_update(token_ids, where, tf.boolean_mask(hidden, is_mask))  # (B, T)
        return masked, mask_positions, mask_ids, tf.cast(is_mask, tf.float32)

    def _choose(self, token_ids: tf.Tensor, window_key: tf.Tensor, order_key: tf.Tensor) -> tf.Tensor:
        """bool (B, T), the tokens that are to be predicted."""
        is_special = tf.gather(self._is_special, token_ids)  # (B, T)
        is_token = ~is_special
        after_special = tf.concat([tf.ones_like(is_special[:, :1]), is_special[:, :-1]], axis=1)
        begins = is_token & (tf.gather(self._begins_word, token_ids) | after_special)  # (B, T)
        num_rows, length = tf.unstack(tf.shape(token_ids))

        # For each token the length of its word, the place of the token in it, and the word's random number.
        places = tf.broadcast_to(tf.range(length), [num_rows, length])  # (B, T)
        word = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1 + tf.range(num_rows)[:, None] * length
        word = tf.where(is_token, word, -1)  # (B, T): a number for each word of the batch
        num_words = num_rows * length
        firsts = tf.math.unsorted_segment_min(places, word, num_words)  # (B * T,), by word
        known = tf.maximum(word, 0)
        sizes = tf.math.unsorted_segment_sum(tf.cast(is_token, tf.int32), word, num_words)  # (B * T,), by word
        lengths = tf.gather(sizes, known)  # (B, T)
        offsets = places - tf.gather(firsts, known)  # (B, T)
        scores = tf.gather(tf.random.stateless_uniform([num_words], order_key, alg="philox"), known)  # (B, T)

        # Tokens in the random order of their words, which keeps those of a word together: the circle.
        order = tf.argsort(tf.where(is_token, scores, 2.0), axis=1, stable=True)  # (B, T)
        lengths, offsets, is_token = (tf.gather(x, order, batch_dims=1) for x in (lengths, offsets, is_token))  # (B, T)
        around = tf.cast(tf.math.count_nonzero(is_token, axis=1), tf.float32)[:, None]  # (B, 1)
        window = around * tf.random.stateless_uniform([num_rows, 1], window_key, alg="philox")  # (B, 1), its beginning
        begin = tf.math.floormod(tf.cast(places - offsets, tf.float32) - window, tf.maximum(around, 1.0))  # (B, T)
        is_chosen = is_token & (begin < self._rate * around)

        # The last word may go on after the window, as far as there are slots.
        first = tf.reduce_min(tf.where(is_chosen, begin, around), axis=1, keepdims=True)  # (B, 1)
        is_chosen &= tf.round(begin - first) + tf.cast(lengths, tf.float32) <= self.num_masks
        return tf.gather(is_chosen, tf.argsort(order, axis=1), batch_dims=1)
