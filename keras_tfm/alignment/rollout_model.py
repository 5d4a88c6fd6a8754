"""Learning from what the policy itself writes: prompts answered, rewarded and scored, then some steps on them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_tfm.alignment.log_probs import answer_mask, masked_mean, next_log_probs
from keras_tfm.alignment.reference import Reference
from keras_tfm.alignment.rollouts import RewardFunction, Rollout, RolloutWriter
from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.tokenizers import Tokenizer
from keras_tfm.types import Tensor


class RolloutModel(keras.Model):
    """Base class of `GRPO` and `PPO`: each step of `fit` answers a batch of prompts and learns from the answers.

    Log-probabilities of the old policy and of the reference are computed on the batches that are learned from, by the
    code that learns. `compile` takes an optimizer and no loss. Steps run in Python, the work in them is compiled.

    Args:
        policy: `CausalLM`, which learns; `generate` with it, and save it.
        tokenizer: a `Tokenizer` with an end of text, which the policy is to learn to write.
        rewards: a function (prompts, completions, **columns) -> a finite float for each completion, or several, which
            are added up. The columns are those of the dataset, repeated for each completion, as lists.
        prompt_length: int, the most tokens of a prompt.
        max_new_tokens: int, the most tokens of an answer, its end among them.
        num_generations: int, answers for each prompt.
        num_epochs: int, how often each batch of answers is learned from. num_minibatches: int, in how many steps each
            time; it must divide batch size x `num_generations`.
        clip: float, or (low, high): a step's ratio of probabilities is clipped to 1 - low and 1 + high.
        reference: `CausalLM`, or None for the policy as it is now; see `Reference`.
        seed: int, of draws and of orders.
        **kwargs: Keras' own.

    Call arguments:
        inputs: dict of "token_ids" int32, "padding_mask" and "answer_mask" bool, (R, T) each.

    Metrics:
        reward: the mean. kl: mean over answers of the log-ratio to the reference, summed over tokens, before the steps.
        length: tokens of an answer, its end among them. ratio: the mean of new over old probability; clipped: the share
        of tokens outside of the clip range.
    """

    metric_names: tuple[str, ...] = ("reward", "kl", "length", "ratio", "clipped")

    def __init__(
        self,
        policy: Any,
        tokenizer: Tokenizer,
        rewards: RewardFunction | Sequence[RewardFunction],
        prompt_length: int,
        max_new_tokens: int,
        num_generations: int = 8,
        num_epochs: int = 1,
        num_minibatches: int = 1,
        clip: float | tuple[float, float] = 0.2,
        reference: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.writer = RolloutWriter(policy, tokenizer, rewards, prompt_length, max_new_tokens, num_generations)
        policy.head_weights()  # raises if there are none
        self.policy = policy
        self.num_epochs = as_integer("num_epochs", num_epochs, least=1)
        self.num_minibatches = as_integer("num_minibatches", num_minibatches, least=1)
        low, high = clip if isinstance(clip, tuple) else (clip, clip)
        self.clip = number_of("clip", low), number_of("clip", high)
        self.reference = Reference(policy, reference)
        self.seed = as_integer("seed", seed, least=0)
        self.means = {name: keras.metrics.Mean(name) for name in self.metric_names}
        self.built = True  # the policy is

    def learned_rows(self, rollout: Rollout) -> dict[str, np.ndarray]:
        """What the steps need besides, arrays (R, ...), such as advantages; `rollout.rows` have what `scores` gave."""
        raise NotImplementedError(f"{type(self).__name__} must define `learned_rows`.")

    def scores(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is known of answers before the steps, each float32 (R, T - 1)."""
        return {"old_log_probs": self(inputs), "reference_log_probs": self.reference.log_probs(inputs)}

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> Any:
        return next_log_probs(self.policy, inputs)

    def compile(self, optimizer: str | keras.optimizers.Optimizer = "adamw", **options: Any) -> None:
        """`keras.Model.compile` with an optimizer; each step runs in Python, since rewards are Python's."""
        super().compile(optimizer, **{**options, "run_eagerly": True})
        self.optimizer.build(self.trainable_variables)
        self._update = tf.function(super().train_step, reduce_retracing=True)
        self._score = tf.function(self.scores, reduce_retracing=True)

    def fit(self, x: tf.data.Dataset, **options: Any) -> keras.callbacks.History:
        """`keras.Model.fit` on a `data.prompt_dataset`, and with its other options."""
        spec = getattr(x, "element_spec", None)
        if not isinstance(spec, dict) or "prompt" not in spec:
            raise ValueError(f"`x` must be a dataset as `data.prompt_dataset` makes it. Received: {x!r:.120}.")
        if (count := spec["prompt"].shape[0]) is not None:
            self._check_divides(count)
        return super().fit(x, **{"shuffle": False, **options})

    def train_step(self, data: dict[str, tf.Tensor]) -> dict[str, Tensor]:
        columns = {name: _as_list(values) for name, values in data.items()}
        self._check_divides(len(columns["prompt"]))
        # Of the number of steps alone, so that a run that goes on from a file draws what it would have drawn.
        random = np.random.default_rng([self.seed, int(self.optimizer.iterations)])
        rollout = self.writer.write(columns.pop("prompt"), columns, seed=int(random.integers(2**31)))
        # The first steps are on the very batches that were scored: products of other sizes have other last digits.
        batches = self._batches(random, len(rollout.rewards))
        parts = [self._score(_taken(rollout.rows, batch)) for batch in batches]
        back = np.argsort(np.concatenate(batches))
        rollout.rows.update({name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]})
        rollout.rows.update(self.learned_rows(rollout))
        self._count(rollout)
        logs: dict[str, Tensor] = {}
        for epoch in range(self.num_epochs):
            for batch in self._batches(random, len(rollout.rewards)) if epoch else batches:
                logs = self._update(_taken(rollout.rows, batch))
        return logs

    def policy_loss(self, inputs: dict[str, Tensor], log_probs: Tensor, advantages: Tensor) -> Tensor:
        """The clipped objective of each token, float32 (R, T - 1); advantages (R, 1) or (R, T - 1)."""
        losses, ratio = clipped_losses(log_probs, inputs["old_log_probs"], advantages, self.clip)
        mask = answer_mask(inputs)
        self.means["ratio"].update_state(masked_mean(ratio, mask))
        is_outside = ops.logical_or(ratio < 1 - self.clip[0], ratio > 1 + self.clip[1])
        self.means["clipped"].update_state(masked_mean(ops.cast(is_outside, "float32"), mask))
        return losses

    def _batches(self, random: np.random.Generator, num_rows: int) -> list[np.ndarray]:
        return np.split(random.permutation(num_rows), self.num_minibatches)

    def _count(self, rollout: Rollout) -> None:
        mask = rollout.rows["answer_mask"][:, 1:]
        ratios = rollout.rows["old_log_probs"] - rollout.rows["reference_log_probs"]
        self.means["reward"].update_state(rollout.rewards)
        self.means["kl"].update_state((ratios * mask).sum(-1))
        self.means["length"].update_state(mask.sum(-1))

    def _check_divides(self, num_prompts: int) -> None:
        require(
            num_prompts * self.writer.num_generations % self.num_minibatches == 0,
            "`num_minibatches` must divide batch size x `num_generations`",
            num_minibatches=self.num_minibatches,
            batch_size=num_prompts,
            num_generations=self.writer.num_generations,
        )


def clipped_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """PPO's loss of each token, -min(ratio * A, clip(ratio) * A), and the ratio.

    Reference: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7,
    https://arxiv.org/abs/1707.06347; two bounds: Yu et al. 2025, "DAPO", https://arxiv.org/abs/2503.14476
    """
    ratio = ops.exp(log_probs - old_log_probs)
    clipped = ops.clip(ratio, 1 - clip[0], 1 + clip[1])
    return -ops.minimum(ratio * advantages, clipped * advantages), ratio


def _as_list(values: tf.Tensor) -> list:
    return [x.decode("utf-8") if isinstance(x, bytes) else x for x in values.numpy().tolist()]


def _taken(rows: dict[str, np.ndarray], numbers: np.ndarray) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values[numbers]) for name, values in rows.items()}
