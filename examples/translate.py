"""English to Spanish, three ways: from one vector, with attention beside a recurrence, and with attention alone.

Trains three encoder-decoders of the same size on the same Bible verses, in the same batches: an LSTM that has to
put the whole sentence into one vector (Sutskever et al. 2014); one whose decoder looks at all states of a bidirectional
encoder (Bahdanau et al. 2015; here it looks after the recurrence, which leaves more of the training parallel); and the
Transformer (Vaswani et al. 2017). Then each translates 500 verses that none has seen.

pip install -e ".[examples,evaluation]"
python examples/translate.py                     # within 10 minutes on two CPU cores
python examples/translate.py --steps 6000 --output runs/longer
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
from command_line import positive
from keras import layers, ops

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.samplers import BeamSampler
from keras_tfm.training import Perplexity, WarmupLinearDecay, translation_scores

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
required("sacrebleu", "evaluation", "Scores of translations")
DATA = pathlib.Path(__file__).parent / "data" / "en_es.tsv"
START, END = 0, 1
LENGTH, BATCH_SIZE, VOCABULARY = 64, 32, 2000
LONGEST_WORDS = (7, 10, 13, 16, 18)  # of the source, in each part of the picture
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
    """split -> (English verses, Spanish verses); English ones of the test are not in training, not even by chance."""
    rows = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()[1:]]
    test = [row for row in rows if row[0] == "test"]
    held_out = {row[2] for row in test}
    train = [row for row in rows if row[2] not in held_out]
    return {
        split: ([row[2] for row in of_split], [row[3] for row in of_split])
        for split, of_split in (("train", train), ("test", test))
    }


# ---- the models; each takes the inputs of `text_pair_dataset` and gives logits


def fixed_vector_lstm(vocabulary_size, width=144, dropout=0.1) -> keras.Model:
    """All that the decoder knows of the source is the last state of the encoder, which reads it backwards."""
    inputs, source, target = _embedded(vocabulary_size, width, dropout)
    encoder = layers.LSTM(width, return_state=True, go_backwards=True)
    _, *state = encoder(source, mask=inputs["encoder_padding_mask"])
    hidden = layers.LSTM(width, return_sequences=True)(target, initial_state=state)
    return keras.Model(inputs, layers.Dense(vocabulary_size)(layers.Dropout(dropout)(hidden)))


def attention_lstm(vocabulary_size, width=144, dropout=0.1) -> keras.Model:
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
    """Norms before the sublayers: the paper's order, after them, needs longer to get going."""
    return ktfm.models.build_transformer(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=256,
        norm_placement="pre",
        start_token_id=START,
    )


