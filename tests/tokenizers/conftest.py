"""One small tokenizer for all tests, and the Rust library's reading of its tokenizer.json."""

from pathlib import Path

import pytest
import tokenizers

from keras_tfm.tokenizers import BytePairTokenizer, WordPieceTokenizer

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
# Prefixes of each other, overlapping, with white space, with letters of words.
SPECIAL_TOKENS = ("<|endoftext|>", "<a>", "<a><b>", "<a  b>", "é!", "xyx", "yxy", " !!", "\0\0")

# So that there are merges of other things than English words.
OTHER_TEXT = "    def f(x):\n\t\treturn x\r\n\n\n  # don't 日本語 é 👩‍👩‍👧 ½\n" * 50

MANY_SCRIPTS = (
    "Ünïcödé naïve Straße İstanbul ǅ ﬁ Привет мир שָׁלוֹם مَرْحَبًا हिन्दी 한국어 ひらがな が 豈 語 ≠ ½ ² Ⅷ ΣΑΣ "
    "\uff11\uff12 \uff21\uff22 \U0001d15e \u0130x e\u0301 «¿?» …—\u2013 5€ a+b=c ^_`| "
) * 20


@pytest.fixture(scope="session")
def corpus() -> str:
    return SHAKESPEARE.read_text(encoding="utf-8")[:200_000]


@pytest.fixture(scope="session")
def example_lines() -> list[str]:
    """Shakespeare's next lines and this package's source."""
    lines = SHAKESPEARE.read_text(encoding="utf-8")[200_000:900_000].splitlines(keepends=True)
    for file in sorted(Path(__file__).parents[2].glob("keras_tfm/**/*.py")):
        lines[len(lines) // 2 : len(lines) // 2] = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return lines


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


# One more that is no token of BERT's, with letters and a space.
BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x x", "qué")


@pytest.fixture(scope="session", params=["uncased", "cased"])
def word_piece(request, corpus) -> WordPieceTokenizer:
    is_uncased = request.param == "uncased"
    return WordPieceTokenizer.train(
        [corpus, OTHER_TEXT, MANY_SCRIPTS], 2000, lowercase=is_uncased, special_tokens=BERT_SPECIAL_TOKENS
    )


@pytest.fixture(scope="session")
def uncased(corpus) -> WordPieceTokenizer:
    """BERT's special tokens only."""
    return WordPieceTokenizer.train([corpus, OTHER_TEXT, MANY_SCRIPTS], 2000)


@pytest.fixture(scope="session")
def bert(word_piece, tmp_path_factory) -> tokenizers.Tokenizer:
    """The Rust library's reading of `word_piece`."""
    folder = tmp_path_factory.mktemp("word_piece")
    word_piece.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
