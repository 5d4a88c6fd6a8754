"""Grammars: texts that match a regular expression, a JSON schema, or one of several strings."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_tfm.arguments import as_integer, require, sequences_of, token_ids_of
from keras_tfm.samplers.automata import Automaton, automaton_of, leading_to
from keras_tfm.samplers.json_schema import expression_of_schema
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.regular_expressions import expression_of
from keras_tfm.samplers.sampler import StatefulProcessor
from keras_tfm.samplers.state import BANNED
from keras_tfm.samplers.token_tables import TokenTables, empty_transitions
from keras_tfm.types import Tensor

# Kinds of tokens in the tables made here: what may end a text where it is whole, and what never comes.
_END, _NEVER = 0, 1
_NUM_SPARE_KINDS = 2


@dataclasses.dataclass(frozen=True)
class Grammar(StatefulProcessor):
    """Lets only such tokens come as a finite automaton allows; a text in a state without a way on is complete.

    Made by `match_regex`, `match_json_schema` or `match_one_of`; or from your own tables.

    Args:
        kinds, transitions: arrays of `TokenTables`; state 0 is the start.
        end_kind: int, the kind of tokens that end a text where it may end; None if there is none.
    """

    kinds: np.ndarray
    transitions: np.ndarray
    end_kind: int | None = static(None)

    # Arrays have no one truth value, so equality and hash go by identity.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __call__(self, logits: Tensor, tokens: Tensor, step: Tensor, state: Any) -> Tensor:  # type: ignore[override]
        return ops.where(self._tables().allowed(state), logits, BANNED)

    def start(self, num_rows: Tensor) -> Tensor:
        return ops.zeros((num_rows,), "int32")

    def advance(self, state: Any, token: Tensor) -> Tensor:
        return self._tables().next(state, token)

    def is_complete(self, state: Any) -> Tensor:
        return ops.logical_not(ops.any(ops.take(self.transitions, ops.maximum(state, 0), axis=0) >= 0, axis=-1))

    def ending_at(self, token_ids: Tensor) -> "Grammar":
        """The grammar under which these tokens, too, come only where a text may end: a writer's stop tokens."""
        token_ids = [token_id for token_id in token_ids if 0 <= token_id < len(self.kinds)]
        if self.end_kind is None or not token_ids:
            return self
        kinds = self.kinds.copy()
        kinds[token_ids] = self.end_kind
        return dataclasses.replace(self, kinds=kinds)

    def _tables(self):
        return TokenTables(self.kinds, self.transitions)


def match_regex(pattern: str, tokenizer: Any, stop_token_ids: Iterable[int] | None = None) -> Grammar:
    """A processor that lets a text be what a regular expression matches, as a whole.

    Args:
        pattern: str, as Python's `re` reads it, without look-around, back-references, atomic groups, possessive repeats
            and word borders. `^` and `$` may stand at the ends, where they change nothing.
        tokenizer: with `vocabulary_size`, `token_bytes(id)` and perhaps `end_of_text_id` and `special_tokens`, a
            mapping to ids: these are no text, and never come but to end it.
        stop_token_ids: ids that may come once the text matches; where nothing else may, it ends by itself. Default:
            the tokenizer's end-of-text token. The stop tokens of `generate` join them.

    Returns:
        `Grammar`, for the `processors` of any sampler.

    Raises:
        ValueError: for a pattern that cannot be read, that no sequence of tokens matches, or whose automaton is larger
            than `automata.MOST_STATES` states or `token_tables.MOST_ENTRIES` table entries; that takes seconds at most.

    Example:
        >>> date = match_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", tokenizer)
        >>> writer("The day was ", sampler=RandomSampler([date]))

    Reference: Willard and Louf 2023, "Efficient Guided Generation for Large Language Models",
    https://arxiv.org/abs/2307.09702
    """
    try:
        return _grammar(automaton_of(expression_of(pattern)), tokenizer, stop_token_ids)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "`pattern` must be a regular expression that tokens of the vocabulary can match. Received: "
            f"{pattern!r:.500} ({error})."
        ) from error


def match_json_schema(
    schema: dict | bool | str, tokenizer: Any, stop_token_ids: Iterable[int] | None = None
) -> Grammar:
    """A processor that lets a text be JSON of a schema: every text that ends is valid JSON, and valid under the schema.

    What that cannot be promised for is refused, with its place in the schema: recursive or remote references,
    `uniqueItems`, `contains`, `patternProperties`, `propertyNames`, `not`, `if`, `dependent...`, `unevaluated...`,
    `multipleOf` of fractions, options of `oneOf` that may overlap, other formats than date, date-time, email, hostname,
    ipv4, time, uri and uuid, and keywords that JSON Schema does not know. Take out what texts need not obey.

    Of the texts of a schema, these are written:

    - Properties stand in the order of the schema; there are others only if `additionalProperties` says so, or if the
      schema has no `properties`. Names that come by `additionalProperties` may repeat.
    - At most one space stands after brackets, commas and colons. Characters stand for themselves where JSON lets them;
      control characters other than \\b \\f \\n \\r \\t do not come.
    - A `pattern` is found anywhere in a string unless it has `^` and `$`. Of \\d, \\s and \\w those characters come
      that Python and ECMAScript agree on.
    - Without `type`, a schema is about the types that its keywords are about. Where it says nothing, values nest 3 deep
      at most. Numbers with bounds have no exponent; hosts in e-mail addresses and URIs are short.

    Args:
        schema: a JSON schema (draft 2020-12), as a dict, a bool or as text. Strings without `maxLength` and arrays
            without `maxItems` may go on until `max_new_tokens`.
        tokenizer, stop_token_ids: as in `match_regex`.

    Raises:
        ValueError: as in `match_regex`, and for what cannot be promised.

    Example:
        >>> person = match_json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}, tokenizer)
    """
    try:
        automaton = automaton_of(expression_of_schema(schema))
        return _grammar(automaton, tokenizer, stop_token_ids)
    except RecursionError as error:
        raise ValueError(f"`schema` must not be nested so deep. Received: {schema!r:.500}.") from error
    except ValueError as error:
        if "`schema`" in str(error):
            raise
        raise ValueError(
            "`schema` must be a JSON schema that tokens of the vocabulary can follow. Received: "
            f"{schema!r:.500} ({error})."
        ) from error


