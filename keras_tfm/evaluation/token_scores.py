"""How likely is the end of a row of tokens, given its beginning? What perplexities and choices are computed from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_tfm.arguments import as_integer, require
from keras_tfm.models.inspection import padded

_PROJECTED = 512  # tokens whose logits are in memory at a time: 100 MB of a vocabulary of 50,000


class TokenScores(NamedTuple):
    """Of the last tokens of a row.

    Attributes:
        log_probs: float32 (n,), the natural logarithm of the probability of each, given all before it.
        is_greedy: bool (n,), whether it is the likeliest token there.
    """

    log_probs: np.ndarray
    is_greedy: np.ndarray


def token_scores(
    model: Any, token_ids: Sequence[Sequence[int]], num_scored: Sequence[int], batch_size: int = 8
) -> list[TokenScores]:
    """The scores of the last tokens of each row. Logits are computed for these alone.

    Args:
        model: `CausalLM`; dropout is off.
        token_ids: for each row its ids, of any number.
        num_scored: for each row how many tokens at its end are scored, fewer than it has.
        batch_size: int, rows that are read at once; those of about the same length are.

    Returns:
        A `TokenScores` for each row.

    Raises:
        ValueError: for a row whose first token is to be scored, which no token stands before, or another number of
            rows and of numbers.

    Example:
        >>> likely, unlikely = token_scores(model, [[5, 7, 3], [5, 7, 4]], num_scored=[1, 1])
        >>> float(likely.log_probs.sum() - unlikely.log_probs.sum())
    """
    batch_size = as_integer("batch_size", batch_size, 1)
    lengths, numbers = [len(row) for row in token_ids], list(num_scored)
    fits = len(lengths) == len(numbers) and all(0 <= n < max(1, m) for n, m in zip(numbers, lengths, strict=True))
    require(
        fits,
        "`num_scored` must have a number for each row of `token_ids`, less than its tokens",
        num_scored=numbers[:8],
        lengths=lengths[:8],
    )
    scores: list[Any] = [TokenScores(np.zeros(0, "float32"), np.zeros(0, "bool"))] * len(lengths)
    order = sorted((row for row, number in enumerate(numbers) if number), key=lambda row: -lengths[row])
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        # A row's last token is read by nobody; all rows are cut by one, so that each is a token behind what it says.
        read, mask = padded([list(token_ids[row])[:-1] for row in batch])
        hidden = model.hidden_states({"token_ids": read, "padding_mask": mask})
        wanted = np.concatenate([list(token_ids[row])[-numbers[row] :] for row in batch]).astype("int32")
        places = [i * read.shape[1] + np.arange(lengths[row] - 1)[-numbers[row] :] for i, row in enumerate(batch)]
        found = _scores(model, ops.reshape(hidden, (-1, hidden.shape[-1])), np.concatenate(places), wanted)
        ends = np.cumsum([numbers[row] for row in batch])
        for row, *parts in zip(batch, *(np.split(x, ends[:-1]) for x in found), strict=True):
            scores[row] = TokenScores(*parts)
    return scores


def _scores(model, hidden, places, wanted):
    """(float32 (n,), bool (n,)) of tokens, int (n,), after the states at so many places of hidden (R, D)."""
    log_probs, is_greedy = [], []
    for start in range(0, len(places), _PROJECTED):
        piece = slice(start, start + _PROJECTED)
        states = ops.take(hidden, places[piece], axis=0)
        logits = ops.cast(model.project(states[None])[0], "float32")  # (n, V)
        ids = wanted[piece]
        log_probs.append(np.asarray(ops.log_softmax(logits))[np.arange(len(ids)), ids])
        is_greedy.append(np.asarray(ops.argmax(logits, axis=-1)) == ids)
    return np.concatenate(log_probs), np.concatenate(is_greedy)
