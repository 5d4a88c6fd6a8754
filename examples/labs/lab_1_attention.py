# %% [markdown]
# # Lab 1: attention from scratch
#
# From three tokens by hand to `MultiHeadSelfAttention`: each step is written out in NumPy, and compared with the
# library. You will see why scores are divided by the square root of the width, how masks hide what must not be seen,
# and what several heads are.
#
# `pip install -e ".[visualization]"`, then `python examples/labs/lab_1_attention.py`, or open it as a notebook (VS
# Code, PyCharm and Jupytext know cells that begin with `# %%`). It takes some ten seconds.

# %%
import numpy as np
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required

OUTPUT = "runs/labs/1_attention"
WIDTHS = [4, 16, 64, 256, 1024]  # of queries and keys, in part 2
NUM_DRAWS = 2000

rng = np.random.default_rng(0)
output = folder_of(OUTPUT)
Figure = required("matplotlib.figure", "visualization", "Pictures").Figure

# %% [markdown]
# ## 1. Three tokens by hand
#
# Each token asks (query), offers (key) and has something to give (value). The score of a pair is the product of a
# query and a key; a softmax makes weights of a row of scores; the answer is the weighted sum of the values:
#
# $$\text{attention}(Q, K, V) = \text{softmax}\left(\frac{Q K^T}{\sqrt{d}}\right) V$$

# %%
query = key = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
value = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])


def softmax(scores):
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))  # the greatest is e^0: nothing overflows
    return scores / scores.sum(axis=-1, keepdims=True)


scores = query @ key.T  # [[1, 0, 1], [0, 1, 1], [1, 1, 2]]
weights = softmax(scores / np.sqrt(2))
by_hand = weights @ value
print("scores:\n", scores)
print(
    "weights:\n", weights.round(3)
)  # the first row: e^0.707 = 2.03, 1, 2.03, divided by their sum: 0.401, 0.198, 0.401
print("answers:\n", by_hand.round(3))

# The library has rows of a batch and heads first: (B, N, T, H).
everything = np.ones((1, 1, 3, 3), bool)
answer, their_weights = ktfm.ops.scaled_dot_product_attention(
    *(x[None, None].astype("float32") for x in (query, key, value)), everything, return_attention_scores=True
)
same("three tokens", by_hand, answer[0, 0])
same("their weights", weights, their_weights[0, 0])

# %% [markdown]
# ## 2. Why divide by the square root of d?
#
# The product of two vectors of d independent numbers of variance 1 has the variance d. With wide heads scores become
# large, the softmax gives all to one key, and its gradient, p (1 - p), dies. Divided by sqrt(d), scores have the
# variance 1 whatever the width.
#
# *What you should see:* undivided, the entropy of the weights falls to nearly 0 and so does the gradient; divided,
# both stay where they are.

# %%
spread = {"undivided": [], "divided by sqrt(d)": []}
gradients = {name: [] for name in spread}
for width in WIDTHS:
    queries = rng.normal(size=(NUM_DRAWS, 1, width))
    keys = rng.normal(size=(NUM_DRAWS, 16, width))
    products = (queries * keys).sum(axis=-1)  # (draws, 16 keys)
    print(f"d = {width:5}: variance of the scores {products.var():8.1f}, divided {(products / width**0.5).var():5.2f}")
    for name, divisor in (("undivided", 1.0), ("divided by sqrt(d)", width**0.5)):
        p = softmax(products / divisor)
        spread[name].append(-(p * np.log(np.maximum(p, 1e-30))).sum(axis=-1).mean())
        gradients[name].append((p * (1 - p)).sum(axis=-1).mean())

