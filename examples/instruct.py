"""Teach a small GPT to follow instructions: first it learns plain text, then chats, of which only answers count.

pip install -e ".[checkpoints,examples]"        # jinja2 renders the chat template
python examples/instruct.py                     # from random weights, some minutes on two cores

There are two kinds of instructions, the topic of a gloss of WordNet and the sentiment of a tweet, and the model is
asked about texts that it has not seen.
"""

import argparse
import collections
import csv
import json
import pathlib
import random
import time

import keras
import numpy as np
from command_line import positive

import keras_tfm as ktfm
from keras_tfm.optional import required

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
DATA = pathlib.Path(__file__).parent / "data"
START = time.time()
SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>")
# What stands between {% generation %} and {% endgeneration %} is learned: the answer, and the token that ends it.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{% generation %}{{ m.content }}<|endoftext|>"
    "{% endgeneration %}{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TASKS = {
    "wordnet_topics": "What topic is this about?\n{text}",
    "sentiment_tweets": "Is this tweet positive, neutral or negative?\n{text}",
}


def tell(text):
    """A line with the seconds since the start."""
    print(f"[{time.time() - START:4.0f} s] {text}", flush=True)


def read(split):
    """Chats of one question and one answer, by task."""
    tasks = {}
    for name, question in TASKS.items():
        with (DATA / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        tasks[name] = [
            [
                {"role": "user", "content": question.format(text=row["text"])},
                {"role": "assistant", "content": row["label"]},
            ]
            for row in rows
            if row["split"] == split
        ]
        random.Random(0).shuffle(tasks[name])
    return tasks


def pretrain(texts, tokenizer, sequence_length, steps):
    """A GPT that has read the texts, and no chats."""
    model = ktfm.models.build_gpt(
        vocabulary_size=tokenizer.vocabulary_size,
        max_sequence_length=sequence_length,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        position="rotary",
        dropout=0.1,
    )
    dataset = ktfm.data.language_model_dataset(texts, tokenizer, sequence_length, batch_size=16)
    dataset = dataset.map(ktfm.data.with_document_ids(tokenizer.end_of_text_id))
    model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=1.0), loss="chunked")
    model.fit(dataset.repeat(), steps_per_epoch=steps, shuffle=False, verbose=2)
    return model


def answers(model, tokenizer, template, chats):
    """What the model answers to the questions, greedily."""
    writer = ktfm.generation.TextGenerator(model, tokenizer)
    found = []
    for start in range(0, len(chats), 64):
        found += writer([template(chat[:-1]) for chat in chats[start : start + 64]], max_new_tokens=8)
    return found


def accuracies(model, tokenizer, template, tasks):
    """How many answers are right, word for word, by task."""
    scores = {}
    for name, chats in tasks.items():
        right = [chat[-1]["content"] for chat in chats]
        scores[name] = float(np.mean(np.array(answers(model, tokenizer, template, chats)) == right))
    return scores


def plot(history, scores, path):
    """Losses, and how many answers are right."""
    figure = matplotlib.Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("loss", "training"), ("val_loss", "held out")):
        left.plot(np.arange(1, len(history[name]) + 1), history[name], label=label)
    left.set(xlabel="epoch", ylabel="loss of answers, nats a token")
    left.legend()
    width = 0.8 / len(scores)
    for i, (name, values) in enumerate(scores.items()):
        right.bar(np.arange(len(values)) + i * width, list(values.values()), width, label=name)
    right.set_xticks(np.arange(len(TASKS)) + 0.8 / 2 - width / 2, list(TASKS))
    right.set(ylabel="right answers", ylim=(0, 1))
    right.legend()
    figure.suptitle("Instruction tuning of a small GPT")
    figure.savefig(path, dpi=120)


def main(epochs=4, pretraining_steps=300, rows_per_task=3000, num_tests=300, output="runs/instruct"):
    """Runs everything; the picture, the model and the numbers are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    train = {name: chats[:rows_per_task] for name, chats in read("train").items()}
    tests = {name: chats[:num_tests] for name, chats in read("test").items()}
    chats = [chat for part in train.values() for chat in part]
    texts = [message["content"] for chat in chats for message in chat]
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train(texts, vocabulary_size=1000, special_tokens=SPECIAL)
    template = ktfm.checkpoints.ChatTemplate(TEMPLATE)
    sequence_length = 128
    model = pretrain(
        [chat[0]["content"].split("\n")[1] for chat in chats], tokenizer, sequence_length, pretraining_steps
    )
    most_frequent = {
        name: collections.Counter(chat[-1]["content"] for chat in part).most_common(1)[0][1] / len(part)
        for name, part in tests.items()
    }
    scores = {"always the same": most_frequent, "before": accuracies(model, tokenizer, template, tests)}
    shown = [chat for part in tests.values() for chat in part[:3]]
    before = answers(model, tokenizer, template, shown)

    options = {"tokenizer": tokenizer, "sequence_length": sequence_length, "batch_size": 8, "chat_template": template}
    dataset = ktfm.data.instruction_dataset([{"messages": chat} for chat in chats], **options)
    held_out = [{"messages": chat} for part in tests.values() for chat in part]
    rate = ktfm.training.WarmupLinearDecay(2e-3, total_steps=epochs * int(dataset.cardinality()))
    loss = ktfm.losses.ChunkedCrossEntropy(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0), loss)
    tell(f"{len(chats)} chats in {int(dataset.cardinality())} batches")
    validation = ktfm.data.instruction_dataset(held_out, **options, shuffle=False)
    history = model.fit(dataset, validation_data=validation, epochs=epochs, shuffle=False, verbose=2).history

    scores["after"] = accuracies(model, tokenizer, template, tests)
    for chat, old, new in zip(shown, before, answers(model, tokenizer, template, shown), strict=True):
        print(f"  {chat[0]['content']!r:.110}\n    before {old!r:.40}  after {new!r}  right {chat[-1]['content']!r}")
    for name, values in scores.items():
        tell(f"{name:16} " + ", ".join(f"{task} {value:.3f}" for task, value in values.items()))
    (output / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
    plot(history, scores, output / "curves.png")
    model.save(output / "model.keras")
    print(f"The picture, the model and the numbers are in {output}.")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=4, help="passes over the chats (default: 4)")
    parser.add_argument("--pretraining-steps", type=positive, default=300, help="steps on plain text (default: 300)")
    parser.add_argument("--rows-per-task", type=positive, default=3000, help="chats of each kind (default: 3000)")
    parser.add_argument("--num-tests", type=positive, default=300, help="questions of each kind (default: 300)")
    parser.add_argument("--output", default="runs/instruct", help="where results go")
    main(**vars(parser.parse_args()))
