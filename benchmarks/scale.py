"""Training by one process and by two on two cores: step time, memory, what is sent, and the same on paper.

A small GPT takes AdamW steps on random tokens. "workers" compares one process with two of `keras_tfm.training.workers`
over loopback, each with a core of its own; "memory" compares whole batches with batches in parts and with blocks that
are computed again. Run it with `python benchmarks/scale.py`; README.md beside this file tells the method.
"""

import argparse
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness, sizes

SHAPE = dict(num_layers=4, num_heads=6, hidden_dim=384, vocabulary_size=4096)


class Training:
    """A contender: `fit` over a step or more. Subclasses say with which part of the machine, batch and model."""

    num_cores = 2
    batch_factor = 1.0
    accumulate_steps = 1
    remat = False
    jit_compile = False

    def __init__(self, case: dict[str, Any], index: int = 0):
        self.case, self.index = case, index
        self.batch_size = int(case["batch"] * self.batch_factor)
        # Before TensorFlow counts the cores for its threads.
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[index : index + self.num_cores]))
        self.build()
        self.found: dict[str, float] = {}
        harness.forget_peak()

    def build(self) -> None:
        import keras
        import tensorflow as tf

        import keras_tfm as ktfm

        shape: dict[str, int] = {**SHAPE, "max_sequence_length": self.case["length"]}
        with ktfm.training.workers():
            self.model = ktfm.models.build_gpt(**shape, remat=self.remat)
            # In chunks: logits of these few tokens would be half of the memory.
            self.model.compile(keras.optimizers.AdamW(3e-4), loss="chunked", jit_compile=self.jit_compile)
            self.model.optimizer.build(self.model.trainable_variables)
        ktfm.training.accumulate_gradients(self.model, self.accumulate_steps)
        num_rows = self.case["steps"] * self.batch_size
        ids = np.random.default_rng(0).integers(0, SHAPE["vocabulary_size"], (num_rows, self.case["length"] + 1))
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread makes `fit` wait for seconds at its end
        dataset = tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(self.batch_size, True)
        self.dataset = dataset.with_options(options)
        self.losses: list[float] = []

    def fit(self) -> None:
        self.losses += self.model.fit(self.dataset, shuffle=False, verbose=0).history["loss"]

    def run(self) -> int:
        before = sent_over_loopback()
        self.fit()
        sent = (sent_over_loopback() - before) / self.case["steps"] / 1e6
        self.found["sent_mb"] = min(sent, self.found.get("sent_mb", sent))  # others may use it, too
        return self.case["steps"] * self.batch_size * self.case["length"]

    def verify(self) -> None:
        self.run()
        if not self.losses[-1] < self.losses[0]:
            raise RuntimeError(f"Must learn. Received these mean losses: {self.losses}.")


class OneCore(Training):
    num_cores = 1


class HalfOnOneCore(OneCore):
    batch_factor = 0.5


class Pair(OneCore):
    """Two processes with a core each that take their steps at the same time; this is the one that is timed."""

    exchange = True

    def __init__(self, case: dict[str, Any], index: int = 0):
        if index == 0:
            cluster = {"worker": [f"127.0.0.1:{port}" for port in _free_ports(2)]}
            context = multiprocessing.get_context("spawn")
            self._pipe, other_end = context.Pipe()
            self._set_config(cluster, 1)  # a process begins with the environment of this moment
            context.Process(target=_serve_pair, args=(type(self), case, other_end), daemon=True).start()
            self._set_config(cluster, 0)
        super().__init__(case, index)

    def run(self) -> int:
        self._pipe.send("fit")
        own_tokens = super().run()
        self._pipe.recv()
        return own_tokens if self.exchange else 2 * own_tokens

    def _set_config(self, cluster: dict[str, list[str]], index: int) -> None:
        if self.exchange:
            os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


class TwoWorkers(Pair):
    """The batch's halves."""


class TwoWorkersWithTwice(Pair):
    """A whole batch each."""

    batch_factor = 2.0


class TwoApart(Pair):
    """Half a batch each, and nothing is exchanged."""

    exchange = False
    batch_factor = 0.5


