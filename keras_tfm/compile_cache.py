"""Compiled code kept between processes, so that the second start of a program does not compile anew.

TensorFlow can write what XLA compiles for CPUs into a folder and read it back. It trusts what it finds there: half a
file is an error in the middle of a generation, and code of another processor may kill the process. So each process gets
a folder of its own, with links to those entries of the store that are whole; what it adds is put into the store with a
checksum in its name. The environment variable `KERAS_TFM_COMPILE_CACHE` switches this on: "1", or a folder.
"""

import atexit
import hashlib
import logging
import os
import platform
import re
import shutil
import tempfile
import threading
import zlib
from pathlib import Path

from keras_tfm.files import local_path

_VARIABLE = "KERAS_TFM_COMPILE_CACHE"
_OFF, _ON = ("", "0"), "1"
_MOST_BYTES = 256 * 2**20  # of one processor's entries, all of which are read at each start: a tenth of a second
_MOST_STORES = 8  # processors, versions and settings whose entries are kept
_SECONDS = 2.0  # between two looks for what was compiled
_FLAG, _NAME = "--tf_xla_persistent_cache_", "keras_tfm"
_SETTINGS = ("XLA_FLAGS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")  # besides TF_XLA_FLAGS: they change the code
_STORE, _LOCK = "keras_tfm-compiled-", "lock"
_FLAGS = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")  # as TensorFlow cuts TF_XLA_FLAGS

_logger = logging.getLogger(__name__)


def is_wanted() -> bool:
    """Whether the environment variable asks for it."""
    return os.environ.get(_VARIABLE, "") not in _OFF


def hush() -> None:
    """Keeps TensorFlow from printing two long errors for each entry that it reads; before TensorFlow is imported.

    It takes two wishes of the compiler ("prefer-no-gather") for features that the processor lacks, and nothing finer
    than its log level stops that. Whoever asks for its warnings (`TF_CPP_MIN_LOG_LEVEL` 0 or 1) gets these, too.
    """
    if is_wanted() and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") == "2":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def start() -> Path | None:
    """Has TensorFlow keep what it compiles, if the environment variable asks for it; before it computes anything.

    Returns:
        The folder that this process uses, or None: not asked for, a folder that cannot be written, a cache of the
        user's own in `TF_XLA_FLAGS`, or TensorFlow already at work. The log says which.
    """
    if not is_wanted():
        return None
    flags = _foreign_flags(os.environ.get("TF_XLA_FLAGS", ""))
    if flags is None:
        return _off("TF_XLA_FLAGS has a cache, or is a file", logging.INFO)
    from keras_tfm.compat import tensorflow_is_at_work

    if tensorflow_is_at_work():
        return _off("import keras_tfm before anything is computed", logging.WARNING)
    try:
        cache = _Cache(_store() / f"{_STORE}{_key(flags)}")
    except (ImportError, OSError, RuntimeError) as error:  # the last: a user without a home
        return _off(str(error), logging.INFO)
    settings = {"directory": cache.own, "prefix": _NAME, "device_types": "CPU"}
    os.environ["TF_XLA_FLAGS"] = " ".join([*flags, *(f'{_FLAG}{name}="{value}"' for name, value in settings.items())])
    cache.watch()
    _logger.info("Compiled code is kept in %s.", cache.store)
    return cache.own


def _off(reason: str, level: int) -> None:
    _logger.log(level, "Compiled code is not kept: %s.", reason)


def _store() -> Path:
    """The folder that the environment variable names, or one of the user's caches."""
    if (named := os.environ[_VARIABLE]) != _ON:
        return local_path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / _NAME


