"""What a policy must not move far from: itself, as it was."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.adapters.adapters import adapters_of
from keras_tfm.alignment.log_probs import hidden_states, next_log_probs
from keras_tfm.types import Tensor


class Reference:
    """The log-probabilities of the model that a policy began as.

    If all that trains of the policy are adapters that change nothing yet, that is the policy without them, and takes no
    memory; else a frozen copy. It is none of the policy's parts: it is not saved with it, and is made anew from the
    same start when a run is resumed.

    Args:
        policy: `CausalLM`, before its first step.
        model: another model of the same vocabulary to be the reference.
    """

    def __init__(self, policy: Any, model: Any = None):
        self.policy = policy
        self.without_adapters = model is None and has_new_adapters_only(policy)
        if model is None and not self.without_adapters:
            model = type(policy).from_config(policy.get_config())
            model.set_weights(policy.get_weights())
        if model is not None and model.vocabulary_size != policy.vocabulary_size:
            raise ValueError(
                "`reference` must have the vocabulary of `policy`. Received: models of "
                f"{model.vocabulary_size} and {policy.vocabulary_size} tokens."
            )
        self.model = policy if self.without_adapters else model

    def log_probs(self, inputs: dict[str, Tensor]) -> Tensor:
        """What `next_log_probs` gives, float32 (..., T - 1), without a gradient."""
        with no_adapters(self.policy) if self.without_adapters else contextlib.nullcontext():
            return ops.stop_gradient(next_log_probs(self.model, inputs))


@contextlib.contextmanager
def no_adapters(model: keras.Model) -> Iterator[None]:
    """Calls of the model within are those of the model without its adapters, traces among them."""
    shares = [(lora, lora.share) for lora in adapters_of(model)]
    for lora, _ in shares:
        lora.share = 0.0
    try:
        yield
    finally:
        for lora, share in shares:
            lora.share = share


def has_new_adapters_only(model: Any) -> bool:
    """Whether adapters are all that trains, and the model computes the same without them, to the last bit."""
    adapters = adapters_of(model)
    theirs = {id(variable) for lora in adapters for part in compat.all_layers(lora) for variable in part.variables}
    if not adapters or any(id(variable) not in theirs for variable in model.trainable_variables):
        return False
    probe = np.arange(8, dtype="int32")[None] % model.vocabulary_size
    inputs = {"token_ids": probe, "padding_mask": np.ones_like(probe, "bool")}
    with no_adapters(model):
        without = _seen(model, inputs)
    return all(map(np.array_equal, without, _seen(model, inputs)))


def _seen(model, inputs):
    """What adapters may change: hidden states, and what the head makes of them."""
    return [ops.convert_to_numpy(x) for x in (hidden_states(model, inputs), next_log_probs(model, inputs))]