def match_one_of(sequences: Iterable, vocabulary_size: int, stop_token_ids: Iterable[int] = ()) -> Grammar:
    """A processor that lets a text be one of several sequences of tokens, or begin like one.

    Args:
        sequences: token ids of each.
        vocabulary_size: int.
        stop_token_ids: ids that may come where a sequence is whole but longer ones go on.

    Raises:
        ValueError: for ids out of the vocabulary, or for more sequences than the tables may hold.

    Example:
        >>> match_one_of([tokenizer.encode(name) for name in ("Romeo", "Juliet")], tokenizer.vocabulary_size)
    """
    vocabulary_size = as_integer("vocabulary_size", vocabulary_size, 1)
    sequences = sequences_of("sequences", sequences)
    require(len(sequences) > 0, "`sequences` must hold at least one sequence", sequences=sequences)
    most = max(max(sequence) for sequence in sequences)
    require(most < vocabulary_size, "`sequences` must hold ids below `vocabulary_size`", greatest=most)
    prefixes: dict[tuple, int] = {(): 0}
    for sequence in sequences:
        for length in range(1, len(sequence) + 1):
            prefixes.setdefault(sequence[:length], len(prefixes))
    used = sorted({token_id for sequence in sequences for token_id in sequence})
    own_kind = {token_id: kind for kind, token_id in enumerate(used, start=_NUM_SPARE_KINDS)}
    kinds = np.full(vocabulary_size, _NEVER, "int32")
    kinds[used] = list(own_kind.values())
    transitions = empty_transitions(len(prefixes) + 1, _NUM_SPARE_KINDS + len(used))
    for prefix, number in prefixes.items():
        if prefix:
            transitions[prefixes[prefix[:-1]], own_kind[prefix[-1]]] = number
    ends = np.zeros(len(transitions), "bool")
    ends[[prefixes[sequence] for sequence in sequences]] = True
    return _with_ends(TokenTables(kinds, transitions), ends, len(prefixes), stop_token_ids)


def _grammar(automaton: Automaton, tokenizer, stop_token_ids) -> Grammar:
    """The grammar of an automaton over bytes."""
    if not automaton.num_states:
        raise ValueError("there is no text that it allows")
    size = tokenizer.vocabulary_size
    special = set(getattr(tokenizer, "special_tokens", {}).values())
    pieces = [b"" if i in special else tokenizer.token_bytes(i) for i in range(size)]
    written = [i for i, piece in enumerate(pieces) if piece]
    final = automaton.num_states  # where a text has ended
    table = np.concatenate([automaton.table, np.full((1, automaton.table.shape[1]), -1, "int32")])
    tables = TokenTables.of_bytes(table, automaton.classes, [pieces[i] for i in written], _NUM_SPARE_KINDS)
    kinds = np.full(size, _NEVER, "int32")
    kinds[written] = tables.kinds
    ends = np.pad(automaton.ends, (0, len(tables.transitions) - final))
    alive = leading_to(ends, tables.transitions)
    if not alive[0]:
        raise ValueError("there is no sequence of tokens that it allows")
    tables.transitions[~np.append(alive, True)[tables.transitions]] = -1
    return _with_ends(TokenTables(kinds, tables.transitions), ends, final, _end_token_ids(tokenizer, stop_token_ids))


def _with_ends(tables: TokenTables, ends, final: int, stop_token_ids) -> Grammar:
    """The grammar in which the end tokens lead from the states of `ends` to the final one, where others do, too."""
    goes_on = (tables.transitions >= 0).any(axis=1)
    tables.transitions[:, _END] = np.where(ends & goes_on, final, -1)
    grammar = Grammar(tables.kinds, tables.transitions, _END)
    return grammar.ending_at([as_integer("stop_token_ids", token_id, 0) for token_id in stop_token_ids])


def _end_token_ids(tokenizer, stop_token_ids) -> tuple[int, ...]:
    if stop_token_ids is not None:
        return token_ids_of("stop_token_ids", stop_token_ids, least=0)
    end = getattr(tokenizer, "end_of_text_id", None)
    return () if end is None else (end,)
