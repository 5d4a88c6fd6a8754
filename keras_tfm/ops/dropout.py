"""Dropout of attention weights that any part of the weights can be asked for again."""

from typing import Any, NamedTuple

from keras import ops


class AttentionDropout(NamedTuple):
    """Which attention weights are dropped is a function of (seed, row, head, query, key).

    So tiles computed on their own, in any order and again in the backward pass, drop the same weights as the whole
    matrix does. rate: float in [0, 1). seed: a pair of integers, drawn anew for each step.
    """

    rate: float
    seed: Any

    def __call__(self, weights, first_query=0, first_key=0):
        """Drops weights and scales the others by 1 / (1 - rate).

        Args:
            weights: float (B, N, T, S), a tile of the matrix.
            first_query, first_key: int, which query and key the tile starts with.

        Returns:
            float (B, N, T, S).
        """
        batch, num_heads, num_queries, num_keys = ops.shape(weights)
        seed = ops.cast(self.seed, "int32")
        row = _mix(ops.arange(batch, dtype="int32") + seed[0])[:, None, None, None]
        head = _mix(row + ops.arange(num_heads, dtype="int32")[None, :, None, None])
        query = _mix(head + first_query + ops.arange(num_queries, dtype="int32")[None, None, :, None])  # (B, N, T, 1)
        key = _mix(_mix(ops.arange(num_keys, dtype="int32") + first_key) + seed[1])  # (S,)
        # Both are well mixed, so that a few steps, the only ones at full size, make independent bits of their sum.
        bits = (query + key) * _ODD_1
        bits = ops.bitwise_xor(bits, ops.right_shift(bits, 15)) * _ODD_2
        threshold = round(self.rate * 2**32) - 2**31
        return ops.where(bits >= threshold, weights / (1 - self.rate), ops.zeros_like(weights))


_ODD_1, _ODD_2 = 0x7FEB352D, 0x846CA68B - 2**32  # as int32


def _mix(x):
    """int32 -> int32, each input bit changes half of the output bits; multiplications wrap.

    Reference: https://nullprogram.com/blog/2018/07/31/ ("lowbias32", here with shifts that keep the sign).
    """
    x = ops.bitwise_xor(x, ops.right_shift(x, 16)) * _ODD_1
    x = ops.bitwise_xor(x, ops.right_shift(x, 15)) * _ODD_2
    return ops.bitwise_xor(x, ops.right_shift(x, 16))
