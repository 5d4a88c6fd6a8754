"""The cross-entropy over a large vocabulary: seconds and memory of a forward and backward pass, chunked and whole.

Hidden states of some thousand tokens and the head's table, float32; the gradients of both are computed. Run it with
`python benchmarks/loss.py`; README.md beside this file tells the method.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness


class CrossEntropy:
    """A contender: subclasses make `step`, a forward and backward pass that returns (loss, gradient of the states)."""

    def __init__(self, case: dict[str, Any]):
        rng = np.random.default_rng(0)
        self.num_tokens = case["num_tokens"]
        self.hidden = rng.normal(size=(self.num_tokens, case["width"])).astype("float32")
        self.table = (rng.normal(size=(case["vocabulary_size"], case["width"])) * 0.02).astype("float32")
        self.ids = rng.integers(0, case["vocabulary_size"], self.num_tokens).astype("int32")
        self.result: tuple[float, np.ndarray] = (0.0, self.hidden)
        self.build()

    def build(self) -> None:
        """Makes the compiled step."""
        raise NotImplementedError

    def run(self) -> int:
        self.result = self.step()
        return self.num_tokens

    def verify(self) -> None:
        loss, gradient = self.result
        if not np.log(len(self.table)) - 1 < loss < np.log(len(self.table)) + 1 or not np.isfinite(gradient).all():
            raise RuntimeError(f"Must give a loss near that of chance and finite gradients. Received: {loss}.")


class KerasWhole(CrossEntropy):
    jit_compile = False

    def losses(self, hidden, table, ids):
        from keras import ops

        return ops.sparse_categorical_crossentropy(ids, ops.matmul(hidden, ops.transpose(table)), from_logits=True)

    def build(self) -> None:
        import tensorflow as tf

        hidden, table, ids = (tf.constant(x) for x in (self.hidden, self.table, self.ids))

        @tf.function(autograph=False, jit_compile=self.jit_compile)
        def step(hidden, table):
            with tf.GradientTape() as tape:
                tape.watch((hidden, table))
                loss = tf.reduce_mean(self.losses(hidden, table, ids))
            return loss, *tape.gradient(loss, (hidden, table))

        def run():
            loss, gradient, _ = step(hidden, table)
            return float(loss), gradient.numpy()

        self.step = run


class KerasWholeJit(KerasWhole):
    jit_compile = True


class KerasTfmChunked(KerasWhole):
    def losses(self, hidden, table, ids):
        from keras_tfm.losses import HeadWeights, chunked_cross_entropy

        return chunked_cross_entropy(hidden, HeadWeights(table), ids)


class KerasTfmChunkedJit(KerasTfmChunked):
    jit_compile = True


class TorchWhole(CrossEntropy):
    def build(self) -> None:
        import torch

        hidden, table = (torch.tensor(x, requires_grad=True) for x in (self.hidden, self.table))
        ids = torch.tensor(self.ids, dtype=torch.int64)

        def step():
            hidden.grad = table.grad = None
            loss = torch.nn.functional.cross_entropy(hidden @ table.T, ids)
            loss.backward()
            return float(loss), hidden.grad.numpy()

        self.step = step


CONTENDERS = {
    "keras_tfm_chunked": KerasTfmChunked,
    "keras_tfm_chunked_jit": KerasTfmChunkedJit,
    "keras": KerasWhole,
    "keras_jit": KerasWholeJit,
    "torch": TorchWhole,
}


def table(cases: list[dict[str, Any]], names: list[str], rounds: int) -> str:
    """Seconds of a pass and memory above the process's start, by size of the vocabulary."""

    def rows(cell):
        return harness.markdown_table(
            ["vocabulary", *names],
            [[f"{case['vocabulary_size']:,}", *(cell(case["contenders"][name]) for name in names)] for case in cases],
        )

    case = cases[0]
    return "\n\n".join(
        [
            f"Forward and backward, {case['num_tokens']:,} tokens of width {case['width']}, float32. Seconds, median "
            f"of {rounds} runs, one contender after the other, as the whole ones together would need all memory:",
            rows(lambda result: harness.cell(result, "median_seconds", 2)),
            "Peak resident memory above the process's start, MB:",
            rows(lambda result: harness.cell(result, "memory_above_start_mb")),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary-sizes", nargs="+", type=int, default=[32_000, 128_000])
    parser.add_argument("--num-tokens", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    harness.add_arguments(parser, "loss")
    parser.set_defaults(rounds=3)
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    report = {"benchmark": "loss", "environment": harness.environment(), "settings": {"rounds": args.rounds}}
    report["cases"] = []
    for vocabulary_size in args.vocabulary_sizes:
        harness.say(f"a vocabulary of {vocabulary_size:,}")
        case = {"vocabulary_size": vocabulary_size, "num_tokens": args.num_tokens, "width": args.width}
        # One after the other: together the whole ones would need more memory than there is.
        results = {}
        for name in args.contenders:
            results.update(harness.race("benchmarks.loss", case, [name], args.rounds))
        report["cases"].append({**case, "contenders": results})
    harness.publish("loss", report, table(report["cases"], args.contenders, args.rounds), args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
