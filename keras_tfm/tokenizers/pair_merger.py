"""The merging of byte pairs, for many words at once, in the graph."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_NEVER = np.iinfo(np.int32).max  # the rank of a merge that does not exist


class PairMerger(tf.Module):
    """Turns words into token ids by byte pair encoding.

    The textbook merges one pair at a time: that of the lowest rank in the word, the leftmost of several. Here every
    iteration merges all pairs that are bound to be merged in that order anyway, in all words, so that a word of a
    megabyte takes some ten iterations. What is bound to be merged follows from two numbers for neighbours (a, b):
    `rank`, of the merge of a and b, and `crossing`, the lowest rank of any merge across the boundary between a and b,
    whatever tokens the two may have grown into by then. A pair may be merged right away

    - if no other pair of its word has a lower rank, or
    - if the crossing on its left is higher than its rank and the one on its right is not lower. Until its turn comes,
      nothing can take a or b away; and what happens around it stays the same, since the token that it makes takes part
      only in merges of higher rank: a lower one would be the crossing on its left or right.

    Args:
        byte_ids: the token ids of the 256 bytes; -1 for those that are left out of words.
        merges: (left id, right id, merged id) in order of rank.
        vocabulary_size: int, greater than all ids.

    Call arguments:
        words: string (W,), any bytes; best without duplicates.

    Returns:
        RaggedTensor of int32 (W, tokens).

    Reference:
        Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2,
        https://arxiv.org/abs/1508.07909
    """

    def __init__(self, byte_ids: Sequence[int], merges: Sequence[tuple[int, int, int]], vocabulary_size: int):
        super().__init__(name="pair_merger")
        self._vocabulary_size = vocabulary_size
        self._drops_bytes = min(byte_ids) < 0
        # Row 0 stands for neighbours that no merge joins, now or later.
        keys, rows = [-1], [(_NEVER, _NEVER, 0)]
        own = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(merges)}
        for (left, right), crossing in _crossings(merges).items():
            rank, merged = own.get((left, right), (_NEVER, 0))
            keys.append(left * vocabulary_size + right)
            rows.append((rank, crossing, merged))
        ranks, crossings, products = np.array(rows, np.int32).T
        with tf.init_scope(), tf.device("CPU:0"):
            self._byte_ids = tf.constant(byte_ids, tf.int32)
            self._rows = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(np.array(keys, np.int64), np.arange(len(rows), dtype=np.int32)),
                default_value=0,
            )
            self._ranks = tf.constant(ranks)
            self._crossings = tf.constant(crossings)
            self._products = tf.constant(products)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        lengths = tf.strings.length(words)  # in bytes
        ends = tf.cumsum(lengths)
        text = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        tokens = tf.gather(self._byte_ids, tf.cast(text, tf.int32))
        if self._drops_bytes:
            is_kept = tokens >= 0
            num_kept = tf.concat([[0], tf.cumsum(tf.cast(is_kept, tf.int32))], axis=0)
            tokens, ends = tf.boolean_mask(tokens, is_kept), tf.gather(num_kept, ends)
            lengths = ends - tf.concat([[0], ends[:-1]], axis=0)
        last_bytes = tf.boolean_mask(ends, lengths > 0) - 1
        is_closed = tf.scatter_nd(last_bytes[:, None], tf.ones_like(last_bytes), tf.shape(tokens)) > 0
        # Tokens still to be merged; whether the boundary after each is closed to all merges; and the slot, one for each
        # byte, that each begins in. Last, for all slots: the id of the final token that begins there, or -1.
        state = (tokens, is_closed, tf.range(tf.size(tokens)), tf.fill(tf.shape(tokens), -1))
        *_, final = tf.while_loop(
            lambda tokens, *_: tf.size(tokens) > 0,
            self._merge_once,
            state,
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        is_token = final >= 0
        tokens_before = tf.concat([[0], tf.cumsum(tf.cast(is_token, tf.int64))], axis=0)
        return tf.RaggedTensor.from_row_splits(
            tf.boolean_mask(final, is_token),
            tf.gather(tokens_before, tf.concat([[0], ends], axis=0)),
            validate=False,
        )

    def _merge_once(self, tokens, is_closed, slots, final):
        """One iteration: merges what may be merged, then takes out the tokens that can no longer change."""
        pairs = tf.cast(tokens, tf.int64) * self._vocabulary_size + tf.cast(_right(tokens, 0), tf.int64)
        row = self._rows.lookup(tf.where(is_closed, tf.constant(-1, tf.int64), pairs))
        rank, crossing = tf.gather(self._ranks, row), tf.gather(self._crossings, row)
        # Closed boundaries divide a word into stretches that know nothing of each other. A stretch without any merge
        # at hand is final, though merges might cross it after others that are not at hand.
        is_closed = tf.equal(crossing, _NEVER)
        stretch = tf.cumsum(tf.cast(is_closed, tf.int32), exclusive=True)
        lowest = tf.gather(tf.math.segment_min(rank, stretch), stretch)
        is_closed |= tf.equal(lowest, _NEVER)

        is_undisturbed = (rank < _left(crossing, _NEVER)) & (rank <= _right(crossing, _NEVER))
        chosen = (rank < _NEVER) & (is_undisturbed | tf.equal(rank, lowest))
        overlap = tf.reduce_any(chosen & _right(chosen, False))
        chosen = tf.cond(overlap, lambda: _every_other(chosen), lambda: chosen)

        tokens = tf.where(chosen, tf.gather(self._products, row), tokens)
        is_alive = ~_left(chosen, False)
        is_final = _left(is_closed, True) & is_closed & ~chosen
        is_closed = tf.where(chosen, _right(is_closed, True), is_closed)
        done = tf.where(is_alive & is_final)[:, 0]
        final = tf.tensor_scatter_nd_update(final, tf.gather(slots, done)[:, None], tf.gather(tokens, done))
        kept = tf.where(is_alive & ~is_final)[:, 0]
        return tf.gather(tokens, kept), tf.gather(is_closed, kept), tf.gather(slots, kept), final


def _crossings(merges: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int], int]:
    """For each pair of neighbours that a merge may ever join: the lowest rank of such a merge.

    The merge of X and Y joins a and b if X may have grown from a, at its end, and Y from b, at its beginning.
    """
    heads: dict[int, set[int]] = defaultdict(set)  # the tokens that a token may have grown from and begins with
    tails: dict[int, set[int]] = defaultdict(set)  # the tokens that a token may have grown from and ends with
    size, last_size = 0, -1
    while size != last_size:  # twice, unless tokens are used before they are made
        for left, right, merged in merges:
            heads[merged] |= heads[left] | {left}
            tails[merged] |= tails[right] | {right}
        size, last_size = sum(map(len, itertools.chain(heads.values(), tails.values()))), size
    crossings: dict[tuple[int, int], int] = {}
    for rank, (left, right, _) in enumerate(merges):
        for pair in itertools.product(tails[left] | {left}, heads[right] | {right}):
            crossings.setdefault(pair, rank)
    return crossings


def _right(x: tf.Tensor, last) -> tf.Tensor:
    """For each element its neighbour to the right; `last` at the end."""
    return tf.concat([x[1:], [last]], axis=0)


def _left(x: tf.Tensor, first) -> tf.Tensor:
    """For each element its neighbour to the left; `first` at the start."""
    return tf.concat([[first], x[:-1]], axis=0)


def _every_other(chosen: tf.Tensor) -> tf.Tensor:
    """Of each run of True the first, third, ... element: "aaaaa" is merged to (aa)(aa)a, from the left."""
    is_start = chosen & ~_left(chosen, False)
    starts = tf.concat([[0], tf.cast(tf.where(is_start)[:, 0], tf.int32)], axis=0)
    start = tf.gather(starts, tf.cumsum(tf.cast(is_start, tf.int32)))
    return chosen & tf.equal((tf.range(tf.size(chosen)) - start) % 2, 0)
