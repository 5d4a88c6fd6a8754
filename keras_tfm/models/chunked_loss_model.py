"""A model over a vocabulary that may train without ever holding all of its logits."""

import contextlib
import functools
from typing import Any

import keras

from keras_tfm.losses.chunked_cross_entropy import ChunkedCrossEntropy, HeadWeights
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Tensor


class ChunkedLossModel(TokenModel):
    """`TokenModel` whose `compile` takes a `ChunkedCrossEntropy`: `fit` and `evaluate` then stop at the hidden states.

    Subclasses write `_hidden(...)`, which makes hidden states of the inputs, and `head_weights`.
    """

    untraced_attributes: tuple[str, ...] = ("_reader", "_stops_at_hidden")  # the latter is set within a step alone
    _stops_at_hidden = False

    def head_weights(self, trained: bool = False) -> HeadWeights:
        """The weights that project hidden states, as they are; raises if there are none, or none that can train so."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """`keras.Model.compile`; with the loss "chunked", or a `ChunkedCrossEntropy`, no step ever holds all logits.

        Raises:
            ValueError: for metrics beside a chunked loss, which have no logits to look at, and for a head that is not a
                table of weights.
        """
        loss = ChunkedCrossEntropy() if isinstance(loss, str) and loss == "chunked" else loss
        if isinstance(loss, ChunkedCrossEntropy):
            if metrics or weighted_metrics:
                raise ValueError(
                    "`metrics` and `weighted_metrics` must be left out beside a chunked loss: there are no logits for "
                    f"them. Received: metrics={metrics}, weighted_metrics={weighted_metrics}. The perplexity is "
                    "exp(loss)."
                )
            self.head_weights(trained=True)  # raises if it has none
            loss = loss.bound_to(self.head_weights)
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **options)

    def train_step(self, *args: Any) -> dict[str, Tensor]:
        with self._for_the_loss():
            return super().train_step(*args)

    def test_step(self, *args: Any) -> dict[str, Tensor]:
        with self._for_the_loss():
            return super().test_step(*args)

    @contextlib.contextmanager
    def _for_the_loss(self):
        """Calls of the model within stop at what its loss goes on from."""
        self._stops_at_hidden = isinstance(self.loss, ChunkedCrossEntropy)
        try:
            yield
        finally:
            self._stops_at_hidden = False

    def hidden_states(self, inputs: Tensor | dict[str, Tensor], training: bool = False) -> Tensor:
        """The states (B, T, D) of the model's inputs that its head makes logits of; `head_weights` go with them."""
        return self._reader(self._complete(inputs), training=training)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if self._stops_at_hidden:
            return self.hidden_states(inputs, training=bool(training))
        return super().call(inputs, training=training, mask=mask)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if isinstance(self.loss, ChunkedCrossEntropy) and not self._stops_at_hidden:
            y_pred = self.hidden_states(x, training=training)  # JAX and torch try the loss on logits before they train
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    @functools.cached_property
    def _reader(self) -> keras.Model:
        """The model without its head."""
        inputs = {x.name: x for x in self.inputs}
        return keras.Model(inputs, self._hidden(**inputs))
