"""Proximal policy optimization on what the policy writes, as InstructGPT was trained."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm.alignment.log_probs import answer_mask, hidden_states, masked_mean, next_log_probs
from keras_tfm.alignment.rollout_model import RolloutModel
from keras_tfm.alignment.rollouts import Rollout
from keras_tfm.arguments import number_of, require
from keras_tfm.types import Tensor


class PPO(RolloutModel):
    """Trains a policy on rewards with `fit`: a value head says what was to be expected, token by token.

    An answer's reward comes with its last token; each token costs its divergence from the reference. Advantages are
    estimated by GAE, and whitened. The value head is a dense layer on the policy's own hidden states.

    Args:
        policy, tokenizer, rewards, prompt_length, max_new_tokens, num_minibatches, clip, reference, seed: see
            `RolloutModel`.
        num_generations: int, answers for each prompt.
        num_epochs: int, how often each batch of answers is learned from.
        kl_coefficient: float, what a unit of divergence costs at first.
        kl_target: float, the divergence of an answer in nats to which the coefficient is adapted; None leaves it.
        kl_horizon: float, answers after which the coefficient may have changed by a factor of e^0.2 at most.
        discount: float, of later rewards. gae_lambda: float, 1 trusts rewards, 0 the value head.
        value_coefficient: float, of the value head's loss. value_clip: float, how far values may move in a rollout.

    Metrics:
        those of `RolloutModel`, value_loss and kl_coefficient.

    Reference:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section 3.5,
        https://arxiv.org/abs/2203.02155; GAE: Schulman et al. 2015, https://arxiv.org/abs/1506.02438; the adaptive
        coefficient: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2,
        https://arxiv.org/abs/1909.08593
    """

    metric_names = (*RolloutModel.metric_names, "value_loss", "kl_coefficient")

    def __init__(
        self,
        policy: Any,
        tokenizer: Any,
        rewards: Any,
        prompt_length: int,
        max_new_tokens: int,
        num_generations: int = 1,
        num_epochs: int = 4,
        kl_coefficient: float = 0.05,
        kl_target: float | None = None,
        kl_horizon: float = 10_000.0,
        discount: float = 1.0,
        gae_lambda: float = 0.95,
        value_coefficient: float = 0.1,
        value_clip: float = 0.2,
        **options: Any,
    ):
        super().__init__(
            policy, tokenizer, rewards, prompt_length, max_new_tokens, num_generations, num_epochs, **options
        )
        require(kl_target is None or kl_target > 0, "`kl_target` must be greater than 0, or None", kl_target=kl_target)
        self.kl_target, self.kl_horizon = kl_target, number_of("kl_horizon", kl_horizon)
        self.discount, self.gae_lambda = number_of("discount", discount), number_of("gae_lambda", gae_lambda)
        self.value_coefficient = number_of("value_coefficient", value_coefficient)
        self.value_clip = number_of("value_clip", value_clip)
        self.value_head = keras.layers.Dense(1, kernel_initializer="zeros", name="value_head", dtype="float32")
        self.value_head.build((None, policy.hidden_dim))
        start = number_of("kl_coefficient", kl_coefficient)
        self.kl_coefficient = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(start), trainable=False, name="kl_coefficient"
        )

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> dict[str, Tensor]:
        hidden = hidden_states(self.policy, inputs)
        values = self.value_head(ops.cast(hidden[:, :-1], "float32"))[..., 0]
        return {"log_probs": next_log_probs(self.policy, inputs, hidden), "values": values}

    def scores(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutModel`; the values as well."""
        found = self(inputs)
        return {
            "old_log_probs": found["log_probs"],
            "reference_log_probs": self.reference.log_probs(inputs),
            "old_values": found["values"],
        }

    def learned_rows(self, rollout: Rollout) -> dict[str, np.ndarray]:
        """Advantages and returns (R, T - 1); the coefficient is adapted for the next rollout."""
        rows, mask = rollout.rows, rollout.rows["answer_mask"][:, 1:]
        divergences = (rows["old_log_probs"] - rows["reference_log_probs"]) * mask
        coefficient = float(self.kl_coefficient)
        self.means["kl_coefficient"].update_state(coefficient)
        if self.kl_target is not None:
            error = np.clip(divergences.sum(-1).mean() / self.kl_target - 1, -0.2, 0.2)
            self.kl_coefficient.assign(coefficient * (1 + error * len(mask) / self.kl_horizon))
        rewards = -coefficient * divergences
        last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        rewards[np.arange(len(mask)), last] += rollout.rewards
        advantages = estimated_advantages(rewards, rows["old_values"], mask, self.discount, self.gae_lambda)
        returns = (advantages + rows["old_values"]) * mask
        return {"advantages": whitened(advantages, mask), "returns": returns}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        mask = answer_mask(x)
        loss = masked_mean(self.policy_loss(x, y_pred["log_probs"], x["advantages"]), mask)
        values, old = y_pred["values"], x["old_values"]
        near = ops.clip(values, old - self.value_clip, old + self.value_clip)
        errors = ops.maximum(ops.square(values - x["returns"]), ops.square(near - x["returns"]))
        value_loss = 0.5 * masked_mean(errors, mask)
        self.means["value_loss"].update_state(value_loss)
        return loss + self.value_coefficient * value_loss


def estimated_advantages(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, discount: float, gae_lambda: float
) -> np.ndarray:
    """Generalized advantage estimation over the tokens of each answer; 0 elsewhere.

    Args:
        rewards, values: float (R, T). mask: bool (R, T), the tokens of the answer, side by side.
        discount, gae_lambda: float.

    Returns:
        float32 (R, T): the sum over l of (discount * lambda)^l * delta[t + l], with delta[t] = rewards[t] + discount *
        values[t + 1] - values[t], and nothing to come after the last token.
    """
    values, rewards = values * mask, rewards * mask
    advantages = np.zeros_like(values, "float32")
    following = np.zeros(len(values), "float32")
    for t in reversed(range(values.shape[1])):
        next_values = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        delta = rewards[:, t] + discount * next_values - values[:, t]
        following = (delta + discount * gae_lambda * following) * mask[:, t]
        advantages[:, t] = following
    return advantages


def whitened(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """x less its mean over its standard deviation, both over the mask alone; 0 elsewhere."""
    inside = x[mask]
    if inside.size < 2:
        return np.where(mask, x, 0.0).astype("float32")
    return (np.where(mask, x - inside.mean(), 0.0) / np.sqrt(inside.var(ddof=1) + 1e-8)).astype("float32")
