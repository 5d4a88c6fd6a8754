# %% [markdown]
# # Lab 2: the transformer block
#
# Attention moves information between tokens, a feed-forward works on each token by itself, and around both run
# residual connections and norms. You will build a block from these, compare it with `TransformerBlock`, and measure
# why the place of the norm decides whether deep stacks learn.
#
# `python examples/labs/lab_2_blocks.py`; it takes about a minute. Lab 1 comes before it.

# %%
import itertools

import keras
import numpy as np
from keras import ops
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required

OUTPUT = "runs/labs/2_blocks"
DEPTH = 24  # blocks of the deep stacks of part 2
WIDTH = 32

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
output = folder_of(OUTPUT)
Figure = required("matplotlib.figure", "visualization", "Pictures").Figure

# %% [markdown]
# ## 1. A block by hand
#
# The paper of 2017 put the norm after the sum (*post*), GPT-2 before the sublayer (*pre*):
#
# | | attention | feed-forward |
# | - | - | - |
# | post | `x = norm(x + attention(x))` | `x = norm(x + feed_forward(x))` |
# | pre | `x = x + attention(norm(x))` | `x = x + feed_forward(norm(x))` |
#
# The sublayers themselves are taken from the layer: attention is Lab 1, the feed-forward two matrices.


# %%
def layer_norm(x, norm):
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + norm.epsilon)
    return centered / deviation * np.asarray(norm.gamma) + np.asarray(norm.beta)


def feed_forward(x, layer):
    up, down = layer.intermediate_dense, layer.output_dense
    hidden = np.maximum(x @ np.asarray(up.kernel) + np.asarray(up.bias), 0)  # each token by itself
    return hidden @ np.asarray(down.kernel) + np.asarray(down.bias)


def block_by_hand(x, block):
    def attention(x):
        return np.asarray(block.self_attention(x.astype("float32")))

    first, second = block.attention_wrap, block.feed_forward_wrap
    if block.norm_placement == "post":
        x = layer_norm(x + attention(x), first.norm_after)
        return layer_norm(x + feed_forward(x, block.feed_forward), second.norm_after)
    x = x + attention(layer_norm(x, first.norm_before))
    return x + feed_forward(layer_norm(x, second.norm_before), block.feed_forward)


def make_block(placement, **options):
    return ktfm.layers.TransformerBlock(
        ktfm.layers.MultiHeadSelfAttention(4, **options),
        ktfm.layers.FeedForward(4 * WIDTH, activation="relu"),
        norm_placement=placement,
    )


x = rng.normal(size=(2, 7, WIDTH)).astype("float32")
for placement in ("post", "pre"):
    block = make_block(placement)
    block(x)
    same(f"a block with its norms {placement}", block_by_hand(x, block), block(x), tolerance=1e-4)

# %% [markdown]
# ## 2. How much of the gradient reaches the first block?
#
# We stack many blocks of random weights, ask for a loss at the top, and measure how large its gradient is with
# respect to what each block was given.
#
# *What you should see:* with the norm before (pre), the gradient is of one size all the way down. With the norm after
# (post) it shrinks on its way, to about a third of its size here, which is one reason why deep post-norm models need a
# warm-up of the learning rate. Without residual connections less than a tenth arrives.


# %%
class WithoutResidual(keras.layers.Layer):
    """The sublayers of a block one after the other, and no way around them."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.LayerNormalization()
        self.attention = ktfm.layers.MultiHeadSelfAttention(4)
        self.feed_forward = ktfm.layers.FeedForward(4 * WIDTH, activation="relu")

    def call(self, x):
        return self.feed_forward(self.norm(self.attention(x)))


def gradients_by_depth(blocks, x):
    """The size of the loss's gradient with respect to the input of each block, as a share of that at the top."""
    import tensorflow as tf

    for block in blocks:
        x = block(x)  # builds them
    with tf.GradientTape() as tape:
        states = [ops.convert_to_tensor(x)]
        tape.watch(states[0])
        for block in blocks:
            states.append(block(states[-1]))
        loss = ops.sum(states[-1] * target)
    sizes = [float(np.linalg.norm(np.ravel(gradient))) for gradient in tape.gradient(loss, states)]
    return np.array(sizes) / sizes[-1]


