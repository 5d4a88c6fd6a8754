"""An opened checkpoint: the doors give what it gives, files are read once, and a new format is one class."""

import ast
import dataclasses
import json
import shutil
import struct
import sys
from pathlib import Path

import gguf
import keras
import numpy as np
import pytest

from keras_tfm import checkpoints
from keras_tfm.checkpoints import ChatTemplate, Checkpoint, gguf_file
from keras_tfm.checkpoints.families import gpt2
from keras_tfm.generation import TextGenerator
from keras_tfm.models import MaskedLM, TextClassifier, build_bert, build_gpt
from keras_tfm.pipelines import TextClassification
from keras_tfm.tokenizers import WordPieceTokenizer
from tests.checkpoints.families import tiny
from tests.checkpoints.test_gguf import write

PACKAGE = Path(checkpoints.__file__).parent
MESSAGES = [{"role": "user", "content": "Hi"}]
NUMBERS = {"max_sequence_length": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("opened") / "tiny.gguf", tiny("llama2"))


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    model = build_gpt(vocabulary_size=tiny_tokenizer.vocabulary_size, **NUMBERS)
    folder = tmp_path_factory.mktemp("opened") / "gpt"
    checkpoints.save(
        model, folder, tiny_tokenizer, chat_template=ChatTemplate("{{ messages[0].content }}{{ eos_token }}")
    )
    return folder


@pytest.mark.parametrize("kind", ["folder", "gguf_path"])
def test_the_doors_give_what_the_opened_checkpoint_gives(kind, request):
    path = request.getfixturevalue(kind)
    opened = checkpoints.open(path)
    model, tokenizer = opened.model(), opened.tokenizer()
    for ours, theirs in zip(model.weights, checkpoints.load(path).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ids = tokenizer.encode("But soft")
    assert checkpoints.load_tokenizer(path).encode("But soft") == ids
    assert checkpoints.load_chat_template(path)(MESSAGES) == opened.chat_template()(MESSAGES)
    assert checkpoints.load_stop_token_ids(path) == opened.stop_token_ids
    assert checkpoints.summary(path) == opened.summary()
    assert opened.tokenizer() is tokenizer
    assert opened.model() is not model
    assert repr(str(path)) in repr(opened)


def test_a_text_generator_is_the_parts_put_together(folder):
    opened = checkpoints.open(folder)
    writer = opened.text_generator("greedy", dropout=0.5)
    assert isinstance(writer, TextGenerator)
    assert writer.tokenizer is opened.tokenizer()
    assert set(opened.stop_token_ids) <= set(writer.stop_token_ids)


def test_a_keras_file_keeps_what_the_checkpoint_said_beside_the_wiring(folder, tmp_path):
    (copy := tmp_path / "noted").mkdir()
    for file in folder.iterdir():
        shutil.copy(file, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "bos_token_id": 7, "auto_map": {"AutoModel": "code.Model"}})
    )
    model = checkpoints.load(copy)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.checkpoint == model.checkpoint
    checkpoints.save(again, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["bos_token_id"] == 7
    assert "auto_map" not in saved  # names code that is not beside it


def test_each_file_of_a_folder_is_opened_once(folder):
    opened, counts, counting = [], {}, [True]

    def count(event, arguments):
        if event == "open" and counting[0] and str(arguments[0]).startswith(str(folder)):
            counts[Path(arguments[0]).name] = counts.get(Path(arguments[0]).name, 0) + 1

    sys.addaudithook(count)  # it cannot be taken away again
    try:
        opened = checkpoints.open(folder)
        opened.text_generator(), opened.chat_template(), opened.summary()
    finally:
        counting[0] = False
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(counts)
    assert {name: number for name, number in counts.items() if name.endswith("json") and number > 1} == {}


def test_the_header_of_a_gguf_file_is_read_once(gguf_path, monkeypatch):
    reads, read = [], gguf_file._read_header
    monkeypatch.setattr(gguf_file, "_read_header", lambda cursor: reads.append(1) or read(cursor))
    opened = checkpoints.open(gguf_path)
    opened.model(), opened.tokenizer(), opened.chat_template(), opened.summary()
    assert opened.stop_token_ids == (257,)
    assert len(reads) == 1


def test_the_header_is_what_the_package_gguf_reads(gguf_path):
    reader = gguf.GGUFReader(gguf_path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    file = gguf_file.GgufFile(gguf_path)
    assert file.header == theirs
    for tensor in reader.tensors:
        ours = file.rows(tensor.name, 0, file.shapes()[tensor.name][0])
        np.testing.assert_array_equal(ours, tensor.data)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "BF16", "F16"])
