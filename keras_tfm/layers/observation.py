"""What stacks and attention show while somebody looks: hidden states and attention weights."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.ops.tensors import known_value
from keras_tfm.types import Tensor


@dataclasses.dataclass
class StackRecord:
    """What one call of a `TransformerStack` computed, all of it float32 (of another kind, where `keep` says so).

    Attributes:
        name: of the stack; "" for attention that is in no stack.
        hidden_states: arrays (B, T, D): what the stack was given (the embedding), then what each block returned.
        last_hidden_state: (B, T, D), after the final norm: what heads read. None for attention that is in no stack.
        attention_weights: arrays (B, N, T, S), those of each block's self-attention.
        cross_attention_weights: arrays (B, N, T, S), those of each block's cross-attention, if it has one.
    """

    name: str
    hidden_states: list[np.ndarray] = dataclasses.field(default_factory=list)
    last_hidden_state: np.ndarray | None = None
    attention_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    cross_attention_weights: list[np.ndarray] = dataclasses.field(default_factory=list)


class _Observer:
    """The records so far, and those of the stacks that are under way, the innermost last."""

    def __init__(self, keep):
        self.keep = keep
        self.records: list[StackRecord] = []
        self.under_way: list[StackRecord] = []

    def begins(self, name):
        self.records.append(StackRecord(name))
        self.under_way.append(self.records[-1])

    def current(self):
        """The record of the innermost stack; outside of all stacks one for the attention that is met there."""
        if self.under_way:
            return self.under_way[-1]
        if not self.records or self.records[-1].hidden_states:
            self.records.append(StackRecord(""))
        return self.records[-1]


_observer: contextvars.ContextVar[_Observer | None] = contextvars.ContextVar("observer", default=None)


def as_array(x: Tensor) -> np.ndarray:
    """What a computed tensor holds, in float32. RuntimeError for one that is traced: it has no values."""
    array = known_value(ops.cast(x, "float32"))
    if array is None:
        raise RuntimeError(
            "What is inspected must be computed eagerly. Received: a layer whose call is being traced. Take away the "
            "`tf.function` or `jit` around it, or call `tf.config.run_functions_eagerly(True)` before."
        )
    return array


@contextlib.contextmanager
def observation(keep: Callable[[Tensor], Any] = as_array) -> Iterator[list[StackRecord]]:
    """In this scope every stack that is called adds a `StackRecord` to the list, in the order of the calls.

    Attention computes all of its weights then, by the plain method. Nothing else changes, and without such a scope
    nothing is computed or kept. Calls must be eager, unless `keep` takes what is traced: it gets the tensors, and what
    it returns is in the records.
    """
    observer = _Observer(keep)
    token = _observer.set(observer)
    try:
        yield observer.records
    finally:
        _observer.reset(token)


def is_observed() -> bool:
    """Whether somebody looks at what is computed now."""
    return _looking() is not None


def show_input(name: str, x: Tensor) -> None:
    """A stack of this name begins, with the embedding x (B, T, D)."""
    if observer := _looking():
        observer.begins(name)
        observer.current().hidden_states.append(observer.keep(x))


def show_block(x: Tensor) -> None:
    """A block of the stack has returned x (B, T, D)."""
    if observer := _looking():
        observer.current().hidden_states.append(observer.keep(x))


def show_output(x: Tensor) -> None:
    """The stack returns x (B, T, D)."""
    if observer := _looking():
        observer.under_way.pop().last_hidden_state = observer.keep(x)


def show_weights(weights: Tensor, is_cross: bool) -> None:
    """Attention has weighed with these (B, N, T, S)."""
    if observer := _looking():
        record = observer.current()
        (record.cross_attention_weights if is_cross else record.attention_weights).append(observer.keep(weights))


def _looking() -> _Observer | None:
    # Trials by which Keras learns shapes are no calls.
    return None if compat.in_stateless_scope() else _observer.get()
