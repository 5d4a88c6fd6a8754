"""Learning from which of two answers is better, without a reward model: DPO and its kin."""

from typing import Any

from keras import ops

from keras_tfm.alignment.preference_model import Answers, PreferenceModel
from keras_tfm.arguments import number_of
from keras_tfm.types import Tensor


class DPO(PreferenceModel):
    """Direct preference optimization: -log sigmoid(beta * (how much more the policy favors the better answer)).

    Args:
        policy, beta, reference: see `PreferenceModel`.

    Example:
        >>> rows = [{"prompt": "2+2=", "chosen": "4", "rejected": "5"}]
        >>> dataset = ktfm.data.preference_dataset(rows, tokenizer, sequence_length=16, batch_size=1)
        >>> trainer = DPO(model, beta=0.1)
        >>> trainer.compile(keras.optimizers.AdamW(1e-5))
        >>> history = trainer.fit(dataset, epochs=3)

    Reference:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 7, https://arxiv.org/abs/2305.18290
    """

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        return -ops.log_sigmoid(self.beta * (first.log_ratios - second.log_ratios))


class IPO(PreferenceModel):
    """Identity preference optimization: (mean log-ratio of the one less that of the other - 1 / (2 beta))^2.

    Means over tokens, as its authors say that they computed it, so that beta means the same at all lengths.

    Reference:
        Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", equation 17,
        https://arxiv.org/abs/2310.12036
    """

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        distance = first.log_ratios / first.lengths - second.log_ratios / second.lengths
        return ops.square(distance - 1 / (2 * self.beta))


class HingeDPO(PreferenceModel):
    """DPO with a hinge, max(0, 1 - beta * ...): pairs that are far enough apart cost nothing.

    Reference:
        Zhao et al. 2023, "SLiC-HF", https://arxiv.org/abs/2305.10425; Liu et al. 2023, "Statistical Rejection Sampling
        Improves Preference Optimization", https://arxiv.org/abs/2309.06657
    """

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        return ops.relu(1 - self.beta * (first.log_ratios - second.log_ratios))


class SimPO(PreferenceModel):
    """Simple preference optimization: mean log-probabilities, a target margin, and no reference.

    Args:
        policy: see `PreferenceModel`.
        beta: float, usually 2 to 2.5.
        margin: float, the paper's gamma: how far apart the rewards are to be.

    Reference:
        Meng et al. 2024, "SimPO", equation 6, https://arxiv.org/abs/2405.14734
    """

    uses_reference = False

    def __init__(self, policy: Any, beta: float = 2.0, margin: float = 0.5, **kwargs: Any):
        super().__init__(policy, beta, **kwargs)
        self.margin = number_of("margin", margin)

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        distance = first.log_probs / first.lengths - second.log_probs / second.lengths
        return -ops.log_sigmoid(self.beta * distance - self.margin)


class ORPO(PreferenceModel):
    """Odds ratio preference optimization: the loss of language modelling on the better rows, and beta times the odds'.

    The first counts prompt and answer, as the authors' code and TRL do. There is no reference, and no training before.

    Reference:
        Hong et al. 2024, "ORPO", equations 6 and 7, https://arxiv.org/abs/2403.07691
    """

    uses_reference = False

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        means = [one.log_probs / one.lengths for one in (first, second)]
        log_odds = means[0] - means[1] - (_log_of_rest(means[0]) - _log_of_rest(means[1]))
        likelihood = ops.sum(first.row_log_probs) / ops.sum(first.row_lengths)
        return -likelihood - self.beta * ops.log_sigmoid(log_odds)


class KTO(PreferenceModel):
    """Kahneman-Tversky optimization: answers that are good or bad by themselves, on `data.judged_dataset`.

    A pair is an answer and another row's answer behind the same prompt; from the latter the divergence from the
    reference is estimated, without a gradient. Labels are bool (B,), True = good. `first_reward` is that of the answer.

    Args:
        policy, beta, reference: see `PreferenceModel`.
        good_weight, bad_weight: float, of the two kinds of answers. Number times weight should be about the same.

    Reference:
        Ethayarajh et al. 2024, "KTO", equations 7 and 8, https://arxiv.org/abs/2402.01306
    """

    def __init__(
        self,
        policy: Any,
        beta: float = 0.1,
        reference: Any = None,
        good_weight: float = 1.0,
        bad_weight: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(policy, beta, reference, **kwargs)
        self.good_weight, self.bad_weight = number_of("good_weight", good_weight), number_of("bad_weight", bad_weight)

    def losses(self, first: Answers, second: Answers, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("`KTO` must be told which answers are good. Use the batches of `data.judged_dataset`.")
        divergence = ops.stop_gradient(ops.maximum(ops.mean(second.log_ratios), 0.0))
        distance = self.beta * (first.log_ratios - divergence)
        good, bad = 1 - ops.sigmoid(distance), 1 - ops.sigmoid(-distance)
        return ops.where(ops.cast(labels, "bool"), self.good_weight * good, self.bad_weight * bad)


def _log_of_rest(log_probs: Tensor) -> Tensor:
    """log(1 - p) of log p, exact at both ends; neither branch of the choice may have an infinite gradient."""
    is_small = log_probs < -0.6931472
    small = ops.log1p(-ops.exp(ops.where(is_small, log_probs, -1.0)))
    large = ops.log(-ops.expm1(ops.where(is_small, -0.5, log_probs)))
    return ops.where(is_small, small, large)