def test_rows_of_any_number_are_dequantized_as_the_package_does(kind, tmp_path):
    kind = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).normal(size=(37, 64)).astype("float32")
    stored = gguf.quants.quantize(values, kind)
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    writer.add_tensor("a", stored, raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    file, expected = gguf_file.GgufFile(tmp_path / "a.gguf"), gguf.quants.dequantize(stored, kind)
    for start, stop in ((0, 37), (3, 35), (36, 37)):
        np.testing.assert_array_equal(file.rows("a", start, stop), expected[start:stop])


def header(value: bytes, num_tensors: int = 0) -> bytes:
    """A file with one key, "a": the type of its value, then the value."""
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, 1) + struct.pack("<Q", 1) + b"a" + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(struct.pack("<IIQ", 9, 0, 2**40)), "an array of 1,099,511,627,776 items at 49: beyond its end"),
        (header(struct.pack("<IIQ", 9, 8, 2**40)), "an array of 1,099,511,627,776 items"),
        (header(struct.pack("<IIQ", 9, 0, 2**23) + bytes(2**23)), "or more than 4,194,304"),
        (header(struct.pack("<IIQ", 9, 9, 1)), "a value of type 9"),
        (header(struct.pack("<IQ", 8, 2**60)), "bytes at 45, beyond its end"),
        (header(struct.pack("<II", 99, 0)), "a value of type 99"),
        (header(struct.pack("<II", 4, 0), num_tensors=2**60), "beyond its end"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "beyond its end"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    ],
)
def test_counts_beyond_the_end_of_a_gguf_file_are_refused_at_once(content, message, tmp_path):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=f"must be a whole GGUF file. .*{message}"):
        checkpoints.open(tmp_path / "a.gguf")


def with_tensor(content: bytes, name: bytes, kind: int | None = None, offset: int | None = None) -> bytes:
    """The file with another type or offset of a tensor."""
    place = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    place += 4 + 8 * struct.unpack_from("<I", content, place)[0]
    own_kind, own_offset = struct.unpack_from("<IQ", content, place)
    changed = struct.pack("<IQ", own_kind if kind is None else kind, own_offset if offset is None else offset)
    return content[:place] + changed + content[place + 12 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 0}, "where the one before it ends at"),
        ({"offset": 2**64 - 32}, "where the one before it ends at"),
        ({"kind": 1}, "where the one before it ends at"),  # half as long, so the next would not follow
    ],
)
def test_tensors_that_overlap_or_leave_holes_are_refused(gguf_path, tmp_path, change, message):
    (tmp_path / "a.gguf").write_bytes(with_tensor(gguf_path.read_bytes(), b"blk.0.attn_q.weight", **change))
    with pytest.raises(ValueError, match=message):
        checkpoints.load(tmp_path / "a.gguf")


