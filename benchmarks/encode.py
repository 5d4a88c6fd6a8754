"""BERT's forward pass and training step: keras_tfm beside KerasHub, Hugging Face torch, ONNX Runtime and CTranslate2.

Each library holds an encoder of the same shape with random weights and reads the same batches, full or ragged ones. A
ragged batch has rows of 16 to 128 tokens. The peers read it padded to its longest row. We read it padded as well, and
packed: by `keras_tfm.data.pack_texts`, several texts in one row, so that hardly anything is computed on padding.
Forward passes are also run after `quantize_for_inference`, to bfloat16 and to int8 (as it chooses by what products
lose, and once all products in 8 bits), beside peers in int8. Run it with `python benchmarks/encode.py`; README.md
beside this file tells the method.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import harness

# The argument names of `build_bert`; feed-forwards are 4 times as wide as the model.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": dict(num_layers=2, num_heads=2, hidden_dim=64, vocabulary_size=512, max_sequence_length=1024),
    "base": dict(num_layers=12, num_heads=12, hidden_dim=768, vocabulary_size=30522, max_sequence_length=1024),
}
LENGTH, SHORTEST = 128, 16
BATCHES_PER_RUN = 4
LEARNING_RATE = 1e-4


def make_batches(case: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """The batches of a run: "token_ids" int32 (B, T) and "padding_mask" bool (B, T); ragged ones differ in length."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(BATCHES_PER_RUN):
        size = case["batch"]
        lengths = rng.integers(SHORTEST, LENGTH + 1, size) if case["rows"] == "ragged" else np.full(size, LENGTH)
        token_ids = rng.integers(1, SHAPES[case["shape"]]["vocabulary_size"], (size, lengths.max()))
        mask = np.arange(lengths.max()) < lengths[:, None]
        batches.append({"token_ids": np.where(mask, token_ids, 0).astype("int32"), "padding_mask": mask})
    return batches


class Encoding:
    """A contender: subclasses build a model and read one batch."""

    largest_difference = 1e-3  # of a text's states alone and padded: rounding in 8 bits may fall either way

    def __init__(self, case: dict[str, Any]):
        self.case = case
        self.sizes = SHAPES[case["shape"]]
        self.batches = make_batches(case)
        self.num_tokens = sum(int(batch["padding_mask"].sum()) for batch in self.batches)
        self.build()
        self.inputs = [self.prepare(batch) for batch in self.batches]
        self.step = self.make_training() if case["work"] == "training" else self.make_forward()

    def build(self) -> None:
        """Makes the encoder."""
        raise NotImplementedError

    def prepare(self, batch: dict[str, np.ndarray]):
        """The batch as the library takes it, not timed: making tensors of arrays is not the encoder's work."""
        raise NotImplementedError

    def make_forward(self):
        """A function from a prepared batch to hidden states, in this process's memory."""
        raise NotImplementedError

    def make_training(self):
        """A function that takes one AdamW step on a prepared batch and returns the loss: the mean square of states."""
        raise NotImplementedError

    def real_states(self, states, batch) -> np.ndarray:
        """The states of real tokens, (tokens, D), in the order of the batch."""
        return np.asarray(states)[batch["padding_mask"]]

    def run(self) -> int:
        for inputs in self.inputs:
            result = np.asarray(self.step(inputs))
        if not np.isfinite(result).all():
            raise RuntimeError(f"Must give finite numbers. Received: {result}.")
        return self.num_tokens

    def verify(self) -> None:
        """Every real token has states, and those of a row do not depend on the padding."""
        if self.case["work"] == "training":
            return
        batch = self.batches[0]
        states = self.real_states(self.step(self.inputs[0]), batch)
        length = int(batch["padding_mask"][0].sum())
        alone = {name: x[:1, :length] for name, x in batch.items()}
        expected = self.real_states(self.step(self.prepare(alone)), alone)
        np.testing.assert_allclose(states[:length], expected, atol=self.largest_difference)


