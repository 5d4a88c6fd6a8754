"""The masking of tokens or of whole words for BERT's first task, in the graph."""

import math

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers import WordPieceTokenizer

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay as they are


class TokenMasker:
    """Chooses tokens, hides most of them, and tells where they were.

    Of n tokens in a row that are not special, `mask_rate` * n are chosen, rounded up or down at random so that this
    is exact on average. Of these 80 % become [MASK], 10 % a random token and 10 % stay. With whole words, the words of
    a row are taken in random order as long as they fit, and words of one token fill what is left.

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
        self.num_masks = math.ceil(mask_rate * max_tokens)
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
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 4, alg="philox"), num=4)
        is_chosen = self._choose(token_ids, keys[0], keys[1])
        length = tf.shape(token_ids)[1]
        places = tf.sort(tf.where(is_chosen, tf.range(length), length), axis=1)[:, : self.num_masks]
        places = tf.ensure_shape(places, [token_ids.shape[0], self.num_masks])
        is_mask = places < length
        mask_positions = tf.where(is_mask, places, 0)
        mask_ids = tf.where(is_mask, tf.gather(token_ids, mask_positions, batch_dims=1), 0)

        fate = tf.random.stateless_uniform(tf.shape(mask_ids), keys[2], alg="philox")
        draws = tf.random.stateless_uniform(
            tf.shape(mask_ids), keys[3], maxval=tf.size(self._ordinary_ids), dtype=tf.int32, alg="philox"
        )
        hidden = tf.where(fate < _MASKED + _RANDOM, tf.gather(self._ordinary_ids, draws), mask_ids)
        hidden = tf.where(fate < _MASKED, self._mask_id, hidden)
        where = tf.cast(tf.where(is_mask), tf.int32)
        where = tf.stack([where[:, 0], tf.boolean_mask(mask_positions, is_mask)], axis=1)
        masked = tf.tensor_scatter_nd_update(token_ids, where, tf.boolean_mask(hidden, is_mask))
        return masked, mask_positions, mask_ids, tf.cast(is_mask, tf.float32)

    def _choose(self, token_ids: tf.Tensor, rounding_key: tf.Tensor, order_key: tf.Tensor) -> tf.Tensor:
        """bool (B, T), the tokens that are to be predicted."""
        is_special = tf.gather(self._is_special, token_ids)
        is_token = ~is_special
        after_special = tf.concat([tf.ones_like(is_special[:, :1]), is_special[:, :-1]], axis=1)
        begins = is_token & (tf.gather(self._begins_word, token_ids) | after_special)
        num_rows, length = tf.unstack(tf.shape(token_ids))
        count = tf.cast(tf.math.count_nonzero(is_token, axis=1), tf.float32)[:, None]
        budget = self._rate * count + tf.random.stateless_uniform([num_rows, 1], rounding_key, alg="philox")
        budget = tf.minimum(tf.cast(budget, tf.int32), self.num_masks)  # (B, 1)

        # The number of each token's word in all rows, -1 for what is none; its length and where it begins.
        places = tf.broadcast_to(tf.range(length), [num_rows, length])
        word = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1 + tf.range(num_rows)[:, None] * length
        word = tf.where(is_token, word, -1)
        num_words = num_rows * length
        lengths = tf.math.unsorted_segment_sum(tf.cast(is_token, tf.int32), word, num_words)
        firsts = tf.math.unsorted_segment_min(places, word, num_words)
        scores = tf.random.stateless_uniform([num_words], order_key, alg="philox")
        known = tf.maximum(word, 0)
        lengths, offsets, scores = (
            tf.gather(lengths, known),
            places - tf.gather(firsts, known),
            tf.gather(scores, known),
        )

        # Tokens in the random order of their words, which keeps those of a word together.
        order = tf.argsort(tf.where(is_token, scores, 2.0), axis=1, stable=True)
        lengths, offsets = (tf.gather(values, order, batch_dims=1) for values in (lengths, offsets))
        is_token = tf.gather(is_token, order, batch_dims=1)
        word_ends = places - offsets + lengths
        fits = is_token & (word_ends <= budget)
        left = budget - tf.math.count_nonzero(fits, axis=1, keepdims=True, dtype=tf.int32)
        is_single = is_token & ~fits & tf.equal(lengths, 1)
        fits |= is_single & (tf.cumsum(tf.cast(is_single, tf.int32), axis=1) <= left)
        return tf.gather(fits, tf.argsort(order, axis=1), batch_dims=1)
