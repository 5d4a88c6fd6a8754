"""The one way from rows of tokens to their log-probabilities: for policies, references and rollouts alike."""

from typing import Any

from keras import ops

from keras_tfm.ops.token_log_probs import token_log_probs
from keras_tfm.types import Tensor


def hidden_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """States (R, T, D) of rows, dropout off: a ratio of probabilities must come from the policy alone.

    Args:
        model: `CausalLM`.
        inputs: dict of "token_ids" int32 (..., T) and "padding_mask" bool (..., T); what else is in it is not read.
    """
    return model.hidden_states({name: rows_of(inputs[name]) for name in ("token_ids", "padding_mask")})


def next_log_probs(model: Any, inputs: dict[str, Tensor], hidden: Tensor | None = None) -> Tensor:
    """The log-probability of each token after the first of its row, given those before it.

    Args:
        model, inputs: as `hidden_states`.
        hidden: float (R, T, D), what that gave, if it has been computed.

    Returns:
        float32 (..., T - 1), 0 at padding.
    """
    hidden = hidden_states(model, inputs) if hidden is None else hidden
    hidden, token_ids = hidden[:, :-1], inputs["token_ids"]
    next_ids = rows_of(token_ids)[:, 1:]
    head = model.head_weights()
    hidden = ops.cast(hidden, head.dtype or hidden.dtype)
    log_probs = token_log_probs(hidden, head.table, next_ids, head.bias, head.logit_cap)
    log_probs = ops.reshape(log_probs, (*ops.shape(token_ids)[:-1], token_ids.shape[-1] - 1))
    return ops.where(ops.cast(inputs["padding_mask"], "bool")[..., 1:], log_probs, 0.0)


def answer_mask(inputs: dict[str, Tensor]) -> Tensor:
    """float32 (..., T - 1): 1 where `next_log_probs` tells of a token of the answer."""
    return ops.cast(inputs["answer_mask"], "float32")[..., 1:]


def masked_mean(x: Tensor, mask: Tensor, axis: int | None = None) -> Tensor:
    """The mean of x where mask, float of the same shape, is 1; 0 where it is nowhere."""
    return ops.sum(x * mask, axis=axis) / ops.maximum(ops.sum(mask, axis=axis), 1.0)


def rows_of(x: Tensor) -> Tensor:
    """(..., T) -> (R, T)."""
    x = ops.convert_to_tensor(x)
    return x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))
