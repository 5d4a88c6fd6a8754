"""Files of the package: JSON with a limit of its size, and what is written comes whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows, where what a killed process leaves behind stays
    fcntl = None

_LARGEST_JSON = 64 * 2**20  # bytes; the index of a model of 1,000 billion weights has some 10 MB, as large tokenizers


def local_path(path: str | os.PathLike) -> pathlib.Path:
    """A path that a caller gave; "~" is the home folder, as in a shell, which leaves a quoted one to the program."""
    return pathlib.Path(path).expanduser()


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is none, or unreasonably large.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} must have at most {_LARGEST_JSON:,} bytes. Received: {path.stat().st_size:,}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON in UTF-8. Received: {error}.") from error


def read_json_object(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: if it is no JSON, no object, or unreasonably large.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {str(content)[:60]}.")
    return content


@contextlib.contextmanager
def written_whole(path: str | os.PathLike, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Gives a place to write a file or a folder to, which takes its name when it is complete.

    Whoever looks at `path` sees nothing, or what was there before, until then; so it stays if the process is killed.
    What killed processes left beside it is deleted. Two that write to one path do not disturb each other: with
    `overwrite`, the last one wins, else the first.

    Args:
        path: where the file or folder is to be; folders above it are made.
        overwrite: bool, whether something may be there, to be replaced: a file in one step, of a folder's two states
            neither is there for a moment.

    Yields:
        A path of the same name that does not exist yet.

    Raises:
        FileExistsError: if `path` exists, before anything is written or, since another process wrote it, afterwards.

    Example:
        >>> with written_whole("my-model/config.json", overwrite=True) as unfinished:
        ...     unfinished.write_text("{}")
    """
    path = local_path(path)
    if not overwrite:
        check_is_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.unfinished."
    for leftover in path.parent.glob(f"{_literal(prefix)}*"):
        _delete_if_left_behind(leftover)
    folder, lock = _locked_folder(prefix, path.parent)
    try:
        unfinished = folder / path.name  # inside, since only its owner may read the temporary folder
        yield unfinished
        _give_usual_modes(unfinished, folder / ".mode")
        _put(unfinished, path, overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_is_free(path: str | os.PathLike) -> pathlib.Path:
    """The path; raises FileExistsError if there is something."""
    path = local_path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}. Delete it or choose another.")
    return path


def _locked_folder(prefix: str, parent: pathlib.Path) -> tuple[pathlib.Path, int | None]:
    """A new folder with a lock on it, which its process holds while it lives: others are left behind."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another writer took it for a leftover in the moment before it was locked, and deletes it
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)  # it has done so


def _lock(folder: pathlib.Path) -> int | None:
    """A descriptor that holds the lock of the folder; None if there are no locks here.

    Raises:
        BlockingIOError: if another holds it. FileNotFoundError: if there is no such folder any more.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _delete_if_left_behind(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # it is in use, gone, or somebody else's
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _give_usual_modes(path: pathlib.Path, probe: pathlib.Path) -> None:
    """The modes that the umask says: the library safetensors lets nobody but the owner read what it writes."""
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


def _put(unfinished: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Renames, without replacing what must not be."""
    if overwrite and unfinished.is_dir():
        _replace_folder(unfinished, path)
    elif overwrite:
        os.replace(unfinished, path)
    elif unfinished.is_dir():
        try:
            os.rename(unfinished, path)  # raises for a folder with something in it
        except OSError:
            check_is_free(path)  # another writer was faster
            raise
    else:
        try:
            os.link(unfinished, path)  # a rename would replace a file
        except FileExistsError:
            check_is_free(path)
            raise
        except OSError:  # a file system without links
            os.rename(unfinished, check_is_free(path))


def _replace_folder(unfinished: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a folder; what is there goes aside, and is deleted with the temporary folder."""
    aside: list[pathlib.Path] = []
    while True:
        try:
            os.rename(unfinished, path)
            return
        except OSError:
            if not path.is_dir():  # it was not in the way
                if aside:
                    os.rename(aside[-1], path)
                raise
        with contextlib.suppress(FileNotFoundError):  # another writer took it aside
            old = unfinished.with_name(f"old{len(aside)}")
            os.rename(path, old)
            aside.append(old)


def _literal(text: str) -> str:
    """The text as a pattern of `glob`."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def replace_file(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file beside its place and then renames it, so that no reader sees half of it."""
    with written_whole(path, overwrite=True) as unfinished:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
