"""Saving, reading, and refusing what is not byte-level BPE as in GPT-2."""

import json
import os

import pytest
import tokenizers

from keras_tfm.tokenizers import AddedToken, BytePairTokenizer
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS

BYTES = {symbol: number for number, symbol in enumerate(BYTE_SYMBOLS)}
TEXT = "To be, or not to be:  <a><b> don't\n\n日本 é!<|endoftext|>"


def contents(tokenizer):
    ids = range(tokenizer.vocabulary_size)
    return [(tokenizer.id_to_token(i), tokenizer.token_bytes(i)) for i in ids], dict(tokenizer.special_tokens)


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_what_is_saved_is_read_back(tokenizer, folder, name):
    read = BytePairTokenizer.from_file(folder / name)
    assert contents(read) == contents(tokenizer)
    assert read.encode(TEXT) == tokenizer.encode(TEXT)


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_the_files_of_gpt2_are_read(tokenizer, folder, tmp_path, names):
    for old, new in zip(("vocab.json", "merges.txt"), names, strict=True):
        (tmp_path / new).write_bytes((folder / old).read_bytes())
    read = BytePairTokenizer.from_file(str(tmp_path))
    assert contents(read) == contents(tokenizer)
    assert read.encode(TEXT) == tokenizer.encode(TEXT)


def test_what_the_rust_library_saves_is_read(hugging_face, tokenizer, tmp_path):
    hugging_face.save(str(tmp_path / "tokenizer.json"))
    hugging_face.model.save(str(tmp_path))
    assert contents(BytePairTokenizer.from_file(tmp_path / "tokenizer.json")) == contents(tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    assert BytePairTokenizer.from_file(tmp_path).encode(TEXT) == tokenizer.encode(TEXT)


def test_merges_of_older_tokenizer_files_are_read(tokenizer, folder, tmp_path):
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert contents(BytePairTokenizer.from_file(tmp_path / "old.json")) == contents(tokenizer)


def test_an_added_token_need_not_be_in_the_model(folder, tmp_path):
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens(["<new>"])
    rust.save(str(tmp_path / "tokenizer.json"))
    read = BytePairTokenizer.from_file(tmp_path)
    assert read.special_tokens["<new>"] == read.vocabulary_size - 1
    assert read.encode(TEXT + "<new>") == rust.encode(TEXT + "<new>").ids


def nodes_of(document, path=()):
    yield path
    items = list(document.items()) if isinstance(document, dict) else []
    items += enumerate(document) if isinstance(document, list) else []
    for key, value in items if len(items) < 20 else items[:6]:  # not each token of a vocabulary
        yield from nodes_of(value, (*path, key))


@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x", [], [1], {}, {"a": 1}, [{"id": 1}], [[["a"]]]])
def test_nonsense_in_any_place_of_a_tokenizer_json_is_read_or_a_value_error(tmp_path, value):
    vocabulary = {**BYTES, "ab": 256, "abc": 257, "<s>": 258, "<mask>": 259}
    tokenizer = BytePairTokenizer(vocabulary, [("a", "b"), ("ab", "c")], ["<s>", AddedToken("<mask>", lstrip=True)])
    tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}]}
    text = json.dumps(document)
    BytePairTokenizer.from_json(json.loads(text))  # unspoilt, it is read
    num_read, refused = 0, set()
    for path in nodes_of(document):
        spoilt = json.loads(text)
        target = spoilt
        for key in path[:-1]:
            target = target[key]
        if path:
            target[path[-1]] = value
        try:
            BytePairTokenizer.from_json(spoilt if path else value)
            num_read += 1
        except ValueError:
            refused.add(path)
    assert num_read >= 1  # some places say nothing of ids
    assert {(), ("model", "type"), ("decoder", "type")} <= refused


