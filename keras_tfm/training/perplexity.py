"""How many tokens is a model in doubt between?"""

import keras
from keras import ops

from keras_tfm.types import Config, DTypeLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class Perplexity(keras.metrics.Metric):
    """exp(mean negative log-likelihood of the right tokens), over real tokens only.

    Each token counts alike, however the batches are cut and however much padding there is. What is padding is said by
    sample weights of 0, as datasets of `keras_tfm.data` give them, or by `ignored_id`. Keras gives sample weights to
    `compile(weighted_metrics=[...])` and not to `metrics=[...]`.

    Args:
        from_logits: bool, False for a model that gives probabilities.
        ignored_id: int, a label that does not count, such as that of padding. Default: all labels count.
        name: of the metric.
        dtype: of its sums.

    Call arguments:
        y_true: integers (...,), the right tokens.
        y_pred: float (..., V).
        sample_weight: float, of the shape of `y_true` or one that broadcasts to it.

    Returns:
        float, 1 to V for a model that knows no less than nothing; 0 before anything was seen.

    Example:
        >>> model.compile("adam", loss, weighted_metrics=[Perplexity()])
        >>> metric = Perplexity()
        >>> metric.update_state([[1, 0]], np.zeros((1, 2, 8)), sample_weight=[[1, 0]])
        >>> float(metric.result())
        8.0

    Reference:
        Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition tasks"
    """

    def __init__(
        self,
        from_logits: bool = True,
        ignored_id: int | None = None,
        name: str = "perplexity",
        dtype: DTypeLike | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits
        self.ignored_id = ignored_id
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        labels = ops.cast(y_true, "int32")
        scores = ops.cast(y_pred, self.dtype)
        weights = ops.ones_like(labels, dtype=self.dtype)
        if sample_weight is not None:
            weights *= ops.cast(sample_weight, self.dtype)
        if self.ignored_id is not None:
            weights *= ops.cast(ops.not_equal(labels, self.ignored_id), self.dtype)
        # Labels that do not count may be no tokens (-100), and what is written there may be NaN.
        counts = ops.greater(weights, 0)
        labels = ops.where(counts, labels, 0)
        losses = keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=self.from_logits)
        self.total.assign_add(ops.sum(ops.where(counts, weights * losses, 0.0)))
        self.count.assign_add(ops.sum(weights))

    def result(self) -> Tensor:
        mean = ops.divide_no_nan(self.total, self.count)
        return ops.where(self.count > 0, ops.exp(mean), 0.0)

    def get_config(self) -> Config:
        return {**super().get_config(), "from_logits": self.from_logits, "ignored_id": self.ignored_id}