def test_a_last_tensor_of_another_type_and_bytes_behind_it_are_refused(gguf_path, tmp_path):
    content, last = gguf_path.read_bytes(), list(gguf_file.GgufFile(gguf_path).shapes())[-1]
    for changed in (with_tensor(content, last.encode(), kind=1), content + bytes(64)):
        (tmp_path / "a.gguf").write_bytes(changed)
        with pytest.raises(ValueError, match=f"bytes behind its last tensor, '{last}'"):
            checkpoints.load(tmp_path / "a.gguf")
    for kind in (2, 8, 30, 99, 2**31):
        (tmp_path / "a.gguf").write_bytes(with_tensor(content, last.encode(), kind=kind))
        with pytest.raises(ValueError, match="must be a whole GGUF file"):
            checkpoints.load(tmp_path / "a.gguf")


@pytest.mark.slow
def test_an_encoder_with_a_head_gives_its_pipeline(tmp_path):
    tokenizer = WordPieceTokenizer.train("good bad day " * 9, vocabulary_size=22)
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "max_sequence_length": 8}
    encoder = build_bert(vocabulary_size=tokenizer.vocabulary_size, **sizes)
    checkpoints.save(TextClassifier(encoder, class_names=["bad", "good"]), tmp_path / "head", tokenizer)
    pipeline = checkpoints.open(tmp_path / "head").pipeline(sequence_length=6)
    assert isinstance(pipeline, TextClassification)
    assert pipeline("a good day").label in ("bad", "good")
    checkpoints.save(MaskedLM(encoder), tmp_path / "masked", tokenizer)
    with pytest.raises(ValueError, match="must hold one of .*TextClassifier.* which holds a MaskedLM."):
        checkpoints.open(tmp_path / "masked").pipeline()
    with pytest.raises(ValueError, match="causal language model, which writes text.* which holds a MaskedLM."):
        checkpoints.open(tmp_path / "masked").text_generator()


def test_a_writer_is_no_pipeline(folder):
    with pytest.raises(ValueError, match="which holds a CausalLM: use `text_generator`."):
        checkpoints.open(folder).pipeline()


def test_another_class_than_that_of_a_gguf_file_is_refused(gguf_path):
    with pytest.raises(ValueError, match="`architecture` must be 'LlamaForCausalLM'"):
        checkpoints.load(gguf_path, architecture="BertModel")


@dataclasses.dataclass
class Arrays:
    """A `Source` of arrays."""

    arrays: dict
    place: str = "arrays"

    def shapes(self):
        return {name: array.shape for name, array in self.arrays.items()}

    def check_types(self, names):
        pass

    def rows(self, name, start, stop):
        return self.arrays[name][start:stop]


class NumpyCheckpoint(Checkpoint):
    """A format of one's own: an .npz file of GPT-2's tensors."""

    config = {"n_layer": 1}  # noqa: RUF012 - as a property

    @property
    def source(self):
        with np.load(self.path) as arrays:
            return Arrays(dict(arrays))

    def wiring(self, architecture=None):
        return gpt2.ARCHITECTURES[0], {"vocabulary_size": 300, **NUMBERS}


def test_a_format_of_ones_own_is_one_class(folder, tmp_path):
    source = checkpoints.open(folder).source
    np.savez(tmp_path / "a.npz", **{name: source.rows(name, 0, shape[0]) for name, shape in source.shapes().items()})
    opened = NumpyCheckpoint(tmp_path / "a.npz")
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(opened.model()(ids), checkpoints.load(folder)(ids))
    assert opened.stop_token_ids == ()
    assert opened.summary()["tensors"] == len(source.shapes())
    for read in (opened.tokenizer, opened.chat_template):
        with pytest.raises(ValueError, match="must have a .*a.npz without one"):
            read()


def test_no_files_of_the_package_import_each_other_in_a_circle():
    imported = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(["keras_tfm.checkpoints", *path.relative_to(PACKAGE).with_suffix("").parts])
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        imported[name] = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        imported[name] |= {node.module for node in nodes}
    remaining = {name: {one for one in others if one in imported} for name, others in imported.items()}
    while leaves := [name for name, others in remaining.items() if not others & set(remaining)]:
        remaining = {name: others for name, others in remaining.items() if name not in leaves}
    assert not remaining
