"""Training: what goes in, what must not be learned, and errors."""

import json

import pytest
import tokenizers

from keras_tfm.tokenizers import BytePairTokenizer

TEXT = "the cat, the hat, the bat. " * 20


def merges_of(tokenizer, folder):
    tokenizer.save(folder)
    return json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]


def test_training_equals_hugging_face(corpus, tmp_path):
    rust = tokenizers.Tokenizer(tokenizers.models.BPE())
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    rust.train_from_iterator([corpus], trainer)
    tokenizer = BytePairTokenizer.train(corpus, 600)
    assert tokenizer.vocabulary_size == 600
    assert merges_of(tokenizer, tmp_path) == json.loads(rust.to_str())["model"]["merges"]


def test_texts_and_files_give_equal_tokenizers(tmp_path):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file in files:
        file.write_text(TEXT, encoding="utf-8", newline="")
    expected = merges_of(BytePairTokenizer.train(TEXT * 2, 264), tmp_path / "expected")
    for source in ([TEXT, TEXT], (TEXT for _ in range(2)), files, [files[0], TEXT]):
        assert merges_of(BytePairTokenizer.train(source, 264), tmp_path / "received") == expected
    assert BytePairTokenizer.train(files[0], 264).encode("the cat") == [259, 221, 262]


def test_a_str_is_text_and_not_the_name_of_a_file(tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT)
    with pytest.warns(UserWarning, match="too few pairs"):
        tokenizer = BytePairTokenizer.train(str(tmp_path / "corpus.txt"), 1000)
    assert len(tokenizer.encode("corpus.txt")) < len(tokenizer.encode("the hat, b"))


def test_special_tokens_get_the_first_ids_and_teach_nothing(tmp_path):
    text = ("<|endoftext|><pad><|end" + TEXT) * 5
    tokenizer = BytePairTokenizer.train(text, 265, special_tokens=["<pad>", "<|endoftext|>"])
    assert tokenizer.special_tokens == {"<pad>": 0, "<|endoftext|>": 1}
    assert tokenizer.end_of_text_id == 1
    learned = {"".join(pair) for pair in merges_of(tokenizer, tmp_path)}
    assert not {"pa", "pad", "of", "text", "><"} & learned
    assert tokenizer.encode("<pad><|endoftext|>") == [0, 1]


def test_bytes_alone_make_a_tokenizer():
    tokenizer = BytePairTokenizer.train("x", 257)
    assert tokenizer.vocabulary_size == 257
    assert tokenizer.decode(tokenizer.encode("naïve 日本")) == "naïve 日本"


def test_files_with_invalid_utf8_are_read_as_encode_reads_them(tmp_path):
    (tmp_path / "corpus.txt").write_bytes(b"\xff " * 50)
    tokenizer = BytePairTokenizer.train(tmp_path / "corpus.txt", 259)
    assert tokenizer.decode(tokenizer.encode("\ufffd")) == "\ufffd"
    assert len(tokenizer.encode("\ufffd")) == 1


def test_a_smaller_vocabulary_than_asked_for_is_told():
    with pytest.warns(UserWarning, match=r"`vocabulary_size=5000`; the tokenizer has \d+ tokens"):
        assert BytePairTokenizer.train(TEXT, 5000).vocabulary_size < 300


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((TEXT, 256), ValueError, "at least 257: 256 bytes and 1 special tokens. Received: vocabulary_size=256"),
        ((TEXT, 300, "<s>"), TypeError, "sequence of strings. Received: '<s>'"),
        ((TEXT, 300, ["<s>", "<s>"]), ValueError, "differ from each other"),
        (("", 300), ValueError, "must be text to train on. Received: 1 texts"),
        (([], 300), ValueError, "must be text to train on. Received: 0 texts"),
        (("<|endoftext|>" * 3, 300), ValueError, "must be text to train on. Received: 1 texts"),
        (([TEXT, 5], 300), TypeError, r"a str \(text\) or a pathlib.Path \(file\). Received: 5"),
        ((5, 300), TypeError, "`texts_or_files` must be .* Received: 5"),
        ((b"text", 300), TypeError, "`texts_or_files` must be .* Received: b'text'"),
        ((["fine", "a\ud800"], 300), ValueError, r"unpaired surrogates. Received: '\\ud800' at position 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BytePairTokenizer.train(*arguments)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        BytePairTokenizer.train([tmp_path / "nothing.txt"], 300)
