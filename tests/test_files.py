"""Nothing half stands under a final name, whatever ends the writing, and nothing is left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from keras_tfm import checkpoints, files
from keras_tfm.files import written_whole
from keras_tfm.models import SentenceEncoder, SentencePairRanker, build_bert, build_gpt
from keras_tfm.tokenizers import CharacterTokenizer, WordPieceTokenizer

SMALL = {"vocabulary_size": 9, "max_sequence_length": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
# The file alone, since it needs nothing of the package.
KILLED = """
import os, runpy, signal, sys
written_whole = runpy.run_path(sys.argv[2])["written_whole"]
with written_whole(sys.argv[1], overwrite=True) as unfinished:
    unfinished.mkdir()
    (unfinished / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["file", "folder"])
def write(request):
    """(place, text): writes a file, or a folder with one."""

    def write(place, text):
        if request.param == "folder":
            place.mkdir()
            place = place / "inside"
        place.write_text(text)

    def read(place):
        return (place / "inside" if place.is_dir() else place).read_text()

    write.read = read
    return write


def fail(path, write):
    with written_whole(path, overwrite=True) as place:
        write(place, "new")
        raise OSError("disk full")


def write_while_another_does(path, write):
    with written_whole(path) as slow:
        write(slow, "slow")
        with written_whole(path) as fast:
            write(fast, "fast")
        assert slow.exists()  # the faster one did not take it for a leftover


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_what_was_there(write, overwrite, tmp_path):
    path = tmp_path / "deep" / "a[1]*"
    with written_whole(path, overwrite) as place:
        assert place.name == path.name
        write(place, "old")
    if not overwrite:
        with pytest.raises(FileExistsError, match="must not exist yet"), written_whole(path):
            pass
    else:
        with pytest.raises(OSError, match="disk full"):
            fail(path, write)
        assert write.read(path) == "old"
        with written_whole(path, overwrite) as place:
            write(place, "new")
    assert write.read(path) == ("new" if overwrite else "old")
    assert names(path.parent) == [path.name]


def test_of_two_that_write_at_once_the_first_is_kept_and_the_other_told(write, tmp_path):
    with pytest.raises(FileExistsError, match="must not exist yet"):
        write_while_another_does(tmp_path / "a", write)
    assert write.read(tmp_path / "a") == "fast"
    assert names(tmp_path) == ["a"]


def test_many_threads_write_to_one_path(write, tmp_path):
    errors = []

    def one(number):
        try:
            with written_whole(tmp_path / "a", overwrite=number % 2 == 0) as place:
                write(place, str(number))
        except OSError as error:
            errors.append((number, error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a"]
    assert write.read(tmp_path / "a") in map(str, range(16))
    assert all(number % 2 and isinstance(error, FileExistsError) for number, error in errors), errors


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_what_a_killed_process_leaves_is_deleted_by_the_next_writer(tmp_path):
    path = tmp_path / "model"
    done = subprocess.run([sys.executable, "-c", KILLED, path, files.__file__])
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    assert not path.exists()
    (tmp_path / ".model2.unfinished.x").mkdir()  # of another path
    with written_whole(path) as place:
        place.write_text("whole")
    assert names(tmp_path) == [".model2.unfinished.x", "model"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_are_those_that_the_umask_says(umask, tmp_path):
    before = os.umask(umask)
    try:
        checkpoints.save(build_gpt(**SMALL), tmp_path / "saved")
    finally:
        os.umask(before)
    files = list((tmp_path / "saved").iterdir())
    assert len(files) >= 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_checkpoint_replaces_another_only_if_it_may(tmp_path):
    first, second = build_gpt(**SMALL), build_gpt(**SMALL)
    checkpoints.save(first, tmp_path / "saved")
    with pytest.raises(FileExistsError, match="must not exist yet"):
        checkpoints.save(second, tmp_path / "saved")
    checkpoints.save(second, tmp_path / "saved", overwrite=True)
    for ours, theirs in zip(checkpoints.load(tmp_path / "saved").weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert names(tmp_path) == ["saved"]


def encoder():
    return SentenceEncoder(build_bert(**SMALL))


@pytest.mark.parametrize("make", [lambda: build_gpt(**SMALL), lambda: SentencePairRanker(encoder())])
def test_a_model_that_is_saved_by_keras_replaces_the_last_one_in_one_step(make, tmp_path, monkeypatch):
    model, path = make(), tmp_path / "model.keras"
    model.save(path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(keras.layers.Layer, "save_own_variables", fail)
        with pytest.raises(OSError, match="disk full"):
            model.save(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["model.keras"]
    with pytest.raises(FileExistsError, match="must not exist yet"):
        model.save(path, overwrite=False)
    keras.callbacks.ModelCheckpoint(str(path))  # what it calls:
    model.save(str(path), overwrite=True)
    again = keras.models.load_model(path)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_quoted_home_folder_is_found_by_whatever_takes_a_path(tmp_path, monkeypatch, tiny_tokenizer):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    characters = CharacterTokenizer("abc")
    pieces = WordPieceTokenizer({"[UNK]": 0, "a": 1})
    for name, tokenizer in {"bytes": tiny_tokenizer, "characters": characters, "pieces": pieces}.items():
        tokenizer.save(f"~/{name}")
        assert type(tokenizer).from_file(f"~/{name}").vocabulary == tokenizer.vocabulary
    (tmp_path / "home" / "text.txt").write_text("abcd")
    assert CharacterTokenizer.train(pathlib.Path("~/text.txt")).encode("abcd")
    build_gpt(**SMALL).save("~/model.keras")
    for folder in ("~/bytes", "~/model.keras"):
        with pytest.raises(FileExistsError, match="must not exist yet"):
            files.check_is_free(folder)
    assert names(tmp_path / "home") == ["bytes", "characters", "model.keras", "pieces", "text.txt"]
    assert names(tmp_path / "elsewhere") == []
