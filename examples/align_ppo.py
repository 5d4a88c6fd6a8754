"""Make a small writer of tweets cheerful by PPO: the reward is the sentiment that a classifier finds.

python examples/align_ppo.py                    # from random weights, some minutes on two cores

Writer and judge are trained on 3,477 tweets first. The price of leaving the first writer is adapted so that its answers
stay about `--kl-target` nats from what it was.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from command_line import positive
from tweets import (
    MAX_NEW_TOKENS,
    PROMPT_LENGTH,
    Printed,
    make_judge,
    make_writer,
    openings,
    plot,
    read_tweets,
    sentiment,
    show,
    tell,
    written,
)

import keras_tfm as ktfm


def main(epochs=40, writer_steps=400, judge_steps=300, kl_target=6.0, output="runs/align_ppo"):
    """Runs everything; the curves, the writer and the numbers are left in the folder `output`."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    tweets = read_tweets()
    judge, accuracy = make_judge(tweets, judge_steps)
    tell(f"the judge is right on {accuracy:.3f} of the test tweets that are not neutral")
    policy, tokenizer = make_writer(tweets["train"], writer_steps)
    reward = sentiment(judge)
    test_prompts = openings(tweets["test"], tokenizer, 128)
    before = written(policy, tokenizer, test_prompts)
    scores = {"before": float(np.mean(reward(test_prompts, before)))}
    tell(f"mean reward before, on {len(test_prompts)} beginnings of test tweets: {scores['before']:.3f}")

    trainer = ktfm.alignment.PPO(
        policy,
        tokenizer,
        reward,
        prompt_length=PROMPT_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
        num_epochs=2,
        num_minibatches=2,
        kl_coefficient=0.02,
        kl_target=kl_target,
        kl_horizon=1000.0,
    )
    trainer.compile(keras.optimizers.Adam(5e-4, global_clipnorm=1.0))
    prompts = ktfm.data.prompt_dataset({"prompt": openings(tweets["train"], tokenizer, 256)}, batch_size=64)
    names = {"reward": "mean reward", "kl": "KL to the start, nats", "kl_coefficient": "price of KL"}
    callbacks = [Printed(max(1, epochs // 10), names)]
    history = trainer.fit(prompts, epochs=epochs, verbose=0, callbacks=callbacks).history

    after = written(policy, tokenizer, test_prompts)
    scores |= {"after": float(np.mean(reward(test_prompts, after))), "kl": history["kl"][-1], "judge": accuracy}
    show(test_prompts, before, after, reward)
    rise = scores["after"] - scores["before"]
    tell(f"mean reward after: {scores['after']:.3f} ({rise:+.3f}), at a KL of {scores['kl']:.1f} nats")
    (output / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
    plot(history, names, "PPO: sentiment of tweets", output / "curves.png", "epoch (256 prompts)")
    policy.save(output / "model.keras")
    print(f"The curves, the writer and the numbers are in {output}.")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=40, help="passes over 256 prompts (default: 40)")
    parser.add_argument("--writer-steps", type=positive, default=400, help="steps of the writer (default: 400)")
    parser.add_argument("--judge-steps", type=positive, default=300, help="steps of the judge (default: 300)")
    parser.add_argument("--kl-target", type=float, default=6.0, help="nats to which KL is led (default: 6)")
    parser.add_argument("--output", default="runs/align_ppo", help="where results go")
    main(**vars(parser.parse_args()))
