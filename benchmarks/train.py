"""Training in tokens per second: `fit` of keras_tfm beside KerasHub's and a Hugging Face torch loop.

The small GPT of each library takes AdamW steps on the same random tokens, dropout 0, in float32 and with mixed
bfloat16. Run it with `python benchmarks/train.py`; README.md beside this file tells the method.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness
from benchmarks.generate import build_keras_hub_gpt2, build_torch_gpt2

LEARNING_RATE = 3e-4


class Training:
    """A contender: subclasses build a model and take one optimizer step for each batch of `self.x`, `self.y`."""

    shapes = harness.SHAPES

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.vocabulary_size = self.shapes[case["shape"]]["vocabulary_size"]
        rows = np.random.default_rng(0).integers(
            self.vocabulary_size, size=(case["steps"] * case["batch"], case["length"] + 1), dtype=np.int32
        )
        self.x, self.y = rows[:, :-1], rows[:, 1:]
        self.steps_taken = 0
        self.losses: list[float] = []
        self.build()

    def build(self) -> None:
        """Makes the model and its optimizer."""
        raise NotImplementedError

    def fit(self) -> float:
        """Goes over the data once and returns the mean loss."""
        raise NotImplementedError

    def run(self) -> int:
        before = self.steps_taken
        self.losses.append(self.fit())
        if self.steps_taken - before != self.case["steps"]:
            raise RuntimeError(f"Must take {self.case['steps']} steps. Received: {self.steps_taken - before}.")
        return self.x.size

    def verify(self) -> None:
        # The same tokens again and again: whoever trains gets better at them.
        self.run()
        if not self.losses[-1] < self.losses[0]:
            raise RuntimeError(f"Must learn. Received these mean losses: {self.losses}.")


class KerasFit(Training):
    """A Keras model, by `compile` and `fit`; subclasses make it."""

    jit_compile = False

    def make(self) -> tuple[Any, Any]:
        """The model and its inputs."""
        raise NotImplementedError

    def build(self) -> None:
        import keras
        import tensorflow as tf

        keras.config.set_dtype_policy(self.case["precision"])
        self.model, inputs = self.make()
        self.model.compile(
            optimizer=keras.optimizers.AdamW(LEARNING_RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=self.jit_compile,
            weighted_metrics=None,  # KerasHub would add an accuracy over the whole vocabulary
        )
        # Without autotuning, whose thread makes `fit` wait for seconds at its end, at random (TensorFlow 2.21).
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.from_tensor_slices((inputs, self.y)).batch(self.case["batch"], drop_remainder=True)
        self.dataset = dataset.prefetch(2).with_options(options)

    def fit(self) -> float:
        history = self.model.fit(self.dataset, shuffle=False, verbose=0)
        self.steps_taken = int(self.model.optimizer.iterations)
        return history.history["loss"][0]


class KerasTfm(KerasFit):
    def make(self) -> tuple[Any, Any]:
        import keras_tfm

        return keras_tfm.models.build_gpt(**harness.SHAPES[self.case["shape"]], dropout=0.0), self.x


class KerasTfmJit(KerasTfm):
    jit_compile = True


class KerasHub(KerasFit):
    def make(self) -> tuple[Any, Any]:
        inputs = {"token_ids": self.x, "padding_mask": np.ones_like(self.x, dtype=bool)}
        return build_keras_hub_gpt2(self.case["shape"]), inputs


class KerasHubJit(KerasHub):
    jit_compile = True


class Torch(Training):
    activation = "gelu_new"  # what GPT-2's configuration names

    def build(self) -> None:
        import torch

        self.torch = torch
        self.model = self.build_model().train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.case["precision"] == "mixed_bfloat16")
        self.batches = [
            [torch.from_numpy(array[start : start + self.case["batch"]].astype(np.int64)) for array in (self.x, self.y)]
            for start in range(0, len(self.x), self.case["batch"])
        ]

    def build_model(self) -> Any:
        return build_torch_gpt2(self.case["shape"], self.activation)

    def logits(self, token_ids: Any, number: int) -> Any:
        """Those of the batch of this number."""
        return self.model(token_ids, use_cache=False).logits

    def fit(self) -> float:
        losses = []
        for number, (token_ids, next_ids) in enumerate(self.batches):
            with self.autocast:
                logits = self.logits(token_ids, number)
                loss = self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), next_ids.flatten())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.steps_taken += 1
            losses.append(loss.detach())
        return float(self.torch.stack(losses).mean())


class TorchGeluKernel(Torch):
    activation = "gelu_pytorch_tanh"  # the same function as one kernel


CONTENDERS: dict[str, type[Training]] = {
    "keras_tfm": KerasTfm,
    "keras_tfm_jit": KerasTfmJit,
    "keras_hub": KerasHub,
    "keras_hub_jit": KerasHubJit,
    "torch": Torch,
    "torch_gelu_kernel": TorchGeluKernel,
}
OURS = ("keras_tfm", "keras_tfm_jit")
KERAS_HUB = ("keras_hub", "keras_hub_jit")
TORCH = ("torch", "torch_gelu_kernel")


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second with our ratios, then seconds of the first run and peak memory."""
    speeds, details = [], []
    for case in cases:
        results, precision = case["contenders"], case["precision"]
        ours = max(OURS, key=lambda name: results.get(name, {}).get("tokens_per_second", 0.0))
        ratios = [harness.ratio(results, ours, peers) for peers in (KERAS_HUB + TORCH, KERAS_HUB)]
        speeds.append([precision] + [harness.cell(results[name], "tokens_per_second") for name in names] + ratios)
        for title, key, digits in (("first run, s", "first_call_seconds", 1), ("peak memory, MB", "peak_memory_mb", 0)):
            details.append([f"{precision}: {title}"] + [harness.cell(results[name], key, digits) for name in names])
    title = (
        f"Training, {settings['shape']} shape, batch {settings['batch']} x {settings['length']} tokens, AdamW. "
        f"Tokens/s, median of {settings['rounds']} interleaved runs of {settings['steps']} steps:"
    )
    return "\n\n".join(
        [
            title,
            harness.markdown_table(
                ["precision", *names, "best keras_tfm / best peer", "best keras_tfm / best KerasHub"], speeds
            ),
            "The first run (tracing and compiling included), and the largest resident memory of each process:",
            harness.markdown_table(["", *names], details),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=harness.SHAPES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps in a run")
    precisions = ["float32", "mixed_bfloat16"]
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    harness.add_arguments(parser, "train")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    settings = {name: getattr(args, name) for name in ("shape", "batch", "length", "steps", "rounds")}
    report = {"benchmark": "train", "environment": harness.environment(), "settings": settings, "cases": []}
    for precision in args.precisions:
        harness.say(precision)
        case = {**settings, "precision": precision}
        results = harness.race("benchmarks.train", case, args.contenders, args.rounds)
        report["cases"].append({"precision": precision, "contenders": results})
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("train", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
