"""Train a small GPT on Shakespeare, write text with it, export it, and serve it with TensorFlow alone.

pip install -e ".[examples]"
python examples/train_gpt.py                      # within 6 minutes on two CPU cores
python examples/train_gpt.py --corpus my.txt --size gpt2_small --steps 20000
python examples/train_gpt.py --resume             # after an interruption: goes on from the last checkpoint
"""

import argparse
import csv
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or TensorFlow complains of what it reads there

import keras
from command_line import positive
from n_gram_baselines import bigram_loss, unigram_loss

import keras_tfm as ktfm
from keras_tfm.models.gpt import SIZES
from keras_tfm.optional import required
from keras_tfm.samplers import RandomSampler, RepetitionPenalty, Temperature, TopK, TopP

required("matplotlib", "examples", "Pictures")  # asked for before all the work
HERE = pathlib.Path(__file__).parent
PROMPT = "ROMEO:\n"
BATCH_SIZE = 16
START = time.time()


def say(text: str) -> None:
    print(f"\n[{time.time() - START:4.0f} s] {text}", flush=True)


def read(corpus, output, sequence_length):
    """The tokenizer, learned once and kept in `output`, and the packed tokens to train and to validate on."""
    lines = pathlib.Path(corpus).read_text(encoding="utf-8").splitlines(keepends=True)
    border = len(lines) * 19 // 20  # the last plays are for validation
    texts = "".join(lines[:border]), "".join(lines[border:])
    if not (output / "tokenizer.json").exists():
        say(f"Learning a vocabulary of 4,096 byte pairs from {corpus} ...")
        ktfm.tokenizers.BytePairTokenizer.train(texts[0], vocabulary_size=4096).save(output)
    tokenizer = ktfm.tokenizers.BytePairTokenizer.from_file(output)
    return tokenizer, *(ktfm.data.pack(text, tokenizer, sequence_length) for text in texts)


def compiled_gpt(size, vocabulary_size, steps):
    """A GPT with AdamW, warm-up and cosine decay."""
    model = ktfm.models.build_gpt(size, vocabulary_size=vocabulary_size)
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warmup), warmup_target=3e-3, warmup_steps=warmup, alpha=0.05
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,  # a fifth faster for "nano" on a CPU; wide models gain nothing
    )
    return model


def train(model, tokenizer, packed, validation, steps, output, resume):
    """Fits what is left of `steps`; each minute a checkpoint, after each epoch the losses and a sample of text."""
    epochs = min(5, steps)
    data = packed.dataset(BATCH_SIZE, repeat=True)
    checkpointer = ktfm.training.Checkpointer(output / "checkpoints", data, every_seconds=60)
    writer = ktfm.generation.TextGenerator(model, tokenizer, RandomSampler([Temperature(0.8), TopP(0.95)], seed=1))

    def end_epoch(epoch: int, logs: dict) -> None:
        say(f"Epoch {epoch + 1}: validation perplexity {math.exp(logs['val_loss']):.1f}. It writes:")
        print(PROMPT + writer(PROMPT, max_new_tokens=40))

    say(f"Training {model.count_params():,} weights for {steps} steps of {BATCH_SIZE} sequences ...")
    if checkpointer.newest:
        print(f"Going on from {checkpointer.newest}.")
    model.fit(
        data,
        steps_per_epoch=steps // epochs,
        epochs=epochs,
        validation_data=validation.dataset(BATCH_SIZE, shuffle=False, drop_partial_batch=True),
        shuffle=False,  # `packed` is shuffled already, in an order that a resumed run repeats
        callbacks=[
            keras.callbacks.CSVLogger(output / "losses.csv", append=resume),
            keras.callbacks.LambdaCallback(on_epoch_end=end_epoch),
            checkpointer,
        ],
    )


def main(steps=1000, size="nano", corpus=HERE / "data" / "shakespeare.txt", resume=False, output="runs/train_gpt"):
    """Runs everything; results are left in the folder `output`."""
    if size not in SIZES:
        raise SystemExit(f"--size must be one of {', '.join(SIZES)}. Received: {size}.")
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        for old in ("losses.csv", "tokenizer.json", "vocab.json", "merges.txt"):
            (output / old).unlink(missing_ok=True)
    keras.utils.set_random_seed(0)

    tokenizer, packed, validation = read(corpus, output, SIZES[size]["max_sequence_length"])
    tokens = packed.token_ids, validation.token_ids, tokenizer.vocabulary_size
    baselines = {"unigram": unigram_loss(*tokens), "bigram": bigram_loss(*tokens)}
    say(f"{packed.num_tokens:,} tokens to train on, {validation.num_tokens:,} to validate on.")
    for name, loss in baselines.items():
        print(f"A {name} model has a validation perplexity of {math.exp(loss):.1f} per token.")

    model = compiled_gpt(size, tokenizer.vocabulary_size, steps)
    model.summary()
    train(model, tokenizer, packed, validation, steps, output, resume)
    model.save(output / "model.keras")

    with open(output / "losses.csv", newline="") as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}.values()  # an epoch that was run again counts once
    losses = {name: [float(row[name]) for row in rows] for name in ("loss", "val_loss")}
    ktfm.visualization.plot_loss_curve(losses, output / "loss.png", baselines)
    say(f"The losses are in {output / 'losses.csv'}, their curve in {output / 'loss.png'}.")
    for name, loss in {**baselines, "this GPT": losses["val_loss"][-1]}.items():
        print(f"  validation perplexity per token, {name:8}: {math.exp(loss):7.1f}")

    samplers = {
        "greedy": "greedy",
        "top-k": RandomSampler([Temperature(0.9), TopK(40)]),
        "top-p with a repetition penalty": RandomSampler([RepetitionPenalty(1.1), Temperature(0.9), TopP(0.9)]),
    }
    for name, sampler in samplers.items():
        say(f"Sampler: {name}")
        print(PROMPT, end="")
        writer = ktfm.generation.TextGenerator(model, tokenizer, sampler)
        for piece in writer.stream(PROMPT, max_new_tokens=60, seed=1):
            print(piece, end="", flush=True)
        print()

    served = output / "serving" / "1"
    shutil.rmtree(served.parent, ignore_errors=True)
    say(f"Exporting to {served} and serving it in a process that imports only tensorflow ...")
    writer.export(served, max_new_tokens=60, seed=1)
    subprocess.run([sys.executable, str(HERE / "serve_saved_model.py"), str(served), PROMPT], check=True)
    say("Done.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=1000, help="optimizer steps (default: 1000)")
    parser.add_argument("--size", default="nano", help=f"one of {', '.join(SIZES)} (default: nano)")
    parser.add_argument("--corpus", default=HERE / "data" / "shakespeare.txt", help="a UTF-8 text file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--output", default="runs/train_gpt", help="where results go (default: runs/train_gpt)")
    main(**vars(parser.parse_args()))