# The learning rate, at its peak, is the one that suits each of them.
MODELS = {
    "LSTM, one fixed vector": (fixed_vector_lstm, 6e-3),
    "LSTM, Bahdanau attention": (attention_lstm, 6e-3),
    "Transformer": (transformer, 4e-3),
}


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with a tenth of each label spread over all tokens; the mean over real tokens."""

    def __init__(self):
        super().__init__(reduction="mean_with_sample_weight")

    def call(self, labels, logits):
        log_probabilities = ops.log_softmax(logits, axis=-1)
        right = ops.take_along_axis(log_probabilities, ops.cast(labels, "int32")[..., None], axis=-1)[..., 0]
        return -0.9 * right - 0.1 * ops.mean(log_probabilities, axis=-1)


def train(model, pairs, tokenizer, steps, peak) -> float:
    """Seconds that `steps` batches took, which are the same for each model."""
    training = ktfm.data.text_pair_dataset(*pairs, tokenizer, tokenizer, LENGTH, LENGTH, BATCH_SIZE, START, repeat=True)
    optimizer = keras.optimizers.Adam(WarmupLinearDecay(peak, steps), beta_2=0.98, global_clipnorm=1.0)
    # Sizes differ from batch to batch: XLA would compile each anew.
    model.compile(optimizer, SmoothedCrossEntropy(), weighted_metrics=[Perplexity()], jit_compile=False)
    start = time.time()
    model.fit(training, steps_per_epoch=-(-steps // 6), epochs=6, shuffle=False, verbose=2)
    return time.time() - start


# ---- writing


def write_without_memory(model, sources, tokenizer) -> list[str]:
    """The most probable token at each place; for each, the model reads all that it has written so far once more."""
    logits_of = tf.function(model, reduce_retracing=True)
    texts = []
    for start in range(0, len(sources), 100):
        source = tf.ragged.constant([[*row, END] for row in tokenizer.encode(sources[start : start + 100])], tf.int32)
        written = np.full((source.nrows(), 1), START, "int32")
        while written.shape[1] <= LENGTH and not (written == END).any(axis=1).all():
            inputs = {
                "encoder_token_ids": source.to_tensor(),
                "encoder_padding_mask": tf.sequence_mask(source.row_lengths()),
                "decoder_token_ids": tf.constant(written),
                "decoder_padding_mask": tf.ones(written.shape, tf.bool),
            }
            best = tf.argmax(logits_of(inputs)[:, -1], axis=-1, output_type=tf.int32)
            written = np.concatenate([written, best[:, None]], axis=1)
        texts += texts_of(written[:, 1:], tokenizer)
    return texts


def write(model, sources, tokenizer, sampler="greedy") -> list[str]:
    """The same by the library's loop, which keeps what it has read."""
    translate = ktfm.generation.TextToText(model, tokenizer, sampler=sampler)
    parts = [sources[start : start + 100] for start in range(0, len(sources), 100)]
    return [text for part in parts for text in translate(part, max_new_tokens=LENGTH)]


def texts_of(rows, tokenizer) -> list[str]:
    """Texts of rows of ids, each up to its end."""
    lists = [row.tolist() for row in rows]
    lists = [[i for i in row[: row.index(END) if END in row else None] if i > END] for row in lists]
    return tokenizer.decode(lists)


# ---- what came out


def quality_by_length(sources, expected, found) -> list[float]:
    """chrF of the sources of 3 to 7 words, of 8 to 10, and so on."""
    places = np.digitize([len(source.split()) for source in sources], LONGEST_WORDS, right=True)
    scores = []
    for place in range(len(LONGEST_WORDS)):
        rows = np.flatnonzero(places == place)
        pair = [[texts[row] for row in rows] for texts in (expected, found)]
        scores.append(translation_scores(*pair)["chrf"].value if len(rows) else float("nan"))
    return scores


def cross_attention(model, source, target) -> np.ndarray:
    """How much each token of the target looks at each of the source, (T, S): the mean over heads of the last block."""
    context, context_mask = model.encode(np.array([source]))
    positions = np.arange(len(target))[None]
    x = model.decoder_embedding(np.array([target]), positions=positions)
    for block in model.decoder.blocks:
        y = block.self_attention(block.attention_wrap.before(x), positions=positions)
        x = block.attention_wrap.after(x, y, training=False)
        y, weights = block.cross_attention(
            block.context_wrap.before(x), context=context, context_mask=context_mask, return_attention_scores=True
        )
        x = block.context_wrap.after(x, y, training=False)
        y = block.feed_forward(block.feed_forward_wrap.before(x))
        x = block.feed_forward_wrap.after(x, y, training=False)
    return ops.convert_to_numpy(weights)[0].mean(axis=0)


def draw_lengths(curves, path) -> None:
    figure = matplotlib.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    starts = [3, *(longest + 1 for longest in LONGEST_WORDS)]
    for name, values in curves.items():
        axes.plot(range(len(values)), values, marker="o", label=name)
    labels = [f"{start}-{end}" for start, end in zip(starts, LONGEST_WORDS, strict=False)]
    axes.set_xticks(range(len(LONGEST_WORDS)), labels)
    axes.set(xlabel="words of the English verse", ylabel="chrF", title="Quality by length of the sentence")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)


