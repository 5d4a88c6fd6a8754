"""Logits processors: pure, fixed-shape functions (B, V) -> (B, V), applied in the order given.

Each is a frozen dataclass called with `logits` (float32, (B, V)), `tokens` (int32 (B, L): prompt and new tokens, -1
where there is none) and `step` (int32 (B, 1): how many new tokens each row has). A token that must not come gets
`BANNED`.
"""

import dataclasses

from keras import ops, tree

from keras_tfm.arguments import number_of, require

# Lower than any logit; finite, so that differences of two banned logits are 0 and not NaN.
BANNED = -1e30
_HARDLY_ALLOWED = 1e-3 * BANNED


class Processor:
    """Base class of processors: a frozen dataclass with `__call__(logits, tokens, step) -> logits`."""

    def __call__(self, logits, tokens, step):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(logits, tokens, step)`.")


class StatefulProcessor(Processor):
    """A processor that remembers something of each row, for example where a text stands in a grammar.

    It is called with one more argument, `state`, and defines what becomes of the state.
    """

    def __call__(self, logits, tokens, step, state):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(logits, tokens, step, state)`.")

    def start(self, num_rows):
        """The state of rows without new tokens: tensors (or tuples of them) with `num_rows` rows."""
        raise NotImplementedError(f"{type(self).__name__} must define `start(num_rows)`.")

    def advance(self, state, token):
        """The state after each row has been given a token, int32 (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define `advance(state, token)`.")

    def ending_at(self, token_ids) -> "StatefulProcessor":
        """The processor for a generation that ends at these tokens, a tuple of ids. Default: itself."""
        return self

    def is_complete(self, state):
        """bool (B,): rows that end here, since nothing may follow. Default: none."""
        return ops.zeros(ops.shape(tree.flatten(state)[0])[:1], "bool")


@dataclasses.dataclass(frozen=True)
class Temperature(Processor):
    """Divides logits by `value`: below 1 sharpens, above 1 flattens, 0 leaves the best token only (greedy).

    Args:
        value: float >= 0.
    """

    value: float = 1.0

    def __post_init__(self):
        require(number_of("value", self.value) >= 0, "`value` must be at least 0 (0 = greedy)", value=self.value)
        object.__setattr__(self, "value", float(self.value))

    def __call__(self, logits, tokens, step):
        value = ops.cast(self.value, "float32")
        best = ops.argmax(logits, axis=-1, keepdims=True)
        is_best = ops.arange(logits.shape[-1], dtype="int32")[None] == ops.cast(best, "int32")
        greedy = ops.where(is_best, logits, BANNED)
        return ops.where(value > 0, logits / ops.where(value > 0, value, 1.0), greedy)


def is_banned(logits):
    """bool: which logits mean that a token must not come, whatever was added to `BANNED` or taken from it."""
    return logits < _HARDLY_ALLOWED


def one_of(token_ids, logits):
    """bool (1, V): which tokens are among the ids."""
    token_ids = ops.convert_to_tensor(token_ids, dtype="int32")
    return ops.any(ops.arange(logits.shape[-1], dtype="int32")[:, None] == token_ids[None], axis=-1)[None]
