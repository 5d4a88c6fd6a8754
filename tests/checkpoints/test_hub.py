"""Repositories: what is asked of huggingface_hub, which is replaced by a function here; nothing is downloaded."""

import fnmatch
import shutil

import huggingface_hub
import numpy as np
import pytest

from keras_tfm.checkpoints import ChatTemplate, load, load_chat_template, load_tokenizer, save, summary
from keras_tfm.models import build_gpt


@pytest.fixture(scope="module")
def repository(tiny_tokenizer, tmp_path_factory):
    """All that a repository may hold."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    model = build_gpt(vocabulary_size=300, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=4)
    save(model, folder, tiny_tokenizer, chat_template=ChatTemplate("{{ messages[0].content }}"))
    for name in ("consolidated.safetensors", "pytorch_model.bin", "tf_model.h5", "modeling.py", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be read")
    return folder


@pytest.fixture
def calls(repository, tmp_path, monkeypatch):
    """The arguments of each download; as huggingface_hub does, only files that fit a pattern come."""
    made = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        made.append((name, revision, allow_patterns))
        names = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for name in names:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(repository / name, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return made


def files(tmp_path):
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}


def test_a_repository_gives_its_model_without_pickles_code_and_other_copies_of_the_weights(calls, repository, tmp_path):
    model = load("someone/tiny", revision="abc")
    np.testing.assert_array_equal(model.weights[0], load(repository).weights[0])
    assert calls[0][:2] == ("someone/tiny", "abc")
    others = {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    assert files(tmp_path) == {"model.safetensors", *others}


@pytest.mark.parametrize("read", [summary, load_tokenizer, load_chat_template])
def test_what_needs_no_weights_downloads_none(calls, read, tmp_path):
    read("someone/tiny")
    assert "config.json" in files(tmp_path)
    assert not [name for name in files(tmp_path) if name.endswith("safetensors")]


def test_the_summary_of_a_repository_is_that_of_its_folder(calls, repository):
    assert summary("someone/tiny") == summary(repository)


def test_a_repository_with_pickles_alone_is_refused_with_advice(calls, repository, monkeypatch, tmp_path):
    (repository / "model.safetensors").rename(tmp_path / "hidden")
    try:
        with pytest.raises(FileNotFoundError, match="only as pickles, which are not downloaded.*save_pretrained"):
            load("someone/pickled")
    finally:
        (tmp_path / "hidden").rename(repository / "model.safetensors")


def test_a_failed_download_is_told(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError, match="can be downloaded. Received: 'someone/tiny'. There is no such .*: no network"
    ):
        load("someone/tiny")
