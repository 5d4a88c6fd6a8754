"""Reading text larger than memory: is memory constant, and how fast is reading beside training?

A file of so many gigabytes is made in a temporary folder, of plays in another order, and `keras_tfm.data.stream` reads
it tokenized and packed: all of it if that takes no longer than `--minutes`, else from its start, its middle and shortly
before its end for a third of that time each. Then a nano GPT trains on the same stream. Run it with
`python benchmarks/stream.py`; it ends with status 1 if memory grows.
"""

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness

TEXT = harness.ROOT / "examples" / "data" / "shakespeare.txt"
DOCUMENTS = 4096  # that are drawn and written at a time, about 8 MB
ENDINGS = {"text": "txt", "json": "jsonl", "parquet": "parquet"}
MOST_GROWTH = 10.0  # MB of memory for each GB of text, after the first tenth of the time
_SETTLED = 0.1
BATCH, LENGTH = 64, 128


def documents(seed: int) -> Iterator[list[str]]:
    """Endless lists of documents: 1 to 30 speeches each, from anywhere in the plays."""
    speeches = TEXT.read_text(encoding="utf-8").split("\n\n")
    choice = random.Random(seed)
    while True:
        starts = (choice.randrange(len(speeches)) for _ in range(DOCUMENTS))
        yield ["\n\n".join(speeches[start : start + choice.randint(1, 30)]) + "\n" for start in starts]


def make_file(path: Path, form: str, num_bytes: int) -> None:
    """A file of at least so many bytes of text."""
    free = shutil.disk_usage(path.parent).free
    if free < 1.2 * num_bytes:
        raise SystemExit(f"{path.parent} must have {1.2 * num_bytes / 1e9:.1f} GB left. Received: {free / 1e9:.1f} GB.")
    written = 0
    if form == "parquet":
        import pyarrow
        from pyarrow import parquet

        with parquet.ParquetWriter(path, pyarrow.schema([("text", pyarrow.string())])) as writer:
            for texts in documents(0):
                writer.write_table(pyarrow.table({"text": texts}))
                written += sum(map(len, texts))
                if written >= num_bytes:
                    return
    with open(path, "w", encoding="utf-8") as file:
        for texts in documents(0):
            lines = [json.dumps({"text": text}) + "\n" for text in texts] if form == "json" else texts
            file.writelines(lines)
            written += sum(map(len, lines))
            if written >= num_bytes:
                return


