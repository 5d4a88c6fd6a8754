"""Compiled code kept between processes: read back, never wrong, never in the way."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_tfm import compat, compile_cache
from tests.harness import ROOT

SCRIPT = """
import json, os
from keras_tfm.models import build_gpt  # before keras, which would import TensorFlow with its log level
import keras
keras.utils.set_random_seed(0)
model = build_gpt(vocabulary_size=31, max_sequence_length=32, num_layers=1, num_heads=2, hidden_dim=8)
ids = model.generate([[1, 2, 3]], max_new_tokens=6, seed=5, sampler="random").token_ids
print(json.dumps([ids.tolist(), os.environ.get("TF_XLA_FLAGS", "")]))
"""


class Started:
    """A process that writes text, with what it was compiled into in a folder; "0": nowhere."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_TFM_COMPILE_CACHE": str(folder)}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "2"  # which shows TensorFlow's errors
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, env=environment, cwd=ROOT, **pipes)

    def end(self):
        """The token ids, TensorFlow's flags, and what else was printed."""
        out, err = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, err
        return *json.loads(out.splitlines()[-1]), err


def entries(folder) -> dict[str, int]:
    """Name of each entry -> the number of its inode: another number is another file."""
    return {path.name: path.stat().st_ino for path in Path(folder).rglob("*.pb.*")}


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Two processes at once, one after them, and one without a cache; the folder, and the entries in between."""
    folder = tmp_path_factory.mktemp("compiled") / "with space"
    together = [Started(folder), Started(folder)]
    first = [process.end() for process in together]
    between = entries(folder)
    return folder, first, between, Started(folder).end(), Started("0").end()


@pytest.mark.slow
def test_a_second_start_reads_what_the_first_compiled_and_writes_the_same(starts):
    folder, first, between, second, without = starts
    assert without[1] == ""
    assert "directory" in second[1]
    assert {str(ids) for ids, *_ in (*first, second)} == {str(without[0])}
    assert between  # and none is added, or written anew
    assert entries(folder) == between


@pytest.mark.slow
def test_each_process_works_in_a_folder_of_its_own_which_is_gone_at_its_end(starts):
    folder, first, _, second, _ = starts
    assert len({flags for _, flags, _ in (*first, second)}) == 3
    assert not list(folder.rglob("run-*"))


@pytest.mark.slow
def test_errors_of_tensorflow_about_its_own_entries_are_not_printed(starts):
    assert "prefer-no" not in starts[3][2]
    assert "Error parsing" not in starts[3][2]


@pytest.mark.slow
def test_corrupt_entries_are_compiled_anew(starts):
    folder, _, between, _, without = starts
    for i, path in enumerate(sorted(folder.rglob("*.pb.*"))):
        content = path.read_bytes()
        path.unlink()  # links of running processes stay as they are
        path.write_bytes(content[: len(content) // 2] if i % 2 else b"\0" * 99 + content[99:])
    assert Started(folder).end()[0] == without[0]
    names = [{name.rpartition(".")[0] for name in found} for found in (entries(folder), between)]
    assert names[0] == names[1]


@pytest.fixture
def at_rest(tmp_path, monkeypatch):
    """This process as if TensorFlow had computed nothing yet, and a folder that the variable names."""
    monkeypatch.setattr(compat, "tensorflow_is_at_work", lambda: False)
    monkeypatch.setattr(compile_cache._Cache, "watch", lambda self: None)
    monkeypatch.setenv("KERAS_TFM_COMPILE_CACHE", str(tmp_path))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    return tmp_path


def test_flags_of_the_users_stay(at_rest, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug=false --other='a b'")
    own = compile_cache.start()
    assert own.parent.parent == at_rest
    flags = os.environ["TF_XLA_FLAGS"]
    assert flags.startswith("--tf_xla_clustering_debug=false --other='a b' --tf_xla_persistent_cache_directory=")
    # A process that this one starts has its own folder, and the user's flags once.
    other = compile_cache.start()
    assert other not in (None, own)
    assert os.environ["TF_XLA_FLAGS"] == flags.replace(str(own), str(other))


@pytest.mark.parametrize("flags", ["--tf_xla_persistent_cache_directory=/mine", "flags.txt"])
def test_a_cache_of_the_users_own_stays(at_rest, monkeypatch, caplog, flags):
    monkeypatch.setenv("TF_XLA_FLAGS", flags)
    with caplog.at_level(logging.INFO):
        assert compile_cache.start() is None
    assert os.environ["TF_XLA_FLAGS"] == flags
    assert "TF_XLA_FLAGS has a cache" in caplog.text


def test_without_a_folder_that_can_be_written_there_is_a_log_line_and_no_cache(at_rest, monkeypatch, caplog):
    (at_rest / "file").write_text("")
    monkeypatch.setenv("KERAS_TFM_COMPILE_CACHE", str(at_rest / "file"))
    with caplog.at_level(logging.INFO):
        assert compile_cache.start() is None
    assert "TF_XLA_FLAGS" not in os.environ
    assert "Compiled code is not kept" in caplog.text


def test_too_late_is_told(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("KERAS_TFM_COMPILE_CACHE", str(tmp_path))
    monkeypatch.setattr(compat, "tensorflow_is_at_work", lambda: True)
    assert compile_cache.start() is None
    assert "before anything is computed" in caplog.text


@pytest.mark.parametrize("wish", ["", "0"])
def test_it_is_off_unless_asked_for(at_rest, monkeypatch, wish):
    monkeypatch.setenv("KERAS_TFM_COMPILE_CACHE", wish)
    assert compile_cache.start() is None
    assert not list(at_rest.iterdir())


def test_the_users_folder_of_caches_is_the_default(at_rest, monkeypatch):
    monkeypatch.setenv("KERAS_TFM_COMPILE_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(at_rest / "caches"))
    assert compile_cache.start().parent.parent == at_rest / "caches" / "keras_tfm"


def test_other_processors_versions_and_settings_have_stores_of_their_own(monkeypatch):
    import keras_tfm

    keys = {compile_cache._key([])}
    read_text = Path.read_text
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "read_text", lambda path, *rest: read_text(path, *rest).replace("model name", "model name: x")
        )
        keys.add(compile_cache._key([]))
    with monkeypatch.context() as patch:
        patch.setattr(keras_tfm, "__version__", "99")
        keys.add(compile_cache._key([]))
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        keys.add(compile_cache._key([]))
    keys.add(compile_cache._key(["--tf_xla_other"]))
    assert len(keys) == 5
    assert compile_cache._key([]) in keys


def put(store: Path, name: str, content: bytes, age: int = 0) -> Path:
    """An entry, so many seconds old."""
    file = store / "new"
    file.write_bytes(content)
    path = file.rename(store / f"{name}.pb.{compile_cache._checksum(file)}")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    return path


def test_the_oldest_entries_are_dropped_and_nothing_of_others(at_rest, monkeypatch):
    store = compile_cache.start().parent
    monkeypatch.setattr(compile_cache, "_MOST_BYTES", 250)
    kept = [put(store, f"entry{i}", bytes([i]) * 100, age=i) for i in range(4)]
    (at_rest / "photographs").mkdir()
    for i in range(12):
        (at_rest / f"keras_tfm-compiled-{i}").mkdir()
        os.utime(at_rest / f"keras_tfm-compiled-{i}", (1, 1 + i))
    own = compile_cache.start()
    assert sorted(store.glob("*.pb.*")) == sorted(kept[:2])
    assert {path.name for path in own.glob("*.pb")} == {"entry0.pb", "entry1.pb"}
    assert len(list(at_rest.glob("keras_tfm-compiled-*"))) == 8
    assert (at_rest / "photographs").is_dir()
    assert store.is_dir()


def test_what_killed_processes_leave_is_swept_and_what_others_use_is_not(at_rest):
    first = compile_cache._Cache(at_rest / "store")
    # A process that holds a folder, and is killed.
    script = "from keras_tfm import compat, compile_cache as c; from pathlib import Path; import time\n"
    script += f"cache = c._Cache(Path({str(at_rest / 'store')!r})); print(cache.own, flush=True); time.sleep(999)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as other:
        left = Path(other.stdout.readline().strip())
        compile_cache._Cache(at_rest / "store")
        assert left.is_dir()
        other.send_signal(signal.SIGKILL)
    compile_cache._Cache(at_rest / "store")
    assert not left.exists()
    assert first.own.is_dir()


def test_what_was_compiled_is_put_into_the_store_once(at_rest):
    cache = compile_cache._Cache(at_rest / "store")
    (cache.own / "a.pb").write_bytes(b"abc")
    (cache.own / "b.pb.tmp").write_bytes(b"half")
    cache._publish()
    cache._publish()
    (entry,) = cache.store.glob("*.pb*")
    assert entry.read_bytes() == b"abc"
    cache._close()
    assert list(cache.store.iterdir()) == [entry]


def test_where_files_cannot_be_linked_they_are_copied(at_rest, monkeypatch):
    def fail(*arguments):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", fail)
    cache = compile_cache._Cache(at_rest / "store")
    (cache.own / "a.pb").write_bytes(b"abc")
    cache._publish()
    assert (compile_cache._Cache(at_rest / "store").own / "a.pb").read_bytes() == b"abc"
