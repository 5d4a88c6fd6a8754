"""How do position schemes read sequences longer than they were trained on?

Trains a small GPT on sequences of 64 tokens once for each scheme, lets it read 256, and prints and draws the
perplexity by place in the sequence.

pip install -e ".[examples]"
python examples/position_encodings.py             # some 4 minutes on two CPU cores
python examples/position_encodings.py --steps 2000 --output runs/long
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from command_line import positive
from keras import ops

import keras_tfm as ktfm
from keras_tfm.optional import required

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
CORPUS = pathlib.Path(__file__).parent / "data" / "shakespeare.txt"
TRAINED, READ, BATCH_SIZE = 64, 256, 16
SCHEMES = ("learned", "sinusoidal", "rotary", "alibi", "relative")
START = time.time()


def say(text: str) -> None:
    print(f"[{time.time() - START:4.0f} s] {text}", flush=True)


def trained(scheme, packed, steps):
    """A GPT of this scheme after `steps` batches of sequences of 64 tokens."""
    keras.utils.set_random_seed(0)
    model = ktfm.models.build_gpt(
        vocabulary_size=1024, max_sequence_length=READ, num_layers=3, num_heads=4, hidden_dim=96, position=scheme
    )
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(schedule, global_clipnorm=1.0), loss, jit_compile=True)
    model.fit(packed.dataset(BATCH_SIZE, repeat=True), steps_per_epoch=steps, shuffle=False, verbose=0)
    return model


def perplexities(model, sequences):
    """Perplexity in each quarter of the sequences; the first is as long as those of the training."""
    losses = []
    for rows in np.split(sequences, len(sequences) // BATCH_SIZE):
        logits = model(rows[:, :-1])
        losses.append(
            ops.convert_to_numpy(keras.losses.sparse_categorical_crossentropy(rows[:, 1:], logits, from_logits=True))
        )
    places = np.concatenate(losses).mean(axis=0)  # (READ,)
    return np.exp(places.reshape(READ // TRAINED, TRAINED).mean(axis=1))


def scaled(model):
    """The same rotary model, its frequencies changed to suit the longer sequence; nothing is trained anew."""
    for block in model.stack.blocks:
        block.self_attention.rotary.scaling = ktfm.layers.DynamicNtkScaling(2.0, TRAINED)
    return model


def draw(results, path):
    """One line for each scheme: perplexity by place."""
    figure = matplotlib.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(READ // TRAINED) * TRAINED + TRAINED // 2
    for name, values in results.items():
        axes.plot(places, values, marker="o", label=name)
    axes.axvline(TRAINED, linestyle="--", color="gray")
    axes.annotate(
        "trained up to here",
        (TRAINED, 0.98),
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="gray",
    )
    axes.set(
        xlabel="place in the sequence", ylabel="perplexity per token", yscale="log", title="Trained at 64, read at 256"
    )
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest, highest * (highest / lowest) ** 0.08)  # room for the words at the top
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis("{x:.0f}")  # 435, not 4.35 x 10^2
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right center")  # beside the curves, none of which it hides
    figure.savefig(path, dpi=120)


def main(steps=300, output="runs/position_encodings"):
    """Trains, reads, prints and draws; results are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    text = CORPUS.read_text(encoding="utf-8")
    border = len(text) * 19 // 20
    say("Learning a vocabulary of 1,024 byte pairs ...")
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train(text[:border], vocabulary_size=1024)
    packed = ktfm.data.pack(text[:border], tokenizer, TRAINED)
    ids = np.asarray(tokenizer.encode(text[border:]))[: 4 * BATCH_SIZE * (READ + 1)]
    sequences = ids.reshape(-1, READ + 1)
    results = {}
    for scheme in SCHEMES:
        say(f"Training {steps} steps with {scheme} positions ...")
        model = trained(scheme, packed, steps)
        results[scheme] = perplexities(model, sequences)
        if scheme == "rotary":
            results["rotary, dynamic NTK"] = perplexities(scaled(model), sequences)
    print("\nValidation perplexity by place in the sequence; trained on the first column's places only:")
    columns = [f"{start}-{start + TRAINED - 1}" for start in range(0, READ, TRAINED)]
    print(f"{'':22}" + "".join(f"{column:>10}" for column in columns))
    for name, values in results.items():
        print(f"{name:22}" + "".join(f"{value:10.1f}" for value in values))
    draw(results, output / "perplexity.png")
    say(f"The curves are in {output / 'perplexity.png'}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=300, help="optimizer steps for each scheme (default: 300)")
    parser.add_argument("--output", default="runs/position_encodings", help="where the picture goes")
    main(**vars(parser.parse_args()))