class Reading:
    """One pass over a stream, with a look at the memory now and then."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.looks: list[dict[str, float]] = []  # seconds, tokens and megabytes of memory
        self.has_ended = False

    def read(self, dataset: Any) -> None:
        """Reads until the time is over, or the stream is."""
        begin, tokens, next_look = time.perf_counter(), 0, 0.0
        for token_ids, _ in dataset:
            tokens += int(token_ids.shape[0]) * LENGTH
            seconds = time.perf_counter() - begin
            if seconds >= next_look:
                self._look(seconds, tokens)
                next_look = seconds + self.seconds / 100
            if seconds > self.seconds:
                return
        self.has_ended = True
        self._look(time.perf_counter() - begin, tokens)

    def _look(self, seconds: float, tokens: int) -> None:
        self.looks.append({"seconds": seconds, "tokens": tokens, "memory_mb": harness.memory_mb("VmRSS")})

    @property
    def tokens_per_second(self) -> float:
        return self.looks[-1]["tokens"] / self.looks[-1]["seconds"]

    def growth(self, bytes_per_token: float) -> float:
        """MB of memory for each GB of text, by least squares over what comes after the first tenth of the time."""
        import numpy as np

        settled = [look for look in self.looks if look["seconds"] > _SETTLED * self.looks[-1]["seconds"]]
        gigabytes = [look["tokens"] * bytes_per_token / 1e9 for look in settled]
        return float(np.polyfit(gigabytes, [look["memory_mb"] for look in settled], 1)[0])


def from_piece(dataset: Any, share: float, num_bytes: int) -> Any:
    """The stream from a place on that has so much of the file before it, as if it had been read up to there."""
    from keras_tfm.data.epochs import position_of
    from keras_tfm.data.sources import PIECE

    position = position_of(dataset)
    piece = int(share * num_bytes / PIECE)
    note = json.loads(position.note(0))
    note["place"] = {"epoch": 0, "piece": piece, "place": [0, piece], "tokens": 0} if piece else {}
    position.seek(16 * piece, json.dumps(note))  # the number of the batch decides no more than the order of the next
    return dataset


def measure(path: Path, form: str, minutes: float, train_steps: int) -> dict[str, Any]:
    """Reads the file, then trains on it."""
    import keras

    import keras_tfm as ktfm

    sample = next(documents(1))
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train("".join(sample[:512]), 4096)
    text = "".join(sample[:256])
    bytes_per_token = len(text) / len(tokenizer.encode(text))

    def stream(num_epochs=1):
        return ktfm.data.stream(path, tokenizer, LENGTH, BATCH, form=form, num_epochs=num_epochs)

    num_bytes = path.stat().st_size
    trial = Reading(min(20.0, minutes * 6))
    trial.read(stream())
    whole_seconds = num_bytes / (trial.tokens_per_second * bytes_per_token)
    harness.say(f"{trial.tokens_per_second:,.0f} tokens/s: the whole file would take {whole_seconds / 60:.1f} minutes.")
    is_whole = whole_seconds < 60 * minutes or form == "parquet"
    places = {"all of it": 0.0} if is_whole else {"the start": 0.0, "the middle": 0.5, "near the end": 0.9}
    parts = []
    for name, share in places.items():
        reading = Reading(60 * minutes / len(places) if not is_whole else 120 * minutes)
        reading.read(from_piece(stream(), share, num_bytes) if share else stream())
        parts.append({"place": name, "has_ended": reading.has_ended, "looks": reading.looks})
        parts[-1] |= {"growth": reading.growth(bytes_per_token), "tokens_per_second": reading.tokens_per_second}

    gpt = ktfm.models.build_gpt("nano", max_sequence_length=LENGTH)
    gpt.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    endless = stream(num_epochs=None)
    gpt.fit(endless, steps_per_epoch=2, shuffle=False, verbose=0)
    begin = time.perf_counter()
    gpt.fit(endless, steps_per_epoch=train_steps, shuffle=False, verbose=0)
    trained = train_steps * BATCH * LENGTH / (time.perf_counter() - begin)
    return {
        "form": form,
        "gigabytes": num_bytes / 1e9,
        "bytes_per_token": bytes_per_token,
        "training_tokens_per_second": trained,
        "parts": parts,
    }


def table(result: dict[str, Any]) -> str:
    """Memory over time, a column for each tenth; then the speeds."""
    rows = []
    for part in result["parts"]:
        looks, last = part["looks"], part["looks"][-1]
        tenths = [next(look for look in looks if look["seconds"] >= k / 10 * last["seconds"]) for k in range(1, 11)]
        read = last["tokens"] * result["bytes_per_token"] / 1e9
        cells = [f"{read:,.2f}", f"{part['tokens_per_second']:,.0f}"]
        cells += [f"{look['memory_mb']:,.0f}" for look in itertools.chain(looks[:1], tenths)]
        rows.append([part["place"], *cells, f"{part['growth']:+,.1f}"])
    headers = ["read from", "GB", "tokens/s", "MB at first", *(f"{k}0 %" for k in range(1, 11)), "MB a GB"]
    fastest, trained = max(part["tokens_per_second"] for part in result["parts"]), result["training_tokens_per_second"]
    return (
        f"A file of {result['gigabytes']:.1f} GB ({result['form']}), tokenized ({result['bytes_per_token']:.2f} bytes "
        "a token), packed and shuffled; resident memory of the process, TensorFlow included, and its growth after the "
        f"first tenth:\n\n{harness.markdown_table(headers, rows)}\n\n"
        f"A nano GPT (1.3 million parameters, jit) trains on {trained:,.0f} tokens/s of the same stream, reading "
        f"included: reading alone is {fastest / trained:.1f} times as fast, on the same cores."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--form", choices=ENDINGS, default="json")
    parser.add_argument("--minutes", type=float, default=9.0, help="the longest that all may be read")
    parser.add_argument("--train-steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where the file is made and deleted; default: a temporary one")
    parser.add_argument("--json", type=Path, default=harness.ROOT / "benchmarks" / "results" / "stream.json")
    parser.add_argument("--update-readme", action="store_true", help="put the table into benchmarks/README.md")
    args = parser.parse_args(arguments)
    report = {"benchmark": "stream", "environment": harness.environment()}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / f"plays.{ENDINGS[args.form]}"
        harness.run_apart(make_file, path, args.form, int(args.gigabytes * 1e9))
        report["result"] = measure(path, args.form, args.minutes, args.train_steps)
    harness.publish("stream", report, table(report["result"]), args.json, args.update_readme)
    return int(max(part["growth"] for part in report["result"]["parts"]) > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
