"""Make a small writer of tweets cheerful by PPO: the reward is the sentiment that a classifier finds.

python examples/align_ppo.py                    # from random weights, some minutes on two cores

Writer and judge are trained on 3,477 tweets first. The price of leaving the first writer is adapted so that its answers
stay about `--kl-target` nats from what it was.
"""

import argparse
import pathlib

import keras
from command_line import positive
from tweets import MAX_NEW_TOKENS, PROMPT_LENGTH, Printed, make_start, openings, plot, report

import keras_tfm as ktfm


def main(epochs=40, writer_steps=400, judge_steps=300, kl_target=6.0, output="runs/align_ppo"):
    """Runs everything; the curves, the writer and the numbers are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    start = make_start(writer_steps, judge_steps)
    trainer = ktfm.alignment.PPO(
        start.policy,
        start.tokenizer,
        start.reward,
        prompt_length=PROMPT_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
        num_epochs=2,
        num_minibatches=2,
        kl_coefficient=0.02,
        kl_target=kl_target,
        kl_horizon=1000.0,
    )
    trainer.compile(keras.optimizers.Adam(5e-4, global_clipnorm=1.0))
    prompts = ktfm.data.prompt_dataset({"prompt": openings(start.tweets["train"], start.tokenizer, 256)}, batch_size=64)
    names = {"reward": "mean reward", "kl": "KL to the start, nats", "kl_coefficient": "price of KL"}
    callbacks = [Printed(max(1, epochs // 10), names)]
    history = trainer.fit(prompts, epochs=epochs, verbose=0, callbacks=callbacks).history

    plot(history, names, "PPO: sentiment of tweets", output / "curves.png", "epoch (256 prompts)")
    return report(start, {"kl": history["kl"][-1]}, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=40, help="passes over 256 prompts (default: 40)")
    parser.add_argument("--writer-steps", type=positive, default=400, help="steps of the writer (default: 400)")
    parser.add_argument("--judge-steps", type=positive, default=300, help="steps of the judge (default: 300)")
    parser.add_argument("--kl-target", type=float, default=6.0, help="nats to which KL is led (default: 6)")
    parser.add_argument("--output", default="runs/align_ppo", help="where results go")
    main(**vars(parser.parse_args()))
