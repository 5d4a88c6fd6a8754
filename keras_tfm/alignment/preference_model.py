"""What all models that learn from pairs of answers share: sums over answers, rewards, `fit`."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_tfm.alignment.log_probs import answer_mask, next_log_probs
from keras_tfm.alignment.reference import Reference
from keras_tfm.arguments import number_of, require
from keras_tfm.types import Tensor


class Answers(NamedTuple):
    """Of B answers, float32 (B,) each: sums over their tokens, padding left out.

    log_probs: of the policy. log_ratios: of the policy less those of the reference; those of the policy without one.
    lengths: how many tokens. row_log_probs, row_lengths: those of prompt and answer together.
    """

    log_probs: Tensor
    log_ratios: Tensor
    lengths: Tensor
    row_log_probs: Tensor
    row_lengths: Tensor


class PreferenceModel(keras.Model):
    """Base class: trains a policy on pairs of answers with `fit`, on the batches of `data.preference_dataset`.

    A subclass says what the pairs cost in `losses`. Dropout is off, so that policy and reference differ by what was
    learned alone. `compile` takes an optimizer and no loss. What is trained is the policy itself: `generate` with it,
    and save it.

    Args:
        policy: `CausalLM`, usually trained on instructions before.
        beta: float, positive: how dear it is to leave the reference, or what the subclass says.
        reference: `CausalLM`, or None for the policy as it is now; see `Reference`.
        **kwargs: Keras' own.

    Call arguments:
        inputs: dict of "token_ids" int32, "padding_mask" and "answer_mask" bool, (B, 2, T) each: the better answer
            first, each behind its prompt.

    Returns:
        float32 (B, 2, T - 1), log-probabilities of the next tokens.

    Metrics:
        accuracy: how often the first answer has the greater reward. margin: by how much. first_reward, second_reward:
        beta times the log-probability's distance from the reference.
    """

    uses_reference = True

    def __init__(self, policy: Any, beta: float = 0.1, reference: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.beta = number_of("beta", beta)
        require(self.beta > 0, "`beta` must be greater than 0", beta=beta)
        policy.head_weights()  # raises if there are none
        self.policy = policy
        self.reference = Reference(policy, reference) if self.uses_reference else None
        self.means = {
            name: keras.metrics.Mean(name) for name in ("accuracy", "margin", "first_reward", "second_reward")
        }
        self.built = True  # the policy is

    def losses(self, first: Answers, second: Answers, labels: Tensor | None) -> Tensor:
        """What each pair costs, float32 (B,); labels (B,) are what the dataset gives beside its inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define `losses`.")

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> Tensor:
        return next_log_probs(self.policy, inputs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        first, second = self.answers(x, y_pred)
        rewards = [self.beta * one.log_ratios for one in (first, second)]
        self.means["accuracy"].update_state(ops.cast(rewards[0] > rewards[1], "float32"))
        self.means["margin"].update_state(rewards[0] - rewards[1])
        self.means["first_reward"].update_state(rewards[0])
        self.means["second_reward"].update_state(rewards[1])
        return ops.mean(self.losses(first, second, y))

    def answers(self, inputs: dict[str, Tensor], log_probs: Tensor) -> tuple[Answers, Answers]:
        """The two answers of each pair, given log-probabilities (B, 2, T - 1)."""
        mask, real = answer_mask(inputs), ops.cast(inputs["padding_mask"], "float32")[..., 1:]
        ratios = log_probs if self.reference is None else log_probs - self.reference.log_probs(inputs)
        sums = [ops.sum(x, axis=-1) for x in (log_probs * mask, ratios * mask, mask, log_probs * real, real)]
        return Answers(*(x[:, 0] for x in sums)), Answers(*(x[:, 1] for x in sums))
