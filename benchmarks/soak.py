"""Eight threads ask the same objects for minutes: every answer must be the right one, and memory must stay where it is.

A served text generator (at once, and streamed through `prefill` and `decode_step`), a `TextGenerator` in Python (at
once and streamed) and a served classifier answer a mixture of requests: batches of different sizes, settings of all
kinds, odd bytes, requests that must be refused. What is right is what the same request gave alone before. Run it with
`python benchmarks/soak.py --minutes 4`; it ends with status 1 if an answer was wrong or an exception came.
"""

import argparse
import os
import random
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness

TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n" * 9
PROMPTS = ("ROMEO:", "", "but soft, what light", "né 👩‍🚀 日本", "\0", "שלום", b"a \xff\xfe b", "sun " * 20)
PIECES = (1, 7, 64)  # tokens that a stream asks for at a time
_SETTLED = 0.1  # of the time, after which memory is looked at first: until then threads get their own


class Case(NamedTuple):
    """name: of the row in the table; jobs: requests, each of which answers the same whenever it is asked."""

    name: str
    jobs: list[Callable[[], Any]]


def soak(case: Case, num_threads: int, seconds: float) -> dict[str, Any]:
    """Lets threads do random jobs of a case until the time is over.

    Args:
        case: its jobs are first done once each, which compiles what they need and says what is right.
        num_threads: int.
        seconds: float, after that.

    Returns:
        `calls`, `wrong` answers, `exceptions` (the `first_exception` as text, or None), and in MB the resident memory
        `before`, `early` (after a tenth of the time) and `after`; `files` and `threads` that were open more at the end
        than at the start.
    """
    expected = [job() for job in case.jobs]
    counts = {"calls": 0, "wrong": 0, "exceptions": 0, "first_exception": None}
    lock, begin = threading.Lock(), time.monotonic()
    open_before = _open_things()
    result = {"jobs": len(case.jobs), "before": harness.memory_mb("VmRSS")}

    def work(seed):
        choice = random.Random(seed)
        while time.monotonic() - begin < seconds:
            place = choice.randrange(len(case.jobs))
            error = None
            try:
                is_right = case.jobs[place]() == expected[place]
            except Exception as exception:
                error = f"{type(exception).__name__}: {exception}"
            with lock:
                counts["calls"] += 1
                if error is not None:
                    counts["exceptions"] += 1
                    counts["first_exception"] = counts["first_exception"] or error
                else:
                    counts["wrong"] += not is_right

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(num_threads)]
    for worker in workers:
        worker.start()
    time.sleep(seconds * _SETTLED)
    early = harness.memory_mb("VmRSS")
    with lock:
        early_calls = counts["calls"]
    for worker in workers:
        worker.join()
    after, open_after = harness.memory_mb("VmRSS"), _open_things()
    later = max(counts["calls"] - early_calls, 1)
    return {
        **result,
        **counts,
        "early": early,
        "after": after,
        "growth_per_1000_calls": (after - early) * 1000 / later,
        "files": open_after[0] - open_before[0],
        "threads": open_after[1] - open_before[1],
    }


