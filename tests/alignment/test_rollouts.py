"""GRPO and PPO: rollouts, advantages, clipped losses and the adaptive coefficient; `fit` raises rewards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import adapters, alignment, data
from keras_tfm.alignment.grpo import group_advantages
from keras_tfm.alignment.ppo import estimated_advantages, whitened
from keras_tfm.alignment.rollouts import rewards_of
from tests.alignment.conftest import tiny_policy

PROMPTS = [f"{a}+{b}=" for a in range(4) for b in range(4)]
ANSWERS = [str(a + b) for a in range(4) for b in range(4)]


def short_sevens(prompts, completions, **_):
    """Most of it for a 7 at the start, which an untrained policy writes at times."""
    return [float(text.startswith("7")) - 0.1 * len(text) for text in completions]


def prompts(batch_size=8):
    return data.prompt_dataset({"prompt": PROMPTS, "answer": ANSWERS}, batch_size)


def grpo(policy, tokenizer, rewards=short_sevens, **options):
    trainer = alignment.GRPO(policy, tokenizer, rewards, prompt_length=4, max_new_tokens=4, **options)
    trainer.compile(keras.optimizers.Adam(0.02))
    return trainer


def ppo(policy, tokenizer, rewards=short_sevens, **options):
    trainer = alignment.PPO(policy, tokenizer, rewards, prompt_length=4, max_new_tokens=4, **options)
    trainer.compile(keras.optimizers.Adam(0.01))
    return trainer


class Watched(keras.callbacks.Callback):
    """Keeps the logs of each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize(
    ("make", "lora"),
    [(grpo, True), pytest.param(grpo, False, marks=pytest.mark.slow), pytest.param(ppo, False, marks=pytest.mark.slow)],
)
def test_old_new_and_reference_are_equal_bit_for_bit_on_the_first_step(make, lora, policy, tokenizer):
    if lora:
        adapters.add_lora(policy, rank=2)
    trainer = make(
        policy, tokenizer, num_generations=2, num_minibatches=1, **({"num_epochs": 1} if make is ppo else {})
    )
    seen = {}
    learned_rows = trainer.learned_rows

    def look(rollout):
        seen.update(rollout.rows)
        return learned_rows(rollout)

    trainer.learned_rows = look
    steps = Watched()
    trainer.fit(prompts().take(1), verbose=0, callbacks=[steps])
    np.testing.assert_array_equal(seen["old_log_probs"], seen["reference_log_probs"])
    assert seen["old_log_probs"].any()
    # The mean of ratios is exactly 1: new and old were equal in the compiled step as well.
    assert steps.logs[0]["ratio"] == 1.0
    assert steps.logs[0]["kl"] == 0.0
    assert steps.logs[0]["clipped"] == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_grpo_raises_rewards(tokenizer):
    trainer = grpo(tiny_policy(tokenizer), tokenizer, num_generations=8)
    history = trainer.fit(prompts(), epochs=12, verbose=0).history
    assert history["reward"][0] < 0.0 < 0.6 < history["reward"][-1]
    assert history["kl"][-1] > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_ppo_raises_rewards_and_its_value_head_expects_them(tokenizer):
    trainer = ppo(tiny_policy(tokenizer), tokenizer, num_generations=8, kl_coefficient=0.01, num_minibatches=2)
    history = trainer.fit(prompts(), epochs=12, verbose=0).history
    assert history["reward"][0] < 0.0 < 0.4 < history["reward"][-1]
    assert len(trainer.trainable_variables) == len(trainer.policy.trainable_variables) + 2


