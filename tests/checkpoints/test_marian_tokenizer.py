"""Marian's tokenizer has the ids and texts of transformers' on both sides, before and after it is saved."""

import json
import random

import pytest
import tensorflow as tf
import transformers

from keras_tfm.checkpoints import load_tokenizer
from keras_tfm.checkpoints.tokenizer import write_tokenizer_config
from keras_tfm.tokenizers import MarianTokenizer
from keras_tfm.tokenizers.sentence_piece_proto import UNKNOWN, ModelProto, Piece
from tests.checkpoints import marian_folders

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # which nobody uses

TEXTS = [
    "", " ", "In the beginning", "  two  spaces ", "a\n\nb\tc", "▁a ▁ b", "\u3000a\u00a0b", "İ ﬁ ½", "<s>a",
    ">>es<< In the beginning", ">>fr_XX<<   la luz", ">>es<<", ">>xx<<And", ">><<a", ">>a\nb<<c", ">>a", "a >>es<< b",
    "x</s>>>es<< y", "<unk> a <pad>b</s></s>", "日本 日本語 語 ñandú ñandú", "año niño señor",
]  # fmt: skip
FOLDERS = {  # one vocabulary and Unigram is among the folders of `test_tokenizer_folders.py`
    "two vocabularies": {"separate": True},
    "byte pair": {"kind": "bpe"},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bytes": {"byte_fallback": True, "size": 460},
}


def random_texts(number):
    generator = random.Random(0)
    parts = [part for text in TEXTS for part in text.split(" ")] + [
        " ",
        "  ",
        "the",
        "light",
        "luz",
        "cielo",
        "日",
        "é",
    ]
    return [generator.choice(("", " ")).join(generator.choices(parts, k=6)) for _ in range(number)]


def random_ids(tokenizer, number):
    generator = random.Random(1)
    often = [tokenizer.token_to_id(token) for token in ("</s>", "<unk>", "<pad>")]
    pool = [*range(tokenizer.vocabulary_size), *often * 9]
    return [generator.choices(pool, k=generator.randrange(9)) for _ in range(number)]


def opened(folder):
    """The tokenizers of transformers and ours."""
    (folder / "config.json").write_text(json.dumps({"model_type": "marian"}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert isinstance(theirs, transformers.MarianTokenizer)
    return theirs, load_tokenizer(folder)


def check_texts(theirs, ours):
    """Random ids are decoded alike."""
    rows = random_ids(ours, 100)
    for skips in (True, False):
        expected = [theirs.decode(row, skip_special_tokens=skips) for row in rows]
        assert ours.decode(rows, skip_special_tokens=skips) == expected


def test_sources_and_targets_are_those_of_transformers(tmp_path):
    marian_folders.write(tmp_path, **FOLDERS["two vocabularies"])
    theirs, ours = opened(tmp_path)
    texts = TEXTS + random_texts(100)
    assert ours.encode(texts) == theirs(texts).input_ids
    check_texts(theirs, ours.for_targets())


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_both_sides_are_those_of_transformers_before_and_after_saving(name, tmp_path):
    folder, saved, texts = tmp_path / "folder", tmp_path / "saved", TEXTS + random_texts(100)
    marian_folders.write(folder, **FOLDERS[name])
    theirs, source = opened(folder)
    target = source.for_targets()
    assert source.encode(texts) == theirs(texts).input_ids
    assert target.encode(texts) == theirs(text_target=texts).input_ids
    for options in ({}, {"split_special_tokens": True}):
        expected = theirs(texts, add_special_tokens=False, **options).input_ids
        assert source.encode(texts, False, allow_special=not options) == expected
    check_texts(theirs, target)
    if name != "two vocabularies":  # of which transformers reads the ids of targets alone
        check_texts(theirs, source)
    again = target if name == "byte pair" else source  # either side writes both
    again.save(saved)
    write_tokenizer_config(saved, again)
    their_again, ours_again = opened(saved)
    assert their_again(texts).input_ids == theirs(texts).input_ids
    assert their_again(text_target=texts).input_ids == theirs(text_target=texts).input_ids
    assert ours_again.get_config() == source.get_config()
    if name == "bytes":
        module = tf.Module()
        module.tokenizer, spec = target, tf.TensorSpec([None], tf.string)
        module.ids = tf.function(lambda texts: target(texts).to_tensor(-1), input_signature=[spec])
        tf.saved_model.save(module, str(tmp_path / "served"))
        served = tf.saved_model.load(str(tmp_path / "served")).ids(tf.constant(texts))
        assert [row[row >= 0].tolist() for row in served.numpy()] == theirs(text_target=texts).input_ids


def test_a_vocabulary_of_the_targets_has_its_own_ids_of_special_tokens():
    models = [ModelProto((Piece("<unk>", 0.0, UNKNOWN), Piece("▁a", -1.0), Piece("a", -2.0)))] * 2
    ids = {"</s>": 0, "<unk>": 1, "▁a": 2, "a": 3, "<pad>": 4}
    own = {"</s>": 0, "<unk>": 1, "<pad>": 2, "▁a": 3}
    tokenizer = MarianTokenizer(*models, ids, own, target_vocabulary_size=8)
    target = tokenizer.for_targets()
    assert (tokenizer.vocabulary_size, target.vocabulary_size) == (5, 8)
    assert tokenizer.encode("a <pad>") == [2, 4, 0]
    assert target.encode("a <pad>") == [3, 2, 0]
    assert target.decode([3, 2, 3, 7, 0]) == "a<pad> a</s>"
    assert target.decode([3, 2, 3, 7, 0], skip_special_tokens=True) == "a a"
    assert target.for_targets().changed(side="source").get_config() == tokenizer.get_config()
    assert MarianTokenizer(*models, {**ids, ">>fr<<": 5}).language_codes == (">>fr<<",)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"side": "both"}, ValueError, "`side` must be one of .*Received: side='both'"),
        (
            {"source_model": "source.spm"},
            TypeError,
            "`source_model` must be bytes.*`from_file` reads a folder.*'?source",
        ),
        ({"vocabulary": ["a"]}, TypeError, "`vocabulary` must be a dict from pieces to ids"),
        ({"vocabulary": {"<unk>": 1, "</s>": 1}}, ValueError, "The ids of `vocabulary` must be integers.*each once"),
        (
            {"vocabulary": {"</s>": 0}},
            ValueError,
            "`unknown` must be a token of `vocabulary`. Received: unknown='<unk>'",
        ),
        ({"vocabulary_size": 2}, ValueError, "`vocabulary_size` must be an integer of at least 3"),
        (
            {"vocabulary": {"<unk>": 0, "</s>": 1}},
            ValueError,
            "special token must be in `vocabulary`. Received: '<pad>'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changes, error, message):
    model = marian_folders.model("source")
    fitting = {"source_model": model, "target_model": model, "vocabulary": {"</s>": 0, "<unk>": 1, "<pad>": 2}}
    with pytest.raises(error, match=message):
        MarianTokenizer(**{**fitting, **changes})


def test_files_that_are_missing_are_named(tmp_path):
    marian_folders.write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"separate_vocabs": True}))
    with pytest.raises(FileNotFoundError, match="must hold target_vocab.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "target.spm").unlink()
    with pytest.raises(FileNotFoundError, match=r"without \['target.spm'\]"):
        MarianTokenizer.from_file(tmp_path)
