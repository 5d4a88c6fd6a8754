"""Log-probabilities of tokens from hidden states, with a chunk of the vocabulary's logits in memory at a time."""

from typing import Any

from keras import ops

from keras_tfm.ops.tiles import TileBuffer, while_loop
from keras_tfm.types import Tensor

# Columns of logits at a time. At 8,192 tokens they take 64 MiB; narrower products are slower.
CHUNK_SIZE = 2048
_ABSENT = -1e30  # far below any logit, yet finite


def token_log_probs(
    hidden: Tensor,
    table: Tensor,
    token_ids: Tensor,
    bias: Any = None,
    logit_cap: float | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """The log-probability that each hidden state gives to its token.

    What `log_softmax(hidden @ table.T + bias)` says of the tokens, without ever holding all logits; the gradient goes
    to `hidden`, `table` and `bias`.

    Args:
        hidden: float (..., D), states that a head projects; products are computed in their dtype, sums in float32.
        table: float (V, D), a row for each token: the token embedding, or the transposed kernel of a head.
        token_ids: int32 (...), in [0, V).
        bias: float (V,), added to the logits, or None.
        logit_cap: float, logits become cap * tanh(logits / cap), or None.
        chunk_size: int, how many tokens' logits are in memory at a time.

    Returns:
        float32 (...).

    Example:
        >>> hidden, table = np.ones((2, 3, 4), "float32"), np.zeros((10, 4), "float32")
        >>> token_log_probs(hidden, table, np.zeros((2, 3), "int32"))[0]      # log(1 / 10)
        [-2.302585, -2.302585, -2.302585]

    Reference:
        Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", https://arxiv.org/abs/2411.09009
    """
    chosen, log_sum, _ = logit_statistics(hidden, table, token_ids, bias, logit_cap, chunk_size)
    return chosen - log_sum


def logit_statistics(
    hidden: Tensor,
    table: Tensor,
    token_ids: Tensor,
    bias: Any = None,
    logit_cap: float | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the logits of each hidden state: that of its token, the logarithm of the sum of exponentials, and the mean.

    Every loss over a vocabulary that is used for training is made of these three. The backward pass computes each chunk
    of logits again.

    Args:
        hidden, table, token_ids, bias, logit_cap, chunk_size: as `token_log_probs`.

    Returns:
        Three of float32 (...).
    """
    hidden, table = ops.convert_to_tensor(hidden), _read(table)
    token_ids = ops.convert_to_tensor(token_ids)
    ids = ops.reshape(ops.cast(token_ids, "int32"), (-1,))
    rows = ops.reshape(hidden, (-1, hidden.shape[-1]))
    biases = () if bias is None else (_read(bias),)

    # What can learn is an argument: gradients flow through the arguments of a custom gradient only.
    @ops.custom_gradient
    def statistics(rows, table, *biases):
        logits = _Logits(rows, table, biases, logit_cap, chunk_size)
        forward = _forward(logits, ids)

        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            return _backward(logits, ids, forward[1], upstream)

        return ops.stack(forward), gradient

    result = statistics(rows, table, *biases)
    return tuple(ops.reshape(result[i], ops.shape(token_ids)) for i in range(3))


def _read(weight):
    """The value of a variable: TensorFlow's custom gradients take none that is read inside of them."""
    weight = ops.convert_to_tensor(weight)
    return ops.reshape(weight, weight.shape)


class _Logits:
    """The logits of R rows for one chunk of the V tokens. The last chunk ends with the table, and so may overlap."""

    def __init__(self, rows, table, biases, logit_cap, chunk_size):
        self.rows, self.table, self.biases, self.logit_cap = rows, table, biases, logit_cap
        self.vocabulary_size = table.shape[0]
        self.size = min(chunk_size, self.vocabulary_size)
        self.count = -(-self.vocabulary_size // self.size)
        self.overlap = self.count * self.size - self.vocabulary_size

    def start(self, i):
        """The first token of chunk i."""
        return ops.minimum(i * self.size, self.vocabulary_size - self.size)

    def weights(self, i):
        """(size, D), in the dtype of the rows."""
        chunk = ops.slice(self.table, (self.start(i), 0), (self.size, self.table.shape[1]))
        return ops.cast(chunk, self.rows.dtype)

    def chunk(self, i):
        """(float32 (R, size), slope of the cap or None); what an earlier chunk has had is far below all others."""
        logits = ops.cast(ops.matmul(self.rows, ops.transpose(self.weights(i))), "float32")
        if self.biases:
            logits = logits + ops.cast(ops.slice(self.biases[0], (self.start(i),), (self.size,)), "float32")
        slope = None
        if self.logit_cap is not None:
            capped = ops.tanh(logits / self.logit_cap)
            logits, slope = self.logit_cap * capped, 1 - capped**2
        return (ops.where(self.is_new(i), logits, _ABSENT) if self.overlap else logits), slope

    def is_new(self, i):
        """bool (size,): which tokens no earlier chunk has had."""
        return ops.arange(self.size, dtype="int32") >= i * self.size - self.start(i)

    def places(self, i, ids):
        """int32 (R,): where in chunk i each row's token is; outside of [0, size) if it is in another."""
        places = ids - self.start(i)
        return ops.where(ids >= i * self.size, places, -1) if self.overlap else places

    def joined(self, chunks):
        """Chunks (count, size, ...) as (V, ...)."""
        shape = tuple(chunks.shape[2:])
        if not self.overlap:
            return ops.reshape(chunks, (self.vocabulary_size, *shape))
        before = ops.reshape(chunks[: self.count - 1], ((self.count - 1) * self.size, *shape))
        return ops.concatenate([before, chunks[self.count - 1, self.overlap :]])


def _forward(logits: _Logits, ids):
    """(chosen, log_sum, mean), each float32 (R,)."""
    zeros = ops.cast(ops.zeros_like(ids), "float32")

    def add(i, greatest, total, chosen, mean):
        chunk, _ = logits.chunk(i)
        new_greatest = ops.maximum(greatest, ops.max(chunk, axis=-1))
        total = total * ops.exp(greatest - new_greatest) + ops.sum(ops.exp(chunk - new_greatest[:, None]), axis=-1)
        places = logits.places(i, ids)
        is_here = ops.logical_and(places >= 0, places < logits.size)
        found = ops.take_along_axis(chunk, ops.clip(places, 0, logits.size - 1)[:, None], axis=1)[:, 0]
        known = ops.where(logits.is_new(i), chunk, 0.0) if logits.overlap else chunk
        mean = mean + ops.sum(known, axis=-1) / logits.vocabulary_size
        return i + 1, new_greatest, total, ops.where(is_here, found, chosen), mean

    state = (ops.zeros((), "int32"), zeros + _ABSENT, zeros, zeros, zeros)
    _, greatest, total, chosen, mean = while_loop(lambda i, *_: i < logits.count, add, state)
    return chosen, greatest + ops.log(total), mean


def _backward(logits: _Logits, ids, log_sum, upstream):
    """Gradients of rows, table and bias; upstream: float32 (3, R)."""
    chosen, summed, mean = (upstream[i][:, None] for i in range(3))

    def add(i, to_rows, to_table, to_bias):
        chunk, slope = logits.chunk(i)
        share = summed * ops.exp(chunk - log_sum[:, None]) + mean / logits.vocabulary_size
        is_chosen = ops.equal(logits.places(i, ids)[:, None], ops.arange(logits.size, dtype="int32"))
        share = ops.where(is_chosen, share + chosen, share)
        if slope is not None:
            share = share * slope
        if logits.overlap:
            share = ops.where(logits.is_new(i), share, 0.0)
        narrow = ops.cast(share, logits.rows.dtype)
        to_rows = to_rows + ops.cast(ops.matmul(narrow, logits.weights(i)), "float32")
        products = ops.cast(ops.matmul(ops.transpose(narrow), logits.rows), "float32")
        if logits.biases:
            to_bias = TileBuffer.set(to_bias, i, ops.sum(share, axis=0))
        return i + 1, to_rows, TileBuffer.set(to_table, i, products), to_bias

    to_bias = TileBuffer.unwritten(logits.count, (logits.size,)) if logits.biases else ()
    to_table = TileBuffer.unwritten(logits.count, (logits.size, logits.table.shape[1]))
    state = (ops.zeros((), "int32"), ops.zeros_like(logits.rows, "float32"), to_table, to_bias)
    _, to_rows, to_table, to_bias = while_loop(lambda i, *_: i < logits.count, add, state)
    gradients = [
        ops.cast(to_rows, logits.rows.dtype),
        ops.cast(logits.joined(TileBuffer.tiles(to_table)), logits.table.dtype),
    ]
    if logits.biases:
        gradients.append(ops.cast(logits.joined(TileBuffer.tiles(to_bias)), logits.biases[0].dtype))
    return tuple(gradients)