def test_saving_again_replaces_the_files_and_leaves_no_others(tokenizer, tmp_path):
    BytePairTokenizer(BYTES, []).save(tmp_path)
    tokenizer.save(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["merges.txt", "tokenizer.json", "vocab.json"]
    assert contents(BytePairTokenizer.from_file(tmp_path)) == contents(tokenizer)


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        BytePairTokenizer(BYTES, []).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("place", "value", "received"),
    [
        ("normalizer", {"type": "NFKC"}, "NFKC"),
        ("pre_tokenizer", None, "None"),
        ("pre_tokenizer", {"type": "Whitespace"}, "Whitespace"),
        ("pre_tokenizer.use_regex", False, "'use_regex': False"),
        ("post_processor", {"type": "BertProcessing"}, r"\(\)"),
        ("post_processor", {"type": "Whitespace"}, "Whitespace"),
        ("decoder", {"type": "WordPiece"}, "WordPiece"),
        ("model.type", "Unigram", "Unigram"),
        ("model.dropout", 0.1, "0.1"),
        ("model.unk_token", "<unk>", "<unk>"),
        ("model.continuing_subword_prefix", "##", "##"),
        ("model.end_of_word_suffix", "</w>", "</w>"),
        ("model.byte_fallback", True, "True"),
        ("added_tokens.0.rstrip", "yes", "'yes'"),
        ("added_tokens.1.id", 7, "7"),
    ],
)
def test_files_that_ask_for_other_tokenization_are_refused(folder, tmp_path, place, value, received):
    document = json.loads((folder / "tokenizer.json").read_text())
    *parents, last = (int(key) if key.isdigit() else key for key in place.split("."))
    target = document
    for key in parents:
        target = target[key]
    target[last] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"must .*Received: .*{received}") as caught:
        BytePairTokenizer.from_file(tmp_path)
    assert len(message := str(caught.value)) < 400
    assert any(key in message for key in (place, last, place.split(".")[0].replace("_tokens", " token")))


@pytest.mark.parametrize(("content", "received"), [("[1]", r"\[1\]"), ("{", "Expecting"), ("\udcff", "invalid start")])
def test_files_that_are_no_tokenizer_are_refused(tmp_path, content, received):
    (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"must .*Received: .*{received}"):
        BytePairTokenizer.from_file(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*Received: .*without these"):
        BytePairTokenizer.from_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Received: .*nothing', which does not exist"):
        BytePairTokenizer.from_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("vocabulary", "merges", "special_tokens", "message"),
    [
        ({**BYTES, 5: 256}, [], [], "map strings to ints. Received: 5: 256"),
        ({**BYTES, "x": "256"}, [], [], "map strings to ints. Received: 'x': '256'"),
        ({**BYTES, "the": 300}, [], [], r"0, 1, \.\.\., 256, each once. Received: 257 tokens; .*\[256, 300\]"),
        ({**BYTES, "the": 255}, [], [], r"each once. Received: 257 tokens; .*\[256\]"),
        ({"a": 0}, [], [], "256 bytes .* Received: 1 tokens without .*255 missing"),
        (BYTES, [("a", "b")], [], r"Received: merge \('a', 'b'\) at rank 0, without 'ab'"),
        ({**BYTES, "ab": 256}, [("a", "b", "")], [], r"pairs of tokens. Received: \('a', 'b', ''\) at rank 0"),
        ({**BYTES, "ab": 256}, [("a", "b"), ("a", "b")], [], r"once. Received: \('a', 'b'\) at ranks 0 and 1"),
        (BYTES, [], ["<s>"], "in `vocabulary`. Received: '<s>'"),
        ({**BYTES, "aĠ": 256}, [("a", "Ġ")], ["aĠ"], "product of a merge .* Received: 'aĠ'"),
        (BYTES, [], ["a"], "symbol of a single byte. Received: 'a'"),
        ({**BYTES, "": 256}, [], [""], "not be empty .* Received: ''"),
        ({**BYTES, "<s>": 256}, [], ["<s>", "<s>"], r"differ from each other. Received: \('<s>', '<s>'\)"),
        ({**BYTES, "<s>": 256}, [], "<s>", "sequence of strings. Received: '<s>'"),
        ({**BYTES, "<s>": 256}, [], [5], "must be strings. Received: 5"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(vocabulary, merges, special_tokens, message):
    with pytest.raises((ValueError, TypeError), match=message):
        BytePairTokenizer(vocabulary, merges, special_tokens)
