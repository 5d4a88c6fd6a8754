"""Positions as data: one int32 tensor (B, T), -1 = padding, and what the position schemes make of it."""

import math

import numpy as np
from keras import ops

from keras_tfm.ops.tensors import batch_size, size


def next_positions(mask, num_tokens=None, document_ids=None):
    """Positions of the real tokens of each row, after those already in the cache, starting anew for each document.

    Args:
        mask: bool (B, T), True = a real token. Padding may be on either side.
        num_tokens: int32 (B,), real tokens of each row that have been read before, or None.
        document_ids: int32 (B, T): where the number changes, another document begins, at position 0; or None.

    Returns:
        int32 (B, T): 0, 1, 2, ... over the real tokens of each row and document, -1 at padding.

    Example:
        >>> next_positions(np.array([[False, True, True]]))
        [[-1, 0, 1]]
    """
    # A sum over the mask, not `arange`: the length is unknown while a functional model is traced.
    count = ops.cumsum(ops.cast(mask, "int32"), axis=1)
    positions = count - 1
    if num_tokens is not None:
        positions = positions + ops.convert_to_tensor(num_tokens, "int32")[:, None]
    if document_ids is not None:
        positions = positions - _document_starts(count - ops.cast(mask, "int32"), document_ids)
    return ops.where(mask, positions, -1)


def last_real(x, mask):
    """The vector of each row's last real token: x (B, T, D) and mask bool (B, T) -> (B, 1, D)."""
    places = ops.arange(1, size(x, 1) + 1, dtype="int32")
    place = ops.cast(ops.argmax(ops.where(mask, places, 0), axis=1), "int32")  # (B,)
    return ops.take_along_axis(x, place[:, None, None], axis=1)


def _document_starts(num_before, document_ids):
    """int32 (B, T): how many real tokens of the row come before the token's document."""
    changes = document_ids[:, 1:] != document_ids[:, :-1]
    begins = ops.concatenate([ops.ones_like(document_ids[:, :1], dtype="bool"), changes], axis=1)
    # In order of appearance the starts only grow: sorted, the k-th is that of the k-th document.
    starts = ops.sort(ops.where(begins, num_before, 2**30), axis=1)
    return ops.take_along_axis(starts, ops.cumsum(ops.cast(begins, "int32"), axis=1) - 1, axis=1)


def rotary_inverse_frequencies(dim: int, max_wavelength: float = 10_000.0) -> np.ndarray:
    """1 / max_wavelength^(2i / dim) for i = 0 .. dim/2 - 1: the angle by which each pair turns per position.

    Args:
        dim: number of rotated features, even.
        max_wavelength: the rotary base, `rope_theta` elsewhere.

    Returns:
        float32 (dim / 2,).
    """
    return (1.0 / max_wavelength ** (np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


def apply_rotary(x, positions, inverse_frequencies, interleaved: bool = False, factor: float = 1.0):
    """Turns pairs of features by an angle proportional to the position.

    Args:
        x: float (B, N, T, H). The first 2 * len(inverse_frequencies) features turn, the rest pass.
        positions: int32 (B, T). Padding (-1) turns too; nobody looks at it.
        inverse_frequencies: float (R,) or (B, 1, 1, R), radians per position.
        interleaved: pairs are (0, 1), (2, 3), ... as in the paper and GPT-J; otherwise feature i goes with i + R as
            in GPT-NeoX, Llama and Hugging Face.
        factor: multiplies the features that turn.

    Returns:
        float (B, N, T, H), in the dtype of `x`.

    Reference:
        Su et al. 2021, "RoFormer", section 3.2, https://arxiv.org/abs/2104.09864
    """
    half = inverse_frequencies.shape[-1]
    # float32 whatever the dtype of x: bfloat16 cannot tell position 1,000 from 1,001.
    angles = ops.multiply(ops.cast(positions, "float32")[:, None, :, None], inverse_frequencies)  # (B, 1, T, R)
    cos, sin = ops.cast(ops.cos(angles) * factor, x.dtype), ops.cast(ops.sin(angles) * factor, x.dtype)
    turning, passing = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = turning[..., :half], turning[..., half:]
    first, second = first * cos - second * sin, second * cos + first * sin
    if interleaved:
        turned = ops.reshape(ops.stack([first, second], axis=-1), (batch_size(x), size(x, 1), size(x, 2), 2 * half))
    else:
        turned = ops.concatenate([first, second], axis=-1)
    return ops.concatenate([turned, passing], axis=-1) if passing.shape[-1] else turned


def sinusoidal_encoding(positions, dim: int, max_wavelength: float = 10_000.0, interleaved: bool = True):
    """sin and cos of the position at dim / 2 wavelengths; zeros at padding.

    Args:
        positions: int32 (B, T), -1 = padding.
        dim: number of features, even.
        max_wavelength: the longest wavelength, in units of 2 pi positions.
        interleaved: feature 2i is sin(position / max_wavelength^(2i/dim)) and 2i + 1 the cosine, as in the paper;
            otherwise all sines come first, then all cosines, as in tensor2tensor and Marian.

    Returns:
        float32 (B, T, dim).

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762
    """
    angles = ops.multiply(ops.cast(positions, "float32")[..., None], rotary_inverse_frequencies(dim, max_wavelength))
    waves = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1 if interleaved else -2)  # (B, T, dim/2, 2)
    waves = ops.reshape(waves, (batch_size(positions), size(positions, 1), dim))
    return ops.where((positions >= 0)[..., None], waves, 0.0)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The geometric sequence of head slopes: 2^(-8/N), 2^(-16/N), ... for N a power of two.

    For other N the sequence of the next lower power of two is filled up with every second slope of the next higher
    one, as in the authors' code.

    Args:
        num_heads: N.

    Returns:
        float32 (N,), all in (0, 1).

    Reference:
        Press et al. 2021, "Train Short, Test Long", section 3, https://arxiv.org/abs/2108.12409
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / lower) for i in range(num_heads - lower)]
    return np.array(slopes, "float32")


def relative_position_buckets(relative_positions, num_buckets: int, max_distance: int, bidirectional: bool):
    """T5's buckets: one for each small distance, logarithmically wider ones up to `max_distance`, one for the rest.

    Args:
        relative_positions: int32, any shape: key position - query position.
        num_buckets: how many buckets; half for each direction if bidirectional.
        max_distance: distances from here on share the last bucket.
        bidirectional: tell the future from the past; otherwise the future falls into bucket 0.

    Returns:
        int32 of the same shape, in [0, num_buckets).

    Reference:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1, https://arxiv.org/abs/1910.10683
    """
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = ops.where(relative_positions > 0, num_buckets, 0)
        distance = ops.abs(relative_positions)
    else:
        distance = ops.maximum(-relative_positions, 0)
    exact = num_buckets // 2
    # max(distance, 1): log(0) would be computed, though not used.
    ratio = ops.log(ops.cast(ops.maximum(distance, 1), "float32") / exact) / math.log(max_distance / exact)
    coarse = exact + ops.cast(ratio * (num_buckets - exact), "int32")
    return offset + ops.where(distance < exact, distance, ops.minimum(coarse, num_buckets - 1))
