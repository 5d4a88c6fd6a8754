"""How large should a vocabulary be? BPE, WordPiece, Unigram and bytes on the same texts, at many sizes.

Trains each kind on Shakespeare and on English and Spanish verses, reads what was held out, prints a table for each
text, draws two pictures, and shows how texts that are known to be hard are cut.

pip install -e ".[examples,sentencepiece]"
python examples/tokenizer_study.py                # some 5 minutes on two CPU cores
python examples/tokenizer_study.py --sizes 512 4096 --characters 100000 --output runs/short
"""

import argparse
import pathlib
import time
import warnings
from typing import NamedTuple

from command_line import positive

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.tokenizers import BytePairTokenizer, SentencePieceTokenizer, Tokenizer, WordPieceTokenizer

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
ticker = required("matplotlib.ticker", "examples", "Pictures")
DATA = pathlib.Path(__file__).parent / "data"
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32000)
HIDDEN_DIM = 512  # of the model whose embedding is counted
HARD = {
    "numbers, of which no verse has any": "9.11 < 9.9, 1234567",
    "spaces": "    if x:\n        return  x",
    "a misspelt word": "recieve the unhappinesses",
    "accents": "naïve café, ¿qué?",
    "a rare script": "日本語 हिन्दी",
    "an emoji": "👩‍👩‍👧",
}


class Row(NamedTuple):
    """What a tokenizer does to a text; `fertility` is tokens a word, `speed` MB a second."""

    kind: str
    size: int
    fertility: float
    bytes_a_token: float
    unknown_words: float
    embedding_weights: int
    speed: float


