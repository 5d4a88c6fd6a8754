"""Saving, reading, and refusing what is not BERT's WordPiece."""

import json
import os

import pytest
import tokenizers
import transformers

from keras_tfm.tokenizers import WordPieceTokenizer

TEXT = "Où est [MASK]? To be, or not to bé:  日本 x x [SEP]"


def contents(tokenizer):
    ids = range(tokenizer.vocabulary_size)
    return [tokenizer.id_to_token(i) for i in ids], dict(tokenizer.special_tokens), tokenizer.encode(TEXT)


@pytest.fixture(scope="module")
def saved(uncased, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncased")
    uncased.save(folder)
    return folder


@pytest.mark.parametrize("name", ["", "tokenizer.json", "vocab.txt"])
def test_what_is_saved_is_read_back(uncased, saved, name):
    assert contents(WordPieceTokenizer.from_file(str(saved / name))) == contents(uncased)


def test_special_tokens_and_rules_are_read_back(word_piece, tmp_path):
    word_piece.save(tmp_path)
    assert contents(WordPieceTokenizer.from_file(tmp_path)) == contents(word_piece)


def test_a_vocab_txt_alone_needs_to_be_told_its_case(uncased, saved, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((saved / "vocab.txt").read_bytes())
    with pytest.raises(ValueError, match=r"`lowercase` must be True \(uncased\) or False.*Received: lowercase=None"):
        WordPieceTokenizer.from_file(tmp_path)
    assert contents(WordPieceTokenizer.from_file(tmp_path, lowercase=True)) == contents(uncased)
    cased = WordPieceTokenizer.from_file(tmp_path / "vocab.txt", lowercase=False)
    assert cased.encode("the THE") == [uncased.token_to_id("the"), uncased.unk_token_id]


def test_transformers_reads_the_folder(word_piece, tmp_path):
    word_piece.save(tmp_path)
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == word_piece.encode(TEXT)
    ids = [word_piece.cls_token_id, *word_piece.encode("a b"), word_piece.sep_token_id]
    ids += [*word_piece.encode("c"), word_piece.sep_token_id]
    assert theirs("a b", "c")["input_ids"] == ids
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a b", "c").ids == ids


def test_line_ends_of_windows_and_white_space_after_tokens_are_no_part_of_them(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\r\nthe \r\n##m\r\n")
    tokenizer = WordPieceTokenizer.from_file(tmp_path, lowercase=True)
    assert tokenizer.encode("Them the x") == [1, 2, 1, 0]


def test_settings_of_packing_in_a_tokenizer_json_do_not_change_ids(uncased, saved, tmp_path):
    document = json.loads((saved / "tokenizer.json").read_text())
    document["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {"strategy": {"Fixed": 128}, "pad_id": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert contents(WordPieceTokenizer.from_file(tmp_path)) == contents(uncased)


def test_saving_again_replaces_the_files_and_leaves_no_others(uncased, tmp_path):
    WordPieceTokenizer({"[UNK]": 0}, lowercase=False).save(tmp_path)
    uncased.save(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert contents(WordPieceTokenizer.from_file(tmp_path / "vocab.txt")) == contents(uncased)


def test_a_case_other_than_the_files_is_refused(saved):
    with pytest.raises(
        ValueError, match=r"`lowercase` must be what .* says, True, or None\. Received: lowercase=False"
    ):
        WordPieceTokenizer.from_file(saved, lowercase=False)


@pytest.mark.parametrize(
    ("place", "value", "received"),
    [
        ("normalizer", {"type": "NFC"}, "NFC"),
        ("normalizer", None, "None"),
        ("normalizer.clean_text", False, "False"),
        ("pre_tokenizer", {"type": "Whitespace"}, "Whitespace"),
        ("model.type", "BPE", "BPE"),
        ("model.unk_token", "<unk>", "<unk>"),
        ("model.continuing_subword_prefix", "@@", "@@"),
        ("model.max_input_chars_per_word", 50, "50"),
        ("added_tokens.1.id", 7, "7"),
    ],
)
def test_files_that_ask_for_other_tokenization_are_refused(saved, tmp_path, place, value, received):
    document = json.loads((saved / "tokenizer.json").read_text())
    *parents, last = (int(key) if key.isdigit() else key for key in place.split("."))
    target = document
    for key in parents:
        target = target[key]
    target[last] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"{last}.* must .*Received: .*{received}"):
        WordPieceTokenizer.from_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"[1]", r"hold an object with a `model`\. Received: \[1\]"),
        ("tokenizer.json", b"{", "must be JSON in UTF-8. Received: Expecting"),
        ("vocab.txt", b"\xff", "must be text in UTF-8, .* Received: .*invalid start"),
        ("vocab.txt", b"[UNK]\na\nb\na\n", "must be another token. Received: 'a' in lines 2 and 4"),
        ("vocab.txt", b"a\nb\n", r"must hold '\[UNK\]'.* Received: 2 tokens without it"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer.from_file(tmp_path, lowercase=True)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt.*Received: .*without these"):
        WordPieceTokenizer.from_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Received: .*nothing', which does not exist"):
        WordPieceTokenizer.from_file(tmp_path / "nothing")


def test_tokens_that_a_vocab_txt_cannot_hold_are_not_written(tmp_path):
    for token in ("a\nb", "a "):
        tokenizer = WordPieceTokenizer({"[UNK]": 0, token: 1})
        with pytest.raises(ValueError, match=r"no line ends.* Received: \['a"):
            tokenizer.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("vocabulary", "special_tokens", "message"),
    [
        (["[UNK]"], None, r"must be a dict .* Received: \['\[UNK\]'\] of type list"),
        ({"[UNK]": 0, 5: 1}, None, "map strings to ints. Received: 5: 1"),
        ({"[UNK]": "0"}, None, r"map strings to ints. Received: '\[UNK\]': '0'"),
        ({"[UNK]": 0, "a": 2}, None, r"0, 1, \.\.\., 1, each once. Received: 2 tokens; .*\[1, 2\]"),
        ({"a": 0}, None, r"must hold '\[UNK\]', which .* Received: 1 tokens without it"),
        ({"[UNK]": 0, "\ud800": 1}, None, "unpaired surrogates"),
        ({"[UNK]": 0}, ["<s>"], "in `vocabulary`. Received: '<s>'"),
        ({"[UNK]": 0}, ["[UNK]", "[UNK]"], r"differ from each other. Received: \('\[UNK\]', '\[UNK\]'\)"),
        ({"[UNK]": 0}, "[UNK]", r"sequence of strings. Received: '\[UNK\]'"),
        ({"[UNK]": 0}, [5], "must be strings. Received: 5"),
        ({"[UNK]": 0, "": 1}, [""], "must not be empty .* Received: ''"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(vocabulary, special_tokens, message):
    with pytest.raises((ValueError, TypeError), match=message):
        WordPieceTokenizer(vocabulary, special_tokens=special_tokens)
