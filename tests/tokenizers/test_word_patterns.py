"""The regular expressions of the families against the Rust library's, and whole tokenizers of each."""
# ruff: noqa: RUF001 (characters that look alike are the point)

import itertools
import json
from pathlib import Path

import pytest
import tensorflow as tf
import tokenizers

from keras_tfm.tokenizers import BytePairTokenizer
from keras_tfm.tokenizers.vocabulary import symbols_to_bytes
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS, pattern_of
from keras_tfm.tokenizers.word_splitter import WordSplitter
from tests.tokenizers.conftest import OTHER_TEXT

CORPUS = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
ODD_LINES = [
    "I'LL you'Re 'ſ it'S they'Ve 1234567 a1b22 x\t\ty \t z",
    "  \n\n \t x\r\n\r\n  y!!\n\n?\r z  ",
    "def f(x):\n        return [x|y, (z)]  # don't\n\n\n",
    "日本語 12３４ ½ é e\u0301 👩‍👩‍👧 ،۔ a،b 。c …d",
    "\u3000\u3000x\u00a0 y\u2003\n\u2003z \u0085w",
    "",
    " ",
    "\n",
]


def rust(name, vocabulary_size=None, texts=()):
    """A Rust tokenizer with the pattern's pre-tokenizer, trained on texts if there are any."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=name == "llama3"))
    document = json.loads(tokenizer.to_str())
    document["pre_tokenizer"] = WORD_PATTERNS[name].pre_tokenizer
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if texts:
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


EVERY = [*range(0xD800), *range(0xE000, 0x110000)]
# What lies between has no assigned characters; each is like its neighbours.
ASSIGNED = [*range(0xD800), *range(0xE000, 0x32400), *range(0x32400, 0x110000, 61)]


def check_words(name, texts):
    expected = [[symbols_to_bytes(word) for word, _ in rust(name).pre_tokenizer.pre_tokenize_str(x)] for x in texts]
    rows = WordSplitter(name)(tf.constant(texts)).to_list()
    assert [[word for word in row if word] for row in rows] == expected


@pytest.mark.parametrize("name", ["llama3", "smollm", "bloom"])  # "gpt2" has its own test, Qwen Llama's classes
@pytest.mark.parametrize("code_points", [ASSIGNED, pytest.param(EVERY, marks=pytest.mark.slow)], ids=len)
def test_every_code_point_is_of_the_same_class_as_in_hugging_face(name, code_points):
    # In order, the code points form runs of letters, numbers, spaces and others: any other class moves a border.
    check_words(name, ["".join(map(chr, code_points))])
    check_words(name, ["".join(f"'{chr(code)}x" for code in range(0x3000))])


@pytest.mark.parametrize("name", WORD_PATTERNS)
def test_every_mix_of_spaces_and_classes_is_cut_as_in_hugging_face(name):
    neighbours = ["", "a", "1", "!", "'"]
    texts = [
        before + "".join(spaces) + after + "s "
        for spaces in itertools.product(" \n\u3000\t", repeat=4)
        for before, after in itertools.product(neighbours, repeat=2)
    ]
    check_words(name, texts)
    check_words(name, ODD_LINES)


@pytest.fixture(scope="module")
def lines():
    lines = CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)[:25_000]
    return [*lines, *OTHER_TEXT.splitlines(keepends=True), *ODD_LINES, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>"]


@pytest.mark.parametrize("count", [5_000, pytest.param(25_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WORD_PATTERNS)
def test_ids_equal_hugging_face_on_many_lines(name, lines, tmp_path, count):
    lines = lines[-count:]
    theirs = rust(name, 3000, [*lines[:8000], *lines[-400:]])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BytePairTokenizer.from_file(tmp_path)
    assert ours.encode(lines) == [encoding.ids for encoding in theirs.encode_batch(lines)]
    assert ours.decode(ours.encode(ODD_LINES)) == ODD_LINES
    ours.save(tmp_path / "saved")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert json.loads(again.to_str())["model"] == json.loads(theirs.to_str())["model"]
    assert [encoding.ids for encoding in again.encode_batch(lines[-60:])] == ours.encode(lines[-60:])


def test_a_word_that_is_a_token_is_that_token_if_asked(tmp_path):
    symbols = {symbol: number for number, symbol in enumerate(tokenizers.pre_tokenizers.ByteLevel.alphabet())}
    vocabulary = {**symbols, "ab": 256, "abc": 257}
    merges = [("a", "b")]
    assert BytePairTokenizer(vocabulary, merges).encode("abc") == [256, symbols["c"]]
    whole = BytePairTokenizer(vocabulary, merges, words="llama3", whole_words=True)
    whole.save(tmp_path)
    for tokenizer in (whole, BytePairTokenizer.from_file(tmp_path)):
        assert tokenizer.encode("abc") == [257]
        assert tokenizer.encode("abcab") == [256, symbols["c"], 256]
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("abc").ids == [257]


def test_the_end_of_text_may_be_another_token_and_is_checked():
    symbols = {symbol: number for number, symbol in enumerate(tokenizers.pre_tokenizers.ByteLevel.alphabet())}
    vocabulary = {**symbols, "<end>": 256}
    assert BytePairTokenizer(vocabulary, [], ["<end>"], end_of_text="<end>").end_of_text_id == 256
    assert BytePairTokenizer(vocabulary, [], ["<end>"]).end_of_text_id is None
    with pytest.raises(ValueError, match="`end_of_text` must be a special token. Received: end_of_text='<eos>'"):
        BytePairTokenizer(vocabulary, [], ["<end>"], end_of_text="<eos>")
    with pytest.raises(ValueError, match=r"`words` must be one of \('gpt2'.* Received: words='gpt9'"):
        BytePairTokenizer(vocabulary, [], words="gpt9")


def test_a_pre_tokenizer_that_is_not_known_has_no_pattern():
    for known in WORD_PATTERNS.values():
        assert WORD_PATTERNS[pattern_of(known.pre_tokenizer)] is known
    assert pattern_of({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}]}) is None


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_normalization_and_runs_of_spaces_are_those_of_hugging_face(name, lines, tmp_path):
    # As in GPT-NeoX (GPT-2's words) and Qwen 2.
    theirs = rust(name, 1000, lines[:2000])
    theirs.normalizer = tokenizers.normalizers.NFC()
    runs = [tokenizers.AddedToken(" " * n, normalized=True, special=False) for n in (2, 3, 4, 8)]
    theirs.add_tokens(runs)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BytePairTokenizer.from_file(tmp_path)
    texts = [*ODD_LINES, "e\u0301 a\u0323\u0302<|im_end|>\u0338  \u1112\u1161\u11ab     x", *lines[:200]]
    assert ours.encode(texts) == [encoding.ids for encoding in theirs.encode_batch(texts)]
    assert ours.decode(ours.encode("a     b<|im_end|>"), skip_special_tokens=True) == "a     b"
    ours.save(tmp_path / "saved")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert [encoding.ids for encoding in again.encode_batch(texts)] == ours.encode(texts)


def test_another_normalization_is_refused():
    symbols = {symbol: number for number, symbol in enumerate(tokenizers.pre_tokenizers.ByteLevel.alphabet())}
    with pytest.raises(ValueError, match="must be 'nfc' or None. Received: normalization='nfkc'"):
        BytePairTokenizer(symbols, [], normalization="nfkc")