figure = Figure(figsize=(9, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
for axes, lines, label in ((left, spread, "entropy of 16 weights (nats)"), (right, gradients, "sum of p (1 - p)")):
    for name, values in lines.items():
        axes.plot(WIDTHS, values, marker="o", label=name)
    axes.set(xscale="log", xlabel="width d", ylabel=label)
    axes.grid(alpha=0.3)
left.axhline(np.log(16), color="gray", linestyle="--", linewidth=1)
left.set_ylim(0, 3)
right.set_ylim(0, 1)
left.annotate("all alike: log 16", (WIDTHS[0], np.log(16)), (0, -3), textcoords="offset points", va="top", fontsize=8)
right.legend()
figure.savefig(output / "why_sqrt_d.png", dpi=120)

# %% [markdown]
# ## 3. Masks
#
# A *causal* mask hides the future from each token, so that a model can learn to write; a *padding* mask hides what
# only fills up the row. Hidden scores become so small that their weights are exactly 0.
#
# *What you should see:* nothing above the diagonal, and no weight on padding; another future changes no answer.

# %%
length, width = 6, 8
x = rng.normal(size=(length, width)).astype("float32")
is_real = np.array([True] * 5 + [False])  # the last one is padding
may_look = np.tril(np.ones((length, length), bool)) & is_real[None, :] & is_real[:, None]


def masked_attention(query, key, value, may_look):
    weights = softmax(np.where(may_look, query @ key.T / np.sqrt(query.shape[-1]), -1e30))
    weights = weights * may_look.any(axis=-1, keepdims=True)  # who sees nothing gets nothing
    return weights @ value, weights


by_hand, masked_weights = masked_attention(x, x, x, may_look)
positions = np.where(is_real, np.arange(length), -1).astype("int32")[None]  # the library decides by positions
visible = ktfm.ops.Visibility(positions, positions, causal=True)
answer = ktfm.ops.scaled_dot_product_attention(*[x[None, None]] * 3, visible)
same("causal and padding masks", by_hand, answer[0, 0])

other = x.copy()
other[3:] = rng.normal(size=(3, width))  # another future
future_changes = np.abs(masked_attention(other, other, other, may_look)[0] - by_hand).max(axis=-1)
print("how much each answer changes if tokens 3, 4 and 5 change:", future_changes.round(2))
words = ["the", "cat", "sat", "on", "it", "[PAD]"]
title = "Causal and padding mask"
ktfm.visualization.plot_attention(masked_weights, words, output / "masks.png", title=title)

# %% [markdown]
# ## 4. Heads
#
# One set of weights can look in one way only. Multi-head attention projects the input to several narrow queries, keys
# and values, attends with each, puts the answers side by side and projects once more. It costs as much as one wide
# head.
#
# Here are all of its weights taken from a layer, and the computation written out.

# %%
num_heads, head_dim = 4, 2
layer = ktfm.layers.MultiHeadSelfAttention(num_heads, causal=True)
layer.build((None, None, width))
for weight in layer.weights:
    weight.assign(rng.normal(size=weight.shape))


def project(x, dense):
    return x @ np.asarray(dense.kernel) + np.asarray(dense.bias)


def multi_head_attention(x, layer, may_look):
    def heads(dense):  # (T, N * H) -> (N, T, H)
        return project(x, dense).reshape(len(x), -1, head_dim).transpose(1, 0, 2)

    queries, keys, values = (heads(dense) for dense in (layer.query_dense, layer.key_dense, layer.value_dense))
    shared = len(queries) // len(keys)  # query heads that share keys and values: 1, unless they are grouped
    answers = [
        masked_attention(query, keys[n // shared], values[n // shared], may_look)[0] for n, query in enumerate(queries)
    ]
    return project(np.concatenate(answers, axis=-1), layer.output_dense)


causal = np.tril(np.ones((length, length), bool))
same("four heads", multi_head_attention(x, layer, causal), layer(x[None])[0], tolerance=1e-4)
inspection = ktfm.models.inspect(layer, x[None])
head_weights = inspection.attention_weights[0][0]
words = ["the", "cat", "sat", "on", "it", "."]  # all six are real here
ktfm.visualization.plot_attention(head_weights, words, output / "heads.png", title="Four heads of random weights")

# %% [markdown]
# ## 5. Fewer keys than queries
#
# What a model remembers of a text while it writes are keys and values. Grouped-query attention (Llama 2 70B, Mistral,
# Qwen) lets several query heads share a pair; with one pair for all it is multi-query attention.

# %%
grouped = ktfm.layers.MultiHeadSelfAttention(num_heads, num_key_value_heads=2, causal=True)
grouped.build((None, None, width))
for weight in grouped.weights:
    weight.assign(rng.normal(size=weight.shape))
same("grouped heads", multi_head_attention(x, grouped, causal), grouped(x[None])[0], tolerance=1e-4)
cache_sizes = {
    name: 2 * attention.num_key_value_heads * attention.head_dim
    for name, attention in (("multi-head", layer), ("grouped", grouped))
}
print("numbers that are remembered of each token:", cache_sizes)
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Give the three tokens of part 1 the same key. What are the weights, and what is each answer?
# 2. Multiply all queries of part 1 by 100. Which function does the softmax become?
# 3. In part 3, let the padding stand at the left. Which numbers change, and why do `positions` not care?
# 4. Swap two rows of `x` in part 4 and take the causal mask away. What happens to the answers? Lab 3 goes on from
# there.
