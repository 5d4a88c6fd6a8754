"""Who may look at whom, as boolean tensors made from positions. True = may look."""

from typing import Any, NamedTuple

from keras import backend, ops

from keras_tfm.types import Tensor


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
