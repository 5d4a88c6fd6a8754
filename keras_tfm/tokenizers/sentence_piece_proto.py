"""Files of SentencePiece (tokenizer.model, spiece.model): a protocol buffer, read and written."""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # kinds of pieces; llama.cpp has the same numbers
UNIGRAM, BYTE_PAIR = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # what a number on the wire says of the field's size


class Piece(NamedTuple):
    """An entry of the vocabulary.

    Args:
        text: str, in which "▁" is a space.
        score: float; in BPE those of a higher one are merged first, in Unigram it is a logarithm of a probability.
        kind: `NORMAL`, `UNKNOWN`, `CONTROL`, `USER_DEFINED`, `UNUSED` or `BYTE`.
    """

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclasses.dataclass(frozen=True)
class ModelProto:
    """What a SentencePiece model says, with the names and defaults of its message `ModelProto`."""

    pieces: tuple[Piece, ...]
    model_type: int = UNIGRAM
    treat_whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    unk_surface: str = " \u2047 "
    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    denormalizer_charsmap: bytes = b""


# Message -> number of the field -> its name; sizes and flags of training are passed over.
_TRAINER = {
    3: "model_type",
    24: "treat_whitespace_as_suffix",
    35: "byte_fallback",
    40: "unk_id",
    41: "bos_id",
    42: "eos_id",
    43: "pad_id",
    44: "unk_surface",
}
_NORMALIZER = {
    2: "precompiled_charsmap",
    3: "add_dummy_prefix",
    4: "remove_extra_whitespaces",
    5: "escape_whitespaces",
}
_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC, _DENORMALIZER_SPEC = 1, 2, 3, 5


def read_proto(model: bytes) -> ModelProto:
    """Reads the content of a tokenizer.model.

    Args:
        model: bytes.

    Returns:
        ModelProto.

    Raises:
        ValueError: if this is no SentencePiece model.

    Reference:
        https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto;
        https://protobuf.dev/programming-guides/encoding
    """
    pieces: list[Piece] = []
    values: dict[str, Any] = {}
    try:
        for number, value in _fields(model):
            if number == _PIECES:
                pieces.append(_piece(value))
            elif number == _TRAINER_SPEC:
                values |= _values(value, _TRAINER)
            elif number == _NORMALIZER_SPEC:
                values |= _values(value, _NORMALIZER)
            elif number == _DENORMALIZER_SPEC:
                values["denormalizer_charsmap"] = _values(value, _NORMALIZER).get("precompiled_charsmap", b"")
        if not pieces:
            raise ValueError("no pieces")
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(
            f"`model` must be a SentencePiece model. Received: {len(model):,} bytes that are none ({error})."
        ) from error
    return ModelProto(tuple(pieces), **values)


def write_proto(proto: ModelProto) -> bytes:
    """The content of a tokenizer.model, which the library `sentencepiece` loads."""
    trainer = b"".join(_written(number, getattr(proto, name)) for number, name in _TRAINER.items())
    normalizer = b"".join(_written(number, getattr(proto, name)) for number, name in _NORMALIZER.items())
    parts = [
        _written(_PIECES, _written(1, piece.text) + _tag(2, _FIXED32) + struct.pack("<f", piece.score) + _kind(piece))
        for piece in proto.pieces
    ]
    parts += [_written(_TRAINER_SPEC, trainer), _written(_NORMALIZER_SPEC, normalizer)]
    if proto.denormalizer_charsmap:
        parts.append(_written(_DENORMALIZER_SPEC, _written(2, proto.denormalizer_charsmap)))
    return b"".join(parts)


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    score = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
    return Piece(fields[1].decode("utf-8"), score, fields.get(3, NORMAL))


def _values(message: bytes, names: dict[int, str]) -> dict[str, Any]:
    """The fields of a message that are named, as Python has them."""
    defaults = {field.name: field.default for field in dataclasses.fields(ModelProto)}
    values = {}
    for number, value in _fields(message):
        if (name := names.get(number)) is None:
            continue
        if isinstance(defaults[name], bool):
            value = bool(value)
        elif isinstance(defaults[name], int):
            value = (value + 2**31) % 2**32 - 2**31  # an int32; -1 is on the wire as 2**64 - 1
        elif isinstance(defaults[name], str):
            value = value.decode("utf-8")
        values[name] = value
    return values


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a message: an int, or bytes."""
    place = 0
    value: int | bytes
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
        else:
            if wire == _BYTES:
                size, place = _varint(message, place)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"a field of type {wire}")
            if number == 0 or place + size > len(message):
                raise ValueError("a field beyond the end")
            value = message[place : place + size]
            place += size
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _written(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _tag(number, _VARINT) + _as_varint(value % 2**64)
    value = value.encode("utf-8") if isinstance(value, str) else value
    return _tag(number, _BYTES) + _as_varint(len(value)) + value


def _kind(piece: Piece) -> bytes:
    return b"" if piece.kind == NORMAL else _written(3, piece.kind)


def _tag(number: int, wire: int) -> bytes:
    return _as_varint(number << 3 | wire)


def _as_varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