def _key(flags: list[str]) -> str:
    """A name for everything that compiled code depends on, beside the program."""
    import tensorflow as tf

    from keras_tfm import __version__

    try:
        text = Path("/proc/cpuinfo").read_text()
        lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        processor = {name.strip(): value.strip() for name, value in lines if name.strip() in ("model name", "flags")}
    except OSError:
        processor = {"model name": platform.processor()}
    settings = {name: os.environ.get(name) for name in _SETTINGS}
    known = (tf.version.VERSION, tf.version.GIT_VERSION, __version__, os.cpu_count(), platform.machine())
    parts = (*known, sorted(processor.items()), sorted(settings.items()), flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _foreign_flags(text: str) -> list[str] | None:
    """The flags without those of ours, which a parent process may have left; None if a cache is among the others."""
    flags = _FLAGS.findall(text)
    if any(not flag.startswith("-") for flag in flags):
        return None  # a file with flags, or one in quotes
    if f'{_FLAG}prefix="{_NAME}"' in flags:
        return [flag for flag in flags if not flag.startswith(_FLAG)]
    return None if any(flag.startswith(f"{_FLAG}directory") for flag in flags) else flags


class _Cache:
    """The entries of one processor, and the part of them that this process works with.

    An entry in the store has the checksum of its content in its name: NAME.CHECKSUM.

    Args:
        store: the folder of the entries.

    Raises:
        ImportError: where there are no locks on files.
        OSError: if the folder cannot be written, or the disk is nearly full.
    """

    def __init__(self, store: Path):
        import fcntl

        store.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(store)  # it is in use
        if shutil.disk_usage(store).free < 2 * _MOST_BYTES:
            raise OSError(f"the disk of {store} is nearly full")
        self.store = store
        self._lock = lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._sweep()
        self.own = Path(tempfile.mkdtemp(prefix="run-", dir=store))
        self._held = os.open(self.own / _LOCK, os.O_RDWR | os.O_CREAT)
        self._lock(self._held)
        self._taken = {name for name in (_link(entry, self.own) for entry in _entries(store)) if name}
        self._stop, self._process = threading.Event(), os.getpid()

    def watch(self) -> None:
        """Puts into the store what is compiled from now on, and removes the process's own folder at its end."""
        threading.Thread(target=self._watch, name="compile_cache", daemon=True).start()
        atexit.register(self._close)

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS):
            self._publish()

    def _publish(self) -> None:
        # TensorFlow writes an entry under another name first, so what has its name is whole.
        for entry in self.own.glob("*.pb"):
            if entry.name not in self._taken:
                self._taken.add(entry.name)
                try:
                    _place(entry, self.store / f"{entry.name}.{_checksum(entry)}")
                except OSError as error:
                    _off(str(error), logging.INFO)

    def _close(self) -> None:
        if os.getpid() == self._process:  # not a fork, which has the same folder
            self._stop.set()
            self._publish()
            os.close(self._held)
            shutil.rmtree(self.own, ignore_errors=True)

    def _sweep(self) -> None:
        """Removes what ended processes have left, the oldest entries beyond the limit, and the oldest stores."""
        for folder in self.store.glob("run-*"):
            try:
                with (folder / _LOCK).open("w") as lock:
                    self._lock(lock)
            except OSError:
                continue  # in use, or just being made
            shutil.rmtree(folder, ignore_errors=True)
        room = _MOST_BYTES
        for entry in sorted(_entries(self.store), key=_age):
            room -= entry.stat().st_size
            if room < 0:
                entry.unlink(missing_ok=True)
        for folder in sorted(self.store.parent.glob(f"{_STORE}*"), key=_age)[_MOST_STORES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _entries(store: Path) -> list[Path]:
    return list(store.glob("*.pb.*"))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0  # another process has removed it


def _link(entry: Path, folder: Path) -> str | None:
    """Links an entry under its own name into a folder, if it is whole; removes it if it is not."""
    name, _, checksum = entry.name.rpartition(".")
    try:
        if _checksum(entry) == checksum:
            _place(entry, folder / name)
            return name
        _logger.info("An entry is corrupt and left out: %s.", entry)
        entry.unlink(missing_ok=True)
    except OSError:
        pass  # another process has removed it
    return None


def _place(file: Path, place: Path) -> None:
    """A link to a file, or a copy where there are no links; at once, and whichever process is first."""
    try:
        os.link(file, place)
    except FileExistsError:
        pass
    except OSError:
        half = place.with_name(f"{os.getpid()}.half")
        shutil.copyfile(file, half)
        os.replace(half, place)


def _checksum(file: Path) -> str:
    return f"{zlib.crc32(file.read_bytes()):08x}"
