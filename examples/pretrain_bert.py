"""Pretrain a small BERT on Shakespeare: which word was hidden, and does this speech follow?

python examples/pretrain_bert.py                    # some 5 minutes on two CPU cores
python examples/pretrain_bert.py --steps 20000      # longer is better
python examples/pretrain_bert.py --steps 20 --characters 100000     # does it run? half a minute

For some 1,000 steps it learns which words are frequent, no more; then it looks at their neighbours, and scores rise.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from command_line import positive

import keras_tfm as ktfm
from keras_tfm.training import WarmupLinearDecay

CORPUS = pathlib.Path(__file__).parent / "data" / "shakespeare.txt"
SEQUENCE_LENGTH, BATCH_SIZE, VOCABULARY_SIZE = 64, 32, 2048
DOCUMENT, FEWEST_CHARACTERS = 10_000, 20_000
START = time.time()


def say(text: str) -> None:
    print(f"\n[{time.time() - START:4.0f} s] {text}", flush=True)


def unigram_accuracy(dataset, vocabulary_size):
    """Of the hidden tokens, the share of the most frequent one: what a model without a context would reach."""
    counts = np.zeros(vocabulary_size)
    for _, labels, weights in dataset:
        counts += np.bincount(labels["masked_lm"][weights["masked_lm"] > 0], minlength=vocabulary_size)
    return counts.max() / counts.sum(), int(counts.argmax())


def fill(model, tokenizer, text):
    """The three best tokens for [MASK] in a text."""
    token_ids = ktfm.tokenizers.SentencePacker(tokenizer)([text])["token_ids"].numpy()
    place = np.flatnonzero(token_ids[0] == tokenizer.mask_token_id)
    logits = model({"token_ids": token_ids, "mask_positions": place[None].astype("int32")})["masked_lm"]
    return [tokenizer.id_to_token(int(i)) for i in np.argsort(-np.asarray(logits)[0, 0])[:3]]


def main(steps=4000, characters=1_500_000, output="runs/pretrain_bert"):
    """Runs everything; returns the validation metrics. The model and its tokenizer are left in the folder `output`."""
    if characters < FEWEST_CHARACTERS:
        raise SystemExit(f"--characters must be at least {FEWEST_CHARACTERS:,}. Received: {characters:,}.")
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    text = CORPUS.read_text(encoding="utf-8")[:characters]
    size = min(DOCUMENT, len(text) // 40)  # documents of some scenes; of less, so that two or more are for validation
    plays = [text[start : start + size] for start in range(0, len(text), size)]
    border = len(plays) * 19 // 20

    say(f"Learning {VOCABULARY_SIZE:,} word pieces from {len(text):,} characters ...")
    tokenizer = ktfm.tokenizers.WordPieceTokenizer.train(plays[:border], vocabulary_size=VOCABULARY_SIZE)
    tokenizer.save(output)
    # Twice as many hidden tokens as BERT has: more to learn from in a step (Wettig et al. 2023, arxiv 2202.08005).
    training = ktfm.data.masked_lm_dataset(
        plays[:border], tokenizer, SEQUENCE_LENGTH, BATCH_SIZE, mask_rate=0.3, repeat=True
    )
    validation = ktfm.data.masked_lm_dataset(
        plays[border:], tokenizer, SEQUENCE_LENGTH, BATCH_SIZE, shuffle=False, dynamic=False
    )
    floor, most_frequent = unigram_accuracy(validation, tokenizer.vocabulary_size)
    print(f"{floor:.3f} of the hidden tokens are {tokenizer.id_to_token(most_frequent)!r}: the unigram baseline.")

    encoder = ktfm.models.build_bert(
        vocabulary_size=tokenizer.vocabulary_size,
        max_sequence_length=SEQUENCE_LENGTH,
        num_layers=2,
        num_heads=4,
        hidden_dim=192,
        dropout=0.0,  # a few passes over the text: there is nothing to overfit yet
    )
    model = ktfm.models.BertPretrainer(encoder)
    model.compile(
        keras.optimizers.AdamW(WarmupLinearDecay(1e-3, total_steps=steps), weight_decay=0.01, global_clipnorm=1.0),
        loss_weights={"masked_lm": 1.0, "next_sentence": 0.5},
    )
    say(f"Training {model.count_params():,} weights for {steps} steps of {BATCH_SIZE} pairs of texts ...")
    epochs = min(5, steps)
    model.fit(
        training,
        steps_per_epoch=steps // epochs,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,  # the dataset shuffles itself
        verbose=2,
    )
    model.save(output / "model.keras")

    scores = model.evaluate(validation, return_dict=True, verbose=0)
    say("Accuracy on scenes that it has not seen:")
    print(f"  hidden tokens:   {scores['masked_lm_accuracy']:.3f}   (unigram baseline {floor:.3f})")
    print(f"  next sentence:   {scores['next_sentence_accuracy']:.3f}   (chance 0.500)")
    for sentence in ("What is thy [MASK]?", "I pray you, [MASK] me.", "The king is [MASK]."):
        print(f"  {sentence:28} {', '.join(fill(model, tokenizer, sentence))}")
    return {"unigram_accuracy": floor, **scores}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=4000, help="optimizer steps (default: 4000)")
    parser.add_argument("--characters", type=positive, default=1_500_000, help="how much of the text is read")
    parser.add_argument("--output", default="runs/pretrain_bert", help="where results go (default: runs/pretrain_bert)")
    main(**vars(parser.parse_args()))
