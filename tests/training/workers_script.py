"""What each of several workers runs in `test_workers.py`: python workers_script.py FOLDER TASK."""

import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_tfm as ktfm

BATCH_SIZE, NUM_STEPS = 12, 20  # two and three workers divide it
VOCABULARY, LENGTH = 32, 6


def rows():
    random = np.random.default_rng(0)
    return random.integers(1, VOCABULARY, [BATCH_SIZE * NUM_STEPS // 2, LENGTH]).astype("int32")


def gpt(dropout=0.0, dtype=None):
    model = ktfm.models.build_gpt(
        vocabulary_size=VOCABULARY,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        max_sequence_length=LENGTH,
        dropout=dropout,
        dtype=dtype,
    )
    tokens = np.concatenate([rows().ravel(), [0]]).astype("int32")
    return model, ktfm.data.PackedTokens(tokens, 1, LENGTH).dataset(BATCH_SIZE), "sparse"


def bert():
    """A classifier of texts on an encoder."""
    encoder = ktfm.models.build_bert(
        vocabulary_size=VOCABULARY, hidden_dim=8, num_layers=1, num_heads=2, max_sequence_length=LENGTH, dropout=0.0
    )
    model = ktfm.models.TextClassifier(encoder, ["a", "b", "c"], dropout=0.0)
    inputs = {"token_ids": rows(), "padding_mask": rows() > 4}
    return model, (inputs, rows()[:, 0] % 3), "sparse"


def own():
    """A user's own functional model, with our block."""
    inputs = keras.Input([LENGTH], dtype="int32")
    hidden = keras.layers.Embedding(VOCABULARY, 8)(inputs)
    hidden = ktfm.layers.TransformerBlock(
        ktfm.layers.MultiHeadSelfAttention(2, causal=True), ktfm.layers.FeedForward(16)
    )(hidden)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden)), (rows(), rows()[:, :, None] / VOCABULARY), "mse"


def trained(make, accumulate_steps=1):
    """The model after 20 steps, and the losses of its two epochs."""
    keras.utils.set_random_seed(0)
    model, data, loss = make()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    if loss == "sparse":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["mae" if make is own else "accuracy"], jit_compile=False)
    ktfm.training.accumulate_gradients(model, accumulate_steps)
    options = {"shuffle": False, "verbose": 0}
    if isinstance(data, tuple):
        x, y = data
        history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=2, validation_data=data, **options)
    else:
        history = model.fit(data, epochs=2, validation_data=data, **options)
    return model, history.history


def in_bfloat16():
    """The GPT in mixed precision."""
    return gpt(dtype="mixed_bfloat16")


def results(accumulate_steps=1, models=(gpt, bert, own)):
    """Weights and losses of all models, as arrays by name."""
    found = {}
    for make in models:
        model, history = trained(make, accumulate_steps)
        found |= {f"{make.__name__}_{n}": weight.numpy() for n, weight in enumerate(model.weights)}
        found |= {f"{make.__name__}_{name}": np.array(values) for name, values in history.items()}
    return found


def streamed(folder, epochs, index, count):
    """The weights after some epochs on a stream of which each worker reads its share."""
    keras.utils.set_random_seed(0)
    model, _, _ = gpt(dropout=0.2)
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    lines = [{"text": "".join(chr(1 + number % 31) for number in row)} for row in rows().tolist() * 20]
    data = ktfm.data.stream(
        lines,
        lambda texts: tf.strings.unicode_decode(texts, "UTF-8"),
        LENGTH,
        BATCH_SIZE,
        shuffle_rows=30,
        shard_index=index,
        num_shards=count,
    )
    checkpointer = ktfm.training.Checkpointer(folder, data, every_steps=3)
    model.fit(data, steps_per_epoch=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[checkpointer])
    return {f"state_{n}": variable.numpy() for n, variable in enumerate(model.variables)}


class Die(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def checkpointed(folder, callbacks=()):
    """The weights and losses of a run with dropout that saves each second step."""
    keras.utils.set_random_seed(0)
    model, data, _ = gpt(dropout=0.2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adamw", loss, metrics=["accuracy"], jit_compile=False)
    checkpointer = ktfm.training.Checkpointer(folder, data, every_steps=2)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[*callbacks, checkpointer]).history
    weights = {f"state_{n}": variable.numpy() for n, variable in enumerate(model.variables)}
    return weights | {name: np.array(values) for name, values in history.items()}


if __name__ == "__main__":
    folder, task = sys.argv[1:]
    with ktfm.training.workers() as them:
        if task == "compare":
            np.savez(f"{folder}/whole_{them.index}.npz", **results())
            np.savez(f"{folder}/bfloat16_{them.index}.npz", **results(models=[in_bfloat16]))
            np.savez(f"{folder}/parts_{them.index}.npz", **results(accumulate_steps=2))
            np.savez(f"{folder}/uninterrupted_{them.index}.npz", **checkpointed(f"{folder}/uninterrupted"))
            try:
                checkpointed(f"{folder}/killed", [Die(13)] if them.index == 1 else [])
            except Exception as error:
                print(f"ENDED {type(error).__name__} {error}", flush=True)
                raise
        if task == "three":
            np.savez(f"{folder}/three_{them.index}.npz", **results(models=[gpt]))
            share = them.index, them.count
            np.savez(f"{folder}/stream_{them.index}.npz", **streamed(f"{folder}/stream", 2, *share))
            streamed(f"{folder}/stopped", 1, *share)
            np.savez(f"{folder}/stream_again_{them.index}.npz", **streamed(f"{folder}/stopped", 2, *share))
        if task == "resume":
            np.savez(f"{folder}/resumed_{them.index}.npz", **checkpointed(f"{folder}/killed"))
