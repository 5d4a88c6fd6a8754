"""A small writer of tweets and a judge of their sentiment, from random weights: the start of two examples."""

import csv
import json
import pathlib
import time
from typing import NamedTuple

import keras
import numpy as np

import keras_tfm as ktfm
from keras_tfm.optional import required

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
DATA = pathlib.Path(__file__).parent / "data" / "sentiment_tweets.tsv"
PROMPT_LENGTH, MAX_NEW_TOKENS = 16, 16  # tokens
START = time.time()


def read_tweets():
    """split -> list of (text, label)."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {
        split: [(row["text"], row["label"]) for row in rows if row["split"] == split] for split in ("train", "test")
    }


def opened(text):
    """A tweet as its first two words and the rest."""
    words = text.split(" ")
    return " ".join(words[:2]), " " + " ".join(words[2:])


def openings(tweets, tokenizer, count):
    """Different beginnings of tweets that fit."""
    found = list(dict.fromkeys(opened(text)[0] for text, _ in tweets if len(text.split()) > 4))
    return [text for text in found if len(tokenizer.encode(text)) <= PROMPT_LENGTH][:count]


def make_writer(tweets, steps):
    """A GPT that goes on with the first two words of a tweet, and its tokenizer."""
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train([text for text, _ in tweets], vocabulary_size=1000)
    model = ktfm.models.build_gpt(
        vocabulary_size=tokenizer.vocabulary_size,
        max_sequence_length=128,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        position="rotary",
    )
    rows = [opened(text) for text, _ in tweets if len(text.split()) > 4]
    columns = {"prompt": [prompt for prompt, _ in rows], "completion": [rest for _, rest in rows]}
    dataset = ktfm.data.instruction_dataset(columns, tokenizer, sequence_length=127, batch_size=16)
    loss = ktfm.losses.ChunkedCrossEntropy(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0), loss)
    model.fit(dataset.repeat(), steps_per_epoch=steps, shuffle=False, verbose=2)
    return model, tokenizer


def make_judge(tweets, steps):
    """A classifier of positive and negative tweets, and how often it is right on others."""
    parts = {split: [row for row in rows if row[1] != "neutral"] for split, rows in tweets.items()}
    texts = [text for text, _ in parts["train"]]
    tokenizer = ktfm.tokenizers.WordPieceTokenizer.train(texts, vocabulary_size=3000)
    sizes = {"vocabulary_size": tokenizer.vocabulary_size, "max_sequence_length": 128, "num_layers": 1}
    encoder = ktfm.models.build_bert("tiny", **sizes)
    labels = ["negative", "positive"]
    model = ktfm.models.TextClassifier(encoder, labels, pooling=ktfm.layers.MeanPooling())
    judge = ktfm.pipelines.TextClassification(model, tokenizer, sequence_length=128)
    names = [label for _, label in parts["train"]]
    dataset = ktfm.data.text_label_dataset(
        texts, names, tokenizer=tokenizer, sequence_length=128, class_names=labels, batch_size=32
    )
    weights = {i: len(names) / 2 / names.count(label) for i, label in enumerate(labels)}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(dataset.repeat(), steps_per_epoch=steps, class_weight=weights, shuffle=False, verbose=2)
    found = [answer.label for answer in judge([text for text, _ in parts["test"]], batch_size=64)]
    return judge, float(np.mean([a == b for a, (_, b) in zip(found, parts["test"], strict=True)]))


def sentiment(judge):
    """The reward: the probability that the whole tweet is positive."""

    def positive_sentiment(prompts, completions, **_):
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return [answer.probabilities["positive"] for answer in judge(texts, batch_size=64)]

    return positive_sentiment


class Start(NamedTuple):
    """What both examples begin with: a writer, what it writes, and what that is worth."""

    tweets: dict
    policy: keras.Model
    tokenizer: ktfm.tokenizers.Tokenizer
    reward: object
    prompts: list  # beginnings of test tweets
    before: list  # what the writer makes of them
    scores: dict


def make_start(writer_steps, judge_steps):
    """Trains a judge and a writer, and lets the one judge the other."""
    keras.utils.set_random_seed(0)
    tweets = read_tweets()
    judge, accuracy = make_judge(tweets, judge_steps)
    tell(f"the judge is right on {accuracy:.3f} of the test tweets that are not neutral")
    policy, tokenizer = make_writer(tweets["train"], writer_steps)
    reward = sentiment(judge)
    prompts = openings(tweets["test"], tokenizer, 128)
    before = written(policy, tokenizer, prompts)
    scores = {"before": float(np.mean(reward(prompts, before))), "judge": accuracy}
    tell(f"mean reward before, on {len(prompts)} beginnings of test tweets: {scores['before']:.3f}")
    return Start(tweets, policy, tokenizer, reward, prompts, before, scores)


def report(start, more, output):
    """Shows what the writer has learned, and leaves it and the numbers in the folder `output`."""
    after = written(start.policy, start.tokenizer, start.prompts)
    scores = {**start.scores, "after": float(np.mean(start.reward(start.prompts, after))), **more}
    show(start.prompts, start.before, after, start.reward)
    numbers = "".join(f", {name} {value:.3f}" for name, value in more.items())
    tell(f"mean reward after: {scores['after']:.3f} ({scores['after'] - scores['before']:+.3f}){numbers}")
    (output / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
    start.policy.save(output / "model.keras")
    print(f"The curves, the writer and the numbers are in {output}.")
    return scores


def written(model, tokenizer, prompts):
    """What the model writes of prompts, drawn at random, the same draws each time."""
    writer = ktfm.generation.TextGenerator(model, tokenizer, sampler="random")
    return writer(prompts, max_new_tokens=MAX_NEW_TOKENS, seed=1)


def show(prompts, before, after, reward, count=6):
    """Some texts before and after, and their rewards."""
    for prompt, *texts in list(zip(prompts, before, after, strict=True))[:count]:
        for name, text in zip(("before", "after "), texts, strict=True):
            print(f"  {name} {reward([prompt], [text])[0]:.2f}  {(prompt + text)!r:.100}")


def tell(text):
    """A line with the seconds since the start."""
    print(f"[{time.time() - START:4.0f} s] {text}", flush=True)


def plot(history, names, title, path, xlabel="epoch"):
    """A curve for each (name in the history, label)."""
    figure = matplotlib.Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for axes, (name, label) in zip(np.ravel(figure.subplots(1, len(names))), names.items(), strict=True):
        axes.plot(np.arange(1, len(history[name]) + 1), history[name])
        axes.set(xlabel=xlabel, ylabel=label)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


class Printed(keras.callbacks.Callback):
    """A line of some metrics every so many epochs."""

    def __init__(self, every, names):
        super().__init__()
        self.every, self.names = every, names

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            tell(f"epoch {epoch + 1}: " + ", ".join(f"{name} {logs[name]:.3f}" for name in self.names))