def shakespeare(characters: int) -> tuple[str, str]:
    """Training text, and the last twentieth of it, held out."""
    text = (DATA / "shakespeare.txt").read_text(encoding="utf-8")[:characters]
    return text[: -len(text) // 20], text[-len(text) // 20 :]


def verses(characters: int) -> tuple[str, str]:
    """Both sides of the pairs for training, and those of the split "test"."""
    rows = [line.split("\t") for line in (DATA / "en_es.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    train, test = (
        "\n".join(side for row in rows if row[0] == split for side in row[2:]) for split in ("train", "test")
    )
    return train[:characters], test


def trained(kind: str, text: str, size: int) -> Tokenizer | None:
    """A tokenizer of this kind and size; None if there is none so small, or the text has no more pieces."""
    train = {
        "bytes": lambda: BytePairTokenizer.train(text, 257),  # and the end of a text
        "BPE": lambda: BytePairTokenizer.train(text, size),
        "WordPiece": lambda: WordPieceTokenizer.train(text, size, lowercase=False),
        "Unigram": lambda: SentencePieceTokenizer.train(text, size, byte_fallback=False),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a tokenizer is smaller than asked for is seen below
        try:
            tokenizer = train()
        except ValueError:
            return None
    return tokenizer if kind == "bytes" or tokenizer.vocabulary_size == size else None


def measured(kind: str, tokenizer: Tokenizer, text: str) -> Row:
    """What the tokenizer does to a text."""
    lines = text.splitlines()
    tokenizer(lines)  # traces the graph
    start = time.perf_counter()
    num_tokens = sum(map(len, tokenizer.encode(lines)))
    seconds = time.perf_counter() - start
    num_bytes, words = len("".join(lines).encode()), text.split()
    unknown = {"WordPiece": "[UNK]", "Unigram": "<unk>"}.get(kind)
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    unknown_words = sum(unknown_id in ids for ids in tokenizer.encode(words))
    return Row(
        kind,
        tokenizer.vocabulary_size,
        num_tokens / len(words),
        num_bytes / num_tokens,
        unknown_words / len(words),
        tokenizer.vocabulary_size * HIDDEN_DIM,
        num_bytes / seconds / 1e6,
    )


def study(name: str, train: str, test: str, sizes: list[int]) -> tuple[list[Row], dict[str, Tokenizer]]:
    """Prints a table; gives its rows, and the largest tokenizer of each kind."""
    print(f"\n{name}: {len(train):,} characters to train on, {len(test):,} held out (no row: too few pieces for it)")
    print("kind       entries  tokens/word  bytes/token  unknown words  embedding weights  MB/s")
    rows, largest = [], {}
    for kind in ("bytes", "BPE", "WordPiece", "Unigram"):
        for size in sizes[:1] if kind == "bytes" else sizes:
            if (tokenizer := trained(kind, train, size)) is None:
                continue
            row = measured(kind, tokenizer, test)
            print(
                f"{row.kind:<10} {row.size:>7,}  {row.fertility:>11.2f}  {row.bytes_a_token:>11.2f}  "
                f"{row.unknown_words:>13.2%}  {row.embedding_weights:>17,}  {row.speed:>4.1f}",
                flush=True,
            )
            rows.append(row)
            largest[kind] = tokenizer
    return rows, largest


def power_of_two(number: float, _place: int | None = None) -> str:
    """The label of a tick: "512", "32k" for 2**15, "8M" for 2**23."""
    for unit, suffix in ((2**20, "M"), (2**10, "k")):
        if number >= unit:
            return f"{number / unit:g}{suffix}"
    return f"{number:g}"


def draw(results: dict[str, list[Row]], path: pathlib.Path, x: str, y: str, labels: tuple[str, str]) -> None:
    """A picture with a panel for each text and a line for each kind."""
    picture = matplotlib.Figure(figsize=(9, 4), layout="constrained")
    for place, (name, rows) in enumerate(results.items(), start=1):
        axes = picture.add_subplot(1, len(results), place)
        for kind in dict.fromkeys(row.kind for row in rows):
            points = sorted((getattr(row, x), getattr(row, y)) for row in rows if row.kind == kind)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=kind)
        axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(power_of_two))
        axes.grid(alpha=0.3)
        if place == 1:
            axes.legend()
    picture.savefig(path, dpi=120)


def cut(tokenizer: Tokenizer, text: str) -> str:
    """The text with a bar between tokens; bytes that are no character, and unknown tokens, are written as such."""
    pieces = []
    for token_id in tokenizer.encode(text):
        token = tokenizer.id_to_token(token_id)
        is_name = isinstance(tokenizer, WordPieceTokenizer) or token == "<unk>"
        content = token if is_name else tokenizer.token_bytes(token_id)
        pieces.append(content if isinstance(content, str) else content.decode("utf-8", "backslashreplace"))
    return "|".join(pieces).replace("\n", "\\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=positive, nargs="+", default=list(SIZES), help="entries of the vocabularies")
    parser.add_argument("--characters", type=positive, default=2_000_000, help="of each text to train on, at most")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/tokenizer_study"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    texts = {"Shakespeare": shakespeare, "English and Spanish verses": verses}
    results, largest = {}, {}
    for name, read in texts.items():
        results[name], largest = study(name, *read(arguments.characters), sorted(arguments.sizes))
    labels = ("entries of the vocabulary (k = 1,024)", "tokens a word")
    draw(results, arguments.output / "fertility.png", "size", "fertility", labels)
    labels = (f"weights of the embedding, {HIDDEN_DIM} wide (k = 1,024)", "bytes a token")
    draw(results, arguments.output / "weights.png", "embedding_weights", "bytes_a_token", labels)

    print("\nHow texts are cut by the largest tokenizers of the last table:")
    for name, text in HARD.items():
        print(f"  {name}: {text!r}")
        for kind, tokenizer in largest.items():
            print(f"    {kind:<9} {cut(tokenizer, text)}")
    print(f"\nPictures: {arguments.output / 'fertility.png'}, {arguments.output / 'weights.png'}")
    print(f"keras_tfm {ktfm.__version__}")


if __name__ == "__main__":
    main()
