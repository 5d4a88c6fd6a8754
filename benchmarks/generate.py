"""Generation in tokens per second, greedy and by beams: keras_tfm beside KerasHub, Hugging Face torch and CTranslate2.

Each library holds a GPT of the same shape with random weights and continues the same prompt of random tokens by
exactly `--new-tokens`. Run it with `python benchmarks/generate.py`; README.md beside this file tells the method.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness


def build_keras_hub_gpt2(shape: str) -> Any:
    """A random GPT-2 of KerasHub without preprocessor, dropout 0, in the current dtype policy."""
    import keras_hub

    sizes = harness.SHAPES[shape]
    backbone = keras_hub.models.GPT2Backbone(**sizes, intermediate_dim=4 * sizes["hidden_dim"], dropout=0.0)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def build_torch_gpt2(shape: str, activation: str = "gelu_pytorch_tanh") -> Any:
    """A random GPT-2 of Hugging Face transformers, dropout 0, that never stops at an end token.

    The default activation is the function of "gelu_new", the one that GPT-2's configuration names, as one kernel
    instead of eight: it makes torch faster, in training by half.
    """
    import torch
    import transformers

    torch.set_num_threads(harness.CORES)
    torch.manual_seed(0)
    sizes = harness.SHAPES[shape]
    config = transformers.GPT2Config(
        n_layer=sizes["num_layers"],
        n_head=sizes["num_heads"],
        n_embd=sizes["hidden_dim"],
        n_positions=sizes["max_sequence_length"],
        vocab_size=sizes["vocabulary_size"],
        activation_function=activation,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


class Generation:
    """A contender: subclasses build a model and continue `self.prompt`, (B, P) int32, greedily."""

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.new_tokens: int = case["new_tokens"]
        self.num_beams: int = case["beams"]
        self.vocabulary_size = harness.SHAPES[case["shape"]]["vocabulary_size"]
        self.prompt = np.random.default_rng(0).integers(
            self.vocabulary_size, size=(case["batch"], case["prompt_length"]), dtype=np.int32
        )
        self.build()

    def build(self) -> None:
        """Makes the model."""
        raise NotImplementedError

    def generate(self) -> np.ndarray:
        """The new ids alone, (B, new_tokens), in this process's memory."""
        raise NotImplementedError

    def run(self) -> int:
        new_ids = self.generate()
        expected = (self.case["batch"], self.new_tokens)
        if new_ids.shape != expected or new_ids.min() < 0 or new_ids.max() >= self.vocabulary_size:
            raise RuntimeError(f"Must give {expected} ids below {self.vocabulary_size}. Received: {new_ids}.")
        return new_ids.size

    def verify(self) -> None:
        """Nothing more than `run` checks, unless a subclass could fill its answer without generating."""


class KerasTfm(Generation):
    def build(self) -> None:
        import keras_tfm

        self.model = keras_tfm.models.build_gpt(**harness.SHAPES[self.case["shape"]])
        self.sampler = keras_tfm.samplers.BeamSampler(num_beams=self.num_beams) if self.num_beams > 1 else "greedy"

    def generate(self) -> np.ndarray:
        result = self.model.generate(self.prompt, max_new_tokens=self.new_tokens, sampler=self.sampler)
        return np.asarray(result.token_ids)


class KerasTfmStream(KerasTfm):
    """About a tenth of a second at a time, as `TextGenerator.stream` does by default."""

    def generate(self) -> np.ndarray:
        steps = self.model.generate_steps(
            self.prompt, max_new_tokens=self.new_tokens, sampler=self.sampler, tokens_per_piece=None
        )
        *_, last = steps
        return np.asarray(last.token_ids)


class KerasTfmInt8(KerasTfm):
    def build(self) -> None:
        super().build()
        self.model.quantize_for_generation()


class KerasTfmW8a8(KerasTfm):
    """Activations in 8 bits, too, as CTranslate2's int8 has them."""

    def build(self) -> None:
        super().build()
        self.model.quantize_for_generation("w8a8")


class KerasTfmBfloat16(KerasTfm):
    """Weights in bfloat16, and products where the processor has them."""

    def build(self) -> None:
        super().build()
        self.model.quantize_for_generation("bfloat16")