class InferenceOnly(Encoding):
    def make_training(self):
        raise harness.LeftOut("for inference only")


class KerasTfm(Encoding):
    jit_compile = False

    def build(self) -> None:
        import keras_tfm

        self.model = keras_tfm.models.build_bert(**self.sizes, dropout=0.0, pooler=False)

    def states(self, inputs, training):
        return self.model(inputs, training=training)["sequence_output"]

    def prepare(self, batch):
        import tensorflow as tf

        return {name: tf.constant(x) for name, x in batch.items()}

    def make_forward(self):
        import tensorflow as tf

        options = {"jit_compile": self.jit_compile, "reduce_retracing": True}
        return tf.function(lambda inputs: self.states(inputs, training=False), **options)

    def make_training(self):
        import keras
        import tensorflow as tf

        variables = [variable.value for variable in self.model.trainable_variables if "pooler" not in variable.path]
        optimizer = keras.optimizers.AdamW(LEARNING_RATE)
        chosen = [variable for variable in self.model.trainable_variables if "pooler" not in variable.path]
        optimizer.build(chosen)

        def step(inputs):
            with tf.GradientTape() as tape:
                states = tf.square(self.states(inputs, training=True))
                mask = tf.cast(inputs["padding_mask"], states.dtype)[..., None] if "padding_mask" in inputs else 1.0
                loss = tf.reduce_mean(states * mask)
            optimizer.apply(tape.gradient(loss, variables), chosen)
            return loss

        return tf.function(step, jit_compile=self.jit_compile, reduce_retracing=True)


class KerasTfmJit(KerasTfm):
    jit_compile = True


class KerasTfmPacked(KerasTfm):
    """Several texts of a batch in one row: hardly any padding."""

    def packed(self, batch):
        import keras_tfm

        rows = zip(batch["token_ids"], batch["padding_mask"], strict=True)
        return keras_tfm.data.pack_texts([ids[mask] for ids, mask in rows])

    def prepare(self, batch):
        import tensorflow as tf

        return {name: tf.constant(x) for name, x in self.packed(batch).inputs.items()}

    def real_states(self, states, batch):
        return np.concatenate(self.packed(batch).unpack(states))


class KerasTfmBfloat16(InferenceOnly, KerasTfm):
    """For inference: projections in bfloat16, all else in float32."""

    largest_difference = 0.1
    dtype = "bfloat16"
    options: ClassVar[dict[str, float]] = {}

    def make_forward(self):
        few = {name: x[:2] for name, x in self.batches[0].items()}
        calibration = few if self.dtype == "int8" else None
        self.model.quantize_for_inference(self.dtype, calibration, **self.options)
        return super().make_forward()


class KerasTfmInt8(KerasTfmBfloat16):
    dtype = "int8"


class KerasTfmInt8Only(KerasTfmInt8):
    options: ClassVar[dict[str, float]] = {"largest_error": 1.0}


class KerasHub(KerasTfm):
    def build(self) -> None:
        import keras_hub

        self.model = keras_hub.models.BertBackbone(
            **self.sizes, intermediate_dim=4 * self.sizes["hidden_dim"], dropout=0.0
        )

    def prepare(self, batch):
        import tensorflow as tf

        return {**super().prepare(batch), "segment_ids": tf.zeros(batch["token_ids"].shape, tf.int32)}


class KerasHubJit(KerasHub):
    jit_compile = True


