"""Positions as data: one int32 tensor (B, T), -1 = padding, what position schemes make of it, and who sees whom."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_tfm.ops.tensors import batch_size, size
from keras_tfm.types import Tensor


def next_positions(mask: Tensor, num_tokens: Tensor | None = None, document_ids: Tensor | None = None) -> Tensor:
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


def last_real(x: Tensor, mask: Tensor) -> Tensor:
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


def refuse_float_mask(mask: Tensor, name: str) -> None:
    """Raises a TypeError for a float mask.

    It is ambiguous: some libraries add it to the scores, others cast it to bool, which inverts an additive mask
    without a word.
    """
    dtype = backend.standardize_dtype(mask.dtype) if hasattr(mask, "dtype") else ""
    if "float" in dtype:
        raise TypeError(
            f"`{name}` must be boolean, True where a token is real or may be looked at. Received: dtype={dtype}, "
            f"shape={tuple(mask.shape)}. Pass `{name}.astype(bool)`; numbers to add to scores go to `attention_bias`."
        )


def check_mask(mask: Tensor, name: str, allowed_ranks: tuple[int, ...]) -> Tensor:
    """Returns `mask` as a boolean tensor; refuses float masks and other ranks."""
    mask = ops.convert_to_tensor(mask)
    refuse_float_mask(mask, name)
    if len(mask.shape) not in allowed_ranks:
        ranks = " or ".join(str(rank) for rank in allowed_ranks)
        raise ValueError(f"`{name}` must have rank {ranks}. Received: shape={tuple(mask.shape)}.")
    return ops.cast(mask, "bool")


def padding_mask(mask: Tensor, batch_and_length: tuple, name: str = "mask") -> Tensor:
    """Checks a padding mask against the (B, T) that it masks.

    Args:
        mask: bool or int (B, T), True = a real token.
        batch_and_length: the expected shape (B, T); None where a size is unknown.
        name: the argument's name, for the error.

    Returns:
        bool (B, T).

    Raises:
        TypeError: for a float mask. ValueError: for another rank or shape.
    """
    mask = check_mask(mask, name, allowed_ranks=(2,))
    _check_sizes(mask.shape, batch_and_length, name)
    return mask


def attention_mask(
    query_positions: Tensor,
    key_positions: Tensor,
    causal: bool = False,
    window: int | None = None,
    mask: Tensor | None = None,
    query_documents: Tensor | None = None,
    key_documents: Tensor | None = None,
) -> Tensor:
    """Which query may look at which key, decided by positions and documents alone.

    A key is visible to a query if both are real (position >= 0), if it is not in the query's future (with `causal`),
    if it is near enough (with `window`), if it belongs to the same document, and if the caller's own `mask` allows it.
    As positions travel with cached keys, the same rule serves training, chunked prefill and decoding.

    Args:
        query_positions: int32 (B, T), -1 = padding.
        key_positions: int32 (B, S), -1 = padding or an empty cache slot.
        causal: hide keys whose position is greater than the query's.
        window: hide keys `window` or more positions away (a query always sees itself).
        mask: bool (B, T, S) or (B, N, T, S): a further restriction, True = may look.
        query_documents, key_documents: int32 (B, T) and (B, S): a query sees keys of its own document only.

    Returns:
        bool (B, 1, T, S), or (B, N, T, S) if `mask` has a heads axis.

    Example:
        >>> positions = np.array([[0, 1, 2]])
        >>> attention_mask(positions, positions, causal=True)[0, 0]
        [[True, False, False], [True, True, False], [True, True, True]]
    """
    return Visibility(query_positions, key_positions, causal, window, mask, query_documents, key_documents).matrix()


class Visibility(NamedTuple):
    """`attention_mask` not yet computed: a rule that attention can also ask about one tile of queries and keys.

    The fields are the arguments of `attention_mask`; `checked` has checked the mask, and given it four axes.
    """

    query_positions: Any
    key_positions: Any
    causal: bool = False
    window: int | None = None
    mask: Any = None
    query_documents: Any = None
    key_documents: Any = None

    def checked(self) -> "Visibility":
        """The rule with `mask` (B, 1 or N, T, S); raises for one that is float or of another rank or shape."""
        if self.mask is None:
            return self
        mask = check_mask(self.mask, "attention_mask", allowed_ranks=(3, 4))
        _check_sizes(
            (mask.shape[0], *mask.shape[-2:]),
            (self.query_positions.shape[0], self.query_positions.shape[1], self.key_positions.shape[1]),
            "attention_mask",
        )
        return self._replace(mask=ops.expand_dims(mask, 1) if len(mask.shape) == 3 else mask)

    def matrix(self) -> Tensor:
        """bool (B, 1 or N, T, S)."""
        self = self.checked()
        query = ops.expand_dims(self.query_positions, -1)  # (B, T, 1)
        key = ops.expand_dims(self.key_positions, -2)  # (B, 1, S)
        visible = ops.logical_and(query >= 0, key >= 0)  # (B, T, S)
        if self.causal:
            visible = ops.logical_and(visible, key <= query)
        if self.window is not None:
            visible = ops.logical_and(visible, query - key < self.window)
            if not self.causal:
                visible = ops.logical_and(visible, key - query < self.window)
        if self.query_documents is not None:
            same = ops.expand_dims(self.query_documents, -1) == ops.expand_dims(self.key_documents, -2)
            visible = ops.logical_and(visible, same)
        visible = ops.expand_dims(visible, 1)
        return visible if self.mask is None else ops.logical_and(visible, self.mask)


def _check_sizes(received: tuple, expected: tuple, name: str) -> None:
    """Raises unless the known sizes agree; 1 broadcasts over the batch."""
    received, expected = tuple(received), tuple(expected)
    for axis, (have, want) in enumerate(zip(received, expected, strict=True)):
        broadcast = axis == 0 and have == 1
        if have is not None and want is not None and have != want and not broadcast:
            raise ValueError(
                f"`{name}` must have the sizes {expected} (batch first). Received: {received}. A padding mask over "
                "keys goes to `mask`, (B, T); `attention_mask` says for each query which keys it may see, (B, T, S)."
            )


def rotary_inverse_frequencies(dim: int, max_wavelength: float = 10_000.0) -> np.ndarray:
    """1 / max_wavelength^(2i / dim) for i = 0 .. dim/2 - 1: the angle by which each pair turns per position.

    Args:
        dim: number of rotated features, even.
        max_wavelength: the rotary base, `rope_theta` elsewhere.

    Returns:
        float32 (dim / 2,).
    """
    return (1.0 / max_wavelength ** (np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


def apply_rotary(
    x: Tensor, positions: Tensor, inverse_frequencies: Tensor, interleaved: bool = False, factor: float = 1.0
) -> Tensor:
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


def sinusoidal_encoding(
    positions: Tensor, dim: int, max_wavelength: float = 10_000.0, interleaved: bool = True
) -> Tensor:
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


def relative_position_buckets(
    relative_positions: Tensor, num_buckets: int, max_distance: int, bidirectional: bool
) -> Tensor:
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