class KerasTfmLookup(KerasTfm):
    """Guesses by prompt lookup where they pay; greedy, whatever the number of beams."""

    def build(self) -> None:
        super().build()
        self.sampler = lookup_sampler()


class KerasTfmInt8Lookup(KerasTfmInt8):
    """As `KerasTfmLookup`, in 8 bits."""

    def build(self) -> None:
        super().build()
        self.sampler = lookup_sampler()


def lookup_sampler() -> Any:
    """Greedy, with guesses by prompt lookup."""
    from keras_tfm.samplers import PromptLookup, SpeculativeSampler

    return SpeculativeSampler(drafter=PromptLookup())


class KerasHub(Generation):
    jit_compile: bool | str = "auto"  # the default; Keras reads it as no on a CPU

    def build(self) -> None:
        self.model = build_keras_hub_gpt2(self.case["shape"])
        import keras_hub

        sampler = keras_hub.samplers.BeamSampler(num_beams=self.num_beams) if self.num_beams > 1 else "greedy"
        self.model.compile(sampler=sampler, jit_compile=self.jit_compile)

    def generate(self, fill: int = 0) -> np.ndarray:
        # Without a preprocessor the length to reach is the length of the buffer that it is given.
        padding = ((0, 0), (0, self.new_tokens))
        inputs = {
            "token_ids": np.pad(self.prompt, padding, constant_values=fill),
            "padding_mask": np.pad(np.ones_like(self.prompt, dtype=bool), padding),
        }
        token_ids = self.model.generate(inputs, stop_token_ids=None)["token_ids"]
        return np.asarray(token_ids)[:, self.prompt.shape[1] :]

    def verify(self) -> None:
        # The buffer always has the full length: only ids that do not depend on its filling were generated.
        if not np.array_equal(self.generate(fill=0), self.generate(fill=1)):
            raise RuntimeError("KerasHub left a part of the buffer as it was.")


class KerasHubJit(KerasHub):
    jit_compile = True


class Torch(Generation):
    def build(self) -> None:
        import torch

        self.torch = torch
        self.model = build_torch_gpt2(self.case["shape"]).eval()
        self.token_ids = torch.from_numpy(self.prompt.astype(np.int64))
        self.attention_mask = torch.ones_like(self.token_ids)

    def generate(self) -> np.ndarray:
        with self.torch.inference_mode():
            token_ids = self.model.generate(
                self.token_ids,
                attention_mask=self.attention_mask,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                num_beams=self.num_beams,
                use_cache=True,
            )
        return token_ids[:, self.prompt.shape[1] :].numpy()


class TorchBfloat16(Torch):
    def build(self) -> None:
        super().build()
        self.model = self.model.to(self.torch.bfloat16)


class CTranslate2(Generation):
    compute_type = "float32"

    def build(self) -> None:
        import ctranslate2

        folder = Path(self.case["scratch"]) / self.case["shape"]
        if not folder.exists():
            harness.run_apart(convert_for_ctranslate2, self.case["shape"], str(folder))
        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=self.compute_type, inter_threads=1, intra_threads=harness.CORES
        )
        self.tokens = [[f"t{i}" for i in row] for row in self.prompt]

    def generate(self) -> np.ndarray:
        results = self.generator.generate_batch(
            self.tokens,
            max_length=self.new_tokens,
            min_length=self.new_tokens,  # forbids the end token before
            beam_size=self.num_beams,
            sampling_topk=1,
            include_prompt_in_result=False,  # else the prompt too is read token by token
        )
        return np.asarray([result.sequences_ids[0] for result in results])


class CTranslate2Int8(CTranslate2):
    compute_type = "int8"