def _serve_pair(kind: type[Pair], case: dict[str, Any], pipe: Any) -> None:
    second = kind(case, index=1)
    while True:
        try:
            pipe.recv()
        except EOFError:  # the first has ended
            return
        second.fit()
        pipe.send("done")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def sent_over_loopback() -> int:
    """Bytes since the machine started; 0 where there is no /proc."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))
    except (OSError, StopIteration):
        return 0


class InFourParts(Training):
    accumulate_steps = 4


class Remat(Training):
    remat = True


class RematInFourParts(Remat):
    accumulate_steps = 4


class Jit(Training):
    jit_compile = True


class JitInFourParts(Jit):
    accumulate_steps = 4


WORKERS: dict[str, type[Training]] = {
    "1 process, 2 cores": Training,
    "1 process, 1 core": OneCore,
    "1 process, 1 core, half the batch": HalfOnOneCore,
    "2 processes apart, half the batch each": TwoApart,
    "2 workers, half the batch each": TwoWorkers,
    "2 workers, a batch each": TwoWorkersWithTwice,
}
MEMORY: dict[str, type[Training]] = {
    "whole batch": Training,
    "4 parts": InFourParts,
    "remat": Remat,
    "remat, 4 parts": RematInFourParts,
    "whole batch, jit": Jit,
    "4 parts, jit": JitInFourParts,
}
CONTENDERS = WORKERS | MEMORY


def workers_table(case: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """Seconds of a step, memory and what is sent; then what the ratios say."""
    shape = sizes.gpt(**{**SHAPE, "max_sequence_length": case["length"]})
    count = sizes.parameters(shape)
    rows = []
    for name, result in results.items():
        kind = WORKERS[name]
        step = f"{result['median_seconds'] / case['steps']:.2f}" if "median_seconds" in result else ""
        is_pair = issubclass(kind, Pair) and kind.exchange
        paper = f"{2 * sizes.FLOAT * count / 1e6:,.0f}" if is_pair else "0"  # each sends 2 (n - 1) / n of all gradients
        keys = ("tokens_per_second", "memory_above_start_mb", "sent_mb")
        rows.append([name, step, *(harness.cell(result, key) for key in keys), paper])
    headers = ["", "step, s", "tokens/s", "peak above start, MB", "sent a step, MB", "on paper"]
    seconds = {name: result.get("median_seconds", float("nan")) for name, result in results.items()}
    one, one_core, half, apart, two, twice = (seconds.get(name, float("nan")) for name in WORKERS)
    lines = [
        f"Two workers, each with a core, beside one process with one core: {one_core / two:.2f} times as fast with the "
        f"same batch (strong scaling), {2 * one_core / twice:.2f} times with a batch each (weak scaling); beside one "
        f"process with both cores, {one / two:.2f} times.",
        f"Of a step of two workers {1 - apart / two:.0%} goes into exchanging {sizes.FLOAT * count / 1e6:,.0f} MB of "
        f"gradients, and waiting for each other: two processes that exchange nothing take {apart / two:.2f} of the "
        f"time. Beside each other these take {apart / half:.2f} times as long as one alone: they share the machine.",
    ]
    return (
        f"Small GPT of {count / 1e6:.1f} million parameters, float32, AdamW, batches of {case['batch']} x "
        f"{case['length']} tokens, median of {case['rounds']} interleaved runs of {case['steps']} steps:\n\n"
        + harness.markdown_table(headers, rows)
        + "\n\n"
        + "\n".join(f"- {line}" for line in lines)
    )


def memory_table(case: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """Seconds of a step and memory above weights and states, measured and on paper."""
    shape = sizes.gpt(**{**SHAPE, "max_sequence_length": case["length"]})
    gradients = sizes.FLOAT * sizes.parameters(shape)
    tokens = case["batch"] * case["length"]
    rows = []
    for name, result in results.items():
        kind = MEMORY[name]
        step = f"{result['median_seconds'] / case['steps']:.2f}" if "median_seconds" in result else ""
        parts = kind.accumulate_steps
        activations = sizes.activation_bytes(shape, tokens // parts, kind.remat, width=sizes.FLOAT)
        paper = activations + gradients * (2 if parts > 1 else 1)
        rows.append([name, step, harness.cell(result, "memory_above_start_mb"), f"{paper / 1e6:,.0f}"])
    text = harness.markdown_table(["", "step, s", "peak above start, MB", "activations and gradients on paper"], rows)
    paper = sizes.activation_bytes(shape, tokens - tokens // 4, False, width=sizes.FLOAT)
    for kind, names in {
        "without jit": ("whole batch", "4 parts"),
        "with it": ("whole batch, jit", "4 parts, jit"),
    }.items():
        whole, parted = (results.get(name, {}).get("memory_above_start_mb") for name in names)
        if whole and parted:
            measured = (whole - parted) * 2**20 + gradients
            text += (
                f"\n\nA token's activations {kind}, from the difference between the whole batch and four parts: "
                f"{measured / (0.75 * tokens) / 1e3:,.0f} kB; on paper {paper / (0.75 * tokens) / 1e3:,.0f} kB."
            )
    return (
        f"The same model, batches of {case['batch']} x {case['length']} tokens, memory-lean attention, a chunked loss; "
        "peak resident memory above what the process held with weights and AdamW's moments, code and what compiling it "
        "takes included:\n\n" + text
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=("workers", "memory"), default=["workers", "memory"])
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps in a run")
    harness.add_arguments(parser, "scale")
    parser.set_defaults(rounds=3)
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    if harness.CORES < 2:
        parser.error("two cores are needed")
    status, environment = 0, harness.environment()
    forms: dict[str, tuple] = {
        "workers": (16, 128, WORKERS, workers_table),
        "memory": (4, 1024, MEMORY, memory_table),
    }
    for task in args.tasks:
        batch, length, contenders, table = forms[task]
        harness.say(task)
        case = {"task": task, "batch": batch, "length": length, "steps": args.steps, "rounds": args.rounds}
        results: dict[str, dict[str, Any]] = {}
        for names in [list(contenders)] if task == "workers" else [[name] for name in contenders]:
            results |= harness.race("benchmarks.scale", case, names, args.rounds)
        name = f"scale_{task}"
        report = {"benchmark": name, "environment": environment, "cases": [{**case, "contenders": results}]}
        json_path = args.json.with_name(f"{args.json.stem}_{task}.json")
        harness.publish(name, report, table(case, results), json_path, args.update_readme)
        status |= harness.exit_status(report)
    return status


if __name__ == "__main__":
    sys.exit(main())