class Torch(Encoding):
    def build(self) -> None:
        import torch
        import transformers

        torch.set_num_threads(harness.CORES)
        config = transformers.BertConfig(
            vocab_size=self.sizes["vocabulary_size"],
            num_hidden_layers=self.sizes["num_layers"],
            num_attention_heads=self.sizes["num_heads"],
            hidden_size=self.sizes["hidden_dim"],
            intermediate_size=4 * self.sizes["hidden_dim"],
            max_position_embeddings=self.sizes["max_sequence_length"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.torch, self.model = torch, transformers.BertModel(config, add_pooling_layer=False)

    def prepare(self, batch):
        return {
            "input_ids": self.torch.from_numpy(batch["token_ids"].astype("int64")),
            "attention_mask": self.torch.from_numpy(batch["padding_mask"].astype("int64")),
        }

    def make_forward(self):
        self.model.eval()

        def forward(inputs):
            with self.torch.inference_mode():
                return self.model(**inputs).last_hidden_state.numpy()

        return forward

    def make_training(self):
        self.model.train()
        optimizer = self.torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, fused=True)

        def step(inputs):
            optimizer.zero_grad()
            states = self.model(**inputs).last_hidden_state.square()
            loss = (states * inputs["attention_mask"][..., None]).mean()
            loss.backward()
            optimizer.step()
            return loss.detach().numpy()

        return step


class OnnxRuntime(InferenceOnly, Torch):
    """The same model in ONNX Runtime."""

    def make_forward(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = harness.CORES
        with tempfile.TemporaryDirectory() as folder:
            self.session = onnxruntime.InferenceSession(self.write(Path(folder)), options)

        def forward(inputs):
            return self.session.run(None, {name: x.numpy() for name, x in inputs.items()})[0]

        return forward

    def write(self, folder: Path) -> str:
        """The path of the model as ONNX."""
        file = str(folder / "model.onnx")
        names, axes = ["input_ids", "attention_mask"], {0: "batch", 1: "length"}

        class States(self.torch.nn.Module):
            """By name: called with arguments in order, transformers takes the mask for another argument."""

            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, input_ids, attention_mask):
                return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

        self.model.eval().set_attn_implementation("eager")
        self.torch.onnx.export(
            States(self.model),
            tuple(self.prepare(self.batches[0])[name] for name in names),
            file,
            input_names=names,
            output_names=["states"],
            dynamic_axes=dict.fromkeys([*names, "states"], axes),
            dynamo=False,
        )
        return file


class OnnxRuntimeInt8(OnnxRuntime):
    """Dynamic quantization: inputs rounded as they come, a scale for each tensor of them and for each output."""

    largest_difference = 0.5

    def write(self, folder):
        from onnxruntime import quantization

        file = str(folder / "model_int8.onnx")
        quantization.quantize_dynamic(
            super().write(folder), file, per_channel=True, weight_type=quantization.QuantType.QInt8
        )
        return file


class CTranslate2(InferenceOnly, Torch):
    compute_type = "float32"

    def prepare(self, batch):
        return [ids[mask].tolist() for ids, mask in zip(batch["token_ids"], batch["padding_mask"], strict=True)]

    def make_forward(self):
        import ctranslate2

        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            self.model.config.position_embedding_type = "absolute"  # the converter asks; transformers 5 no longer says
            self.model.save_pretrained(place / "torch")
            write_vocabulary(place / "torch", self.sizes["vocabulary_size"])
            converter = ctranslate2.converters.TransformersConverter(str(place / "torch"))
            converter.convert(str(place / "converted"))
            encoder = ctranslate2.Encoder(
                str(place / "converted"),
                device="cpu",
                compute_type=self.compute_type,
                inter_threads=1,
                intra_threads=harness.CORES,
            )

        def forward(rows):
            return np.asarray(encoder.forward_batch(rows).last_hidden_state)

        return forward


class CTranslate2Int8(CTranslate2):
    compute_type = "int8"
    largest_difference = 0.5


def write_vocabulary(folder: Path, size: int) -> None:
    """A tokenizer of words t0, t1, ... beside a model: the converter asks for one."""
    import tokenizers
    import transformers

    words = tokenizers.models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t2")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), pad_token="t0", unk_token="t2"
    ).save_pretrained(folder)


