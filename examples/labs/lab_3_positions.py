# %% [markdown]
# # Lab 3: positions
#
# Attention does not know order: it is a sum over a set. Four schemes tell it, each in another place. You will compute
# each by hand, see that a model without any reads shuffled words as if nothing had happened, and measure what the
# schemes make of texts longer than those of the training.
#
# `python examples/labs/lab_3_positions.py`; it takes some two minutes. Labs 1 and 2 come before it.

# %%
import math

import keras
import numpy as np
from lab import folder_of, same

import keras_tfm as ktfm

OUTPUT = "runs/labs/3_positions"
STEPS = 100  # of the training in part 6, for each scheme
SCHEMES = ("sinusoidal", "rotary", "alibi", "relative")
CHARACTERS = 1_000_000  # of Shakespeare, in part 6
SHUFFLED_STEPS = 120  # of the training in part 5

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
output = folder_of(OUTPUT)

# %% [markdown]
# ## 1. Sinusoids: added to the token
#
# $$PE_{pos, 2i} = \sin(pos / 10000^{2i/d}), \quad PE_{pos, 2i+1} = \cos(pos / 10000^{2i/d})$$
#
# (Vaswani et al. 2017). Each pair of features is a clock with a hand of its own speed.

# %%
length, width = 40, 16
positions = np.arange(length, dtype="int32")
by_hand = np.zeros((length, width))
for position in range(length):
    for i in range(width // 2):
        angle = position / 10000 ** (2 * i / width)
        by_hand[position, 2 * i], by_hand[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
layer = ktfm.layers.SinusoidalEmbedding(width)
same("sinusoids", by_hand, layer(positions[None])[0])
ktfm.visualization.plot_positions(ktfm.layers.SinusoidalEmbedding(64), output / "sinusoidal.png")

# %% [markdown]
# ## 2. Rotary: queries and keys are turned
#
# Each pair of features of a query and of a key is turned by an angle that grows with its position (Su et al. 2021).
# The product of two turned vectors depends on the *distance* alone.

# %%
query, key = rng.normal(size=(2, width))


def turned(x, position):
    """Feature i is paired with i + d/2, as in Llama."""
    half = len(x) // 2
    angles = position / 10000 ** (2 * np.arange(half) / len(x))
    first, second = x[:half], x[half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


rotary = ktfm.layers.RotaryEmbedding()
repeated = np.broadcast_to(query, (1, 1, length, width)).astype("float32")
same("rotary", [turned(query, p) for p in positions], rotary(repeated, positions=positions[None])[0, 0])
products = [turned(query, p) @ turned(key, p - 3) for p in (3, 10, 30)]
print("query · key at distance 3, at positions 3, 10 and 30:", np.round(products, 6))
ktfm.visualization.plot_positions(rotary, output / "rotary.png")

# %% [markdown]
# ## 3. ALiBi: a slope is taken off the score
#
# score - slope · distance, with a slope for each head: 1/2, 1/4, ... 1/256 for 8 heads (Press et al. 2021). Nothing
# is learned.

# %%
num_heads = 8
slopes = np.array([2.0 ** -(head + 1) for head in range(num_heads)])
distances = np.abs(positions[:, None] - positions[None])
same("ALiBi", -slopes[:, None, None] * distances, ktfm.layers.AlibiBias(num_heads)(positions[None])[0])
ktfm.visualization.plot_positions(ktfm.layers.AlibiBias(num_heads), output / "alibi.png")

# %% [markdown]
# ## 4. T5's buckets: a learned number is added to the score
#
# Small distances have a bucket each, larger ones share (Raffel et al. 2019); each head learns a number for each
# bucket.


# %%
def bucket(distance, num_buckets=32, max_distance=128):
    """How far back the key is (a causal model) -> bucket."""
    exact = num_buckets // 2
    if distance < exact:
        return max(distance, 0)
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return min(exact + int(share * (num_buckets - exact)), num_buckets - 1)


relative = ktfm.layers.RelativePositionBias(num_heads, bidirectional=False)
relative.build()
relative.embeddings.assign(rng.normal(size=relative.embeddings.shape))
table = np.asarray(relative.embeddings)
by_hand = [[table[bucket(q - k)] for k in positions] for q in positions]  # (T, S, N)
same("T5's buckets", np.transpose(by_hand, (2, 0, 1)), relative(positions[None])[0])
ktfm.visualization.plot_positions(relative, output / "relative.png")

# %% [markdown]
# ## 5. Shuffled words
#
# A model without positions is given rows of tokens and is asked which came first, the 1 or the 2. Its answer to a
# shuffled row is that to the row itself, so it cannot know: half of its answers are right, however long it learns.
#
# *What you should see:* without positions about 0.5; with rotary ones nearly all right, and on shuffled rows half
# again.


# %%
def rows_with_order(number):
    """(token ids (n, 12), whether the 1 comes before the 2)."""
    ids = rng.integers(3, 10, (number, 12)).astype("int32")
    places = np.argsort(rng.random((number, 12)), axis=1)[:, :2]
    ids[np.arange(number), places[:, 0]], ids[np.arange(number), places[:, 1]] = 1, 2
    return ids, places[:, 0] < places[:, 1]


def reader(rotary):
    inputs = keras.Input((None,), dtype="int32")
    x = ktfm.layers.TokenEmbedding(10, 32)(inputs)
    attention = [ktfm.layers.MultiHeadSelfAttention(4, rotary=rotary() if rotary else None) for _ in range(2)]
    blocks = [ktfm.layers.TransformerBlock(layer, ktfm.layers.FeedForward(64)) for layer in attention]
    x = ktfm.layers.TransformerStack(blocks, final_norm=keras.layers.LayerNormalization())(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(keras.ops.mean(x, axis=1)))


test_ids, test_answers = rows_with_order(1000)
shuffled = rng.permuted(test_ids, axis=1)
accuracies = {}
for name, scheme in (("without positions", None), ("rotary", ktfm.layers.RotaryEmbedding)):
    model = reader(scheme)
    ids, answers = rows_with_order(64 * SHUFFLED_STEPS)
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    model.fit(ids, answers, batch_size=64, verbose=0)
    found = {kind: model(rows)[:, 0] > 0.5 for kind, rows in (("in order", test_ids), ("shuffled", shuffled))}
    accuracies[name] = {kind: float(np.mean(np.asarray(row) == test_answers)) for kind, row in found.items()}
    print(f"{name:18} right: {accuracies[name]['in order']:.2f}, shuffled: {accuracies[name]['shuffled']:.2f}")
    if scheme is None:
        np.testing.assert_allclose(model(test_ids), model(shuffled), atol=1e-4)  # it cannot tell them apart

# %% [markdown]
# ## 6. Longer than in training
#
# GPTs of each scheme learn from sequences of 64 tokens of Shakespeare, and read 256. This is
# `examples/position_encodings.py` in short; there, it trains longer.
#
# *What you should see:* schemes that know distances (ALiBi, T5's buckets) learn fastest, and read beyond 64 as well as
# before. Sinusoids, which have to learn what a vector says of a place, are the last. Whether a scheme breaks beyond its
# training shows when it has learned to rely on positions: run `position_encodings.py`, which trains longer.

# %%
import position_encodings  # noqa: E402 - one of the other examples

text = position_encodings.CORPUS.read_text(encoding="utf-8")[:CHARACTERS]
border = len(text) * 17 // 20
tokenizer = ktfm.tokenizers.BytePairTokenizer.train(text[:border], vocabulary_size=1024)
packed = ktfm.data.pack(text[:border], tokenizer, position_encodings.TRAINED)
batch, read = position_encodings.BATCH_SIZE, position_encodings.READ
ids = np.asarray(tokenizer.encode(text[border:]))[: 2 * batch * (read + 1)]
sequences = ids.reshape(-1, read + 1)
perplexities = {}
print(f"perplexity at the places   {'0-63':>8}{'64-127':>8}{'128-191':>8}{'192-255':>8}")
for scheme in SCHEMES:
    model = position_encodings.trained(scheme, packed, STEPS)
    perplexities[scheme] = position_encodings.perplexities(model, sequences)
    print(f"{scheme:25}  " + "".join(f"{value:8.1f}" for value in perplexities[scheme]))
position_encodings.draw(perplexities, output / "longer_than_trained.png")
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Which scheme adds to the token, which turns, and which adds to the score? Find each in `build_gpt(position=...)`.
# 2. A causal model without positions is not blind to order. Why? (What does the first token see, and the last?)
# 3. `RotaryEmbedding(scaling=DynamicNtkScaling(...))` reads longer texts. Draw both with `plot_positions`.