@pytest.mark.usefixtures("without_xla")
def test_a_rollout_holds_what_was_written_and_its_end(policy, tokenizer):
    told = []

    def reward(prompts, completions, answer):
        told.extend(answer)
        return [1.0] * len(completions)

    trainer = grpo(policy, tokenizer, [reward, short_sevens], num_generations=2)
    rollout = trainer.writer.write(["1+2=", "3="], {"answer": ["3", "x"]}, seed=1)
    assert told == ["3", "3", "x", "x"]
    assert rollout.prompts == ["1+2=", "1+2=", "3=", "3="]
    expected = np.add(short_sevens(rollout.prompts, rollout.completions), 1.0)
    np.testing.assert_allclose(rollout.rewards, expected, atol=1e-6)
    for i, (prompt, text) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        ids = rollout.rows["token_ids"][i][rollout.rows["padding_mask"][i]].tolist()
        answer = rollout.rows["token_ids"][i][rollout.rows["answer_mask"][i]].tolist()
        assert ids == tokenizer.encode(prompt) + answer
        assert answer in (tokenizer.encode(text), [*tokenizer.encode(text), tokenizer.end_of_text_id])
        assert len(answer) == 4 or answer[-1] == tokenizer.end_of_text_id


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("make", [grpo, ppo])
def test_an_interrupted_run_goes_on_to_the_same_weights(make, tokenizer, tmp_path):
    start = tiny_policy(tokenizer).get_weights()
    dataset = data.prompt_dataset({"prompt": PROMPTS}, 8, shuffle=False)

    def run(epochs, *callbacks):
        policy = tiny_policy(tokenizer)
        policy.set_weights(start)
        trainer = make(policy, tokenizer, num_generations=2, num_minibatches=2)
        trainer.fit(dataset, epochs=epochs, verbose=0, callbacks=list(callbacks))
        return policy.get_weights()

    class Interruption(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(3, backup, Interruption())
    for one, other in zip(run(3), run(3, keras.callbacks.BackupAndRestore(tmp_path)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("normalization", ["grpo", "dr_grpo", "dapo"])
def test_normalizations_are_their_papers_and_padding_is_in_no_mean(normalization, policy, tokenizer):
    rng = np.random.default_rng(0)
    mask = np.arange(8) < np.array([3, 8, 1, 5])[:, None]
    inputs = {
        "answer_mask": np.pad(mask, ((0, 0), (1, 0))),
        "old_log_probs": rng.normal(size=mask.shape).astype("float32"),
        "reference_log_probs": rng.normal(size=mask.shape).astype("float32"),
        "advantages": rng.normal(size=4).astype("float32"),
        "mean_tokens": np.full(4, mask.sum() / 4, "float32"),
    }
    log_probs = tf.constant(inputs["old_log_probs"] + rng.normal(size=mask.shape).astype("float32") * 0.3)
    trainer = grpo(policy, tokenizer, normalization=normalization, beta=0.3, clip=(0.1, 0.2))
    with tf.GradientTape() as tape:
        tape.watch(log_probs)
        loss = trainer.compute_loss(x=inputs, y_pred=log_probs)
    ratio = np.exp(log_probs - inputs["old_log_probs"])
    advantages = inputs["advantages"][:, None]
    tokens = -np.minimum(ratio * advantages, np.clip(ratio, 0.9, 1.2) * advantages)
    distance = inputs["reference_log_probs"] - log_probs.numpy()
    tokens += 0.3 * (np.exp(distance) - distance - 1)
    expected = {
        "grpo": np.mean([row[here].mean() for row, here in zip(tokens, mask, strict=True)]),
        "dr_grpo": tokens[mask].sum() / (4 * 4),
        "dapo": tokens[mask].mean(),
    }
    assert float(loss) == pytest.approx(expected[normalization], abs=1e-5)
    assert not tape.gradient(loss, log_probs).numpy()[~mask].any()
    assert trainer.scale_rewards is (normalization != "dr_grpo")


def test_advantages_of_a_group_are_distances_from_its_mean():
    rewards = np.array([1.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0])
    np.testing.assert_allclose(group_advantages(rewards, 4, False), [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0])
    np.testing.assert_allclose(group_advantages(rewards, 4)[:4], np.array([0.75, -0.25, -0.25, -0.25]) / 0.5001)


def test_generalized_advantages_are_the_sum_that_defines_them():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 7))
    mask = np.array([[0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]], bool)
    found = estimated_advantages(rewards, values, mask, 0.9, 0.8)
    for row in range(3):
        places = np.flatnonzero(mask[row])
        following = [*values[row][places][1:], 0.0]
        deltas = rewards[row][places] + 0.9 * np.array(following) - values[row][places]
        for k, place in enumerate(places):
            expected = sum((0.9 * 0.8) ** step * delta for step, delta in enumerate(deltas[k:]))
            assert found[row, place] == pytest.approx(expected, abs=1e-6)
    assert not found[~mask].any()
    white = whitened(found, mask)
    assert white[mask].mean() == pytest.approx(0, abs=1e-6)
    assert white[mask].std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_the_coefficient_follows_the_divergence(policy, tokenizer):
    trainer = ppo(policy, tokenizer, kl_coefficient=0.1, kl_target=1.0, kl_horizon=100.0)
    mask = np.pad(np.ones((10, 7), bool), ((0, 0), (1, 0)))
    rows = {"answer_mask": mask, "old_values": np.zeros((10, 7), "float32")}
    rows["reference_log_probs"] = np.zeros((10, 7), "float32")
    for divergence, expected in ((0.0, 0.098), (1.0, 0.098), (50.0, 0.098 * 1.02)):
        rows["old_log_probs"] = np.full((10, 7), divergence / 7, "float32")
        trainer.learned_rows(alignment.Rollout([], [], np.zeros(10, "float32"), rows))
        assert float(trainer.kl_coefficient) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("without_xla")
def test_wrong_rewards_and_sizes_are_refused_before_a_step(policy, tokenizer):
    before = [variable.numpy() for variable in policy.variables]
    with pytest.raises(ValueError, match=r"`num_generations` must be at least 2\. Received: num_generations=1"):
        grpo(policy, tokenizer, num_generations=1)
    with pytest.raises(ValueError, match=r"must fit the 16 positions of the policy"):
        alignment.PPO(policy, tokenizer, short_sevens, 10, 10)
    with pytest.raises(ValueError, match=r"`normalization` must be one of .* Received: normalization='mean'"):
        grpo(policy, tokenizer, normalization="mean")
    with pytest.raises(ValueError, match=r"must divide batch size x .* num_minibatches=3, batch_size=8"):
        grpo(policy, tokenizer, num_minibatches=3).fit(prompts())
    with pytest.raises(ValueError, match=r"`x` must be a dataset as `data.prompt_dataset` makes it"):
        grpo(policy, tokenizer).fit(PROMPTS)
    for wrong in ([1.0], [1.0, float("nan")], [None, 0.0], [[1.0], [2.0]]):
        with pytest.raises(
            ValueError, match=r"`rewards` must give a finite float for each of 2 completions.*'<lambda>'"
        ):
            rewards_of(lambda wrong=wrong, **_: wrong, ["a", "b"], ["c", "d"], {})
    with pytest.raises(ValueError, match=r"`prompt_length` must hold the tokens of each prompt.*longest=5"):
        grpo(policy, tokenizer).fit(data.prompt_dataset({"prompt": ["12+3="]}, 1), verbose=0)
    for was, variable in zip(before, policy.variables, strict=True):
        np.testing.assert_array_equal(was, variable)
