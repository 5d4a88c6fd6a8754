# %% [markdown]
# # Lab 6: decoding
#
# A language model gives a probability for each next token. How to choose among them is another matter, and decides
# whether the text repeats itself, rambles or says something. You will write greedy search, beams and the filters,
# compare them with the library, and measure likelihood against diversity.
#
# `python examples/labs/lab_6_decoding.py`; some three minutes. Labs 1 to 4 come before it.

# %%
import itertools

import keras
import numpy as np
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    RandomSampler,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    match_regex,
)

OUTPUT = "runs/labs/6_decoding"
STEPS = 300  # of the training
CHARACTERS = 1_000_000  # of Shakespeare
NEW_TOKENS = 40
PROMPTS = ["ROMEO:\n", "JULIET:\nO ", "What is ", "The king ", "I love ", "Go, ", "My lord, ", "Where is "]

keras.utils.set_random_seed(0)
output = folder_of(OUTPUT)
Figure = required("matplotlib.figure", "visualization", "Pictures").Figure

# %% [markdown]
# ## 1. A model that writes
#
# A small GPT learns from Shakespeare for a minute, as in `examples/position_encodings.py`.

# %%
import position_encodings  # noqa: E402 - one of the other examples

text = position_encodings.CORPUS.read_text(encoding="utf-8")[:CHARACTERS]
tokenizer = ktfm.tokenizers.BytePairTokenizer.train(text, vocabulary_size=1024)
packed = ktfm.data.pack(text, tokenizer, position_encodings.TRAINED)
model = position_encodings.trained("learned", packed, STEPS)
writer = ktfm.generation.TextGenerator(model, tokenizer)


def next_log_probs(ids):
    """log p(next token | ids), float64 (V,): the whole of what decoding knows of a model."""
    logits = np.asarray(model(np.array([ids])))[0, -1].astype("float64")
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())


# %% [markdown]
# ## 2. Greedy search and beams by hand
#
# *Greedy* takes the likeliest token each time. A *beam search* keeps the best few beginnings and so finds texts that
# are likelier as a whole.

# %%
prompt = tokenizer.encode("ROMEO:\n")


def greedy(ids, number):
    ids = list(ids)
    for _ in range(number):
        ids.append(int(next_log_probs(ids).argmax()))
    return ids[len(prompt) :]


def beams(ids, number, num_beams):
    """The best beginning after so many tokens, and the sum of its log-probabilities."""
    kept = [(0.0, list(ids))]
    for _ in range(number):
        longer = []
        for score, beginning in kept:
            log_probs = next_log_probs(beginning)
            best = np.argsort(log_probs)[-num_beams:]
            longer += [(score + log_probs[i], [*beginning, int(i)]) for i in best]
        kept = sorted(longer, reverse=True)[:num_beams]
    return kept[0][1][len(ids) :], kept[0][0]


length = 8
by_hand = greedy(prompt, length)
same("greedy search", by_hand, model.generate([prompt], length, "greedy").token_ids[0])
by_hand, by_hand_score = beams(prompt, length, 4)
found = model.generate([prompt], length, BeamSampler(num_beams=4, length_penalty=0.0))
same("beam search", by_hand, found.token_ids[0])
same("its score", by_hand_score, found.scores[0], tolerance=1e-3)

# %% [markdown]
# ## 3. Filters by hand
#
# *Temperature* divides the logits: below 1 the likely become likelier. *Top-k* keeps the k likeliest tokens, *top-p*
# the fewest that together have p.


# %%
def softmax(logits):
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def top_k(logits, k):
    return np.where(logits >= np.sort(logits)[-k], logits, -np.inf)


def top_p(logits, p):
    order = np.argsort(-logits)
    before = np.cumsum(softmax(logits)[order]) - softmax(logits)[order]  # what the likelier ones have together
    kept = np.full_like(logits, -np.inf)
    kept[order[before < p]] = logits[order[before < p]]
    return kept


logits = next_log_probs(prompt)
row = logits[None].astype("float32")
filters = {
    "temperature 0.7": (softmax(logits / 0.7), Temperature(0.7)),
    "top-k 10": (softmax(top_k(logits, 10)), TopK(10)),
    "top-p 0.9": (softmax(top_p(logits, 0.9)), TopP(0.9)),
}
for name, (by_hand, processor) in filters.items():
    theirs = np.asarray(processor(row, None, None), "float64")[0]
    same(name, by_hand, softmax(theirs))
