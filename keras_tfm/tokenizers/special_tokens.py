"""Tokens that are found in a text before anything else."""

from collections.abc import Iterable

from keras_tfm.tokenizers.byte_alphabet import check_encodable


def check_special_tokens(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """The special tokens as a tuple.

    Raises:
        ValueError, TypeError: if one is empty, no string, or twice there.
    """
    if isinstance(special_tokens, str):
        raise TypeError(
            f"`special_tokens` must be a sequence of strings. Received: {special_tokens!r}. Put it in a list."
        )
    special_tokens = tuple(special_tokens)
    for token in special_tokens:
        if not isinstance(token, str):
            raise TypeError(f"`special_tokens` must be strings. Received: {token!r}.")
        check_encodable(token)
        if not token:
            raise ValueError(f"A special token must not be empty (it would be everywhere). Received: {token!r}.")
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"`special_tokens` must differ from each other. Received: {special_tokens}.")
    return special_tokens
