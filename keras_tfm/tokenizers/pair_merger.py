"""The merging of pairs of symbols, for many words at once, in the graph."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_NEVER = np.iinfo(np.int32).max  # the rank of a merge that does not exist


class PairMerger(tf.Module):
    """Merges the symbols of words into tokens by byte pair encoding.

    The textbook merges one pair at a time: that of the lowest rank in the word, the leftmost of several. Here every
    iteration merges all pairs that are bound to be merged in that order anyway, in all words, so that a word of a
    megabyte takes some ten iterations. What is bound to be merged follows from two numbers for neighbours (a, b):
    `rank`, of the merge of a and b, and `crossing`, the lowest rank of any merge across the boundary between a and b,
    whatever tokens the two may have grown into by then. A pair may be merged right away

    - if it is the leftmost of those of the lowest rank in its word, as in the textbook; or
    - if the crossing on its left is higher than its rank, and the one on its right not lower, or no other pair of its
      word has a lower rank. Until its turn comes, nothing can take a or b away; and what happens around it stays the
      same, since the token that it makes takes part only in merges of higher rank: a lower one would be the crossing
      on its left or right; or
    - if it is the third, fifth, ... of a run of pairs of the same rank, such as "aaaaaa", of which the first may be
      merged and no lower merge crosses. This needs a rank to belong to one product: a run is taken from the left, and
      what is merged in it is then merged no further at that rank.

    Args:
        merges: (left id, right id, merged id), in order of rank unless `ranks` tells.
        vocabulary_size: int, greater than all ids.
        ranks: the rank of each merge. Several merges may have the same one; then the leftmost in a word counts.

    Call arguments:
        symbols: RaggedTensor of int32 (W, symbols), the ids that words begin with; best without duplicates. -1 is a
            symbol that nothing merges with.

    Returns:
        Two RaggedTensors of int32 (W, tokens): ids, and the symbol at which each begins, counted over all words.

    Reference:
        Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2,
        https://arxiv.org/abs/1508.07909
    """

    def __init__(
        self,
        merges: Sequence[tuple[int, int, int]],
        vocabulary_size: int,
        ranks: Sequence[int] | np.ndarray | None = None,
    ):
        super().__init__(name="pair_merger")
        self._vocabulary_size = vocabulary_size
        left, right, product = np.array(merges, np.int64).reshape(-1, 3).T
        ranks = np.arange(len(left)) if ranks is None else np.array(ranks, np.int64).reshape(-1)
        products = np.sort(ranks * vocabulary_size + product)
        self._one_product_a_rank = bool(_is_new(products).sum() == _is_new(products // vocabulary_size).sum())
        keys, crossings = _crossings(left, right, product, ranks, vocabulary_size)
        # Row 0 stands for neighbours that no merge joins, now or later.
        rows = np.zeros((3, len(keys) + 1), np.int32)
        rows[:2] = _NEVER
        rows[1, 1:] = crossings
        own = np.searchsorted(keys, left * vocabulary_size + right) + 1
        rows[0, own], rows[2, own] = ranks, product
        with tf.init_scope(), tf.device("CPU:0"):
            self._rows = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    np.concatenate([[-1], keys]), np.arange(len(keys) + 1, dtype=np.int32)
                ),
                default_value=0,
            )
            self._ranks, self._crossings, self._products = map(tf.constant, rows)

    def __call__(self, symbols: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        tokens, lengths = symbols.values, symbols.row_lengths()
        ends = tf.boolean_mask(symbols.row_limits(), lengths > 0)
        is_closed = tf.scatter_nd(ends[:, None] - 1, tf.ones_like(ends), tf.shape(tokens, tf.int64)) > 0
        # Tokens still to be merged; whether the boundary after each is closed to all merges; and the symbol that each
        # begins with. Last, for all symbols: the id of the final token that begins there, or -2.
        state = (tokens, is_closed, tf.range(tf.size(tokens)), tf.fill(tf.shape(tokens), -2))
        *_, final = tf.while_loop(
            lambda tokens, *_: tf.size(tokens) > 0,
            self._merge_once,
            state,
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        is_token = final > -2
        tokens_before = tf.concat([[0], tf.cumsum(tf.cast(is_token, tf.int64))], axis=0)
        row_splits = tf.gather(tokens_before, symbols.row_splits)
        begins = tf.cast(tf.where(is_token)[:, 0], tf.int32)
        values = tf.gather(final, begins), begins
        return tuple(tf.RaggedTensor.from_row_splits(value, row_splits, validate=False) for value in values)

    def _merge_once(self, tokens, is_closed, begins, final):
        """One iteration: merges what may be merged, then takes out the tokens that can no longer change."""
        right = _right(tokens, 0)
        pairs = tf.cast(tokens, tf.int64) * self._vocabulary_size + tf.cast(right, tf.int64)
        is_closed |= (tokens < 0) | (right < 0)
        row = self._rows.lookup(tf.where(is_closed, tf.constant(-1, tf.int64), pairs))
        rank, crossing = tf.gather(self._ranks, row), tf.gather(self._crossings, row)
        # Closed boundaries divide a word into stretches that know nothing of each other. A stretch without any merge
        # at hand is final, though merges might cross it after others that are not at hand.
        is_closed = tf.equal(crossing, _NEVER)
        stretch = tf.cumsum(tf.cast(is_closed, tf.int32), exclusive=True)
        is_lowest = tf.equal(rank, tf.gather(tf.math.segment_min(rank, stretch), stretch))
        is_closed |= is_lowest & tf.equal(rank, _NEVER)
        chosen = self._chosen(rank, crossing, is_lowest & (rank < _NEVER), stretch)

        tokens = tf.where(chosen, tf.gather(self._products, row), tokens)
        is_alive = ~_left(chosen, False)
        is_final = _left(is_closed, True) & is_closed & ~chosen
        is_closed = tf.where(chosen, _right(is_closed, True), is_closed)
        done = tf.where(is_alive & is_final)[:, 0]
        final = tf.tensor_scatter_nd_update(final, tf.gather(begins, done)[:, None], tf.gather(tokens, done))
        kept = tf.where(is_alive & ~is_final)[:, 0]
        return tf.gather(tokens, kept), tf.gather(is_closed, kept), tf.gather(begins, kept), final

    def _chosen(self, rank, crossing, is_lowest, stretch):
        """bool, for each pair of a token and its right neighbour: whether it is merged now."""
        place = tf.range(tf.size(rank))
        first = tf.math.segment_min(tf.where(is_lowest, place, _NEVER), stretch)  # of the lowest of each stretch
        is_open_right = (rank < _NEVER) & (is_lowest | (rank <= _right(crossing, _NEVER)))
        chosen = (is_open_right & (rank < _left(crossing, _NEVER))) | tf.equal(tf.gather(first, stretch), place)
        if not self._one_product_a_rank:
            return chosen
        # Runs: of pairs that follow one of the same rank with no lower merge across the latter's right end.
        is_uncrossed = (rank < _NEVER) & (rank <= _right(crossing, _NEVER))
        goes_on = is_open_right & _left(is_uncrossed, False) & tf.equal(rank, _left(rank, _NEVER))
        start = tf.gather(tf.concat([[0], tf.where(~goes_on)[:, 0]], axis=0), tf.cumsum(tf.cast(~goes_on, tf.int32)))
        start = tf.cast(start, tf.int32)
        return tf.gather(chosen, start) & tf.equal((place - start) % 2, 0)


class ByteMerger(tf.Module):
    """Turns words into token ids by byte pair encoding on their bytes.

    Args:
        byte_ids: the token ids of the 256 bytes; -1 for those that are left out of words.
        merges, vocabulary_size: those of `PairMerger`.

    Call arguments:
        words: string (W,), any bytes; best without duplicates.

    Returns:
        RaggedTensor of int32 (W, tokens).
    """

    def __init__(self, byte_ids: Sequence[int], merges: Sequence[tuple[int, int, int]], vocabulary_size: int):
        super().__init__(name="byte_merger")
        self._merge = PairMerger(merges, vocabulary_size)
        self._drops_bytes = min(byte_ids) < 0
        with tf.init_scope(), tf.device("CPU:0"):
            self._byte_ids = tf.constant(byte_ids, tf.int32)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        text = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        lengths = tf.strings.length(words)  # in bytes
        symbols = tf.RaggedTensor.from_row_lengths(
            tf.gather(self._byte_ids, tf.cast(text, tf.int32)), tf.cast(lengths, tf.int64), validate=False
        )
        if self._drops_bytes:
            symbols = tf.ragged.boolean_mask(symbols, symbols >= 0)
        tokens, _ = self._merge(symbols)
        return tokens


def _crossings(left, right, product, ranks, vocabulary_size) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of neighbours that a merge may ever join, sorted: left * vocabulary_size + right, the lowest rank.

    The merge of X and Y joins a and b if X may have grown from a, at its end, and Y from b, at its beginning.
    """
    if not len(left):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tails = _Grown(right, product, vocabulary_size)
    heads = _Grown(left, product, vocabulary_size)
    num_tails, num_heads = tails.counts(left), heads.counts(right)
    merge, place = _repeated(num_tails * num_heads)
    a = tails.of(left[merge], place // num_heads[merge])
    b = heads.of(right[merge], place % num_heads[merge])
    num_ranks = ranks.max() + 1
    pairs = np.sort((a * vocabulary_size + b) * num_ranks + ranks[merge])
    lowest = pairs[_is_new(pairs // num_ranks)]
    return lowest // num_ranks, lowest % num_ranks


def _is_new(values: np.ndarray) -> np.ndarray:
    """bool, for each of sorted values, whether it is the first of its kind."""
    return np.concatenate([np.ones_like(values[:1], bool), values[1:] != values[:-1]])


def _repeated(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each element, as often as its count says, and 0, 1, ... for those of the same element."""
    element = np.repeat(np.arange(len(counts)), counts)
    return element, np.arange(len(element)) - np.repeat(np.cumsum(counts) - counts, counts)


class _Grown:
    """Which tokens each token may have grown from, itself among them, at one of its ends.

    Args:
        parts: the parts at that end of the merges' products.
        products: the products.
        vocabulary_size: int.
    """

    def __init__(self, parts: np.ndarray, products: np.ndarray, vocabulary_size: int):
        itself = np.arange(vocabulary_size)
        direct = np.sort(products * vocabulary_size + parts)
        found, new = [itself * vocabulary_size + itself], direct
        by_product = np.searchsorted(direct // vocabulary_size, np.arange(vocabulary_size + 1))
        while new.size:  # as often as tokens have grown
            new = np.sort(new)
            new = new[_is_new(new)]
            for known in found:
                new = new[known[np.minimum(np.searchsorted(known, new), len(known) - 1)] != new]
            found.append(new)
            whole, part = new // vocabulary_size, new % vocabulary_size
            row, place = _repeated(by_product[part + 1] - by_product[part])
            new = whole[row] * vocabulary_size + direct[by_product[part[row]] + place] % vocabulary_size
        pairs = np.sort(np.concatenate(found))
        self._grown = pairs % vocabulary_size
        self._splits = np.searchsorted(pairs // vocabulary_size, np.arange(vocabulary_size + 1))

    def counts(self, tokens: np.ndarray) -> np.ndarray:
        """How many each of the tokens may have grown from."""
        return self._splits[tokens + 1] - self._splits[tokens]

    def of(self, tokens: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Of each of the tokens the one of this number."""
        return self._grown[self._splits[tokens] + numbers]


def _right(x: tf.Tensor, last) -> tf.Tensor:
    """For each element its neighbour to the right; `last` at the end."""
    return tf.concat([x[1:], [last]], axis=0)


def _left(x: tf.Tensor, first) -> tf.Tensor:
    """For each element its neighbour to the left; `first` at the start."""
    return tf.concat([[first], x[:-1]], axis=0)