target = rng.normal(size=x.shape).astype("float32")
shares = {
    "pre-norm": gradients_by_depth([make_block("pre") for _ in range(DEPTH)], x),
    "post-norm": gradients_by_depth([make_block("post") for _ in range(DEPTH)], x),
    "no residuals": gradients_by_depth([WithoutResidual() for _ in range(DEPTH)], x),
}
print(f"{'gradient at the bottom, as a share of that at the top':55}")
for name, share in shares.items():
    print(f"  {name:14} {share[0]:.2g}")

figure = Figure(figsize=(7, 4.2), layout="constrained")
axes = figure.add_subplot()
for name, share in shares.items():
    axes.plot(range(DEPTH + 1), share, marker="o", markersize=3, label=name)
axes.set(xlabel="block (0 = the embedding)", ylabel="gradient, as a share of that at the top", yscale="log")
axes.set_title(f"{DEPTH} blocks of random weights")
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(output / "gradients.png", dpi=120)

# %% [markdown]
# ## 3. The residual stream
#
# Pre-norm has its price: each block adds to a stream that only grows, so that the later blocks change it by less and
# less.
#
# *What you should see:* the stream of pre-norm grows; that of post-norm has one size; the share that a block adds
# falls.

# %%
sizes = {}
for placement in ("pre", "post"):
    stack = ktfm.layers.TransformerStack([make_block(placement) for _ in range(DEPTH)])
    states = ktfm.models.inspect(stack, x).hidden_states
    sizes[placement] = [float(np.sqrt((state**2).mean())) for state in states]
    added = [float(np.linalg.norm(b - a) / np.linalg.norm(a)) for a, b in itertools.pairwise(states)]
    print(f"{placement:5}: size {sizes[placement][0]:.2f} -> {sizes[placement][-1]:.2f}; ", end="")
    print(f"the first block changes it by {added[0]:.2f} of its size, the last by {added[-1]:.2f}")

# %% [markdown]
# ## 4. Encoder, decoder, and both
#
# An encoder's tokens see each other; a decoder's see what came before; and a decoder that translates looks at a
# source as well, by cross-attention. The blocks are the same, given other attention.
#
# *What you should see:* a change of the last token reaches all of the encoder and only the end of the decoder.

# %%
changed = x.copy()
changed[:, -1] += rng.normal(size=WIDTH)
reached = {}
for name, options in (("encoder", {}), ("decoder", {"causal": True})):
    stack = ktfm.layers.TransformerStack([make_block("pre", **options) for _ in range(2)])
    before, after = np.asarray(stack(x)), np.asarray(stack(changed))
    reached[name] = np.abs(after - before).max(axis=(0, 2)) > 1e-6
    print(f"{name}: the last token's change reaches {''.join('x' if yes else '.' for yes in reached[name])}")

translator = ktfm.layers.TransformerBlock(
    ktfm.layers.MultiHeadSelfAttention(4, causal=True),
    ktfm.layers.FeedForward(4 * WIDTH),
    cross_attention=ktfm.layers.MultiHeadCrossAttention(4),
)
source = rng.normal(size=(2, 5, WIDTH)).astype("float32")
stack = ktfm.layers.TransformerStack([translator])
inputs, context = keras.Input((None, WIDTH)), keras.Input((None, WIDTH))
inspection = ktfm.models.inspect(keras.Model([inputs, context], stack(inputs, context=context)), [x, source])
cross = inspection.cross_attention_weights[0][0]  # (heads, 7 that are written, 5 of the source)
ktfm.visualization.plot_attention(
    cross,
    [f"target {i}" for i in range(7)],
    output / "cross_attention.png",
    key_tokens=[f"source {i}" for i in range(5)],
    title="Cross-attention of random weights",
)
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. `norm_placement="sandwich"` (Gemma 2) has norms before and after. Add it to part 2. Where does its curve run?
# 2. `ParallelTransformerBlock` computes attention and feed-forward from the same norm. What does that save?
# 3. Give `make_block` `residual_scale=ktfm.layers.LayerScale(1e-3)`. What becomes of the stream in part 3?
