"""Prompts and the answers to them, in the forms that data sets have, as tokens of which some are learned."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_tfm.data.labels import check_equally_many
from keras_tfm.tokenizers import Tokenizer

FORMS = (("prompt", "completion"), ("messages",), ("instruction", "output"))
# The prompt of Taori et al. 2023, "Stanford Alpaca", with and without an input.
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


class AnsweredRow(NamedTuple):
    """token_ids: int32 (tokens,). is_answer: bool (tokens,), which of them the model is to learn to write."""

    token_ids: np.ndarray
    is_answer: np.ndarray


def answered_rows(rows: Any, tokenizer: Tokenizer, chat_template: Any = None) -> list[AnsweredRow]:
    """Tokens of prompts and answers, the end of text included, and which of them are the answers'.

    A prompt and its answer are tokenized as one text, which is what the model will read, and the answer begins where
    the tokens of the prompt alone end, or first differ. So ids and masks are those of TRL's `SFTTrainer` (with
    `assistant_only_loss` for "messages").

    Args:
        rows: dicts, or a dict of equally long columns, of one of these forms:

            - "prompt" and "completion": str, or lists of messages, which need a `chat_template`;
            - "messages": a chat, of which the template marks the answers by `{% generation %}`;
            - "instruction", "output" and perhaps "input": str, put into the chat template, or into Alpaca's prompt.
        tokenizer: with `encode_with_offsets` for "messages".
        chat_template: `ChatTemplate`, as `checkpoints.open(...).chat_template()` gives it.

    Returns:
        list of `AnsweredRow`.

    Raises:
        ValueError: for columns of different lengths, a row of another form or without an answer, chats without a
            template.

    Example:
        >>> tokenizer = ktfm.tokenizers.CharacterTokenizer("24+= ", ["<|endoftext|>"])
        >>> row = answered_rows([{"prompt": "2+2=", "completion": "4"}], tokenizer)[0]
        >>> row.is_answer.tolist()      # the answer and the end of text
        [False, False, False, False, True, True]
    """
    rows = as_rows(rows)
    form = next((form for form in FORMS if set(form) <= set(rows[0])), None)
    if form is None:
        raise ValueError(f"`rows` must have the keys of one of {FORMS}. Received: {sorted(rows[0])}.")
    check_keys(rows, form)
    if form == ("messages",):
        return [_of_chat(row["messages"], tokenizer, _needed(chat_template), i) for i, row in enumerate(rows)]
    if form == ("instruction", "output"):
        rows = [_of_instruction(row, is_chat=chat_template is not None) for row in rows]
    for i, row in enumerate(rows):
        if type(row["prompt"]) is not type(row["completion"]) and not isinstance(row["prompt"], str):
            raise ValueError(f"Prompt and answer must be both str or both messages. Received: {row!r:.120}, row {i}.")
        if not row["completion"]:
            raise ValueError(f"Each answer must have text. Received: {row['completion']!r}, row {i}.")
    if not isinstance(rows[0]["prompt"], str):
        encode = _needed(chat_template).encode
        prompts = [encode(list(row["prompt"]), tokenizer) for row in rows]
        wholes = [encode([*row["prompt"], *row["completion"]], tokenizer, add_generation_prompt=False) for row in rows]
    else:
        end = tokenizer.end_of_text or ""
        texts = [row["prompt"] + row["completion"].removesuffix(end) for row in rows]
        prompts = tokenizer.tokenize_prompts([row["prompt"] for row in rows]).to_list()
        wholes = tokenizer.whole_rows(texts).to_list()
    return [_behind(prompt, whole, i) for i, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True))]


def as_rows(rows: Any) -> list[Mapping[str, Any]]:
    """Dicts, given as such or as a dict of columns."""
    if isinstance(rows, Mapping):
        check_equally_many(**rows)
        rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    rows = list(rows)
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"`rows` must be one or more dicts, or a dict of columns. Received: {rows!r:.80}.")
    return rows


def check_keys(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Raises unless each row has all keys, and values for them."""
    for i, row in enumerate(rows):
        if missing := [key for key in keys if row.get(key) is None]:
            raise ValueError(f"Each row must have {list(keys)}. Received: row {i} without {missing}.")


def padded_rows(rows: Sequence[AnsweredRow], width: int, padding_id: int = 0) -> dict[str, np.ndarray]:
    """Rows side by side, (N, width) each; what is longer loses its end.

    Returns:
        dict of "token_ids" int32, "padding_mask" bool and "answer_mask" bool.
    """
    padded = {
        "token_ids": np.full((len(rows), width), padding_id, "int32"),
        "padding_mask": np.zeros((len(rows), width), "bool"),
        "answer_mask": np.zeros((len(rows), width), "bool"),
    }
    for i, row in enumerate(rows):
        length = min(len(row.token_ids), width)
        padded["token_ids"][i, :length] = row.token_ids[:length]
        padded["padding_mask"][i, :length] = True
        padded["answer_mask"][i, :length] = row.is_answer[:length]
    return padded


def _needed(chat_template: Any) -> Any:
    if chat_template is None:
        raise ValueError("`chat_template` must be given for rows of messages. Received: None.")
    return chat_template


def _of_chat(messages: Any, tokenizer: Tokenizer, chat_template: Any, number: int) -> AnsweredRow:
    ids, mask = chat_template.encode(messages, tokenizer, add_generation_prompt=False, return_assistant_mask=True)
    if not any(mask):
        raise ValueError(f"Each chat must have an answer. Received: {messages!r:.120}, row {number}.")
    return AnsweredRow(np.array(ids, "int32"), np.array(mask, "bool"))


def _of_instruction(row: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    if not is_chat:
        form = _WITH_INPUT if row.get("input") else _WITHOUT_INPUT
        return {"prompt": form.format(**{"input": "", **row}), "completion": row["output"]}
    asked = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    answer = [{"role": "assistant", "content": row["output"]}] if row["output"] else []
    return {"prompt": [{"role": "user", "content": asked}], "completion": answer}


def _behind(prompt: list[int], whole: list[int], number: int) -> AnsweredRow:
    start = next((i for i, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
    if start >= len(whole):
        raise ValueError(f"Each answer must have a token behind its prompt. Received: none in row {number}.")
    return AnsweredRow(np.array(whole, "int32"), np.arange(len(whole)) >= start)
