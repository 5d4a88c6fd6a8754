"""Group relative policy optimization: an answer is as good as it is better than the others to its prompt."""

from typing import Any

import numpy as np
from keras import ops

from keras_tfm.alignment.log_probs import answer_mask, masked_mean
from keras_tfm.alignment.rollout_model import RolloutModel
from keras_tfm.alignment.rollouts import Rollout
from keras_tfm.arguments import number_of, require
from keras_tfm.types import Tensor

NORMALIZATIONS = ("grpo", "dr_grpo", "dapo")


class GRPO(RolloutModel):
    """Trains a policy on rewards with `fit`, without a value function: groups of answers are their own baseline.

    Args:
        policy, tokenizer, rewards, prompt_length, max_new_tokens, num_epochs, num_minibatches, clip, reference, seed:
            see `RolloutModel`. DAPO has clip=(0.2, 0.28).
        num_generations: int, at least 2, answers in a group.
        beta: float, how dear it is to leave the reference; 0 computes none of that in the loss.
        normalization: how tokens are averaged: "grpo", over each answer and then over answers, so that a token of a
            long answer counts less; "dr_grpo", over answers x `max_new_tokens`, which is the same for all; "dapo", over
            all tokens of the step.
        scale_rewards: bool, divide by the standard deviation of the group. Default: unless "dr_grpo".

    Example:
        >>> def right(prompts, completions, answer, **_):
        ...     return [float(a == b) for a, b in zip(completions, answer)]
        >>> trainer = GRPO(model, tokenizer, right, prompt_length=8, max_new_tokens=4)
        >>> trainer.compile(keras.optimizers.Adam(1e-4))
        >>> prompts = data.prompt_dataset({"prompt": ["1+2=", "3+3="], "answer": ["3", "6"]}, batch_size=2)
        >>> history = trainer.fit(prompts, epochs=10)

    Reference:
        Shao et al. 2024, "DeepSeekMath", section 4.1, https://arxiv.org/abs/2402.03300; Liu et al. 2025, "Understanding
        R1-Zero-Like Training" (Dr. GRPO), https://arxiv.org/abs/2503.20783; Yu et al. 2025, "DAPO",
        https://arxiv.org/abs/2503.14476
    """

    def __init__(
        self,
        policy: Any,
        tokenizer: Any,
        rewards: Any,
        prompt_length: int,
        max_new_tokens: int,
        num_generations: int = 8,
        beta: float = 0.0,
        normalization: str = "grpo",
        scale_rewards: bool | None = None,
        **options: Any,
    ):
        require(num_generations > 1, "`num_generations` must be at least 2", num_generations=num_generations)
        require(
            normalization in NORMALIZATIONS,
            f"`normalization` must be one of {NORMALIZATIONS}",
            normalization=normalization,
        )
        super().__init__(policy, tokenizer, rewards, prompt_length, max_new_tokens, num_generations, **options)
        self.beta = number_of("beta", beta)
        self.normalization = normalization
        self.scale_rewards = normalization != "dr_grpo" if scale_rewards is None else scale_rewards

    def learned_rows(self, rollout: Rollout) -> dict[str, np.ndarray]:
        """Advantages, and the tokens of a mean row, so that each step of DAPO divides by the same."""
        advantages = group_advantages(rollout.rewards, self.writer.num_generations, self.scale_rewards)
        num_tokens = rollout.rows["answer_mask"][:, 1:].sum(-1).mean()
        return {"advantages": advantages, "mean_tokens": np.full_like(advantages, num_tokens)}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        losses = self.policy_loss(x, y_pred, x["advantages"][:, None])
        if self.beta:
            losses = losses + self.beta * divergences(y_pred, x["reference_log_probs"])
        mask = answer_mask(x)
        if self.normalization == "grpo":
            return ops.mean(masked_mean(losses, mask, axis=-1))
        length = self.writer.max_new_tokens if self.normalization == "dr_grpo" else ops.maximum(x["mean_tokens"], 1.0)
        return ops.mean(ops.sum(losses * mask, axis=-1) / length)


def group_advantages(rewards: np.ndarray, num_generations: int, scale_rewards: bool = True) -> np.ndarray:
    """By how much each reward is more than the mean of its group, float32 (R,); in standard deviations if scaled."""
    groups = np.asarray(rewards, "float64").reshape(-1, num_generations)
    advantages = groups - groups.mean(axis=1, keepdims=True)
    if scale_rewards:
        advantages /= groups.std(axis=1, ddof=1, keepdims=True) + 1e-4
    return advantages.reshape(-1).astype("float32")


def divergences(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """An estimate of each token's divergence from the reference that is never negative, r - log r - 1.

    Reference: Schulman 2020, "Approximating KL Divergence" (k3), http://joschu.net/blog/kl-approx.html
    """
    difference = reference_log_probs - log_probs
    return ops.exp(difference) - difference - 1
