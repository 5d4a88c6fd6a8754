"""Byte pairs, WordPiece and SentencePiece: keras_tfm beside `tokenizers`, `sentencepiece` and tensorflow-text.

All read the same tokenizer, trained on the text itself, and encode the first megabyte of Shakespeare as lines and as
one string. Run it with `python benchmarks/tokenization.py`; README.md beside this file tells the method.
"""

import argparse
import collections
import contextlib
import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness

CORPUS = harness.ROOT / "examples" / "data" / "shakespeare.txt"


def read_texts(case: dict[str, Any]) -> list[str]:
    """The lines of the first `case["characters"]` characters, or these as one text."""
    with open(case["corpus"], encoding="utf-8", newline="") as file:
        text = file.read(case["characters"])
    return text.splitlines(keepends=True) if case["texts"] == "lines" else [text]


class Encoding:
    """A contender: subclasses load the tokenizer and encode `self.texts`."""

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.texts = read_texts(case)
        self.load()

    def load(self) -> None:
        """Reads the tokenizer."""
        raise NotImplementedError

    def encode(self) -> Any:
        """Encodes all texts, in whatever form the library gives."""
        raise NotImplementedError

    def ids(self, encoded: Any) -> list[list[int]]:
        """What `encode` gave, as lists."""
        raise NotImplementedError

    def run(self) -> int:
        self.encoded = None  # frees the last run's first, so that nobody holds two
        self.encoded = self.encode()
        return self.case["tokens"]

    def verify(self) -> None:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(self.case["tokenizer"])
        expected = tokenizer.encode_batch(self.texts, add_special_tokens=False)
        if not self.is_right(self.ids(self.encoded), [encoding.ids for encoding in expected]):
            raise RuntimeError("Must give the ids of `tokenizers`. Received: others.")

    def is_right(self, ids: list[list[int]], expected: list[list[int]]) -> bool:
        return ids == expected


class KerasTfm(Encoding):
    """To a RaggedTensor."""

    def load(self):
        self.tokenizer = tokenizer_class(self.case["algorithm"]).from_file(self.case["tokenizer"])

    def encode(self):
        return self.tokenizer(self.texts)

    def ids(self, encoded):
        return encoded.to_list()


class KerasTfmLists(KerasTfm):
    """To Python lists."""

    def encode(self):
        return self.tokenizer.encode(self.texts)

    def ids(self, encoded):
        return encoded


class Rust(Encoding):
    """To the library's own objects, on all cores."""

    parallel = True

    def load(self):
        os.environ["TOKENIZERS_PARALLELISM"] = str(self.parallel).lower()
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_file(self.case["tokenizer"])

    def encode(self):
        return self.tokenizer.encode_batch(self.texts, add_special_tokens=False)

    def ids(self, encoded):
        return [encoding.ids for encoding in encoded]


class RustLists(Rust):
    """To Python lists, on all cores."""

    def encode(self):
        return super().ids(super().encode())

    def ids(self, encoded):
        return encoded


class RustOneThread(Rust):
    """To the library's own objects, on one core."""

    parallel = False


class SentencePiece(Encoding):
    """To Python lists, on one core: the library `sentencepiece`, on the tokenizer.model beside the tokenizer.json."""

    def load(self):
        if self.case["algorithm"] not in SENTENCE_PIECE:
            raise harness.LeftOut("SentencePiece only")
        import sentencepiece

        model = Path(self.case["tokenizer"]).with_name("tokenizer.model")
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def encode(self):
        return self.processor.encode(self.texts, num_threads=1)

    def ids(self, encoded):
        return encoded

    def is_right(self, ids, expected):
        return _is_nearly(ids, expected)


class TensorflowText(Encoding):
    """To a RaggedTensor, not for byte pairs; its op is not part of TensorFlow, so a SavedModel needs the package."""

    def load(self):
        algorithm, folder = self.case["algorithm"], Path(self.case["tokenizer"]).parent
        if algorithm not in ("WordPiece", *SENTENCE_PIECE):
            raise harness.LeftOut("WordPiece and SentencePiece only")
        import tensorflow as tf
        import tensorflow_text

        if algorithm == "WordPiece":
            tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
            self.tokenizer = tensorflow_text.FastBertTokenizer(tokens, lower_case_nfd_strip_accents=True)
        else:  # the fast one gives other ids for BPE
            model = (folder / "tokenizer.model").read_bytes()
            self.tokenizer = tensorflow_text.SentencepieceTokenizer(model, tf.int32)

    def encode(self):
        return self.tokenizer.tokenize(self.texts)

    def is_right(self, ids, expected):
        return ids == expected if self.case["algorithm"] == "WordPiece" else _is_nearly(ids, expected)

    def ids(self, encoded):
        return encoded.to_list()


CONTENDERS: dict[str, type[Encoding]] = {
    "keras_tfm": KerasTfm,
    "keras_tfm_lists": KerasTfmLists,
    "tokenizers": Rust,
    "tokenizers_lists": RustLists,
    "tokenizers_one_thread": RustOneThread,
    "sentencepiece": SentencePiece,
    "tensorflow_text": TensorflowText,
}
# Ours, and what it is compared to.
PAIRS = (
    ("keras_tfm", "tokenizers"),
    ("keras_tfm", "tokenizers_one_thread"),
    ("keras_tfm_lists", "tokenizers_lists"),
    ("keras_tfm_lists", "sentencepiece"),
    ("keras_tfm", "tensorflow_text"),
)
SENTENCE_PIECE = {"SentencePiece BPE": "byte pair", "SentencePiece Unigram": "unigram"}
ALGORITHMS = ("byte pair", "WordPiece", *SENTENCE_PIECE)


