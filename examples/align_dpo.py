"""Make a small writer of tweets cheerful by DPO: pairs of its own texts, the one that a judge likes better first.

python examples/align_dpo.py                    # from random weights, some minutes on two cores

The writer answers each prompt several times; the best and the worst answer are a pair. A LoRA learns from the pairs, so
that the reference is the same model without it, and no copy is kept.
"""

import argparse
import pathlib

import keras
import numpy as np
from command_line import positive
from tweets import MAX_NEW_TOKENS, PROMPT_LENGTH, Printed, make_start, openings, plot, report, tell

import keras_tfm as ktfm


def make_pairs(model, tokenizer, prompts, reward, gap, num_answers=6):
    """For each prompt the best and the worst of the model's own answers, where their rewards are a gap apart."""
    writer = ktfm.generation.TextGenerator(model, tokenizer, sampler="random")
    rows = []
    for start in range(0, len(prompts), 64):
        block = prompts[start : start + 64]
        answers = writer(block, max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=num_answers, seed=start)
        for prompt, texts in zip(block, answers, strict=True):
            texts = [text for text in texts if text]
            scores = reward([prompt] * len(texts), texts)
            if texts and max(scores) - min(scores) > gap:
                chosen, rejected = texts[int(np.argmax(scores))], texts[int(np.argmin(scores))]
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def main(epochs=6, writer_steps=400, judge_steps=300, num_prompts=768, gap=0.1, output="runs/align_dpo"):
    """Runs everything; the curves, the adapter's model and the numbers are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    start = make_start(writer_steps, judge_steps)
    policy, tokenizer = start.policy, start.tokenizer
    prompts = openings(start.tweets["train"], tokenizer, num_prompts)
    rows = make_pairs(policy, tokenizer, prompts, start.reward, gap)
    border = max(1, len(rows) // 10)
    tell(f"{len(rows)} pairs, {border} of them held out")

    ktfm.adapters.add_lora(policy, rank=16, alpha=32, targets=("query", "value", "feed_forward"))
    trainer = ktfm.alignment.DPO(policy, beta=0.1)
    trainer.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    # Bytes that are no UTF-8 came back as U+FFFD, three bytes each: a text may have more tokens than were written.
    options = {"tokenizer": tokenizer, "sequence_length": PROMPT_LENGTH + 3 * MAX_NEW_TOKENS + 2, "batch_size": 32}
    names = {"loss": "loss", "accuracy": "accuracy", "val_accuracy": "accuracy, held out", "margin": "margin"}
    history = trainer.fit(
        ktfm.data.preference_dataset(rows[border:], **options),
        validation_data=ktfm.data.preference_dataset(rows[:border], **options, shuffle=False),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[Printed(1, names)],
    ).history

    plot(history, names, "DPO: sentiment of tweets", output / "curves.png")
    return report(start, {"val_accuracy": history["val_accuracy"][-1]}, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=6, help="passes over the pairs (default: 6)")
    parser.add_argument("--writer-steps", type=positive, default=400, help="steps of the writer (default: 400)")
    parser.add_argument("--judge-steps", type=positive, default=300, help="steps of the judge (default: 300)")
    parser.add_argument("--num-prompts", type=positive, default=768, help="beginnings to answer (default: 768)")
    parser.add_argument("--output", default="runs/align_dpo", help="where results go")
    main(**vars(parser.parse_args()))
