"""Encoder-decoders in tokens per second, trained, and writing greedily and by beams: keras_tfm beside its peers.

Each library holds a T5 of the same shape with random weights. `--tasks generate`: it writes exactly `--new-tokens` for
the same sources of random tokens, beside KerasHub, Hugging Face torch and CTranslate2. `--tasks fit`: it takes AdamW
steps on the same pairs, dropout 0, beside KerasHub and torch. Run it with `python benchmarks/seq2seq.py`; README.md
beside this file tells the method.
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

from benchmarks import generate, harness, train

# By the argument names of `build_t5`: version 1.1, gated, with a head of its own.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": dict(vocabulary_size=512, num_layers=2, num_heads=2, head_dim=32, hidden_dim=64, intermediate_dim=128),
    "flan_t5_small": dict(
        vocabulary_size=32_128, num_layers=8, num_heads=6, head_dim=64, hidden_dim=512, intermediate_dim=1024
    ),
}


def build_torch_t5(shape: str) -> Any:
    """A random T5 1.1 of Hugging Face transformers, dropout 0, that never stops at an end token."""
    import torch
    import transformers

    torch.set_num_threads(harness.CORES)
    torch.manual_seed(0)
    sizes = SHAPES[shape]
    config = transformers.T5Config(
        vocab_size=sizes["vocabulary_size"],
        num_layers=sizes["num_layers"],
        num_decoder_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        d_kv=sizes["head_dim"],
        d_model=sizes["hidden_dim"],
        d_ff=sizes["intermediate_dim"],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    config.tie_word_embeddings = False  # transformers 5 takes no notice of it in the constructor
    return transformers.T5ForConditionalGeneration(config)


def build_t5(shape: str) -> Any:
    """Ours, random, dropout 0."""
    import keras_tfm

    return keras_tfm.models.build_t5(**SHAPES[shape], gated=True, tie_weights=False)


def build_keras_hub_t5(shape: str) -> Any:
    """A random T5 1.1 of KerasHub without preprocessor, dropout 0, in the current dtype policy."""
    import keras_hub

    sizes = SHAPES[shape]
    backbone = keras_hub.models.T5Backbone(
        **{name: size for name, size in sizes.items() if name != "head_dim"},
        key_value_dim=sizes["head_dim"],
        dropout=0.0,
        activation="gelu",
        use_gated_activation=True,
        tie_embedding_weights=False,
    )
    return keras_hub.models.T5Seq2SeqLM(backbone=backbone, preprocessor=None)


class Writing(generate.Generation):
    """A contender: subclasses build a model and write for the sources `self.prompt`, (B, S) int32."""

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.new_tokens: int = case["new_tokens"]
        self.num_beams: int = case["beams"]
        self.vocabulary_size = SHAPES[case["shape"]]["vocabulary_size"]
        shape = (case["batch"], case["source_length"])
        self.prompt = np.random.default_rng(0).integers(2, self.vocabulary_size, size=shape, dtype=np.int32)
        self.build()


class KerasTfm(Writing):
    def build(self) -> None:
        import keras_tfm

        self.model = build_t5(self.case["shape"])
        self.sampler = keras_tfm.samplers.BeamSampler(num_beams=self.num_beams) if self.num_beams > 1 else "greedy"

    def generate(self) -> np.ndarray:
        result = self.model.generate(self.prompt, max_new_tokens=self.new_tokens, sampler=self.sampler)
        return np.asarray(result.token_ids)


class KerasTfmInt8(KerasTfm):
    def build(self) -> None:
        super().build()
        self.model.quantize_for_generation()


class KerasTfmW8a8(KerasTfm):
    def build(self) -> None:
        super().build()
        self.model.quantize_for_generation("w8a8")


class KerasHub(Writing):
    jit_compile = False

    def build(self) -> None:
        import keras_hub

        self.model = build_keras_hub_t5(self.case["shape"])
        sampler = keras_hub.samplers.BeamSampler(num_beams=self.num_beams) if self.num_beams > 1 else "greedy"
        self.model.compile(sampler=sampler, jit_compile=self.jit_compile)

    def generate(self, fill: int = 0) -> np.ndarray:
        # Without a preprocessor the length to reach is the length of the buffer that it is given.
        padding = ((0, 0), (0, self.new_tokens))
        start = np.zeros((len(self.prompt), 1), np.int32)
        inputs = {
            "encoder_token_ids": self.prompt,
            "encoder_padding_mask": np.ones_like(self.prompt),
            "decoder_token_ids": np.pad(start, padding, constant_values=fill),
            "decoder_padding_mask": np.pad(np.ones_like(start), padding),
        }
        return np.asarray(self.model.generate(inputs, stop_token_ids=None)["decoder_token_ids"])[:, 1:]

    def verify(self) -> None:
        generate.KerasHub.verify(self)


class KerasHubJit(KerasHub):
    jit_compile = True


class Torch(Writing):
    def build(self) -> None:
        import torch

        self.torch = torch
        self.model = build_torch_t5(self.case["shape"]).eval()
        self.token_ids = torch.from_numpy(self.prompt.astype(np.int64))

    def generate(self) -> np.ndarray:
        with self.torch.inference_mode():
            token_ids = self.model.generate(
                self.token_ids,
                attention_mask=self.torch.ones_like(self.token_ids),
                min_new_tokens=self.new_tokens,  # forbids the end token before
                max_new_tokens=self.new_tokens,
                do_sample=False,
                num_beams=self.num_beams,
            )
        return token_ids[:, 1:].numpy()


class CTranslate2(Writing):
    compute_type = "float32"

    def build(self) -> None:
        import ctranslate2

        folder = Path(self.case["scratch"]) / self.case["shape"]
        if not folder.exists():
            harness.run_apart(convert_for_ctranslate2, self.case["shape"], str(folder))
        self.translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=self.compute_type, inter_threads=1, intra_threads=harness.CORES
        )
        self.tokens = [[f"t{i}" for i in row] for row in self.prompt]

    def generate(self) -> np.ndarray:
        results = self.translator.translate_batch(
            self.tokens,
            beam_size=self.num_beams,
            min_decoding_length=self.new_tokens,  # forbids the end token before
            max_decoding_length=self.new_tokens,
        )
        return np.asarray([[int(token[1:]) for token in result.hypotheses[0]] for result in results])


class CTranslate2Int8(CTranslate2):
    compute_type = "int8"


def convert_for_ctranslate2(shape: str, folder: str) -> None:
    """Writes a random T5 as a float32 CTranslate2 model; its tokens are named t0, t1, ..."""
    import ctranslate2
    import tokenizers
    import transformers

    # The converter asks for a tokenizer. A word-level one of the right size needs no files from elsewhere.
    vocabulary = {f"t{i}": i for i in range(SHAPES[shape]["vocabulary_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t2"))
    with tempfile.TemporaryDirectory() as source:
        build_torch_t5(shape).save_pretrained(source)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="t0", eos_token="t1", unk_token="t2"
        ).save_pretrained(source)
        ctranslate2.converters.TransformersConverter(source).convert(folder)


class KerasFit(train.KerasFit):
    """One of Keras, trained on pairs: the targets are `self.x` and `self.y`."""

    shapes = SHAPES

    def make(self) -> tuple[Any, Any]:
        sources = sources_of(self)
        inputs = {"encoder_token_ids": sources, "decoder_token_ids": self.x}
        if self.build_model is not build_t5:
            inputs |= {"encoder_padding_mask": np.ones_like(sources), "decoder_padding_mask": np.ones_like(self.x)}
        return self.build_model(self.case["shape"]), inputs


class KerasTfmFit(KerasFit):
    build_model = staticmethod(build_t5)


class KerasTfmJitFit(KerasTfmFit):
    jit_compile = True


class KerasHubFit(KerasFit):
    build_model = staticmethod(build_keras_hub_t5)


class KerasHubJitFit(KerasHubFit):
    jit_compile = True


class TorchFit(train.Torch):
    shapes = SHAPES

    def build_model(self) -> Any:
        return build_torch_t5(self.case["shape"])

    def logits(self, token_ids: Any, number: int) -> Any:
        batch = self.case["batch"]
        sources = self.torch.from_numpy(sources_of(self)[number * batch :][:batch].astype(np.int64))
        return self.model(input_ids=sources, decoder_input_ids=token_ids, use_cache=False).logits


def sources_of(training: train.Training) -> np.ndarray:
    """Random sources, a row for each of the targets."""
    size = (len(training.x), training.case["source_length"])
    return np.random.default_rng(1).integers(training.vocabulary_size, size=size, dtype=np.int32)


FITS: dict[str, type[train.Training]] = {
    "keras_tfm": KerasTfmFit,
    "keras_tfm_jit": KerasTfmJitFit,
    "keras_hub": KerasHubFit,
    "keras_hub_jit": KerasHubJitFit,
    "torch": TorchFit,
}
CONTENDERS: dict[str, type[Writing]] = {
    "keras_tfm": KerasTfm,
    "keras_tfm_int8": KerasTfmInt8,
    "keras_tfm_w8a8": KerasTfmW8a8,
    "keras_hub": KerasHub,
    "keras_hub_jit": KerasHubJit,
    "torch": Torch,
    "ctranslate2_fp32": CTranslate2,
    "ctranslate2_int8": CTranslate2Int8,
}


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second with our ratios, then the seconds of the first call."""
    speeds, first_calls = [], []
    for case in cases:
        results = case["contenders"]
        head = [f"{case['shape']}, batch {case['batch']}" + (f", beam {case['beams']}" if case["beams"] > 1 else "")]
        ratios = [
            harness.ratio(results, "keras_tfm", ["keras_hub", "keras_hub_jit", "torch"]),
            harness.ratio(results, "keras_tfm", ["ctranslate2_fp32"]),
            harness.ratio(results, "keras_tfm_int8", ["ctranslate2_int8"]),
            harness.ratio(results, "keras_tfm_w8a8", ["ctranslate2_int8"]),
        ]
        speeds.append(head + [harness.cell(results[name], "tokens_per_second") for name in names] + ratios)
        first_calls.append(head + [harness.cell(results[name], "first_call_seconds", 1) for name in names])
    title = (
        f"Encoder-decoders, sources of {settings['source_length']} tokens, {settings['new_tokens']} new ones, float32 "
        f"except int8 and w8a8. New tokens/s of all rows together, median of {settings['rounds']} interleaved runs:"
    )
    ratios = ["keras_tfm / best of KerasHub and torch", "keras_tfm / CTranslate2 fp32", "int8: keras_tfm / CTranslate2"]
    ratios += ["w8a8 / CTranslate2 int8"]
    return "\n\n".join(
        [
            title,
            harness.markdown_table(["shape", *names, *ratios], speeds),
            "Seconds of the first call, with tracing and compiling:",
            harness.markdown_table(["shape", *names], first_calls),
        ]
    )