entropies = {name: -(p * np.log(np.maximum(p, 1e-30))).sum() for name, (p, _) in filters.items()}
print("entropy of the next token (nats):", {name: round(float(entropy), 2) for name, entropy in entropies.items()})

# %% [markdown]
# ## 4. Likelihood against diversity
#
# Each strategy continues the same prompts. We measure how likely the model itself finds the texts (mean
# log-probability of a token), how many different pairs of tokens they have (*distinct-2*), and the share of their
# 4-grams that came before in the same text (*repetition*).
#
# *What you should see:* greedy search and beams write the likeliest texts, and repeat themselves; pure sampling is
# the most diverse and the least likely; temperature, top-k and top-p lie between, and contrastive search is likely
# without repeating.

# %%
strategies = {
    "greedy": GreedySampler(),
    "4 beams": BeamSampler(num_beams=4),
    "sampling": RandomSampler(),
    "temperature 0.7": RandomSampler([Temperature(0.7)]),
    "top-k 10": RandomSampler([TopK(10)]),
    "top-p 0.9": RandomSampler([TopP(0.9)]),
    "contrastive": ContrastiveSampler(top_k=4, alpha=0.6),
    "greedy, penalty 1.3": GreedySampler([RepetitionPenalty(1.3)]),
}


def measured(ids_of_prompts, rows):
    """(mean log-probability, distinct-2, repetition) of the texts."""
    log_probs, pairs, repeated = [], [], []
    for start, new in zip(ids_of_prompts, rows, strict=True):
        states = np.asarray(keras.ops.log_softmax(model(np.array([[*start, *new]])), axis=-1))[0]
        log_probs += [states[len(start) - 1 + i, token] for i, token in enumerate(new)]
        pairs += list(itertools.pairwise(new))
        grams = [tuple(new[i : i + 4]) for i in range(len(new) - 3)]
        repeated.append(1 - len(set(grams)) / len(grams))
    return float(np.mean(log_probs)), len(set(pairs)) / len(pairs), float(np.mean(repeated))


starts = [tokenizer.encode(prompt_text) for prompt_text in PROMPTS]
table, samples = {}, {}
print(f"{'':22}{'log p':>8}{'distinct-2':>12}{'repetition':>12}")
for name, sampler in strategies.items():
    rows = model.generate(starts, NEW_TOKENS, sampler, seed=0).token_ids.tolist()
    table[name], samples[name] = measured(starts, rows), tokenizer.decode(rows[0])
    print(f"{name:22}{table[name][0]:8.2f}{table[name][1]:12.2f}{table[name][2]:12.2f}")
for name, sample in samples.items():
    print(f"\n--- {name}: {PROMPTS[0]!r} ...\n{sample}")

figure = Figure(figsize=(7, 4.5), layout="constrained")
axes = figure.add_subplot()
for i, (name, (log_prob, distinct, repetition)) in enumerate(table.items()):
    axes.scatter(log_prob, distinct, s=30 + 400 * repetition, alpha=0.7)
    place = (6, 5 if i % 2 else -14)  # sampling and top-p lie close together
    axes.annotate(name, (log_prob, distinct), place, textcoords="offset points", fontsize=8)
axes.set(xlabel="mean log-probability of a token", ylabel="distinct-2", title="The larger, the more repetition")
axes.margins(0.15)
axes.grid(alpha=0.3)
figure.savefig(output / "likelihood_and_diversity.png", dpi=120)

# %% [markdown]
# ## 5. Constraints
#
# A grammar lets only such tokens come as can still become a text of the wanted form; the model chooses among them.

# %%
form = match_regex(r"Act [1-5], scene [1-9]", tokenizer)
constrained = writer(["It is in ", "We are in ", "This is "], 20, sampler=RandomSampler([form]), seed=1)
print(constrained)
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Why is the likeliest text not the best one? (Holtzman et al. 2019 measured how unlikely people write.)
# 2. With temperature 0.01, which strategy do you get? With 100?
# 3. Top-k keeps ten tokens whether the model is sure or not. When is top-p better, when worse?
