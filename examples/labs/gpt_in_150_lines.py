# %% [markdown]
# # A GPT in 150 lines of plain Keras
#
# All of GPT-2's wiring in Keras' own layers, and a loop that trains it and writes with it. Nothing of it is this
# library's; at the end its weights are put into `build_gpt`, which gives the same logits. What the library adds is
# what these lines leave out: a cache (each step here reads the whole text again), padding, packing, other positions
# and norms, samplers, checkpoints, serving.
#
# `python examples/labs/gpt_in_150_lines.py`; it takes a minute. Labs 1 and 2 say why it is built so.

# %%
import pathlib

import keras
import numpy as np
from keras import layers, ops

CORPUS = pathlib.Path("examples/data/shakespeare.txt")  # run it in the folder of the source
STEPS = 300
LENGTH, WIDTH, NUM_HEADS, NUM_LAYERS = 64, 128, 4, 3
BATCH_SIZE = 16

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The data: characters


# %%
text = CORPUS.read_text(encoding="utf-8")
characters = sorted(set(text))
encoded = np.array([characters.index(c) for c in text[:300_000]], "int32")


def batches(rng):
    """Rows of characters, and the same rows one further on: what comes next at each place."""
    while True:
        starts = rng.integers(0, len(encoded) - LENGTH - 1, BATCH_SIZE)
        rows = np.stack([encoded[start : start + LENGTH + 1] for start in starts])
        yield rows[:, :-1], rows[:, 1:]


# %% [markdown]
# ## The model


# %%
class Attention(layers.Layer):
    """Each place gathers from those before it, in several ways at once."""

    def __init__(self, num_heads, width):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.query_key_value = layers.Dense(3 * width)
        self.output_dense = layers.Dense(width)

    def call(self, x):
        batch, length, width = ops.shape(x)

        def heads(y):  # (B, T, D) -> (B, N, T, H)
            y = ops.reshape(y, (batch, length, self.num_heads, self.head_dim))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (heads(y) for y in ops.split(self.query_key_value(x), 3, axis=-1))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / self.head_dim**0.5  # (B, N, T, T)
        places = ops.arange(length)
        scores = ops.where(places[:, None] >= places, scores, -1e30)  # nobody looks into the future
        y = ops.matmul(ops.softmax(scores, axis=-1), value)  # (B, N, T, H)
        y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (batch, length, width))
        return self.output_dense(y)


class Block(layers.Layer):
    """Attention, then a feed-forward, each with a norm before it and a way around it."""

    def __init__(self, num_heads, width):
        super().__init__()
        self.first_norm = layers.LayerNormalization(epsilon=1e-5)
        self.attention = Attention(num_heads, width)
        self.second_norm = layers.LayerNormalization(epsilon=1e-5)
        self.up = layers.Dense(4 * width)
        self.down = layers.Dense(width)

    def call(self, x):
        x = x + self.attention(self.first_norm(x))
        return x + self.down(keras.activations.gelu(self.up(self.second_norm(x)), approximate=True))


class GPT(keras.Model):
    """Token ids (B, T) to logits of the next token (B, T, V)."""

    def __init__(self, vocabulary_size, length, num_layers, num_heads, width):
        super().__init__()
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.tokens = layers.Embedding(vocabulary_size, width, embeddings_initializer=small)
        self.positions = layers.Embedding(length, width, embeddings_initializer=small)
        self.blocks = [Block(num_heads, width) for _ in range(num_layers)]
        self.norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, token_ids):
        x = self.tokens(token_ids) + self.positions(ops.arange(ops.shape(token_ids)[1]))
        for block in self.blocks:
            x = block(x)
        return ops.matmul(self.norm(x), ops.transpose(self.tokens.embeddings))  # the embedding, turned round


# %% [markdown]
# ## Training, and writing
#
# *What you should see:* the loss falls from log 74 = 4.3 nats a character to about 2 in a minute: it has learned
# which letters make words, and a few words.

# %%
model = GPT(len(characters), LENGTH, NUM_LAYERS, NUM_HEADS, WIDTH)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=True)
history = model.fit(batches(np.random.default_rng(0)), steps_per_epoch=STEPS, shuffle=False, verbose=0).history
held_out = np.stack([encoded[-(i + 1) * (LENGTH + 1) :][: LENGTH + 1] for i in range(BATCH_SIZE)])
final_loss = float(loss(held_out[:, 1:], model(held_out[:, :-1])))
print(f"loss in nats a character: {np.log(len(characters)):.2f} before, {final_loss:.2f} after {STEPS} steps")


def write(prompt, number, temperature=0.8, seed=0):
    rng = np.random.default_rng(seed)
    ids = [characters.index(c) for c in prompt]
    for _ in range(number):
        logits = ops.convert_to_numpy(model(np.array([ids[-LENGTH:]])))[0, -1].astype("float64") / temperature
        odds = np.exp(logits - logits.max())
        ids.append(int(rng.choice(len(characters), p=odds / odds.sum())))
    return "".join(characters[i] for i in ids)


print(write("ROMEO:\n", 120))

# %% [markdown]
# ## The same weights in the library
#
# *What you should see:* the same logits, to the last digits of float32.

# %%
import keras_tfm as ktfm  # noqa: E402 - all above does without

theirs = ktfm.models.build_gpt(
    vocabulary_size=len(characters),
    max_sequence_length=LENGTH,
    num_layers=NUM_LAYERS,
    num_heads=NUM_HEADS,
    hidden_dim=WIDTH,
)
theirs.token_embedding.embedding.embeddings.assign(model.tokens.embeddings)
theirs.token_embedding.position.embeddings.assign(model.positions.embeddings)
for ours, block in zip(model.blocks, theirs.stack.blocks, strict=True):
    attention = block.self_attention
    kernels, biases = (np.split(np.asarray(w), 3, axis=-1) for w in ours.attention.query_key_value.get_weights())
    for dense, kernel, bias in zip(
        (attention.query_dense, attention.key_dense, attention.value_dense), kernels, biases, strict=True
    ):
        dense.set_weights([kernel, bias])
    for source, target in (
        (ours.attention.output_dense, attention.output_dense),
        (ours.first_norm, block.attention_wrap.norm_before),
        (ours.second_norm, block.feed_forward_wrap.norm_before),
        (ours.up, block.feed_forward.intermediate_dense),
        (ours.down, block.feed_forward.output_dense),
    ):
        target.set_weights(source.get_weights())
theirs.stack.final_norm.set_weights(model.norm.get_weights())
difference = float(np.abs(np.asarray(theirs(held_out[:, :-1])) - np.asarray(model(held_out[:, :-1]))).max())
print(f"logits of the library's model: {difference:.1g} apart at most")

# %% [markdown]
# ## Questions
#
# 1. Which lines would change for a Llama? (Rotary positions, RMS norms, a gated feed-forward, no biases.)
# 2. `write` reads the whole text for each character. What would it have to keep to read only the newest?
