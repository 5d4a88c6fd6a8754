"""GGUF files, as llama.cpp keeps models: the header, and the tensors, dequantized some rows at a time."""

import math
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_tfm.optional import required

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Types of numbers in a header -> how NumPy and struct call them.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST_ARRAY = 2**22  # the largest vocabularies have some 2**18 tokens
_MOST_AXES = 4
_AT_ONCE = 2**12  # numbers in a row that is dequantized: the package gguf takes 16 rows at a time
_LENGTH = struct.Struct("<Q")


class StoredTensor(NamedTuple):
    """Where a tensor lies in the file, and how."""

    shape: tuple[int, ...]
    kind: Any  # of gguf.GGMLQuantizationType
    offset: int
    row_bytes: int  # of a row, that is, along the last axis
    num_rows: int


class GgufFile:
    """The header of a .gguf file, and its tensors, dequantized some rows at a time.

    The file is read strictly: every count is compared with the file's size before anything is made of it, and tensors
    must follow each other without holes or overlaps, as llama.cpp asks.

    Args:
        path: the file.

    Attributes:
        header: dict from key to value.

    Raises:
        ImportError: without the package gguf, which dequantizes.
        ValueError: if it is no whole GGUF file.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        gguf = required("gguf", "checkpoints", "GGUF files")
        self._dequantize = gguf.quants.dequantize
        try:
            # The map is let go: its pages that were read count as memory of the process for as long as it is there.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                cursor = _Cursor(content)
                num_tensors, self.header = _read_header(cursor)
                self._tensors = _read_tensors(cursor, num_tensors, self.header, gguf)
        except ValueError as error:
            raise ValueError(f"{path} must be a whole GGUF file. Received one that gives: {error}.") from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def check_types(self, names: Iterable[str]) -> None:
        """Raises ValueError if one of these tensors is of a type that the package gguf cannot dequantize."""
        kinds = {self._tensors[name].kind: name for name in names}
        for name in kinds.values():
            try:
                self.rows(name, 0, 1)
            except NotImplementedError as error:
                raise ValueError(
                    "The tensors of a GGUF file must be of a type that the package gguf dequantizes. Received: "
                    f"{name!r}: {error}."
                ) from error

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of one tensor, float32."""
        tensor = self._tensors[name]
        if len(tensor.shape) < 2:
            return self._read(tensor, 0, 1).reshape(-1)[start:stop]
        inner = math.prod(tensor.shape[1:-1])  # rows of the file in a row along the first axis
        stop = min(stop, tensor.shape[0])
        return self._read(tensor, start * inner, stop * inner).reshape(stop - start, *tensor.shape[1:])

    def _read(self, tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
        offset = tensor.offset + start * tensor.row_bytes
        stored = np.fromfile(self.place, np.uint8, count=(stop - start) * tensor.row_bytes, offset=offset)
        # Rows are whole blocks, so several make one. Few long ones are dequantized twice as fast as many short ones.
        together = math.gcd(stop - start, 2 ** max(0, (_AT_ONCE // tensor.shape[-1]).bit_length() - 1))
        return self._dequantize(stored.reshape(-1, together * tensor.row_bytes), tensor.kind)


class _Cursor:
    """A place in a file that moves on as values are read, and not beyond the file's end.

    Args:
        content: the file.
    """

    def __init__(self, content: mmap.mmap):
        self.content, self.place = content, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes; ValueError if there are not so many."""
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            raise ValueError(f"{size:,} bytes at {start:,}, beyond its end")
        return self.content[start : self.place]

    def number(self, kind: str) -> Any:
        """The next number, of one of struct's types."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def string(self) -> str:
        """The next string: its length, then UTF-8."""
        return self.take(_LENGTH.unpack(self.take(8))[0]).decode()

    def value(self, kind: int) -> Any:
        """The next value, of one of GGUF's types."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        return self.number(_number(kind))

    def _array(self, kind: int, count: int) -> list:
        smallest = 8 if kind == _STRING else struct.calcsize(f"<{_number(kind)}")  # bytes of an item
        if count * smallest > len(self.content) - self.place or count > _LONGEST_ARRAY:
            raise ValueError(
                f"an array of {count:,} items at {self.place:,}: beyond its end, or more than {_LONGEST_ARRAY:,}"
            )
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        return np.frombuffer(self.take(count * smallest), f"<{_number(kind)}").tolist()


def _number(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"a value of type {kind}")
    return _NUMBERS[kind]


def _read_header(cursor: _Cursor) -> tuple[int, dict[str, Any]]:
    """The number of tensors, and the header."""
    if (magic := cursor.take(4)) != _MAGIC or (version := cursor.number("I")) not in _VERSIONS:
        raise ValueError(f"a beginning {magic!r}" if magic != _MAGIC else f"version {version}, not one of {_VERSIONS}")
    num_tensors, num_values = cursor.number("Q"), cursor.number("Q")
    header: dict[str, Any] = {}
    for _ in range(num_values):
        if (name := cursor.string()) in header:
            raise ValueError(f"the key {name!r} twice")
        header[name] = cursor.value(cursor.number("I"))
    return num_tensors, header


def _read_tensors(cursor: _Cursor, num_tensors: int, header: dict[str, Any], gguf) -> dict[str, StoredTensor]:
    alignment = header.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}, which is no power of two")
    tensors: dict[str, StoredTensor] = {}
    end = 0  # of the tensors so far, from where the first begins
    for _ in range(num_tensors):
        name, num_axes = cursor.string(), cursor.number("I")
        if name in tensors or num_axes > _MOST_AXES:
            raise ValueError(f"the tensor {name!r} twice, or of more than {_MOST_AXES} axes")
        # The file's own order of axes is the reverse. A tensor of no axes is a number.
        shape = tuple(cursor.number("Q") for _ in range(num_axes))[::-1] or (1,)
        kind, offset = gguf.GGMLQuantizationType(cursor.number("I")), cursor.number("Q")
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise ValueError(f"the shape {shape} of the {kind.name} tensor {name!r}, whose rows are no whole blocks")
        if offset != end:
            raise ValueError(f"the tensor {name!r} at {offset:,}, where the one before it ends at {end:,}")
        tensors[name] = StoredTensor(shape, kind, offset, shape[-1] // block * block_bytes, math.prod(shape[:-1]))
        end = _padded(offset + tensors[name].row_bytes * tensors[name].num_rows, alignment)
    start = _padded(cursor.place, alignment)
    for name, tensor in tensors.items():
        if start + tensor.offset + tensor.row_bytes * tensor.num_rows > len(cursor.content):
            raise ValueError(f"the tensor {name!r}, beyond its end")
    if tensors and len(cursor.content) > start + end:  # a type that is named too small, for example
        raise ValueError(f"{len(cursor.content) - start - end:,} bytes behind its last tensor, {name!r}")
    return {name: tensor._replace(offset=start + tensor.offset) for name, tensor in tensors.items()}


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