CONTENDERS: dict[str, type[Encoding]] = {
    "keras_tfm": KerasTfm,
    "keras_tfm_jit": KerasTfmJit,
    "keras_tfm_packed": KerasTfmPacked,
    "keras_tfm_bfloat16": KerasTfmBfloat16,
    "keras_tfm_int8": KerasTfmInt8,
    "keras_tfm_int8_only": KerasTfmInt8Only,
    "keras_hub": KerasHub,
    "keras_hub_jit": KerasHubJit,
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
    "onnxruntime_int8": OnnxRuntimeInt8,
    "ctranslate2_fp32": CTranslate2,
    "ctranslate2_int8": CTranslate2Int8,
}
OURS = ("keras_tfm", "keras_tfm_jit", "keras_tfm_packed")
PEERS = ("keras_hub", "keras_hub_jit", "torch", "onnxruntime", "ctranslate2_fp32")
OURS_INT8, PEERS_INT8 = ("keras_tfm_int8", "keras_tfm_int8_only"), ("onnxruntime_int8", "ctranslate2_int8")


def ratio(results: dict[str, Any], ours: Sequence[str], peers: Sequence[str]) -> str:
    """The best of ours over the best of the peers."""
    speeds = {name: results[name]["tokens_per_second"] for name in ours if "tokens_per_second" in results.get(name, {})}
    return harness.ratio(results, max(speeds, key=speeds.get), peers) if speeds else ""


def tables(cases: list[dict[str, Any]], names: list[str], settings: dict[str, Any]) -> str:
    """Real tokens per second with our ratio, milliseconds of a batch, then the seconds of the first run."""
    speeds, milliseconds, first = [], [], []
    for case in cases:
        results = case["contenders"]
        head = [f"{case['shape']}, {case['work']}, {case['rows']}, batch {case['batch']}"]
        speeds.append(head + [harness.cell(results[name], "tokens_per_second") for name in names])
        speeds[-1] += [ratio(results, OURS, PEERS), ratio(results, OURS_INT8, PEERS_INT8)]
        batch = {
            name: {**results[name], "ms": 1000 * results[name].get("median_seconds", 0) / BATCHES_PER_RUN}
            if "median_seconds" in results[name] else results[name]
            for name in names
        }  # fmt: skip
        milliseconds.append(head + [harness.cell(batch[name], "ms", 1) for name in names])
        first.append(head + [harness.cell(results[name], "first_call_seconds", 1) for name in names])
    title = (
        f"Rows of {LENGTH} tokens, or ragged ones of {SHORTEST} to {LENGTH}, float32 unless named otherwise. Real "
        f"tokens/s, median of {settings['rounds']} interleaved runs of {BATCHES_PER_RUN} batches:"
    )
    return "\n\n".join(
        [
            title,
            harness.markdown_table(["case", *names, "float32: best keras_tfm / best peer", "int8"], speeds),
            "Milliseconds of a batch:",
            harness.markdown_table(["case", *names], milliseconds),
            "Seconds of the first run, with tracing and compiling:",
            harness.markdown_table(["case", *names], first),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["base"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rows", nargs="+", choices=["full", "ragged"], default=["full", "ragged"])
    parser.add_argument("--work", nargs="+", choices=["forward", "training"], default=["forward", "training"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    harness.add_arguments(parser, "encode")
    args = parser.parse_args()
    if args.worker:
        harness.serve(CONTENDERS[args.worker])
        return 0
    settings = {"length": LENGTH, "shortest": SHORTEST, "batches_per_run": BATCHES_PER_RUN, "rounds": args.rounds}
    report = {"benchmark": "encode", "environment": harness.environment(), "settings": settings, "cases": []}
    for shape in args.shapes:
        for work in args.work:
            for rows in args.rows:
                for batch in args.batches:
                    case = {"shape": shape, "work": work, "rows": rows, "batch": batch}
                    harness.say(", ".join(map(str, case.values())))
                    results = harness.race("benchmarks.encode", case, args.contenders, args.rounds)
                    report["cases"].append({**case, "contenders": results})
    text = tables(report["cases"], args.contenders, settings)
    harness.publish("encode", report, text, args.json, args.update_readme)
    return harness.exit_status(report)


if __name__ == "__main__":
    sys.exit(main())
