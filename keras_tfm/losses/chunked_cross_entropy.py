"""Cross-entropy from hidden states and the head's weights, chunk by chunk of the vocabulary."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_tfm.ops.token_log_probs import CHUNK_SIZE, logit_statistics
from keras_tfm.types import Config, DTypeLike, Tensor


class HeadWeights(NamedTuple):
    """What makes logits of hidden states: cap(hidden @ table.T + bias).

    table: float (V, D). bias: float (V,), or None. logit_cap: float, or None. dtype: of the products, or None for that
    of the hidden states.
    """

    table: Any
    bias: Any = None
    logit_cap: float | None = None
    dtype: str | None = None


def chunked_cross_entropy(
    hidden: Tensor,
    head: HeadWeights,
    token_ids: Tensor,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_class: int | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """The cross-entropy of each token, as `SparseCategoricalCrossentropy(from_logits=True)` has it of all logits.

    Args:
        hidden: float (..., D), states that the head projects.
        head: `HeadWeights`.
        token_ids: int32 (...), what should have been said.
        label_smoothing: float in [0, 1), this share of the target is spread evenly over the vocabulary.
        z_loss: float, times the square of the logarithm of the sum of exponentials is added, which keeps it near 0.
        ignore_class: int, tokens of this id have loss 0, or None.
        chunk_size: int, how many tokens' logits are in memory at a time.

    Returns:
        float32 (...).

    Example:
        >>> head = HeadWeights(np.zeros((10, 4), "float32"))
        >>> chunked_cross_entropy(np.ones((1, 2, 4), "float32"), head, np.array([[3, 7]]))    # log(10)
        [[2.302585, 2.302585]]

    Reference:
        Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", https://arxiv.org/abs/2411.09009;
        z-loss: Chowdhery et al. 2022, "PaLM", section 5, https://arxiv.org/abs/2204.02311
    """
    hidden, token_ids = ops.cast(hidden, head.dtype or hidden.dtype), ops.cast(token_ids, "int32")
    counts = None
    if ignore_class is not None:
        counts = ops.not_equal(token_ids, ignore_class)
        token_ids = ops.where(counts, token_ids, 0)
    chosen, log_sum, mean = logit_statistics(hidden, head.table, token_ids, head.bias, head.logit_cap, chunk_size)
    loss = log_sum - (1 - label_smoothing) * chosen
    if label_smoothing:
        loss = loss - label_smoothing * mean
    if z_loss:
        loss = loss + z_loss * ops.square(log_sum)
    return loss if counts is None else ops.where(counts, loss, 0.0)


@keras.saving.register_keras_serializable(package="keras_tfm")
class ChunkedCrossEntropy(keras.losses.Loss):
    """The loss for `CausalLM.compile`: the model stops at its hidden states, and all logits are never in memory.

    At 8,192 tokens of a vocabulary of 128,000 and width 512, Keras' loss takes 8.1 GB; this one takes 1.2 GB, or 0.8
    with `jit_compile=True`, and 1.4 times as long, for one product with the head more (`benchmarks/README.md`). There
    are no logits for metrics to look at.

    Args:
        label_smoothing, z_loss, ignore_class, chunk_size: as `chunked_cross_entropy`.
        reduction, name, dtype: as in `keras.losses.Loss`.

    Call arguments:
        y_true: int (B, T), the next tokens.
        y_pred: float (B, T, D), hidden states.

    Raises:
        ValueError: for a `label_smoothing` outside of [0, 1); where no model's head was bound to it.

    Example:
        >>> model = build_gpt(vocabulary_size=512, max_sequence_length=64, num_layers=2, num_heads=2, hidden_dim=32)
        >>> model.compile("adamw", loss="chunked")          # or ChunkedCrossEntropy(z_loss=1e-4)
        >>> history = model.fit(token_ids, next_ids)
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        ignore_class: int | None = None,
        chunk_size: int = CHUNK_SIZE,
        reduction: str | None = "sum_over_batch_size",
        name: str = "chunked_cross_entropy",
        dtype: DTypeLike | None = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1). Received: label_smoothing={label_smoothing}.")
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.ignore_class = ignore_class
        self.chunk_size = chunk_size
        self.head_weights: Callable[[], HeadWeights] | None = None

    def bound_to(self, head_weights: Callable[[], HeadWeights]) -> "ChunkedCrossEntropy":
        """The same loss for the head whose weights, as they are at each call, this gives."""
        bound = type(self).from_config(self.get_config())
        bound.head_weights = head_weights
        return bound

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.head_weights is None:
            raise ValueError(
                "`ChunkedCrossEntropy` must know the head that projects hidden states. Pass it to "
                "`CausalLM.compile(loss=...)`, or call `chunked_cross_entropy` with the head's weights."
            )
        return chunked_cross_entropy(
            y_pred, self.head_weights(), y_true, self.label_smoothing, self.z_loss, self.ignore_class, self.chunk_size
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "z_loss": self.z_loss,
            "ignore_class": self.ignore_class,
            "chunk_size": self.chunk_size,
        }
