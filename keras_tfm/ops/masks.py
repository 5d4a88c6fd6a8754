"""Who may look at whom, as boolean tensors made from positions. True = may look."""

from keras import backend, ops


def refuse_float_mask(mask, name: str) -> None:
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


def check_mask(mask, name: str, allowed_ranks: tuple[int, ...]):
    """Returns `mask` as a boolean tensor; refuses float masks and other ranks."""
    mask = ops.convert_to_tensor(mask)
    refuse_float_mask(mask, name)
    if len(mask.shape) not in allowed_ranks:
        ranks = " or ".join(str(rank) for rank in allowed_ranks)
        raise ValueError(f"`{name}` must have rank {ranks}. Received: shape={tuple(mask.shape)}.")
    return ops.cast(mask, "bool")


def padding_mask(mask, batch_and_length: tuple, name: str = "mask"):
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


def attention_mask(query_positions, key_positions, causal: bool = False, window: int | None = None, mask=None):
    """Which query may look at which key, decided by positions alone.

    A key is visible to a query if both are real (position >= 0), if it is not in the query's future (with `causal`),
    if it is near enough (with `window`), and if the caller's own `mask` allows it. As positions travel with cached
    keys, the same rule serves training, chunked prefill and decoding.

    Args:
        query_positions: int32 (B, T), -1 = padding.
        key_positions: int32 (B, S), -1 = padding or an empty cache slot.
        causal: hide keys whose position is greater than the query's.
        window: hide keys `window` or more positions away (a query always sees itself).
        mask: bool (B, T, S) or (B, N, T, S): a further restriction, True = may look.

    Returns:
        bool (B, 1, T, S), or (B, N, T, S) if `mask` has a heads axis.

    Example:
        >>> positions = np.array([[0, 1, 2]])
        >>> attention_mask(positions, positions, causal=True)[0, 0]
        [[True, False, False], [True, True, False], [True, True, True]]
    """
    query = ops.expand_dims(query_positions, -1)  # (B, T, 1)
    key = ops.expand_dims(key_positions, -2)  # (B, 1, S)
    visible = ops.logical_and(query >= 0, key >= 0)  # (B, T, S)
    if causal:
        visible = ops.logical_and(visible, key <= query)
    if window is not None:
        visible = ops.logical_and(visible, query - key < window)
        if not causal:
            visible = ops.logical_and(visible, key - query < window)
    visible = ops.expand_dims(visible, 1)
    if mask is None:
        return visible
    mask = check_mask(mask, "attention_mask", allowed_ranks=(3, 4))
    _check_sizes(
        (mask.shape[0], *mask.shape[-2:]),
        (query_positions.shape[0], query_positions.shape[1], key_positions.shape[1]),
        "attention_mask",
    )
    if len(mask.shape) == 3:
        mask = ops.expand_dims(mask, 1)
    return ops.logical_and(visible, mask)


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
