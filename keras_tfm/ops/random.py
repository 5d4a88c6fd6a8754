"""Stateless random numbers: the same key and counter give the same bits, eagerly, compiled and in a SavedModel.

`keras.random` takes a Python integer or a variable as its seed. Generation needs a seed that is a tensor, and draws
that belong to (seed, row, step) rather than to the order in which they were made. Dropout of attention weights needs
the same of any tile of its matrix.
"""

from typing import Any, NamedTuple

from keras import backend, ops

from keras_tfm.types import Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA


def random_bits(key: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32 with 20 rounds: 64 random bits for each (key, counter).

    Args:
        key: a pair of uint32 tensors.
        counter: a pair of uint32 tensors. All four broadcast against each other.

    Returns:
        A pair of uint32 tensors.

    Reference:
        Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405
    """
    first, second = key
    third = ops.bitwise_xor(ops.bitwise_xor(first, second), _uint32(_KEY_PARITY))
    zero = ops.zeros_like(first + second + counter[0] + counter[1])  # has the shape that all broadcast to
    rotations = ops.convert_to_tensor(_ROTATIONS, dtype="uint32")

    def four_rounds(block, state):
        x, y, keys = state
        for i in range(4):
            x = _wrapped(x + y)
            y = ops.bitwise_xor(_rotate_left(y, rotations[block % 2, i]), x)
        keys = (keys[1], keys[2], keys[0])
        return _wrapped(x + keys[0]), _wrapped(y + keys[1] + ops.cast(block + 1, "uint32")), keys

    # A loop, not 20 rounds in a row: XLA takes minutes to compile those.
    x, y = _wrapped(zero + counter[0] + first), _wrapped(zero + counter[1] + second)
    x, y, _ = ops.fori_loop(0, 5, four_rounds, (x, y, (zero + first, zero + second, zero + third)))
    return x, y


def random_uniform(key: Tensor, counter: Tensor) -> Tensor:
    """Uniform float32 in the open interval (0, 1), one for each (key, counter); see `random_bits`.

    23 bits and half a step: neither 0 nor 1 can come out, so that log(u) and log(1 - u) are finite.
    """
    bits = ops.right_shift(random_bits(key, counter)[0], _uint32(9))
    return (ops.cast(ops.cast(bits, "int32"), "float32") + 0.5) * 2.0**-23


def _rotate_left(x, distance):
    return ops.bitwise_or(_wrapped(ops.left_shift(x, distance)), ops.right_shift(x, _uint32(32) - distance))


def _wrapped(x):
    """Modulo 2^32, also on torch, where Keras has int64 stand for uint32."""
    return x if backend.standardize_dtype(x.dtype) == "uint32" else ops.bitwise_and(x, 0xFFFFFFFF)


def _uint32(number: int):
    return ops.convert_to_tensor(number, dtype="uint32")


class AttentionDropout(NamedTuple):
    """Which attention weights are dropped is a function of (seed, row, head, query, key).

    So tiles computed on their own, in any order and again in the backward pass, drop the same weights as the whole
    matrix does. rate: float in [0, 1). seed: a pair of integers, drawn anew for each step.
    """

    rate: float
    seed: Any

    def __call__(self, weights: Tensor, first_query: int = 0, first_key: int = 0) -> Tensor:
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
