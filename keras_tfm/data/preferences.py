"""Answers that people preferred, answers that they judged, and prompts to be answered by the model itself."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer, require
from keras_tfm.data.answers import AnsweredRow, answered_rows, as_rows, check_keys, padded_rows
from keras_tfm.data.labels import check_equally_many
from keras_tfm.data.token_rows import batches_of_arrays, rounded_up
from keras_tfm.tokenizers import Tokenizer


def preference_dataset(
    rows: Any,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch_size: int,
    chat_template: Any = None,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of pairs of answers to the same prompt, the better first, for `RewardModel`, `DPO` and its kin.

    Args:
        rows: dicts, or a dict of columns, of "prompt", "chosen" and "rejected": str, or messages.
        tokenizer, chat_template: see `answered_rows`.
        sequence_length: int, T. Longer rows lose their ends; pairs of which an answer is lost are left out, with a
            warning.
        batch_size: int, B. One batch of an epoch may have fewer pairs.
        shuffle: bool, a new order in each epoch. seed: int, decides the orders.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of dicts of "token_ids" int32, "padding_mask" bool and
        "answer_mask" bool, (B, 2, T') each, with T' <= T the same for all batches.

    Raises:
        ValueError: see `answered_rows`; if no pair is left, or for a pair of equal answers.

    Example:
        >>> rows = [{"prompt": "2+2=", "chosen": "4", "rejected": "5"}]
        >>> dataset = ktfm.data.preference_dataset(rows, tokenizer, sequence_length=16, batch_size=1)
        >>> next(iter(dataset))["token_ids"].shape
        TensorShape([1, 2, 8])
    """
    rows = as_rows(rows)
    check_keys(rows, ("prompt", "chosen", "rejected"))
    for i, row in enumerate(rows):
        require(row["chosen"] != row["rejected"], f"The answers of pair {i} must differ", chosen=row["chosen"])
    pairs = [
        answered_rows([{"prompt": row["prompt"], "completion": row[key]} for row in rows], tokenizer, chat_template)
        for key in ("chosen", "rejected")
    ]
    arrays = _pairs([_with_one_prompt(*pair) for pair in zip(*pairs, strict=True)], sequence_length)
    arrays.pop("number")
    return batches_of_arrays(arrays, batch_size, shuffle, seed)


def judged_dataset(
    rows: Any,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch_size: int,
    chat_template: Any = None,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of answers that are good or bad by themselves, for `KTO`.

    Args:
        rows: two or more dicts, or a dict of columns, of "prompt", "completion" and "label", bool, True = good.
        tokenizer, sequence_length, batch_size, chat_template, shuffle, seed: see `preference_dataset`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels): inputs as those of `preference_dataset`,
        the second of two being the prompt with the answer of the row before; labels bool (B,).
    """
    rows = as_rows(rows)
    check_keys(rows, ("prompt", "completion", "label"))
    require(len(rows) > 1, "`rows` must be two or more: each borrows an answer of another", rows=len(rows))
    for i, row in enumerate(rows):
        require(row["label"] in (True, False), f"`label` of row {i} must be True or False", label=row["label"])
    found = answered_rows(rows, tokenizer, chat_template)
    mixed = [_with_answer_of(one, found[i - 1]) for i, one in enumerate(found)]
    arrays = _pairs(list(zip(found, mixed, strict=True)), sequence_length)
    arrays["label"] = np.array([bool(row["label"]) for row in rows])[arrays.pop("number")]
    return batches_of_arrays(arrays, batch_size, shuffle, seed, lambda batch: (batch, batch.pop("label")))


def prompt_dataset(
    columns: Mapping[str, Sequence[Any]], batch_size: int, shuffle: bool = True, seed: int = 0
) -> tf.data.Dataset:
    """Batches of prompts for `GRPO` and `PPO`, with whatever their reward functions are to know besides.

    Args:
        columns: "prompt", N strings, and more of N strings or numbers each, such as the right answers.
        batch_size: int, B. What is left of an epoch after its last whole batch is left out, others in each epoch.
        shuffle: bool, a new order in each epoch. seed: int, decides the orders.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of dicts of tensors (B,).

    Raises:
        ValueError: for columns of different lengths, without "prompt", with an empty one; for fewer than B prompts.

    Example:
        >>> dataset = ktfm.data.prompt_dataset({"prompt": ["1+2=", "3+3="], "answer": ["3", "6"]}, batch_size=2)
    """
    require("prompt" in columns, '`columns` must have "prompt"', columns=sorted(columns))
    check_equally_many(**columns)
    for i, prompt in enumerate(columns["prompt"]):
        require(isinstance(prompt, str) and prompt, "Each prompt must be a str with text", **{f"prompt {i}": prompt})
    batch_size = as_integer("batch_size", batch_size, least=1)
    count = len(columns["prompt"])
    require(batch_size <= count, "`batch_size` must be at most the number of prompts", batch_size=batch_size, n=count)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return batches_of_arrays(arrays, batch_size, shuffle, seed, drop_partial_batch=True)


def _with_one_prompt(*rows: AnsweredRow) -> tuple[AnsweredRow, ...]:
    """The prompt of a pair ends where the first of its answers begins: tokens may merge across the border in one."""
    start = min(int(np.argmax(row.is_answer)) for row in rows)
    return tuple(AnsweredRow(row.token_ids, np.arange(len(row.token_ids)) >= start) for row in rows)


def _with_answer_of(row: AnsweredRow, other: AnsweredRow) -> AnsweredRow:
    prompt, answer = row.token_ids[~row.is_answer], other.token_ids[other.is_answer]
    return AnsweredRow(np.concatenate([prompt, answer]), np.arange(len(prompt) + len(answer)) >= len(prompt))


def _pairs(pairs: Sequence[tuple[AnsweredRow, ...]], sequence_length: int) -> dict[str, np.ndarray]:
    """Arrays (N, 2, T') of the pairs that have answers within T tokens, and "number" (N,), which these are."""
    length = as_integer("sequence_length", sequence_length, least=2)
    kept = [i for i, pair in enumerate(pairs) if all(row.is_answer[1:length].any() for row in pair)]
    num_cut = sum(any(len(row.token_ids) > length for row in pairs[i]) for i in kept)
    for count, what in (
        (num_cut, "lose the ends of answers"),
        (len(pairs) - len(kept), "are left out: no answer fits"),
    ):
        if count:
            message = f"{count} of {len(pairs)} pairs do not fit `sequence_length={length}` and {what}."
            warnings.warn(message, stacklevel=3)
    if not kept:
        raise ValueError(f"`sequence_length` must hold a prompt and its answer. Received: {sequence_length}.")
    rows = [row for i in kept for row in pairs[i]]
    width = min(int(rounded_up(np.array([max(len(row.token_ids) for row in rows)]))[0]), length)
    arrays = {name: x.reshape(len(kept), 2, width) for name, x in padded_rows(rows, width).items()}
    return {**arrays, "number": np.array(kept)}
