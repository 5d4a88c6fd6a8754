"""English to Spanish, three ways: from one vector, with attention beside a recurrence, and with attention alone.

Trains three encoder-decoders on the same 9,300 Bible verses, in the same batches: an LSTM that has to put the whole
sentence into one vector (Sutskever et al. 2014); one whose decoder looks at all states of a bidirectional encoder
(Bahdanau et al. 2015; here it looks after the recurrence, which leaves training parallel over places); and the
Transformer (Vaswani et al. 2017). Then each translates 500 verses that it has not seen.

pip install -e ".[examples,evaluation]"
python examples/translate.py                     # within 10 minutes on two CPU cores
python examples/translate.py --epochs 20 --output runs/longer
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.training import Perplexity, WarmupLinearDecay, translation_scores

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
required("sacrebleu", "evaluation", "Scores of translations")
DATA = pathlib.Path(__file__).parent / "data" / "en_es.tsv"
START, END = 0, 1
LENGTH, BATCH_SIZE, VOCABULARY = 64, 64, 4000
BUCKETS = ((3, 7), (8, 10), (11, 13), (14, 16), (17, 18))  # words of the source
INPUTS = {
    "encoder_token_ids": "int32",
    "encoder_padding_mask": "bool",
    "decoder_token_ids": "int32",
    "decoder_padding_mask": "bool",
}
BEGIN = time.time()


def say(text: str) -> None:
    print(f"[{time.time() - BEGIN:4.0f} s] {text}", flush=True)


def read() -> dict[str, tuple[list[str], list[str]]]:
    """split -> (English verses, Spanish verses)."""
    rows = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()[1:]]
    return {
        split: ([row[2] for row in rows if row[0] == split], [row[3] for row in rows if row[0] == split])
        for split in ("train", "test")
    }


# ---- the models; each takes the inputs of `text_pair_dataset` and gives logits


def fixed_vector_lstm(vocabulary_size, width=256, dropout=0.3) -> keras.Model:
    """All that the decoder knows of the source is the last state of the encoder."""
    inputs, source, target = _embedded(vocabulary_size, width, dropout)
    _, *state = layers.LSTM(width, return_state=True)(source, mask=inputs["encoder_padding_mask"])
    hidden = layers.LSTM(width, return_sequences=True)(target, initial_state=state)
    return keras.Model(inputs, layers.Dense(vocabulary_size)(layers.Dropout(dropout)(hidden)))


def attention_lstm(vocabulary_size, width=256, dropout=0.3) -> keras.Model:
    """The decoder looks at the states of the encoder, by the additive scores of Bahdanau et al."""
    inputs, source, target = _embedded(vocabulary_size, width, dropout)
    mask = inputs["encoder_padding_mask"]
    states, *last = layers.Bidirectional(layers.LSTM(width // 2, return_sequences=True, return_state=True))(
        source, mask=mask
    )
    state = [layers.Concatenate()(last[::2]), layers.Concatenate()(last[1::2])]  # of both directions
    hidden = layers.LSTM(width, return_sequences=True)(target, initial_state=state)
    keys, queries = layers.Dense(width // 2)(states), layers.Dense(width // 2)(hidden)
    context = layers.AdditiveAttention()([queries, states, keys], mask=[inputs["decoder_padding_mask"], mask])
    hidden = layers.Dense(width, activation="tanh")(layers.Concatenate()([hidden, context]))
    return keras.Model(inputs, layers.Dense(vocabulary_size)(layers.Dropout(dropout)(hidden)))


def _embedded(vocabulary_size, width, dropout):
    inputs = {name: keras.Input([None], dtype=dtype, name=name) for name, dtype in INPUTS.items()}
    table = layers.Embedding(vocabulary_size, width)  # one for both languages, as all models have here
    sides = [layers.Dropout(dropout)(table(inputs[f"{side}_token_ids"])) for side in ("encoder", "decoder")]
    return inputs, *sides


def transformer(vocabulary_size) -> keras.Model:
    return ktfm.models.build_transformer(
        vocabulary_size=vocabulary_size,
        num_layers=3,
        num_heads=4,
        hidden_dim=192,
        intermediate_dim=512,
        norm_placement="pre",
        dropout=0.2,
        start_token_id=START,
    )


@keras.saving.register_keras_serializable(package="examples")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with a tenth of each label spread over all tokens, the mean over real tokens."""

    def __init__(self, smoothing=0.1):
        super().__init__(reduction="mean_with_sample_weight")
        self.smoothing = smoothing

    def call(self, labels, logits):
        log_probabilities = ops.log_softmax(logits, axis=-1)
        right = ops.take_along_axis(log_probabilities, ops.cast(labels, "int32")[..., None], axis=-1)[..., 0]
        return -(1 - self.smoothing) * right - self.smoothing * ops.mean(log_probabilities, axis=-1)


def train(model, pairs, test_pairs, tokenizer, epochs, peak) -> float:
    """Seconds of `fit`."""
    options = (tokenizer, tokenizer, LENGTH, LENGTH, BATCH_SIZE, START)
    training = ktfm.data.text_pair_dataset(*pairs, *options)
    testing = ktfm.data.text_pair_dataset(*test_pairs, *options, shuffle=False)
    rate = WarmupLinearDecay(peak, total_steps=epochs * len(training))
    model.compile(
        keras.optimizers.Adam(rate, beta_2=0.98, global_clipnorm=1.0),
        SmoothedCrossEntropy(),
        weighted_metrics=[Perplexity()],
        jit_compile=False,  # sizes differ from batch to batch, and each would be compiled anew
    )
    start = time.time()
    model.fit(training, validation_data=testing, epochs=epochs, shuffle=False, verbose=2)
    return time.time() - start


def write_greedily(model, sources, tokenizer) -> list[str]:
    """The most probable token at each place, for models without a memory: they read all again for each token."""
    logits_of = tf.function(lambda inputs: model(inputs), reduce_retracing=True)
    texts = []
    for start in range(0, len(sources), 100):
        rows = [[*row, END][:LENGTH] for row in tokenizer.encode(sources[start : start + 100])]
        source = tf.ragged.constant(rows, tf.int32)
        written = np.full((len(rows), 1), START, "int32")
        while written.shape[1] <= LENGTH and not (written == END).any(axis=1).all():
            inputs = {
                "encoder_token_ids": source.to_tensor(),
                "encoder_padding_mask": tf.sequence_mask(source.row_lengths()),
                "decoder_token_ids": tf.constant(written),
                "decoder_padding_mask": tf.ones(written.shape, tf.bool),
            }
            best = tf.argmax(logits_of(inputs)[:, -1], axis=-1, output_type=tf.int32)
            written = np.concatenate([written, best[:, None]], axis=1)
        rows = [row[1:].tolist() for row in written]
        texts += tokenizer.decode([row[: row.index(END)] if END in row else row for row in rows])
    return texts