def convert_for_ctranslate2(shape: str, folder: str) -> None:
    """Writes a random GPT-2 as a float32 CTranslate2 model; its tokens are named t0, t1, ..."""
    import ctranslate2
    import tokenizers
    import transformers

    # The converter asks for a tokenizer. A word-level one of the right size needs no files from elsewhere.
    vocabulary = {f"t{i}": i for i in range(harness.SHAPES[shape]["vocabulary_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    with tempfile.TemporaryDirectory() as source:
        build_torch_gpt2(shape).save_pretrained(source)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="t0", eos_token="t0", unk_token="t0"
        ).save_pretrained(source)
        ctranslate2.converters.TransformersConverter(source).convert(folder)


CONTENDERS: dict[str, type[Generation]] = {
    "keras_tfm": KerasTfm,
    "keras_tfm_stream": KerasTfmStream,
    "keras_tfm_int8": KerasTfmInt8,
    "keras_tfm_w8a8": KerasTfmW8a8,
    "keras_tfm_bfloat16": KerasTfmBfloat16,
    "keras_tfm_lookup": KerasTfmLookup,
    "keras_tfm_int8_lookup": KerasTfmInt8Lookup,
    "keras_hub": KerasHub,
    "keras_hub_jit": KerasHubJit,
    "torch": Torch,
    "torch_bfloat16": TorchBfloat16,
    "ctranslate2_fp32": CTranslate2,
    "ctranslate2_int8": CTranslate2Int8,
}
BY_DEFAULT = [name for name in CONTENDERS if not name.endswith("_lookup")]
PEERS = ("keras_hub", "keras_hub_jit", "torch")


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second with our ratios, then the seconds of the first call."""
    speeds, first_calls = [], []
    for case in cases:
        results = case["contenders"]
        head = [f"{case['shape']}, batch {case['batch']}" + (f", beam {case['beams']}" if case["beams"] > 1 else "")]
        ratios = [
            harness.ratio(results, "keras_tfm", PEERS),
            harness.ratio(results, "keras_tfm", ["ctranslate2_fp32"]),
            harness.ratio(results, "keras_tfm_int8", ["ctranslate2_int8"]),
            harness.ratio(results, "keras_tfm_w8a8", ["ctranslate2_int8"]),
            harness.ratio(results, "keras_tfm_bfloat16", ["torch_bfloat16"]),
            harness.ratio(results, "keras_tfm_lookup", ["keras_tfm"]),
            harness.ratio(results, "keras_tfm_int8_lookup", ["keras_tfm_int8"]),
        ]
        speeds.append(head + [harness.cell(results[name], "tokens_per_second") for name in names] + ratios)
        first_calls.append(head + [harness.cell(results[name], "first_call_seconds", 1) for name in names])
    title = (
        f"Generation, prompt of {settings['prompt_length']} tokens, {settings['new_tokens']} new ones, float32 except "
        f"int8 and bfloat16. New tokens/s of all rows together, median of {settings['rounds']} interleaved runs:"
    )
    ratios = ["keras_tfm / best of KerasHub and torch", "keras_tfm / CTranslate2 fp32", "int8: keras_tfm / CTranslate2"]
    ratios += ["w8a8 / CTranslate2 int8", "bfloat16: keras_tfm / torch", "lookup / plain", "int8: lookup / plain"]
    return "\n\n".join(
        [
            title,
            harness.markdown_table(["shape", *names, *ratios], speeds),
            "Seconds of the first call, with tracing and compiling:",
            harness.markdown_table(["shape", *names], first_calls),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=harness.SHAPES, default=["small", "gpt2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--beams", nargs="+", type=int, default=[1], help="beam counts; 1 is greedy")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(BY_DEFAULT))
    parser.add_argument("--prompt-length", type=int, default=32, help="512 with --new-tokens 1 measures the prefill")
    parser.add_argument("--new-tokens", type=int, default=128)
    harness.add_arguments(parser, "generate")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    settings = {"prompt_length": args.prompt_length, "new_tokens": args.new_tokens, "rounds": args.rounds}
    report = {"benchmark": "generate", "environment": harness.environment(), "settings": settings, "cases": []}
    scratch = tempfile.mkdtemp()
    try:
        for shape in args.shapes:
            for batch, beams in itertools.product(args.batches, args.beams):
                harness.say(f"{shape}, batch {batch}, beams {beams}")
                size = {"shape": shape, "batch": batch, "beams": beams}
                lengths = {"prompt_length": args.prompt_length, "new_tokens": args.new_tokens}
                case = {**size, **lengths, "scratch": scratch}
                results = harness.race("benchmarks.generate", case, args.contenders, args.rounds)
                report["cases"].append({**size, "contenders": results})
    finally:
        shutil.rmtree(scratch)
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("generate", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
