"""GPT-2's alphabet: one printable character for each byte, so that tokens of any bytes can be written as text."""

# Bytes that print well in Latin-1 stand for themselves; the others get the characters from U+0100 on, in order.
_PRINTABLE = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_SYMBOLS: tuple[str, ...] = tuple(
    chr(byte) if byte in _PRINTABLE else chr(256 + _OTHERS.index(byte)) for byte in range(256)
)
"""The character of each byte; `BYTE_SYMBOLS[32]` is "Ġ"."""

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
