"""An accelerator at work: a GPT-2 trains and a Llama of SmolLM2's shape writes, beside the same in JAX alone.

Tokens per second, and the share of the machine's products that a model's own products are. The backend is that of
KERAS_BACKEND, jax or tensorflow. `python benchmarks/accelerator.py` wants an accelerator, `--small` runs on a CPU;
README.md beside this file tells the method.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness, sizes

GPT2 = sizes.gpt(12, 12, 768, 50257, 1024)
SMOLLM2 = sizes.Shape(30, 9, 3, 576, 1536, 49152, 2048)
SMALL_GPT = sizes.gpt(4, 4, 256, 4096, 128)
SMALL_LLAMA = sizes.Shape(4, 6, 2, 192, 512, 4096, 256)


def shape_of(case: dict[str, Any]) -> sizes.Shape:
    """Of the model that trains, or that writes."""
    if case["task"] == "train":
        return SMALL_GPT if case["small"] else GPT2
    return SMALL_LLAMA if case["small"] else SMOLLM2


class Products:
    """Large matrix products one after another by Keras' backend: as fast as the machine is. Their FLOP are `run`'s."""

    def __init__(self, case: dict[str, Any]):
        from keras import ops

        self.count, self.size = case["steps"], 1024 if case["small"] else 8192
        x = np.random.default_rng(0).normal(size=(self.size, self.size)) / self.size**0.5
        self.x = ops.convert_to_tensor(x, "bfloat16" if case["precision"] == "mixed_bfloat16" else "float32")
        self.ops = ops

    def run(self) -> int:
        y = self.x
        for _ in range(self.count):
            y = self.ops.matmul(self.x, y)
        float(self.ops.sum(self.ops.cast(y, "float32")))  # waits for it
        return 2 * self.size**3 * self.count

    def verify(self) -> None:
        """Nothing: the same product again."""


class Training:
    """A GPT-2 in mixed precision; subclasses take an AdamW step for each batch of `self.ids`."""

    def __init__(self, case: dict[str, Any]):
        self.case, self.shape = case, shape_of(case)
        size = (case["steps"], case["batch"], self.shape.sequence_length + 1)
        self.ids = np.random.default_rng(0).integers(0, self.shape.vocabulary_size, size, dtype="int32")
        self.losses: list[float] = []
        self.build()

    def build(self) -> None:
        """Makes the model and its optimizer."""
        raise NotImplementedError

    def fit(self) -> float:
        """Goes over the batches once; the mean loss."""
        raise NotImplementedError

    def run(self) -> int:
        self.losses.append(self.fit())
        return self.ids[..., 1:].size

    def verify(self) -> None:
        self.run()
        chance = np.log(self.shape.vocabulary_size)
        if not self.losses[-1] < self.losses[0] < chance + 1:
            raise RuntimeError(f"Must begin near chance, {chance:.2f}, and learn. Received losses: {self.losses}.")


class KerasTfmTraining(Training):
    def build(self) -> None:
        import keras

        import keras_tfm as ktfm

        names = "num_layers", "num_heads", "hidden_dim", "vocabulary_size"
        self.model = ktfm.models.build_gpt(
            **{name: getattr(self.shape, name) for name in names},
            max_sequence_length=self.shape.sequence_length,
            dtype=self.case["precision"],
        )
        if self.model.count_params() != sizes.parameters(self.shape):
            raise RuntimeError(f"Must have {sizes.parameters(self.shape):,} parameters.")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.AdamW(3e-4), loss, jit_compile=True)
        self.rows = self.ids.reshape(-1, self.ids.shape[-1])

    def fit(self) -> float:
        x, y = self.rows[:, :-1], self.rows[:, 1:]
        history = self.model.fit(x, y, batch_size=self.case["batch"], shuffle=False, verbose=0)
        return history.history["loss"][0]


class JaxTraining(Training):
    def build(self) -> None:
        from benchmarks import plain_jax

        self.plain = plain_jax
        self.state = plain_jax.begin_training(self.shape)
        count = sum(w.size for w in self.plain.jax.tree.leaves(self.state[0]))
        if count != sizes.parameters(self.shape):
            raise RuntimeError(f"Must have {sizes.parameters(self.shape):,} parameters. Received: {count:,}.")
        self.dtype = "bfloat16" if self.case["precision"] == "mixed_bfloat16" else "float32"

    def fit(self) -> float:
        losses = []
        for ids in self.ids:
            self.state, loss = self.plain.train_step(self.state, ids, self.shape, self.dtype)
            losses.append(loss)
        return float(np.mean([float(loss) for loss in losses]))


class Writing:
    """A Llama with weights in bfloat16, or floats: subclasses continue `self.prompt`, (B, P), greedily."""

    def __init__(self, case: dict[str, Any]):
        self.case, self.shape = case, shape_of(case)
        size = (case["batch"], case["prompt"])
        self.prompt = np.random.default_rng(0).integers(1, self.shape.vocabulary_size, size, dtype="int32")
        self.dtype = "bfloat16" if case["precision"] == "mixed_bfloat16" else "float32"
        self.build()

    def build(self) -> None:
        """Makes the model."""
        raise NotImplementedError

    def write(self) -> np.ndarray:
        """The new ids, (B, new_tokens)."""
        raise NotImplementedError

    def run(self) -> int:
        expected, written = (self.case["batch"], self.case["new_tokens"]), self.write()
        if written.shape != expected:
            raise RuntimeError(f"Must write {expected} ids. Received: {written.shape}.")
        return written.size

    def verify(self) -> None:
        """Nothing more than `run` checks."""


class KerasTfmWriting(Writing):
    def build(self) -> None:
        import keras_tfm as ktfm

        names = "num_layers", "num_heads", "num_key_value_heads", "hidden_dim", "intermediate_dim", "vocabulary_size"
        sizes_of = {name: getattr(self.shape, name) for name in names}
        self.model = ktfm.models.build_llama(**sizes_of, tie_weights=True, dtype=self.dtype)

    def write(self) -> np.ndarray:
        written = self.model.generate(self.prompt, max_new_tokens=self.case["new_tokens"], sampler="greedy")
        return np.asarray(written.token_ids)


class JaxWriting(Writing):
    def build(self) -> None:
        from benchmarks import plain_jax

        self.plain = plain_jax
        self.weights = plain_jax.random_weights(self.shape, self.dtype)

    def write(self) -> np.ndarray:
        return np.asarray(self.plain.write(self.weights, self.prompt, self.shape, self.case["new_tokens"]))


CONTENDERS: dict[str, dict[str, Any]] = {
    "keras_tfm": {"products": Products, "train": KerasTfmTraining, "write": KerasTfmWriting},
    "jax": {"train": JaxTraining, "write": JaxWriting},
}


def table(report: dict[str, Any]) -> str:
    """Tokens per second, and what share of the machine's products they are."""
    settings, cases = report["settings"], report["cases"]
    peak, rows = settings["peak"], []
    for case in cases:
        if case["task"] == "products":
            continue
        shape, is_training = shape_of(case), case["task"] == "train"
        one = sizes.step_flops(shape, 1, remat=False) / (1 if is_training else 3)  # forward alone
        what = f"{case['task']}, batch {case['batch']}"
        results = case["contenders"]
        shares = [f"{results[name].get('tokens_per_second', 0) * one / peak:.1%}" for name in CONTENDERS]
        speeds = [harness.cell(results[name], "tokens_per_second") for name in CONTENDERS]
        firsts = [harness.cell(results[name], "first_call_seconds", 1) for name in CONTENDERS]
        rows.append([what, *speeds, *shares, harness.ratio(results, "keras_tfm", ["jax"]), *firsts])
    headers = [f"{name}{what}" for what in ("", ", of the peak") for name in CONTENDERS]
    firsts = [f"{name}, first run, s" for name in CONTENDERS]
    train, write = (shape_of({"task": task, "small": settings["small"]}) for task in ("train", "write"))
    return (
        f"A GPT of {sizes.parameters(train) / 1e6:.1f} million parameters trains on rows of {train.sequence_length}, "
        f"AdamW, {settings['precision']}; a Llama of {write.num_layers} blocks, {write.hidden_dim} wide, writes after "
        f"prompts of {settings['prompt']} tokens. Keras on {settings['backend']}; {settings['device']}, of whose "
        f"{peak / 1e12:,.2f} TFLOP/s ({settings['peak_is']}) the models' own products are the share. Tokens/s, median "
        f"of {settings['rounds']} runs:\n\n" + harness.markdown_table(["", *headers, "keras_tfm / jax", *firsts], rows)
    )


