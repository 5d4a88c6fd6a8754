"""What a vocabulary may be: tokens with ids, special tokens, GPT-2's byte alphabet, tokenizer.json."""

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

# Bytes that print well in Latin-1 stand for themselves; the others get the characters from U+0100 on, in order.
_PRINTABLE = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_SYMBOLS: tuple[str, ...] = tuple(
    chr(byte) if byte in _PRINTABLE else chr(256 + _OTHERS.index(byte)) for byte in range(256)
)
"""GPT-2's alphabet: the printable character of each byte, to write tokens of any bytes; `BYTE_SYMBOLS[32]` is "Ġ"."""

_SYMBOL_BYTES = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}


def symbols_to_bytes(token: str) -> bytes:
    """The bytes that a token stands for.

    Args:
        token: str, written in the byte alphabet ("Ġthe"). A token with any other character stands for its own UTF-8.

    Returns:
        bytes (b" the").
    """
    try:
        return bytes([_SYMBOL_BYTES[symbol] for symbol in token])
    except KeyError:
        return token.encode()


def check_encodable(text: str) -> None:
    """Raises ValueError if the text holds an unpaired surrogate, which no UTF-8 stands for."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"A text must not hold unpaired surrogates. Received: {text[error.start]!r} at position {error.start}. "
            'Replace them with `text.encode("utf-8", "replace").decode()`.'
        ) from error


def as_strings(name: str, strings: Iterable[str]) -> tuple[str, ...]:
    """Several strings as a tuple; a single one is refused, since its letters would be taken for them.

    Raises:
        TypeError, ValueError: that name the argument, if these are not several strings that UTF-8 can encode.
    """
    if isinstance(strings, str | bytes) or not isinstance(strings, Iterable):
        raise TypeError(
            f"`{name}` must be a sequence of strings. Received: {strings!r}."
            + (" Put it in a list." if isinstance(strings, str) else "")
        )
    strings = tuple(strings)
    for string in strings:
        if not isinstance(string, str):
            raise TypeError(f"`{name}` must be strings. Received: {string!r}.")
        check_encodable(string)
    return strings


def tokens_of(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """The token of each id, of a dict from token to id.

    Raises:
        TypeError: if it is no dict from strings to integers.
        ValueError: if the ids are not 0, 1, ..., V - 1, or UTF-8 cannot encode a token.
    """
    if not isinstance(vocabulary, Mapping):
        raise TypeError(
            "`vocabulary` must be a dict from token to id. "
            f"Received: {str(vocabulary)[:60]} of type {type(vocabulary).__name__}. Read a file with `from_file`."
        )
    for token, token_id in vocabulary.items():
        if not isinstance(token, str) or not isinstance(token_id, int):
            raise TypeError(f"`vocabulary` must map strings to ints. Received: {token!r}: {token_id!r}.")
        check_encodable(token)
    size = len(vocabulary)
    if wrong := set(range(size)) ^ set(vocabulary.values()):
        raise ValueError(
            f"The ids of `vocabulary` must be 0, 1, ..., {size - 1}, each once. Received: {size} tokens; "
            f"missing or not in that range: {sorted(wrong)[:5]}."
        )
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))


def id_table(ids: Mapping[Any, int], default: int = -1) -> tf.lookup.StaticHashTable:
    """A table in the graph from strings to ids, on the CPU; `default` for all others."""
    ids = ids or {b"\xff": default}  # a table must not be empty; no text in UTF-8 holds this
    with tf.init_scope(), tf.device("CPU:0"):
        entries = tf.lookup.KeyValueTensorInitializer(list(ids), list(ids.values()), tf.string, tf.int32)
        return tf.lookup.StaticHashTable(entries, default)


def parts_of(document: Any) -> tuple[dict[str, Any], dict[str, int], list[dict[str, Any]]]:
    """What every tokenizer.json has: the model, a copy of its vocabulary, and the added tokens in order of their ids.

    Raises:
        ValueError: if one of them, or a part that may be null, is not of the type that it must be.
    """
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise ValueError(f"A tokenizer.json must hold an object with a `model`. Received: {str(document)[:60]}.")
    for field in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(document.get(field), dict | None):
            raise ValueError(f"`{field}` of a tokenizer.json must be an object. Received: {str(document[field])[:60]}.")
    vocabulary, added_tokens = document["model"].get("vocab"), document.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not all(map(_is_id, vocabulary.values())):
        raise ValueError(
            f"`model.vocab` of a tokenizer.json must map tokens to integers. Received: {str(vocabulary)[:60]}."
        )
    if not isinstance(added_tokens, list) or not all(
        isinstance(added, dict) and isinstance(added.get("content"), str) and _is_id(added.get("id"))
        for added in added_tokens
    ):
        raise ValueError(
            "`added_tokens` of a tokenizer.json must be a list of objects with `id` and `content`. "
            f"Received: {str(added_tokens)[:60]}."
        )
    return document["model"], dict(vocabulary), sorted(added_tokens, key=lambda added: added["id"])


def single_part(part: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The part itself, or the only one of a Sequence; None for a Sequence of none.

    Args:
        part: a normalizer, pre-tokenizer or decoder of a tokenizer.json, or None.
        name: under which a Sequence has its parts, such as "normalizers".
    """
    while part is not None and part.get("type") == "Sequence" and isinstance(part.get(name), list):
        if len(part[name]) > 1 or not all(isinstance(one, dict) for one in part[name]):
            break
        part = next(iter(part[name]), None)
    return part


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