def draw_attention(weights, source, target, path) -> None:
    figure = matplotlib.Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="Blues", vmin=0)
    axes.set_xticks(range(len(source)), source, rotation=60, ha="right")
    axes.set_yticks(range(len(target)), target)
    title = "Where the Transformer looks when it writes each token"
    axes.set(title=title, xlabel="English, as it is read", ylabel="Spanish, as it is written")
    figure.savefig(path, dpi=120)


def main(steps=1740, verses=500, output="runs/translate") -> dict[str, dict]:
    """Trains, translates, prints and draws; results are left in the folder `output`."""
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    data = read()
    sources, expected = (texts[:verses] for texts in data["test"])
    say(f"Learning a vocabulary of {VOCABULARY} byte pairs for both languages ...")
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train(
        [text for texts in data["train"] for text in texts], VOCABULARY, ["<pad>", "<|endoftext|>"]
    )
    testing = ktfm.data.text_pair_dataset(
        sources, expected, tokenizer, tokenizer, LENGTH, LENGTH, BATCH_SIZE, START, shuffle=False
    )
    results, texts = {}, {}

    def judge(name, found, **numbers):
        scores = translation_scores(expected, found)
        by_length = quality_by_length(sources, expected, found)
        results[name] = {**{key: score.value for key, score in scores.items()}, **numbers, "by_length": by_length}
        texts[name] = found
        return scores

    for name, (build, peak) in MODELS.items():
        keras.utils.set_random_seed(0)
        model = build(tokenizer.vocabulary_size)
        say(f"{name}: {steps} steps ...")
        seconds = train(model, data["train"], tokenizer, steps, peak)
        perplexity = model.evaluate(testing, verbose=0, return_dict=True)["perplexity"]
        say(f"{name}: translating {len(sources)} verses ...")
        found = (write if build is transformer else write_without_memory)(model, sources, tokenizer)
        numbers = {"perplexity": perplexity, "parameters": model.count_params(), "seconds": round(seconds)}
        scores = judge(name, found, **numbers)
    judge("Transformer, 4 beams", write(model, sources, tokenizer, BeamSampler(num_beams=4)), **numbers)

    print(f"\n{'':26}   chrF   BLEU  perplexity  parameters  seconds of training")
    for name, row in results.items():
        print(
            f"{name:26} {row['chrf']:6.1f} {row['bleu']:6.1f} {row['perplexity']:11.1f} {row['parameters']:11,}"
            f" {row['seconds']:8}"
        )
    print("\n".join(f"{key}: {score.signature}" for key, score in scores.items()))

    by_length = np.argsort([len(source.split()) for source in sources], kind="stable")
    shown = by_length[(np.linspace(0.1, 0.9, 5) * len(by_length)).astype(int)]  # short ones and long ones
    for row in shown:
        print(f"\n{'English':26} {sources[row]}\n{'Spanish':26} {expected[row]}")
        for name, found in texts.items():
            print(f"{name:26} {found[row]}")

    draw_lengths({name: results[name]["by_length"] for name in MODELS}, output / "quality_by_length.png")
    row = shown[1]
    source = [*tokenizer.encode(sources[row]), END]
    target = [START, *tokenizer.encode(texts["Transformer"][row])]
    weights = cross_attention(model, source, target)
    names = [["end" if i == END else tokenizer.decode([i]) for i in ids] for ids in (source, [*target[1:], END])]
    draw_attention(weights, *names, output / "cross_attention.png")
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    model.save(output / "transformer.keras")
    say(f"Table, pictures and the Transformer are in {output}.")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=positive, default=1740, help="optimizer steps of each model (default: 1740, 6 epochs)"
    )
    parser.add_argument("--verses", type=positive, default=500, help="held-out verses to translate (default: 500, all)")
    parser.add_argument("--output", default="runs/translate", help="where results go (default: runs/translate)")
    main(**vars(parser.parse_args()))
