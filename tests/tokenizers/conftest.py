"""One small tokenizer for all tests, and the Rust library's reading of its tokenizer.json."""

from pathlib import Path

import pytest
import tokenizers

from keras_tfm.tokenizers import BytePairTokenizer

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
# Prefixes of each other, overlapping, with white space, with letters of words.
SPECIAL_TOKENS = ("<|endoftext|>", "<a>", "<a><b>", "<a  b>", "é!", "xyx", "yxy", " !!", "\0\0")

# So that there are merges of other things than English words.
OTHER_TEXT = "    def f(x):\n\t\treturn x\r\n\n\n  # don't 日本語 é 👩‍👩‍👧 ½\n" * 50


@pytest.fixture(scope="session")
def corpus() -> str:
    return SHAKESPEARE.read_text(encoding="utf-8")[:200_000]


@pytest.fixture(scope="session")
def tokenizer(corpus) -> BytePairTokenizer:
    return BytePairTokenizer.train([corpus, OTHER_TEXT], 1500, SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def hugging_face(folder) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