def fit_table(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Tokens per second with our ratio."""
    rows = []
    for case in cases:
        results = case["contenders"]
        ours = max(train.OURS, key=lambda name: results.get(name, {}).get("tokens_per_second", 0.0))
        speeds = [harness.cell(results[name], "tokens_per_second") for name in names]
        rows.append([case["shape"], *speeds, harness.ratio(results, ours, ["keras_hub", "keras_hub_jit", "torch"])])
    title = (
        f"Training, batch {settings['batch']} of sources of {settings['source_length']} and targets of "
        f"{settings['length']} tokens, AdamW, float32. Target tokens/s, median of {settings['rounds']} interleaved "
        f"runs of {settings['steps']} steps:"
    )
    return f"{title}\n\n" + harness.markdown_table(["shape", *names, "best keras_tfm / best peer"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=["generate", "fit"], default=["generate", "fit"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["flan_t5_small"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="of sources to write for")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4], help="beam counts; 1 is greedy")
    parser.add_argument("--contenders", nargs="+", choices=sorted({*CONTENDERS, *FITS}))
    parser.add_argument("--source-length", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--fit-batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps in a run")
    harness.add_arguments(parser, "seq2seq")
    args = parser.parse_args()
    if args.worker:
        harness.serve(lambda case: (FITS if "steps" in case else CONTENDERS)[args.worker](case))
        return 0
    tasks = {"generate": (generate_cases, CONTENDERS, tables), "fit": (fit_cases, FITS, fit_table)}
    statuses = []
    for task in args.tasks:
        make_cases, known, table = tasks[task]
        names = [name for name in known if name in (args.contenders or known)]
        settings, cases = make_cases(args)
        report = {
            "benchmark": f"seq2seq_{task}",
            "environment": harness.environment(),
            "settings": settings,
            "cases": [],
        }
        scratch = tempfile.mkdtemp()
        try:
            for case in cases:
                harness.say(f"{task}: " + ", ".join(f"{name} {value}" for name, value in case.items()))
                results = harness.race(
                    "benchmarks.seq2seq", {**settings, **case, "scratch": scratch}, names, args.rounds
                )
                report["cases"].append({**case, "contenders": results})
        finally:
            shutil.rmtree(scratch)
        path = args.json.with_stem(f"{args.json.stem}_{task}")
        harness.publish(f"seq2seq_{task}", report, table(report["cases"], names, settings), path, args.update_readme)
        statuses.append(harness.exit_status(report))
    return max(statuses)


def generate_cases(args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all cases share, and what each adds."""
    settings = {"source_length": args.source_length, "new_tokens": args.new_tokens, "rounds": args.rounds}
    sizes = itertools.product(args.shapes, args.batches, args.beams)
    return settings, [{"shape": shape, "batch": batch, "beams": beams} for shape, batch, beams in sizes]


def fit_cases(args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """See `generate_cases`."""
    settings = {"source_length": args.source_length, "length": args.new_tokens, "batch": args.fit_batch}
    settings |= {"steps": args.steps, "rounds": args.rounds, "precision": "float32"}
    return settings, [{"shape": shape} for shape in args.shapes]


if __name__ == "__main__":
    sys.exit(main())