def _open_things() -> tuple[int, int]:
    """Open files of the process (0 where there is no /proc), and Python's threads."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0, threading.active_count()


def served_generator(folder: Path) -> Case:
    """A text generator from its SavedModel: `generate`, streams, and requests that it must refuse."""
    import tensorflow as tf

    text_generator().export(folder / "generator" / "1", max_new_tokens=16)
    served = tf.saved_model.load(str(folder / "generator" / "1"))
    signatures = served.signatures

    def settings_of(choice):
        return {
            "max_new_tokens": tf.constant(choice.choice([0, 1, 9, 24])),
            "seed": tf.constant(choice.randrange(1000)),
            "temperature": tf.constant(choice.choice([0.0, 0.7, 1.5])),
            "top_k": tf.constant(choice.choice([0, 5])),
            "top_p": tf.constant(choice.choice([1.0, 0.9])),
        }

    def plain(answer):
        return tuple(tuple(answer[key].numpy().tolist()) for key in ("text", "num_tokens", "finish_reason"))

    def at_once(prompts, settings):
        return plain(signatures["generate"](prompts=prompts, **settings))

    def streamed(prompts, settings, num_tokens):
        answer = signatures["prefill"](prompts=prompts, **settings)
        while not all(answer["finish_reason"].numpy()):
            states = {name: tensor for name, tensor in answer.items() if name.startswith("state_")}
            answer = signatures["decode_step"](num_tokens=tf.constant(num_tokens), **states)
        return plain(answer)

    def refused(prompts, settings):
        try:
            at_once(prompts, settings)
        except tf.errors.InvalidArgumentError:
            return "refused"
        return "answered"

    choice, jobs = random.Random(0), []
    for number in range(48):
        prompts = tf.constant([choice.choice(PROMPTS) for _ in range(number % 5)], tf.string)
        settings = settings_of(choice)
        if number % 8 == 7:
            wrong = choice.choice([{"max_new_tokens": 10**9}, {"temperature": -1.0}, {"top_k": -1}])
            settings |= {name: tf.constant(value) for name, value in wrong.items()}
            jobs.append(lambda prompts=prompts, settings=settings: refused(prompts, settings))
        elif number % 4 == 1:
            size = choice.choice(PIECES)
            jobs.append(lambda prompts=prompts, settings=settings, size=size: streamed(prompts, settings, size))
        else:
            jobs.append(lambda prompts=prompts, settings=settings: at_once(prompts, settings))
    jobs.append(lambda served=served: len(served.signatures))  # who drops the model would drop its weights
    return Case("served generator", jobs)


def python_generator(folder: Path) -> Case:
    """A `TextGenerator` in Python, compiled: calls and streams, with and without stop strings."""
    from keras_tfm.samplers import RandomSampler, Temperature, TopP

    writer = text_generator()
    choice, jobs = random.Random(1), []
    for number in range(24):
        prompts = [text for text in choice.sample(PROMPTS, 1 + number % 2) if isinstance(text, str)]
        sampler = "greedy" if number % 3 == 0 else RandomSampler((Temperature(0.5 + number / 24), TopP(0.9)))
        options = {"max_new_tokens": choice.choice([0, 1, 9, 16]), "sampler": sampler, "seed": number}
        options |= {"stop_strings": "th"} if number % 4 == 1 else {}
        if number % 4 == 3:
            size = choice.choice(PIECES)
            jobs.append(lambda a=prompts, o=options, s=size: tuple(writer.stream(a, tokens_per_piece=s, **o)))
        else:
            jobs.append(lambda a=prompts, o=options: tuple(writer(a, **o)))
    return Case("Python generator", jobs)


def served_classifier(folder: Path) -> Case:
    """A text classifier from its SavedModel: labels and probabilities."""
    import keras
    import tensorflow as tf

    from keras_tfm.models import TextClassifier, build_bert
    from keras_tfm.pipelines import TextClassification
    from keras_tfm.tokenizers import WordPieceTokenizer

    keras.utils.set_random_seed(0)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *",.:?!"]
    tokens += [f"##{letter}" for letter in string.ascii_lowercase]
    tokenizer = WordPieceTokenizer({token: i for i, token in enumerate(tokens)})
    encoder = build_bert(
        vocabulary_size=len(tokens), max_sequence_length=64, num_layers=2, num_heads=2, hidden_dim=32, dropout=0.0
    )
    TextClassification(TextClassifier(encoder, ["bad", "good"]), tokenizer).export(folder / "classifier" / "1")
    served = tf.saved_model.load(str(folder / "classifier" / "1"))

    def classify(texts):
        answer = served.signatures["serving_default"](texts=texts)
        # Rounded: no job is asked in two ways, but threads may share out a sum.
        return tuple(answer["label"].numpy().tolist()), tuple(answer["probability"].numpy().round(4).tolist())

    choice = random.Random(2)
    batches = [tf.constant([choice.choice(PROMPTS) for _ in range(number % 6)], tf.string) for number in range(24)]
    return Case("served classifier", [lambda texts=texts: classify(texts) for texts in batches])


def text_generator():
    """A tiny GPT with weights that make its texts vary."""
    import numpy as np

    from keras_tfm.generation import TextGenerator
    from keras_tfm.models import build_gpt
    from keras_tfm.tokenizers import BytePairTokenizer

    tokenizer = BytePairTokenizer.train(TEXT, vocabulary_size=300)
    model = build_gpt(vocabulary_size=300, max_sequence_length=256, num_layers=2, num_heads=2, hidden_dim=32)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape, scale=0.3))
    return TextGenerator(model, tokenizer)


CASES = {
    "served_generator": served_generator,
    "python_generator": python_generator,
    "served_classifier": served_classifier,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and prints their table; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.5, help="for each case (%(default)s)")
    parser.add_argument("--threads", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, default=harness.ROOT / "benchmarks" / "results" / "soak.json")
    parser.add_argument("--update-readme", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args(arguments)

    report = {"environment": harness.environment(), "minutes": options.minutes, "threads": options.threads, "cases": []}
    for name in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            harness.say(f"{name}: exporting, compiling ...")
            case = CASES[name](Path(folder))
            result = {"name": case.name, **soak(case, options.threads, 60 * options.minutes)}
        report["cases"].append(result)
        harness.say(f"{name}: {result['calls']} calls, {result['wrong']} wrong, {result['exceptions']} exceptions")
        if result["first_exception"]:
            harness.say(f"The first exception: {result['first_exception']}")
    harness.publish("soak", report, table(report), options.json, options.update_readme)
    return int(any(result["wrong"] or result["exceptions"] for result in report["cases"]))


def table(report: dict[str, Any]) -> str:
    """The cases side by side."""
    headers = [
        "case",
        "calls",
        "wrong",
        "exceptions",
        "MB before",
        "early",
        "after",
        "MB per 1,000 calls",
        "files",
        "threads",
    ]
    rows = [
        [
            result["name"],
            *(f"{result[key]:,}" for key in ("calls", "wrong", "exceptions")),
            *(f"{result[key]:,.0f}" for key in ("before", "early", "after")),
            f"{result['growth_per_1000_calls']:.2f}",
            *(f"{result[key]:+}" for key in ("files", "threads")),
        ]
        for result in report["cases"]
    ]
    what = f"{report['threads']} threads, {report['minutes']:g} minutes each; memory is early after a tenth of that:"
    return f"{what}\n\n{harness.markdown_table(headers, rows)}"


if __name__ == "__main__":
    sys.exit(main())
