"""Train a small GPT on Shakespeare, write text with it, export it, and serve it with TensorFlow alone.

    python examples/train_gpt.py                      # 6 minutes at most on two CPU cores
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

import keras
from n_gram_baselines import bigram_loss, unigram_loss

import keras_tfm as ktfm
from keras_tfm.samplers import RandomSampler, RepetitionPenalty, Temperature, TopK, TopP

HERE = pathlib.Path(__file__).parent
PROMPT = "ROMEO:\n"
SERVE = """
import sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
text = served(prompts=tf.constant([sys.argv[2]]))["text"].numpy()[0].decode()
print(f"(keras_tfm imported: {'keras_tfm' in sys.modules})\\n" + sys.argv[2] + text)
"""


def main(
    steps: int = 1200,
    size: str = "nano",
    corpus: str | os.PathLike = HERE / "data" / "shakespeare.txt",
    resume: bool = False,
    output: str | os.PathLike = "runs/train_gpt",
    batch_size: int = 32,
) -> dict[str, float]:
    """Runs everything; returns the validation losses in nats per token of the model and of the two baselines."""
    start, output = time.time(), pathlib.Path(output)
    checkpoint, table = output / "checkpoint.keras", output / "losses.csv"
    if not resume:
        shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)

    def say(text: str) -> None:
        print(f"\n[{time.time() - start:4.0f} s] {text}", flush=True)

    lines = pathlib.Path(corpus).read_text(encoding="utf-8").splitlines(keepends=True)
    border = len(lines) * 19 // 20  # the last plays are for validation
    train_text, validation_text = "".join(lines[:border]), "".join(lines[border:])
    if (output / "tokenizer.json").exists():
        tokenizer = ktfm.tokenizers.BytePairTokenizer.from_file(output / "tokenizer.json")
    else:
        say(f"Learning a vocabulary of 4,096 byte pairs from {corpus} ...")
        tokenizer = ktfm.tokenizers.BytePairTokenizer.train(train_text, vocabulary_size=4096)
        tokenizer.save(output)
    length = ktfm.models.gpt.SIZES[size]["max_sequence_length"] if size in ktfm.models.gpt.SIZES else 128
    train = ktfm.data.pack(train_text, tokenizer, sequence_length=length)
    validation = ktfm.data.pack(validation_text, tokenizer, sequence_length=length)
    vocabulary_size = tokenizer.vocabulary_size
    baselines = {
        "unigram": unigram_loss(train.token_ids, validation.token_ids, vocabulary_size),
        "bigram": bigram_loss(train.token_ids, validation.token_ids, vocabulary_size),
    }
    say(f"{train.num_tokens:,} tokens to train on, {validation.num_tokens:,} to validate on.")
    for name, loss in baselines.items():
        print(f"A {name} model has a validation perplexity of {math.exp(loss):.1f} per token.")

    if resume and checkpoint.exists():
        model = keras.models.load_model(checkpoint)
        say(f"Going on from {checkpoint}, after {int(model.optimizer.iterations)} of {steps} steps.")
    else:
        model = ktfm.models.build_gpt(size, vocabulary_size=vocabulary_size)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - steps // 20), warmup_target=2e-3, warmup_steps=max(1, steps // 20), alpha=0.05
        )
        model.compile(
            keras.optimizers.AdamW(schedule, weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    model.summary()
    writer = ktfm.generation.TextGenerator(model, tokenizer, RandomSampler([Temperature(0.8), TopP(0.95)], seed=1))

    def end_epoch(epoch: int, logs: dict) -> None:
        model.save(output / "unfinished.keras")
        os.replace(output / "unfinished.keras", checkpoint)  # never a half-written checkpoint
        say(f"Epoch {epoch + 1}: validation perplexity {math.exp(logs['val_loss']):.1f}. It writes:")
        print(PROMPT + writer(PROMPT, max_new_tokens=40))

    epochs = min(8, steps)
    done = int(model.optimizer.iterations)
    if done < steps:
        say(f"Training {model.count_params():,} weights for {steps - done} steps of {batch_size} x {length} tokens ...")
        passes, skipped = divmod(done, train.num_batches(batch_size))
        model.fit(
            train.dataset(batch_size, initial_epoch=passes, repeat=True).skip(skipped),
            steps_per_epoch=steps // epochs,
            initial_epoch=done // (steps // epochs),
            epochs=epochs,
            validation_data=validation.dataset(batch_size, shuffle=False),
            callbacks=[
                keras.callbacks.CSVLogger(table, append=resume),
                keras.callbacks.LambdaCallback(on_epoch_end=end_epoch),
            ],
        )

    with open(table, newline="") as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}.values()  # an epoch that was run again counts once
    losses = {name: [float(row[key]) for row in rows] for name, key in (("training", "loss"), ("validation", "val_loss"))}
    ktfm.visualization.plot_loss_curve(losses, output / "loss.png", baselines)
    say(f"The losses are in {table}, their curve in {output / 'loss.png'}.")
    for name, loss in {**baselines, "this GPT": losses["validation"][-1]}.items():
        print(f"  validation perplexity per token, {name:8}: {math.exp(loss):7.1f}")

    samplers = {
        "greedy": "greedy",
        "top-k": RandomSampler([Temperature(0.9), TopK(40)]),
        "top-p with a repetition penalty": RandomSampler([RepetitionPenalty(1.1), Temperature(0.9), TopP(0.9)]),
    }
    for name, sampler in samplers.items():
        say(f"Sampler: {name}")
        print(PROMPT, end="")
        for piece in ktfm.generation.TextGenerator(model, tokenizer, sampler).stream(PROMPT, 60, seed=1):
            print(piece, end="", flush=True)
        print()

    served = output / "serving" / "1"
    shutil.rmtree(served.parent, ignore_errors=True)
    say(f"Exporting to {served} and serving it in a process that imports only tensorflow ...")
    writer.export(served, max_new_tokens=60, seed=1)
    subprocess.run([sys.executable, "-c", SERVE, str(served), PROMPT], check=True)
    say("Done.")
    return {**baselines, "model": losses["validation"][-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps (default: 1200)")
    parser.add_argument("--size", default="nano", help=f"one of {', '.join(ktfm.models.gpt.SIZES)} (default: nano)")
    parser.add_argument("--corpus", default=HERE / "data" / "shakespeare.txt", help="a UTF-8 text file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--output", default="runs/train_gpt", help="where results go (default: runs/train_gpt)")
    main(**vars(parser.parse_args()))