def device_name() -> str:
    """What JAX calls the device, from a process of its own: JAX takes a GPU's memory."""
    import subprocess

    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small models, for a CPU")
    parser.add_argument("--precision", choices=("mixed_bfloat16", "float32"), default="mixed_bfloat16")
    parser.add_argument("--batch", type=int, default=16, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="prompts that are continued at once")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--tasks", nargs="+", choices=("train", "write"), default=["train", "write"])
    parser.add_argument("--peak-tflops", type=float, help="of the device; default: large products are measured")
    harness.add_arguments(parser, "accelerator")
    parser.set_defaults(rounds=3)
    args = parser.parse_args()
    if args.worker:
        harness.serve(lambda case: CONTENDERS[args.worker][case["task"]](case))
        return 0
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("jax", "tensorflow"):
        parser.error(f"KERAS_BACKEND must be jax or tensorflow. Received: {backend!r}.")
    # All devices are seen, and no framework takes a GPU's memory before it needs it.
    environment = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "PYTHONPATH": harness.WORKER_ENVIRONMENT["PYTHONPATH"],
    }
    names = ("small", "precision", "steps", "prompt", "new_tokens", "rounds")
    settings = {name: getattr(args, name) for name in names}
    batches = {"train": [args.batch], "write": args.rows}
    cases = [] if args.peak_tflops else [{"task": "products", "batch": 1}]
    cases += [{"task": task, "batch": batch} for task in args.tasks for batch in batches[task]]
    report: dict[str, Any] = {"benchmark": "accelerator", "environment": harness.environment(), "cases": []}
    for case in cases:
        harness.say(f"{case['task']}, batch {case['batch']}")
        full, results = {**settings, **case}, {}
        for name in (name for name in CONTENDERS if case["task"] in CONTENDERS[name]):  # one after the other
            results |= harness.race("benchmarks.accelerator", full, [name], args.rounds, environment)
        report["cases"].append({**full, "contenders": results})
    if args.peak_tflops:
        peak = {"peak": args.peak_tflops * 1e12, "peak_is": "as given"}
    else:
        measured = report["cases"][0]["contenders"]["keras_tfm"].get("tokens_per_second", float("nan"))
        peak = {"peak": measured, "peak_is": "large products, measured"}
    report["settings"] = {**settings, **peak, "backend": backend, "device": device_name()}
    name = f"accelerator_{backend}"
    harness.publish(name, report, table(report), args.json.with_name(f"{name}.json"), args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