def _is_nearly(ids: list[list[int]], expected: list[list[int]]) -> bool:
    """Whether all but one of 10,000 ids are equal: scores of Unigram are float32 or float64, which may break ties."""
    ours, theirs = (collections.Counter(itertools.chain(*rows)) for rows in (ids, expected))
    return (ours - theirs).total() * 10_000 <= ours.total()


def tokenizer_class(algorithm: str) -> type:
    """Our class for one of `ALGORITHMS`."""
    from keras_tfm.tokenizers import BytePairTokenizer, SentencePieceTokenizer, WordPieceTokenizer

    return {"byte pair": BytePairTokenizer, "WordPiece": WordPieceTokenizer}.get(algorithm, SentencePieceTokenizer)


def train(algorithm: str, text: str, vocabulary_size: int, folder: Path) -> Any:
    """A tokenizer of ours that the other libraries find in the folder."""
    if algorithm not in SENTENCE_PIECE:
        tokenizer = tokenizer_class(algorithm).train(text, vocabulary_size)
        tokenizer.save(folder)
        return tokenizer
    options = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    kind = tokenizer_class(algorithm)
    tokenizer = kind.train(text, vocabulary_size, SENTENCE_PIECE[algorithm], **options)
    tokenizer.save(folder)
    document = sentence_piece_json(tokenizer.model)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return kind(document)


def sentence_piece_json(model: bytes) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer.model that normalizes nothing."""
    from keras_tfm.tokenizers.sentence_piece_proto import BYTE_PAIR, NORMAL, read_proto

    proto = read_proto(model)
    scores = {piece.text: piece.score for piece in proto.pieces if piece.kind == NORMAL}
    if proto.model_type == BYTE_PAIR:
        pairs = [[text[:i], text[i:]] for text in scores for i in range(1, len(text))]
        pairs = [pair for pair in pairs if {*pair} <= scores.keys()]
        rules = {
            "type": "BPE",
            "vocab": {piece.text: number for number, piece in enumerate(proto.pieces)},
            "merges": sorted(pairs, key=lambda pair: -scores["".join(pair)]),
            "unk_token": "<unk>",
            "fuse_unk": True,
        }
    else:
        rules = {
            "type": "Unigram",
            "unk_id": proto.unk_id,
            "vocab": [[piece.text, piece.score] for piece in proto.pieces],
        }
    sign = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": proto.model_type != BYTE_PAIR}
    parts = {"normalizer": None, "pre_tokenizer": sign, "post_processor": None, "decoder": sign}
    return {"version": "1.0", "added_tokens": [], **parts, "model": {**rules, "byte_fallback": proto.byte_fallback}}


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Seconds, our time over theirs, then seconds of building and of the first call."""
    seconds, ratios, details = [], [], []
    for case in cases:
        results, texts = case["contenders"], f"{case['algorithm']}, {case['texts']}"
        medians = {
            name: statistics.median(result["seconds"]) for name, result in results.items() if "seconds" in result
        }
        seconds.append([texts] + [f"{medians[name]:.3f}" if name in medians else "-" for name in names])
        for ours, theirs in PAIRS:
            if ours in medians and theirs in medians:
                results[ours][f"time_over_{theirs}"] = round(medians[ours] / medians[theirs], 3)
                ratios.append([texts, ours, theirs, f"**{medians[ours] / medians[theirs]:.2f}**"])
        for title, key in (("importing and reading, s", "build_seconds"), ("first call, s", "first_call_seconds")):
            details.append([f"{texts}: {title}"] + [harness.cell(results[name], key, 2) for name in names])
    return "\n\n".join(
        [
            f"Encoding of {cases[0]['bytes'] / 1e6:.2f} MB, {settings['vocabulary_size']:,} tokens in the vocabulary. "
            f"Seconds, median of {settings['rounds']} interleaved runs (`lists`: ids as Python lists):",
            harness.markdown_table(["texts", *names], seconds),
            "Our time over theirs; below 1 is faster:",
            harness.markdown_table(["texts", "ours", "theirs", "ratio"], ratios),
            "The first call traces the graph:",
            harness.markdown_table(["", *names], details),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="a text in UTF-8")
    parser.add_argument("--characters", type=int, default=1_100_000, help="how much of it to encode")
    parser.add_argument("--vocabulary-size", type=int, default=8192)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    harness.add_arguments(parser, "tokenization")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    settings = {name: getattr(args, name) for name in ("characters", "vocabulary_size", "rounds")}
    environment = harness.environment()
    for package in ("tokenizers", "sentencepiece", "tensorflow-text"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            environment["versions"][package] = importlib.metadata.version(package)
    report = {"benchmark": "tokenization", "environment": environment, "settings": settings, "cases": []}
    for algorithm in ALGORITHMS:
        with tempfile.TemporaryDirectory() as folder:
            case = {"corpus": str(args.corpus.resolve()), "characters": args.characters, "algorithm": algorithm}
            case |= {"tokenizer": str(Path(folder) / "tokenizer.json"), "texts": "one string"}
            (text,) = read_texts(case)
            tokenizer = train(algorithm, text, args.vocabulary_size, Path(folder))
            for texts in ("lines", "one string"):
                harness.say(f"{algorithm}, {texts}")
                tokens = sum(map(len, tokenizer.encode(read_texts(case | {"texts": texts}))))
                results = harness.race(
                    "benchmarks.tokenization", case | {"texts": texts, "tokens": tokens}, args.contenders, args.rounds
                )
                account = {"algorithm": algorithm, "texts": texts, "bytes": len(text.encode()), "tokens": tokens}
                report["cases"].append(account | {"contenders": results})
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("tokenization", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
