"""Where streams of text come from: files in pieces that can be found again, and datasets of other libraries."""

import bz2
import contextlib
import copy
import glob
import gzip
import io
import itertools
import json
import logging
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keras_tfm.arguments import require
from keras_tfm.optional import required

PIECE = 2**20  # bytes of a file that are tokenized in one call
_ROWS = 256  # examples that are tokenized in one call
_LONGEST_LINE = 2**26  # bytes; a longer one is broken, so that memory has a bound
_ENDINGS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)  # ValueError: what pyarrow raises

logger = logging.getLogger("keras_tfm")


class Piece(NamedTuple):
    """Some documents that are read and tokenized together.

    Args:
        place: anything that JSON can hold; `pieces` given it begins with this piece.
        documents: reads them; those of somebody else's share are never read, where the file allows it.
        ends: bool, False if the last document goes on in the next piece.
    """

    place: Any
    documents: Callable[[], Iterable[str | bytes]]
    ends: bool = True


class Files:
    """Documents in files of text, of JSON lines or of parquet; see `stream` for the arguments."""

    def __init__(self, files: Any, column: str, form: str | None, document: str, on_error: str):
        self._fsspec = required("fsspec", "stream", "Streams of files")
        self._column = column
        self._form = form
        self._document = document
        self._on_error = on_error
        self._files = [found for file in _listed(files) for found in self._found(os.fspath(file))]
        if any(self._form_of(path) == "parquet" for _, path, _ in self._files):
            required("pyarrow.parquet", "stream", "Parquet files")

    @property
    def described(self) -> list:
        """The names and sizes of all files."""
        return [[path, size] for _, path, size in self._files]

    def pieces(self, epoch: int, place: Any, seed: int | None) -> Iterator[Piece]:
        """The pieces of all files from a place on, or all; files are in an order that (seed, epoch) decide."""
        order = np.arange(len(self._files))
        if seed is not None:
            order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(order)
        begin, first = place or (0, 0)
        for turn in range(begin, len(order)):
            system, path, size = self._files[order[turn]]
            read = self._parquet_pieces if self._form_of(path) == "parquet" else self._line_pieces
            pieces = read(system, path, size, first if turn == begin else 0)
            while True:
                try:
                    number, documents, ends = next(pieces)
                except StopIteration:
                    break
                except _UNREADABLE as error:
                    self._tell(f"The rest of {path}", error)
                    break
                yield Piece([turn, number], self._guarded(path, documents), ends)

    # --- which files -------------------------------------------------------------------------------------------------

    def _found(self, file: str) -> list[tuple[Any, str, int]]:
        """(file system, path, bytes) of each file that the name or the pattern means, sorted by name."""
        system, path = self._fsspec.core.url_to_fs(os.path.expanduser(file))
        if system.exists(path) and not system.isdir(path):
            paths = [path]
        elif glob.has_magic(path):
            paths = sorted(name for name in system.glob(path) if not system.isdir(name))
        else:
            paths = []
        if not paths:
            raise FileNotFoundError(f"`files` must name files that exist. Received: {file!r}.")
        return [(system, path, int(system.size(path))) for path in paths]

    def _form_of(self, path: str) -> str:
        inner = os.path.splitext(path)[0] if _is_compressed(path) else path
        return self._form or _ENDINGS.get(_ending(inner), "text")

    # --- lines -------------------------------------------------------------------------------------------------------

    def _line_pieces(self, system: Any, path: str, size: int, first: int) -> Iterator[tuple[int, Callable, bool]]:
        is_json = self._form_of(path) == "json"
        is_one_document = not is_json and self._document == "file"

        def documents_of(found: list[tuple[int, bytes]]) -> list[bytes | str]:
            parsed = [self._parsed(system, path, start, line, is_json) for start, line in found]
            texts = [text for text in parsed if text is not None]
            if is_one_document:
                return [b"".join(texts)]
            return [stripped for text in texts if (stripped := text if is_json else text.rstrip(b"\r\n"))]

        with _opened(system, path) as file:
            lines = _Lines(file)
            if not _is_compressed(path):
                count = -(-size // PIECE)
                for number in range(first, count):
                    last = number == count - 1
                    yield number, lambda number=number: documents_of(lines.of(number)), last or not is_one_document
            else:  # how many pieces there are is known when the file is read
                for number in itertools.count(first):
                    found = lines.of(number)
                    yield number, lambda found=found: documents_of(found), lines.at_end or not is_one_document
                    if lines.at_end:
                        return

    def _parsed(self, system: Any, path: str, start: int, line: bytes, is_json: bool) -> Any:
        """The text in a line; None if it is broken."""
        try:
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"a line must have at most {_LONGEST_LINE:,} bytes")
            if not is_json:
                line.decode("utf-8")
                return line
            return self._text_of(json.loads(line)) if line.strip() else ""
        except (ValueError, RecursionError) as error:
            self._tell(f"{path}, line {_line_number(system, path, start)}", error)
            return None

    def _text_of(self, example: Any) -> str:
        text = example.get(self._column) if isinstance(example, Mapping) else None
        if not isinstance(text, str):
            what = sorted(example) if isinstance(example, Mapping) else type(example).__name__
            kind = type(text).__name__
            raise ValueError(f'there must be a text in the field "{self._column}"; it is {kind}, in {what}')
        return text

    # --- parquet -----------------------------------------------------------------------------------------------------

    def _parquet_pieces(self, system: Any, path: str, size: int, first: int) -> Iterator[tuple[int, Callable, bool]]:
        """So many rows of a row group each: how many there are is known from the end of the file."""
        parquet = required("pyarrow.parquet", "stream", "Parquet files")
        with system.open(path, "rb") as opened, parquet.ParquetFile(opened) as file:
            columns = file.schema_arrow.names
            if self._column not in columns:
                raise ValueError(f'there must be a column "{self._column}" among {columns}')
            number = 0
            for group in range(file.metadata.num_row_groups):
                batches = _Batches(file, group, self._column)
                for batch in range(-(-file.metadata.row_group(group).num_rows // _ROWS)):
                    if number >= first:
                        yield number, partial(self._rows, batches, batch, f"{path}, row group {group}"), True
                    number += 1

    def _rows(self, batches: "_Batches", number: int, where: str) -> list[str]:
        texts = []
        for row, text in enumerate(batches.of(number), number * _ROWS):
            if isinstance(text, str):
                texts.append(text)
            else:
                self._tell(f"{where}, row {row}", ValueError(f"there must be a text; it is {type(text).__name__}"))
        return texts

    # --- what cannot be read -----------------------------------------------------------------------------------------

    def _guarded(self, path: str, documents: Callable[[], Iterable]) -> Callable[[], Iterable]:
        """Reads the documents, or tells that they cannot be read."""

        def read() -> Iterable:
            try:
                return documents()
            except _UNREADABLE as error:
                self._tell(f"The rest of {path}", error)
                return []

        return read

    def _tell(self, what: str, error: BaseException) -> None:
        if isinstance(error, BrokenText):
            raise error
        reason = str(error) or type(error).__name__
        if self._on_error == "raise":
            raise BrokenText(f'{what} cannot be read: {reason}. Mend it, or pass `on_error="skip"`.') from error
        logger.warning("%s is left out: %s.", what, reason)


class BrokenText(ValueError):
    """A file, or a line of one, that cannot be read."""


class Examples:
    """Documents in a dataset of another library; see `stream`.

    Anything with `len` and numbers will do, such as a list, a `datasets.Dataset` or a `grain.MapDataset`; so will what
    is iterated and has a state: a `datasets.IterableDataset`, a `grain.IterDataset`.
    """

    def __init__(self, dataset: Any, column: str):
        self._dataset = dataset
        self._column = column
        self._has_numbers = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self._has_state = hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")

    @property
    def described(self) -> list:
        """What is known without reading."""
        return [[type(self._dataset).__name__, len(self._dataset) if self._has_numbers else 0]]

    def pieces(self, epoch: int, place: Any, seed: int | None) -> Iterator[Piece]:
        """The pieces from a place on, or all, in the dataset's own order."""
        if self._has_numbers:
            for first in range(place or 0, len(self._dataset), _ROWS):
                last = min(first + _ROWS, len(self._dataset))
                yield Piece(first, partial(self._numbered, range(first, last)))
            return
        iterator, state = self._iterator(epoch, place)
        while True:
            place = copy.deepcopy(state())
            examples = list(itertools.islice(iterator, _ROWS))
            if not examples:
                return
            yield Piece(place, partial(self._texts, examples))

    def _iterator(self, epoch: int, place: Any) -> tuple[Iterator, Callable[[], Any]]:
        if self._has_state:
            # Another iteration must not move this one. Its dicts are left alone: one is a cache that copying fills.
            shared = {id(value): value for value in vars(self._dataset).values() if isinstance(value, dict)}
            dataset = copy.deepcopy(self._dataset, shared)
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
            if place is not None:
                dataset.load_state_dict(place)
            return iter(dataset), dataset.state_dict
        iterator: Any = iter(self._dataset)
        if not (hasattr(iterator, "get_state") and hasattr(iterator, "set_state")):
            raise TypeError(
                "`files` must be names of files, or a dataset with `len` and numbers or with a state (`state_dict`, or "
                f"an iterator with `get_state`). Received: {type(self._dataset).__name__}."
            )
        if place is not None:
            iterator.set_state(place)
        return iterator, iterator.get_state

    def _numbered(self, numbers: range) -> list[str | bytes]:
        return self._texts(self._dataset[number] for number in numbers)

    def _texts(self, examples: Iterable) -> list[str | bytes]:
        texts = [example[self._column] if isinstance(example, Mapping) else example for example in examples]
        for text in texts:
            require(
                isinstance(text, str | bytes),
                f'Each example must be a text, or have one in "{self._column}"',
                example=text,
            )
        return [text for text in texts if text]


def _listed(files: Any) -> list:
    return [files] if isinstance(files, str | os.PathLike) else list(files)


class _Lines:
    """The lines of a file, those that begin in one piece of it at a time; pieces come in order, and may be left out."""

    def __init__(self, file: Any):
        self._file = file
        self._next = 0  # the piece after the one that was read
        self._offset = 0  # where the file is read
        self._error: BaseException | None = None
        self.at_end = False

    def of(self, number: int) -> list[tuple[int, bytes]]:
        """(offset, line) of each line that begins among the bytes of this piece."""
        if self._error is not None:
            raise self._error
        if number != self._next:
            self._skip_to(number * PIECE - 1)
            self._line()  # the end of one that began before
        self._next = number + 1
        lines: list[tuple[int, bytes]] = []
        try:
            while self._offset < (number + 1) * PIECE:
                start, line = self._offset, self._line()
                if not line:
                    self.at_end = True
                    break
                lines.append((start, line))
        except _UNREADABLE as error:
            if not lines:
                raise
            self._error = error  # told after what could be read
        return lines

    def _line(self) -> bytes:
        """The next line, or so much of a longer one that it can be told to be longer."""
        line = part = self._file.readline(_LONGEST_LINE + 1)
        self._offset += len(part)
        while len(part) > _LONGEST_LINE and not part.endswith(b"\n"):
            part = self._file.readline(_LONGEST_LINE + 1)
            self._offset += len(part)
        return line

    def _skip_to(self, offset: int) -> None:
        if self._file.seekable():
            self._file.seek(offset)  # what is compressed is read up to there
            self._offset = offset
        while self._offset < offset and (read := self._file.read(min(offset - self._offset, PIECE))):
            self._offset += len(read)


class _Batches:
    """The rows of a row group, some at a time; batches come in order, and may be left out."""

    def __init__(self, file: Any, group: int, column: str):
        self._batches: Iterator | None = None
        self._open = lambda: file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
        self._next = 0

    def of(self, number: int) -> list:
        if self._batches is None:
            self._batches = self._open()
        for _ in range(self._next, number):
            next(self._batches)
        self._next = number + 1
        return next(self._batches).column(0).to_pylist()


@contextlib.contextmanager
def _opened(system: Any, path: str) -> Iterator[Any]:
    """The file's content as bytes, decompressed as its name says."""
    with system.open(path, "rb") as file:
        yield _DECOMPRESSED[_ending(path)](file) if _is_compressed(path) else file


def _is_compressed(path: str) -> bool:
    return _ending(path) in _DECOMPRESSED


def _ending(path: str) -> str:
    return os.path.splitext(path.lower())[1]


def _zstd(file: Any) -> io.BufferedReader:
    pyarrow = required("pyarrow", "stream", "Files compressed by zstd")
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), PIECE)


_DECOMPRESSED: Mapping[str, Callable] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstd,
}


def _line_number(system: Any, path: str, offset: int) -> int:
    """Which line begins there, from 1 on: counted when there is something to tell."""
    number = 1
    with _opened(system, path) as file:
        while offset > 0 and (read := file.read(min(offset, PIECE))):
            number += read.count(b"\n")
            offset -= len(read)
    return number
