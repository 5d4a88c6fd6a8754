"""Teach a small GPT sums by GRPO: a program checks what it writes, and nobody shows it an answer.

python examples/align_grpo.py                   # from random weights, some minutes on two cores

It first learns the form of answers from rows of which four in five are random; then groups of its own answers to the
same prompt are rewarded: 1 for the right sum, up to a half for being near, which tells wrong answers apart.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from command_line import positive

import keras_tfm as ktfm
from keras_tfm.optional import required

matplotlib = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
START = time.time()
PROMPTS = [f"{a}+{b}=" for a in range(10) for b in range(10)]
SUMS = [str(a + b) for a in range(10) for b in range(10)]


def right_sum(prompts, completions, answer):
    """The reward: 1 for the right sum, and nothing behind it."""
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def nearness(prompts, completions, answer):
    """A second reward: 1/2 for the right number, less by 1/20 for each that it is away, 0 for what is no number."""
    return [
        max(0.0, 0.5 - 0.05 * abs(int(text) - int(right))) if text.isdigit() else 0.0
        for text, right in zip(completions, answer, strict=True)
    ]


def make_policy(tokenizer, steps):
    """A GPT that has seen what answers look like, most of them wrong."""
    model = ktfm.models.build_gpt(
        vocabulary_size=tokenizer.vocabulary_size,
        max_sequence_length=16,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        position="rotary",
    )
    random = np.random.default_rng(0)
    rows = [
        {"prompt": prompt, "completion": right if random.random() < 0.2 else str(random.integers(19))}
        for prompt, right in zip(PROMPTS * 20, SUMS * 20, strict=True)
    ]
    dataset = ktfm.data.instruction_dataset(rows, tokenizer, sequence_length=16, batch_size=32)
    loss = ktfm.losses.ChunkedCrossEntropy(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(dataset.repeat(), steps_per_epoch=steps, shuffle=False, verbose=2)
    return model


def share_right(model, tokenizer, sampler):
    """How many of all 100 sums the model writes right, and its answers."""
    writer = ktfm.generation.TextGenerator(model, tokenizer, sampler=sampler)
    answers = writer(PROMPTS, max_new_tokens=3, seed=1)
    return float(np.mean(right_sum(PROMPTS, answers, SUMS))), answers


def plot(history, path):
    """Reward and divergence, epoch by epoch."""
    figure = matplotlib.Figure(figsize=(8, 3.2), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("reward", "kl"), ("reward, at most 1.5", "KL to the start, nats"), strict=True
    ):
        axes.plot(np.arange(1, len(history[name]) + 1), history[name])
        axes.set(xlabel="epoch (100 prompts)", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.suptitle("GRPO on sums of two digits")
    figure.savefig(path, dpi=120)


def main(epochs=200, num_generations=16, warmup_steps=600, output="runs/align_grpo"):
    """Runs everything; the curves, the model and the numbers are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    tokenizer = ktfm.tokenizers.CharacterTokenizer("0123456789+=", ["<|endoftext|>"])
    policy = make_policy(tokenizer, warmup_steps)
    before, texts_before = share_right(policy, tokenizer, "random")
    greedy_before, _ = share_right(policy, tokenizer, "greedy")
    print(f"[{time.time() - START:4.0f} s] right before: {before:.2f} (greedy: {greedy_before:.2f})", flush=True)

    trainer = ktfm.alignment.GRPO(
        policy,
        tokenizer,
        [right_sum, nearness],
        prompt_length=4,
        max_new_tokens=3,
        num_generations=num_generations,
        num_minibatches=4,
        beta=0.02,  # some of the doubt of the start stays, or answers that are nearly right would never be left
        clip=(0.2, 0.3),
    )
    # Two batches of prompts in an epoch, each learned from in four steps.
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * 8, alpha=0.05)
    trainer.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    prompts = ktfm.data.prompt_dataset({"prompt": PROMPTS, "answer": SUMS}, batch_size=50)
    history = trainer.fit(prompts, epochs=epochs, verbose=0, callbacks=[Printed(every=max(1, epochs // 10))]).history
    after, texts_after = share_right(policy, tokenizer, "random")
    greedy, _ = share_right(policy, tokenizer, "greedy")

    for i in range(7, 100, 13):
        print(f"  {PROMPTS[i]:5} before {texts_before[i]:4} after {texts_after[i]:4} right {SUMS[i]}")
    print(f"[{time.time() - START:4.0f} s] right after: {after:.2f} (greedy: {greedy:.2f}), before: {before:.2f}")
    report = {"before": before, "greedy_before": greedy_before, "after": after, "greedy_after": greedy}
    report["kl"] = history["kl"][-1]
    (output / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(history, output / "curves.png")
    policy.save(output / "model.keras")
    print(f"The curves, the model and the numbers are in {output}.")
    return report


class Printed(keras.callbacks.Callback):
    """A line every so many epochs."""

    def __init__(self, every):
        super().__init__()
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            numbers = ", ".join(f"{name} {logs[name]:.3f}" for name in ("reward", "kl", "length"))
            print(f"[{time.time() - START:4.0f} s] epoch {epoch + 1}: {numbers}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=200, help="passes over the 100 prompts (default: 200)")
    parser.add_argument("--num-generations", type=positive, default=16, help="answers in a group (default: 16)")
    parser.add_argument("--warmup-steps", type=positive, default=600, help="steps on such rows (default: 600)")
    parser.add_argument("--output", default="runs/align_grpo", help="where results go")
    main(**vars(parser.parse_args()))
