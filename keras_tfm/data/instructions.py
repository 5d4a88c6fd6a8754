"""Answers to learn, packed several in a row, each of which sees itself alone."""

import bisect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.answers import AnsweredRow, answered_rows
from keras_tfm.data.labels import warn_of_cut
from keras_tfm.data.token_rows import batches_of_arrays
from keras_tfm.tokenizers import Tokenizer


def instruction_dataset(
    rows: Any,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch_size: int,
    chat_template: Any = None,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches to fine-tune a `CausalLM` on answers: the loss counts them and their ends alone, not the prompts.

    Rows are packed, the longest first, each into the row with the least room that holds it; "document_ids" keep them
    apart, in attention and in positions. A row takes one place less than it has tokens: the last is only predicted.

    Args:
        rows: prompts and answers, see `answered_rows`.
        tokenizer: with an end of text, which is learned as well.
        sequence_length: int, T. Rows of more than T + 1 tokens lose their ends, and those that so lose all of their
            answer are left out; both with a warning.
        batch_size: int, B. One batch of an epoch may have fewer rows.
        chat_template: `ChatTemplate` for rows of messages.
        shuffle: bool, a new order in each epoch; the packing stays.
        seed: int, decides the orders.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, next_ids, weights):

        - inputs: dict of "token_ids" int32, "document_ids" int32 and "padding_mask" bool, (B, T) each.
        - next_ids: int32 (B, T). weights: float32 (B, T), 1 where the next token is an answer's, else 0. The loss
          reduction "mean_with_sample_weight" gives the mean over these.

    Raises:
        ValueError: see `answered_rows`; if no answer is left.

    Example:
        >>> rows = [{"prompt": "2+2=", "completion": "4"}, {"prompt": "1+2=", "completion": "3"}]
        >>> dataset = ktfm.data.instruction_dataset(rows, tokenizer, sequence_length=64, batch_size=1)
        >>> loss = ktfm.losses.ChunkedCrossEntropy(reduction="mean_with_sample_weight")
        >>> model.compile("adamw", loss)
        >>> history = model.fit(dataset, epochs=3)

    Reference:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
        https://arxiv.org/abs/2203.02155; Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
        https://arxiv.org/abs/2107.02027
    """
    length = as_integer("sequence_length", sequence_length, least=1)
    found = answered_rows(rows, tokenizer, chat_template)
    warn_of_cut(sum(len(row.token_ids) > length + 1 for row in found), len(found), length, "rows")
    cut = [AnsweredRow(row.token_ids[: length + 1], row.is_answer[: length + 1]) for row in found]
    kept = [row for row in cut if row.is_answer[1:].any()]
    if len(kept) < len(found):
        warnings.warn(
            f"{len(found) - len(kept)} of {len(found)} rows are left out: `sequence_length={length}` cuts all of their "
            "answers off.",
            stacklevel=2,
        )
    if not kept:
        raise ValueError(f"`sequence_length` must hold a prompt and a token more. Received: {sequence_length}.")
    packed = _packed(kept, length)

    def finish(batch: dict[str, tf.Tensor]) -> tuple:
        next_ids, weights = batch.pop("next_ids"), batch.pop("weights")
        return batch, next_ids, weights

    return batches_of_arrays(packed, batch_size, shuffle, seed, finish)


def _packed(rows: Sequence[AnsweredRow], length: int) -> dict[str, np.ndarray]:
    """Best fit decreasing: arrays (R, length)."""
    rooms: list[tuple[int, int]] = []  # (places left, row), sorted
    members: list[list[AnsweredRow]] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        needed = len(row.token_ids) - 1
        place = bisect.bisect_left(rooms, (needed, -1))
        if place == len(rooms):
            left, number = length, len(members)
            members.append([])
        else:
            left, number = rooms.pop(place)
        members[number].append(row)
        bisect.insort(rooms, (left - needed, number))
    shape = (len(members), length)
    names = {"token_ids": "int32", "document_ids": "int32", "padding_mask": "bool"}
    packed = {name: np.zeros(shape, dtype) for name, dtype in {**names, "next_ids": "int32"}.items()}
    packed["weights"] = np.zeros(shape, "float32")
    for number, documents in enumerate(members):
        end = 0
        for i, row in enumerate(documents):
            start, end = end, end + len(row.token_ids) - 1
            values = (row.token_ids[:-1], i, True, row.token_ids[1:], row.is_answer[1:])
            for name, value in zip(packed, values, strict=True):
                packed[name][number, start:end] = value
        packed["document_ids"][number, end:] = len(documents)
    return packed
