"""Grammars: texts that match a regular expression, a JSON schema, or one of several strings."""

import dataclasses
import json

import numpy as np
from keras import ops

from keras_tfm.samplers.processors import BANNED, StatefulProcessor, require, token_ids_of
from keras_tfm.samplers.token_tables import TokenTables


@dataclasses.dataclass(frozen=True)
class Grammar(StatefulProcessor):
    """Lets only such tokens come as a finite automaton allows; a text in a state without a way on is complete.

    Made by `match_regex`, `match_json_schema` or `match_one_of`; or from your own tables.

    Args:
        kinds, transitions: arrays of `TokenTables`; state 0 is the start.
    """

    kinds: np.ndarray
    transitions: np.ndarray

    # Arrays have no one truth value, so equality and hash go by identity.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __call__(self, logits, tokens, step, state):
        return ops.where(self._tables().allowed(state), logits, BANNED)

    def start(self, num_rows):
        return ops.zeros((num_rows,), "int32")

    def advance(self, state, token):
        return self._tables().next(state, token)

    def is_complete(self, state):
        return ops.logical_not(ops.any(ops.take(self.transitions, ops.maximum(state, 0), axis=0) >= 0, axis=-1))

    def _tables(self):
        return TokenTables(self.kinds, self.transitions)


def match_regex(pattern: str, tokenizer, end_token_ids=None) -> Grammar:
    """A processor that lets a text be what a regular expression matches, as a whole.

    Args:
        pattern: str, a regular expression without look-around and back-references.
        tokenizer: with `vocabulary_size`, `token_bytes(id)` and perhaps `end_of_text_id`.
        end_token_ids: ids that may come once the text matches; where nothing else may, it ends by itself. Default:
            the tokenizer's end-of-text token.

    Returns:
        `Grammar`, for the `processors` of any sampler.

    Raises:
        ValueError: for a pattern that cannot be read, or that no sequence of tokens matches.
        ImportError: without `outlines-core` (`pip install keras-tfm[grammar]`).

    Example:
        >>> date = match_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", tokenizer)
        >>> writer("The day was ", sampler=RandomSampler([date]))

    Reference: Willard and Louf 2023, "Efficient Guided Generation for Large Language Models",
    https://arxiv.org/abs/2307.09702
    """
    outlines_core = _outlines_core()
    size = tokenizer.vocabulary_size
    ends = _end_token_ids(tokenizer, end_token_ids)
    by_bytes: dict[bytes, list[int]] = {}
    for token_id in range(size):
        piece = tokenizer.token_bytes(token_id)
        if piece and token_id not in ends:
            by_bytes.setdefault(piece, []).append(token_id)
    # Its end token must not be a token of the vocabulary's bytes; ours are put in below.
    vocabulary = outlines_core.Vocabulary(size, by_bytes)
    try:
        index = outlines_core.Index(pattern, vocabulary)
    except Exception as error:  # the library raises its own types
        raise ValueError(
            f"`pattern` must be a regular expression that tokens of the vocabulary can match. Received: {pattern!r} "
            f"({error})."
        ) from error
    transitions = index.get_transitions()
    numbers = {index.get_initial_state(): 0}
    for state in transitions:
        numbers.setdefault(state, len(numbers))
    for state in index.get_final_states():
        numbers.setdefault(state, len(numbers))
    table = np.full((len(numbers) + 1, size), -1, "int32")  # the last state is the end
    for state, following in transitions.items():
        for token_id, target in following.items():
            if token_id < size:
                table[numbers[state], token_id] = numbers[target]
    for state in index.get_final_states():
        if (table[numbers[state]] >= 0).any():  # else the text is complete
            table[numbers[state], list(ends)] = len(numbers)
    return Grammar(*TokenTables.of(table))


def match_json_schema(schema: dict | str, tokenizer, end_token_ids=None) -> Grammar:
    """A processor that lets a text be JSON of a schema.

    Args:
        schema: a JSON schema, as a dict or as text. Strings without `maxLength` and arrays without `maxItems` may go on
            until `max_new_tokens`.
        tokenizer, end_token_ids: as in `match_regex`.

    Raises:
        ValueError, ImportError: as in `match_regex`.

    Example:
        >>> person = match_json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}, tokenizer)
    """
    _outlines_core()
    from outlines_core.json_schema import build_regex_from_schema

    text = schema if isinstance(schema, str) else json.dumps(schema)
    try:
        pattern = build_regex_from_schema(text)
    except Exception as error:  # the library raises its own types
        raise ValueError(f"`schema` must be a JSON schema. Received: {text} ({error}).") from error
    return match_regex(pattern, tokenizer, end_token_ids)


def match_one_of(sequences, vocabulary_size: int, end_token_ids=()) -> Grammar:
    """A processor that lets a text be one of several sequences of tokens, or begin like one.

    Args:
        sequences: token ids of each.
        vocabulary_size: int.
        end_token_ids: ids that may come where a sequence is whole but longer ones go on.

    Example:
        >>> match_one_of([tokenizer.encode(name) for name in ("Romeo", "Juliet")], tokenizer.vocabulary_size)
    """
    sequences = [token_ids_of("sequences", sequence) for sequence in sequences]
    require(len(sequences) > 0, "`sequences` must hold at least one sequence", sequences=sequences)
    most = max(max(sequence) for sequence in sequences)
    require(most < vocabulary_size, "`sequences` must hold ids below `vocabulary_size`", greatest=most)
    prefixes: dict[tuple, int] = {(): 0}
    for sequence in sequences:
        for length in range(1, len(sequence) + 1):
            prefixes.setdefault(sequence[:length], len(prefixes))
    table = np.full((len(prefixes) + 1, vocabulary_size), -1, "int32")
    for prefix, number in prefixes.items():
        if prefix:
            table[prefixes[prefix[:-1]], prefix[-1]] = number
    for sequence in sequences:
        if (table[prefixes[sequence]] >= 0).any():
            table[prefixes[sequence], list(end_token_ids)] = len(prefixes)
    return Grammar(*TokenTables.of(table))


def _end_token_ids(tokenizer, end_token_ids) -> tuple[int, ...]:
    if end_token_ids is not None:
        return tuple(end_token_ids)
    end = getattr(tokenizer, "end_of_text_id", None)
    return () if end is None else (end,)


def _outlines_core():
    try:
        import outlines_core
    except ImportError as error:
        raise ImportError(
            "Regular expressions and JSON schemas need the package outlines-core: pip install keras-tfm[grammar]."
        ) from error
    return outlines_core
