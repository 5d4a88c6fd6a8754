"""Attention over long sequences: seconds and memory of a forward and backward pass, plain and lean, beside the peers.

One causal self-attention layer (8 heads of 64, batch 1, float32) reads a sequence and returns the gradients of its
input and weights. Run it with `python benchmarks/attention.py`; README.md beside this file tells the method.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness

NUM_HEADS, HEAD_DIM = 8, 64
WIDTH = NUM_HEADS * HEAD_DIM
# Scores and their kin of all heads at once: what a layer without tiles needs (seen: 9.3 GB at 8,192).
WHOLE_MATRICES = 5


class Attention:
    """A contender: subclasses build a layer and compute one forward and backward pass of `self.x`."""

    lean = False

    def __init__(self, case: dict[str, Any]):
        self.length = case["length"]
        needed = 0 if self.lean else WHOLE_MATRICES * NUM_HEADS * self.length**2 * 4 / 2**30
        if needed > case["memory_gib"]:
            raise harness.LeftOut(f"needs some {needed:.0f} GiB")
        self.x = np.random.default_rng(0).normal(size=(1, self.length, WIDTH)).astype("float32")
        self.gradient: np.ndarray = self.x
        self.build()

    def build(self) -> None:
        """Makes the layer and the compiled step."""
        raise NotImplementedError

    def step(self) -> np.ndarray:
        """Forward and backward; returns the gradient of the input."""
        raise NotImplementedError

    def run(self) -> int:
        self.gradient = self.step()
        return self.length

    def verify(self) -> None:
        if self.gradient.shape != self.x.shape or not np.isfinite(self.gradient).all() or not self.gradient[0, 0].any():
            raise RuntimeError(f"Must give finite gradients of shape {self.x.shape}.")


class KerasMultiHeadAttention(Attention):
    def attend(self, x):
        return self.layer(x, x, use_causal_mask=True)

    def make_layer(self):
        import keras

        return keras.layers.MultiHeadAttention(NUM_HEADS, HEAD_DIM)

    def build(self) -> None:
        import tensorflow as tf

        self.layer = self.make_layer()
        self.attend(tf.zeros((1, 2, WIDTH)))
        x = tf.constant(self.x)

        @tf.function(autograph=False)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(self.attend(x))
            return tape.gradient(loss, [x, *(weight.value for weight in self.layer.trainable_weights)])

        self.step = lambda: step(x)[0].numpy()


class KerasTfmPlain(KerasMultiHeadAttention):
    method = "plain"

    def attend(self, x):
        return self.layer(x)

    def make_layer(self):
        import keras_tfm as ktfm

        return ktfm.layers.MultiHeadSelfAttention(NUM_HEADS, causal=True, method=self.method)


class KerasTfmLean(KerasTfmPlain):
    method, lean = "lean", True


class TorchSdpa(Attention):
    lean = True

    def build(self) -> None:
        import torch

        dense = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        x = torch.tensor(self.x, requires_grad=True)

        def heads(y):
            return y.view(1, self.length, NUM_HEADS, HEAD_DIM).transpose(1, 2)

        def step():
            for tensor in (x, *(weight for layer in dense for weight in layer.parameters())):
                tensor.grad = None
            query, key, value = (heads(layer(x)) for layer in dense[:3])
            y = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            dense[3](y.transpose(1, 2).reshape(1, self.length, WIDTH)).sum().backward()
            return x.grad.numpy()

        self.step = step


CONTENDERS = {
    "keras_tfm_lean": KerasTfmLean,
    "keras_tfm_plain": KerasTfmPlain,
    "keras_mha": KerasMultiHeadAttention,
    "torch_sdpa": TorchSdpa,
}


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Seconds of a pass, memory above the process's start, and seconds of the first call, by length."""

    def table(cell):
        return harness.markdown_table(
            ["positions", *names],
            [[f"{case['length']:,}", *(cell(case["contenders"][name]) for name in names)] for case in cases],
        )

    return "\n\n".join(
        [
            f"Forward and backward, causal, {NUM_HEADS} heads of {HEAD_DIM}, batch 1, float32. "
            f"Seconds, median of {settings['rounds']} interleaved runs:",
            table(lambda result: harness.cell(result, "median_seconds", 3)),
            "Peak resident memory above the process's start, MB:",
            table(lambda result: harness.cell(result, "memory_above_start_mb")),
            "Seconds of the first call, with tracing and compiling:",
            table(lambda result: harness.cell(result, "first_call_seconds", 1)),
        ]
    )


def plot(cases: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Time and memory over the length, both axes logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    panels = ("median_seconds", "seconds"), ("memory_above_start_mb", "MB above the process's start")
    for axis, (key, label) in zip(axes, panels, strict=True):
        for name in names:
            points = [
                (case["length"], case["contenders"][name][key]) for case in cases if key in case["contenders"][name]
            ]
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="positions", ylabel=label)
        axis.set_xticks([case["length"] for case in cases], [f"{case['length']:,}" for case in cases], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    figure.suptitle("Attention, forward and backward")
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--memory-gib", type=float, default=16.0, help="contenders that need more are left out")
    harness.add_arguments(parser, "attention")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    report = {"benchmark": "attention", "environment": harness.environment(), "settings": {"rounds": args.rounds}}
    report["cases"] = []
    for length in args.lengths:
        harness.say(f"{length:,} positions")
        case = {"length": length, "memory_gib": args.memory_gib}
        results = harness.race("benchmarks.attention", case, args.contenders, args.rounds)
        report["cases"].append({**case, "contenders": results})
    text = tables(report["cases"], args.contenders, report["settings"])
    harness.publish("attention", report, text, args.json, args.update_readme)
    plot(report["cases"], args.contenders, args.json.with_suffix(".png"))
    harness.say(f"The plot is in {args.json.with_suffix('.png')}.")
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
