# %% [markdown]
# # Sequences before attention
#
# Counts of pairs, recurrent networks, and why they gave way: a recurrent network must carry all that it has read
# through one vector, step by step, and the gradient must come back the same way. You will write the cells, measure
# how the gradient vanishes, and compare language models of the same size.
#
# `python examples/labs/sequences_before_attention.py`; some two minutes.

# %%
import keras
import numpy as np
from keras import layers, ops
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required

OUTPUT = "runs/labs/sequences_before_attention"
STEPS = 300  # of each language model
DISTANCE = 60  # tokens that the gradient has to come back over
VOCABULARY_SIZE = 512

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
output = folder_of(OUTPUT)
Figure = required("matplotlib.figure", "visualization", "Pictures").Figure

# %% [markdown]
# ## 1. The cells by hand
#
# A simple recurrent network: h = tanh(W x + U h + b). An LSTM has a memory c beside h, and gates that decide what is
# kept, added and shown (Hochreiter and Schmidhuber 1997): where the forget gate is open, the memory and its gradient
# pass unchanged.


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn(x, kernel, recurrent, bias):
    h = np.zeros(recurrent.shape[0])
    for step in x:
        h = np.tanh(step @ kernel + h @ recurrent + bias)
    return h


def lstm(x, kernel, recurrent, bias):
    h = c = np.zeros(recurrent.shape[0])
    for step in x:
        add, forget, candidate, show = np.split(step @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(forget) * c + sigmoid(add) * np.tanh(candidate)
        h = sigmoid(show) * np.tanh(c)
    return h


x = rng.normal(size=(1, 9, 5)).astype("float32")
for name, layer, by_hand in (("simple RNN", layers.SimpleRNN(6), rnn), ("LSTM", layers.LSTM(6), lstm)):
    answer = layer(x)
    same(name, by_hand(x[0].astype("float64"), *(np.asarray(w, "float64") for w in layer.get_weights())), answer[0])

# A bidirectional network reads from both ends, so that each place knows what comes after it; it cannot write.
both = layers.Bidirectional(layers.LSTM(6, return_sequences=True))
states = np.asarray(both(x))
changed = x.copy()
changed[:, -1] += 1
knows_the_end = np.abs(np.asarray(both(changed)) - states).max(axis=-1)[0] > 1e-7
print("places that the last token's change reaches, both ways:", "".join("x" if yes else "." for yes in knows_the_end))

# %% [markdown]
# ## 2. Vanishing gradients, measured
#
# How much does the last state depend on a token so many steps before? Random weights, as training begins with.
#
# *What you should see:* through the simple RNN the gradient falls exponentially; through an LSTM whose forget gates are
# open (a bias of 3) it falls much less; through attention it is as large for a far token as for a near one. (The last
# token has more, since it asks as well.)


# %%
def sensitivity(layer, width=32, length=DISTANCE):
    """The size of the gradient of the last state with respect to each input, as a share of that of the last."""
    import tensorflow as tf

    inputs = tf.constant(rng.normal(size=(8, length, width)).astype("float32"))
    direction = rng.normal(size=width).astype("float32")
    layer(inputs)
    if isinstance(layer, layers.LSTM):
        bias = np.zeros(4 * width, "float32")
        bias[width : 2 * width] = 3.0
        layer.cell.bias.assign(bias)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        last = ops.sum(layer(inputs)[:, -1] * direction)
    sizes = np.linalg.norm(tape.gradient(last, inputs), axis=(0, 2))
    return sizes / sizes[-1]


sensitivities = {
    "simple RNN": sensitivity(layers.SimpleRNN(32, return_sequences=True, recurrent_initializer="glorot_uniform")),
    "LSTM": sensitivity(layers.LSTM(32, return_sequences=True)),
    "attention": sensitivity(ktfm.layers.MultiHeadSelfAttention(4, causal=True)),
}
for name, shares in sensitivities.items():
    print(f"{name:12} gradient at a distance of {DISTANCE - 1}: {shares[0]:.1g} of that of the last token")
figure = Figure(figsize=(7, 4.2), layout="constrained")
axes = figure.add_subplot()
for name, shares in sensitivities.items():
    axes.plot(np.arange(DISTANCE)[::-1], shares, label=name)
axes.set(xlabel="distance in tokens", ylabel="gradient, as a share of the last token's", yscale="log")
axes.set_ylim(1e-12, 10)
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(output / "vanishing_gradients.png", dpi=120)

# %% [markdown]
# ## 3. Language models of one size
#
# Counts of single tokens and of pairs, an RNN, an LSTM, and a GPT, all of about the same number of weights, on
# Shakespeare.
#
# *What you should see:* the loss falls in this order: single tokens, pairs, and then the networks, of which those
# that remember farther do better the longer they learn.

# %%
import n_gram_baselines  # noqa: E402 - one of the other examples
import position_encodings  # noqa: E402

text = position_encodings.CORPUS.read_text(encoding="utf-8")
border = len(text) * 19 // 20
tokenizer = ktfm.tokenizers.BytePairTokenizer.train(text[:200_000], VOCABULARY_SIZE)
packed = ktfm.data.pack(text[:border], tokenizer, 64)
validation = np.asarray(tokenizer.encode(text[border : border + 60_000]), "int32")
train_ids = np.asarray(tokenizer.encode(text[:400_000]), "int32")
rows = validation[: len(validation) // 65 * 65].reshape(-1, 65)


def recurrent(cell, width):
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY_SIZE, width)(inputs)
    x = cell(width, return_sequences=True, unroll=False)(x)
    return keras.Model(inputs, layers.Dense(VOCABULARY_SIZE)(x))


models = {
    "simple RNN": lambda: recurrent(layers.SimpleRNN, 190),
    "LSTM": lambda: recurrent(layers.LSTM, 140),
    "GPT": lambda: ktfm.models.build_gpt(
        vocabulary_size=VOCABULARY_SIZE, max_sequence_length=64, num_layers=2, num_heads=4, hidden_dim=84
    ),
}
losses = {
    "single tokens": n_gram_baselines.unigram_loss(train_ids, validation, VOCABULARY_SIZE),
    "pairs": n_gram_baselines.bigram_loss(train_ids, validation, VOCABULARY_SIZE),
}
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for name, make in models.items():
    model = make()
    model.compile(keras.optimizers.AdamW(3e-3, global_clipnorm=1.0), loss, jit_compile=True)
    model.fit(packed.dataset(16, repeat=True), steps_per_epoch=STEPS, shuffle=False, verbose=0)
    losses[name] = float(loss(rows[:, 1:], model(rows[:, :-1])))
    print(f"{name:14} {model.count_params():8,} weights")
for name, value in losses.items():
    print(f"{name:14} {value:.3f} nats a token, perplexity {np.exp(value):.1f}")
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Begin the LSTM of part 2 with a forget bias of 0. Where does its curve run?
# 2. A recurrent network reads token after token. Which part of a step of training can a GPU then not do at once?
# 3. What does a recurrent network need to write a long text, and what does a GPT? (Memory, and time for each token.)
