"""Special, control and other added tokens: found in texts before a tokenizer cuts what stands between them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from keras_tfm.tokenizers.vocabulary import as_strings, check_encodable, id_table
from keras_tfm.tokenizers.word_patterns import LETTER, SPACE
from keras_tfm.tokenizers.word_splitter import SEPARATOR

_SURELY_COMPILES = 10**5  # characters of a pattern of tokens; those of 10**7 are too many for RE2
# What the Rust library's regular expressions call `\w`: alphabetic, marks, digits, connectors, joiners. The last lines
# are what Unicode 16 added to Unicode 15, which RE2 knows; a test compares every code point.
WORD_CHARACTER = (
    rf"{LETTER}\p{{M}}\p{{Nd}}\p{{Nl}}\p{{Pc}}\x{{24B6}}-\x{{24E9}}\x{{1F130}}-\x{{1F149}}\x{{1F150}}-\x{{1F169}}"
    r"\x{1F170}-\x{1F189}\x{200C}\x{200D}\x{897}\x{10D40}-\x{10D49}\x{10D69}-\x{10D6D}\x{10EFC}\x{113B8}-\x{113C0}"
    r"\x{113C2}\x{113C5}\x{113C7}-\x{113CA}\x{113CC}-\x{113D0}\x{113D2}\x{113E1}\x{113E2}\x{116D0}-\x{116E3}"
    r"\x{11BF0}-\x{11BF9}\x{11F5A}\x{1611E}-\x{16139}\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1E5EE}\x{1E5EF}"
    r"\x{1E5F1}-\x{1E5FA}"
)


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in texts before anything else, and the rules of it, which are those of `tokenizers`.

    Args:
        content: the token as it is written.
        special: bool, it is no text: `decode` can leave it out, and a call with `allow_special=False` reads it as text.
        lstrip: bool, it takes the white space before it with it.
        rstrip: bool, it takes the white space after it with it.
        single_word: bool, it is found only where no letter, digit or mark touches it.
        normalized: bool, it is looked for after the others, in the normalized text, and normalized itself.
    """

    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


def as_added_tokens(
    tokens: Iterable[str | AddedToken], vocabulary: Mapping[str, int] | None = None
) -> tuple[AddedToken, ...]:
    """The argument `special_tokens`, in which a string stands for `AddedToken(string)`.

    Args:
        tokens: strings or `AddedToken`s.
        vocabulary: that must hold them, or None.

    Raises:
        ValueError, TypeError: if one is empty, no string, twice there, or not in the vocabulary.
    """
    if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
        as_strings("special_tokens", tokens)  # says what is wrong
    found = tuple(token if isinstance(token, AddedToken) else AddedToken(token) for token in tokens)
    contents = as_strings("special_tokens", [token.content for token in found])
    if "" in contents:
        raise ValueError("A special token must not be empty (it would be everywhere). Received: ''.")
    if len(set(contents)) < len(contents):
        raise ValueError(f"`special_tokens` must differ from each other. Received: {contents}.")
    for content in contents:
        if vocabulary is not None and content not in vocabulary:
            raise ValueError(
                f"Each special token must be in `vocabulary`. Received: {content!r}, which is not. Add it with an id."
            )
    return found


def added_tokens_of(entries: Iterable[Mapping[str, Any]], token_ids: dict[str, int]) -> list[AddedToken]:
    """The tokens of `added_tokens` in a tokenizer.json; those that are not in the dict of ids yet are put into it.

    Raises:
        ValueError: if a token has another id there, or a rule is no bool.
    """
    tokens = []
    for entry in entries:
        content = entry["content"]
        if token_ids.setdefault(content, entry["id"]) != entry["id"]:
            raise ValueError(
                f"The id of the added token {content!r} must be {token_ids[content]}, as in the vocabulary. "
                f"Received: {entry['id']}."
            )
        tokens.append(added_token(content, {"special": False, **entry}))
    return tokens


def added_token(content: str, rules: Mapping[str, Any]) -> AddedToken:
    """The token with those of the rules that are named; ValueError if one is no bool."""
    names = [field.name for field in dataclasses.fields(AddedToken)][1:]
    given = {name: rules[name] for name in names if rules.get(name) is not None}
    for name, rule in given.items():
        if not isinstance(rule, bool):
            raise ValueError(f"`{name}` of the added token {content!r} must be true or false. Received: {rule!r}.")
    return AddedToken(content, **given)


def json_of_added_tokens(tokens: Iterable[AddedToken], token_ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """`added_tokens` of a tokenizer.json, in order of ids."""
    in_order = sorted(tokens, key=lambda token: token_ids[token.content])
    return [{"id": token_ids[token.content], **dataclasses.asdict(token)} for token in in_order]


def normalized_contents(
    tokens: Iterable[AddedToken], normalize: Callable[[tf.Tensor], tf.Tensor] | None
) -> dict[str, str]:
    """As what each token is looked for in texts and written by `decode`: those that are `normalized` as they are then.

    Args:
        tokens: `AddedToken`s.
        normalize: what makes string (N,) of string (N,); None for nothing.

    Raises:
        ValueError: if one is empty then.
    """
    contents = {token.content: token.content for token in tokens}
    loose = [token.content for token in tokens if token.normalized]
    if loose and normalize is not None:
        with tf.init_scope():
            contents.update(zip(loose, (text.decode() for text in normalize(tf.constant(loose)).numpy()), strict=True))
    if empty := [content for content in loose if not contents[content]]:
        raise ValueError(
            f"A special token with `normalized` must not be empty when it is normalized. Received: {empty}."
        )
    return contents


class AddedTokenSplitter(tf.Module):
    """Cuts texts into added tokens and what stands between them, as the library `tokenizers` does.

    Of the tokens that begin at the first place where any does, the longest counts; the search goes on after it, also
    where the rules of the token say that it is none there. Tokens that are `normalized` are looked for afterwards, in
    each piece of text by itself and normalized.

    Args:
        tokens: `AddedToken`s.
        ids: dict from the content of each to its id.
        normalize: what makes string (N,) of string (N,), to be done to the text between tokens; None for nothing.

    Call arguments:
        texts: string (N,), valid UTF-8.
        allow_special: bool tensor (), False if special tokens are not to be found.

    Returns:
        pieces, RaggedTensor of strings (N, pieces), and ids, RaggedTensor of int32 (N, pieces), -1 for text. The pieces
        of a row are its text (between tokens the normalized one) without a gap: white space that a token takes with it
        is a part of its piece. None is empty but that of an empty text.

    Attributes:
        exact, loose: the two halves of the work, which take and give the same: the first finds the tokens that are not
            `normalized`, the second those that are, in text that is normalized already. False if there are none.
    """

    def __init__(
        self,
        tokens: Iterable[AddedToken],
        ids: Mapping[str, int],
        normalize: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        super().__init__(name="added_token_splitter")
        tokens = sorted(tokens, key=lambda token: not token.special)  # of equal ones the first counts
        exact = {token.content: token for token in tokens if not token.normalized}
        contents = normalized_contents(tokens, normalize)
        loose = {contents[token.content]: token for token in reversed(tokens) if token.normalized}
        self.exact = _Finder(exact, ids)
        self.loose = _Finder(loose, ids)
        self._normalize = normalize

    def __call__(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        pieces, ids = self.exact(texts, allow_special)
        is_token = ids.values >= 0
        between = tf.where(is_token, "", pieces.values)
        if self._normalize is not None:
            between = self._normalize(between)
        if not self.loose:
            return pieces.with_values(tf.where(is_token, pieces.values, between)), ids
        inner, inner_ids = self.loose(between, allow_special)
        inner = with_tokens(inner, pieces.values, is_token)
        inner_ids = with_tokens(inner_ids, ids.values, is_token)
        return pieces.with_values(inner).merge_dims(1, 2), ids.with_values(inner_ids).merge_dims(1, 2)


class _Finder(tf.Module):
    """Finds tokens, given as dict from what is looked for to the `AddedToken`, in texts just as they are."""

    def __init__(self, tokens: Mapping[str, AddedToken], ids: Mapping[str, int]):
        super().__init__(name="finder")
        self._pattern = special_token_pattern(tokens)
        self._index = id_table({content: index for index, content in enumerate(tokens)})
        rules = {
            name: [getattr(token, name) for token in tokens.values()]
            for name in ("special", "single_word", "lstrip", "rstrip")
        }
        self._num_tokens = len(tokens)
        self._names = frozenset(name for name, values in rules.items() if any(values))  # rules that any token has
        with tf.init_scope(), tf.device("CPU:0"):
            self._ids = tf.constant([ids[token.content] for token in tokens.values()], tf.int32)
            self._rules = {name: tf.constant(rules[name]) for name in self._names}

    def __bool__(self) -> bool:
        return bool(self._num_tokens)

    def __call__(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        if not self:
            return _as_they_are(texts)
        marked = tf.strings.regex_replace(texts, self._pattern, SEPARATOR + rb"\0" + SEPARATOR)
        is_any = tf.reduce_any(tf.not_equal(marked, texts))  # most texts hold none, and many calls are of one text
        return tf.cond(is_any, lambda: self._cut(marked, allow_special), lambda: _as_they_are(texts))

    def _cut(self, marked: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """The pieces and ids of texts in which separators stand around what reads as a token."""
        pieces = tf.strings.split(marked, sep=SEPARATOR)  # text, token, text, ..., text; texts may be empty
        if self._names & {"special", "single_word"}:
            all_are_tokens = allow_special & ("single_word" not in self._names)
            pieces = tf.cond(all_are_tokens, lambda: pieces, lambda: self._without_none(pieces, allow_special))
        is_token = _is_token(pieces)
        index = tf.maximum(self._index.lookup(pieces.values), 0)
        values = pieces.values
        if "rstrip" in self._names:
            values = _with_space_after(values, is_token & tf.gather(self._rules["rstrip"], index))
        if "lstrip" in self._names:
            values = _with_space_before(values, is_token & tf.gather(self._rules["lstrip"], index))
        ids = tf.where(is_token, tf.gather(self._ids, index), -1)
        is_there = pieces.with_values(is_token | tf.not_equal(values, ""))
        return tuple(tf.ragged.boolean_mask(pieces.with_values(x), is_there) for x in (values, ids))

    def _without_none(self, pieces: tf.RaggedTensor, allow_special: tf.Tensor) -> tf.RaggedTensor:
        """The pieces, where what the rules do not let be a token is text, and one with the text beside it."""
        values, is_token = pieces.values, _is_token(pieces)
        index = tf.maximum(self._index.lookup(values), 0)
        if "special" in self._names:
            is_token &= allow_special | ~tf.gather(self._rules["special"], index)
        if "single_word" in self._names:
            # The character before is the last of the text before, or else of the token before that; so after it.
            is_empty = tf.equal(values, "")
            ends = tf.strings.regex_full_match(values, f"(?s:.*)[{WORD_CHARACTER}]")
            begins = tf.strings.regex_full_match(values, f"[{WORD_CHARACTER}](?s:.*)")
            edges = (pieces.row_starts(), pieces.row_limits())
            starts, limits = (tf.repeat(edge, pieces.row_lengths()) for edge in edges)
            places = tf.range(tf.size(values, tf.int64))
            touches = _before(ends) | (_before(is_empty) & _before(_before(ends)) & (places - starts > 1))
            touches |= _after(begins) | (_after(is_empty) & _after(_after(begins)) & (limits - places > 2))
            is_token &= ~(tf.gather(self._rules["single_word"], index) & touches)
        marked = tf.where(is_token, tf.strings.join([SEPARATOR, values, SEPARATOR]), values)
        return tf.strings.split(tf.strings.reduce_join(pieces.with_values(marked), axis=1), sep=SEPARATOR)


def _as_they_are(texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Pieces and ids of texts without tokens: one piece each."""
    row_splits = tf.range(tf.size(texts, tf.int64) + 1)
    pieces = tf.RaggedTensor.from_row_splits(texts, row_splits, validate=False)
    return pieces, pieces.with_values(tf.fill(tf.shape(texts), -1))


def _is_token(pieces: tf.RaggedTensor) -> tf.Tensor:
    """bool, for each piece: every second one of a row, all of which have an odd number, is a token."""
    return tf.equal((tf.range(tf.size(pieces.values, tf.int64)) - pieces.value_rowids()) % 2, 1)


def _with_space_after(values: tf.Tensor, takes: tf.Tensor) -> tf.Tensor:
    """The pieces, where those that take it have got the white space at the beginning of the next one."""
    rest = tf.where(_before(takes), tf.strings.regex_replace(values, f"^[{SPACE}]+", ""), values)
    length = tf.strings.length(values) - tf.strings.length(rest)
    spaces = tf.strings.substr(values, tf.zeros_like(length), length)
    return tf.where(takes, tf.strings.join([values, _after(spaces, "")]), rest)


def _with_space_before(values: tf.Tensor, takes: tf.Tensor) -> tf.Tensor:
    """The pieces, where those that take it have got the white space at the end of the one before."""
    rest = tf.where(_after(takes), tf.strings.regex_replace(values, f"[{SPACE}]+$", ""), values)
    length = tf.strings.length(rest)
    spaces = tf.strings.substr(values, length, tf.strings.length(values) - length)
    return tf.where(takes, tf.strings.join([_before(spaces, ""), values]), rest)


def _before(values: tf.Tensor, first: bool | str = False) -> tf.Tensor:
    """For each element the one before it."""
    return tf.concat([[first], values], axis=0)[:-1]


def _after(values: tf.Tensor, last: bool | str = False) -> tf.Tensor:
    """For each element the one after it."""
    return tf.concat([values, [last]], axis=0)[1:]


def with_tokens(rows: tf.RaggedTensor, values: tf.Tensor, is_token: tf.Tensor) -> tf.RaggedTensor:
    """Rows that are made of pieces of text, and one element in the row of each token, which made none.

    Args:
        rows: RaggedTensor (N, ...) of rank 2, of which the rows of tokens are empty.
        values: (N,), what a token's row is to hold.
        is_token: bool (N,).

    Returns:
        RaggedTensor of rank 2.
    """
    one_each = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(values, is_token), tf.cast(is_token, tf.int64), validate=False
    )
    return tf.concat([rows, one_each], axis=1)


def places_in_rows(pieces: tf.RaggedTensor) -> tf.Tensor:
    """int32, for each string of the rows (N, pieces): how many bytes are before it in its row."""
    begins = tf.cumsum(tf.strings.length(pieces.values), exclusive=True)
    return begins - tf.repeat(tf.gather(tf.concat([begins, [0]], 0), pieces.row_starts()), pieces.row_lengths())


def shifted(rows: tf.RaggedTensor, shift: tf.Tensor) -> tf.RaggedTensor:
    """The rows (N, values), to all values of which the `shift` (N,) of the row was added."""
    return rows.with_values(rows.values + tf.repeat(shift, rows.row_lengths()))


def with_places_of_tokens(
    pieces: tf.RaggedTensor, ids: tf.RaggedTensor, parts: tuple[tf.RaggedTensor, ...]
) -> tuple[tf.RaggedTensor, ...]:
    """Ids, starts and ends of whole texts (N, tokens), from those of their pieces, of which tokens made none.

    Args:
        pieces, ids: (N, pieces), as `AddedTokenSplitter` gives them.
        parts: ids, starts and ends of the tokens of each piece (all pieces, tokens).
    """
    is_token, lengths, before = ids.values >= 0, tf.strings.length(pieces.values), places_in_rows(pieces)
    own = (ids.values, tf.zeros_like(lengths), lengths)
    rows = [with_tokens(part, values, is_token) for part, values in zip(parts, own, strict=True)]
    rows[1:] = (shifted(part, before) for part in rows[1:])
    return tuple(pieces.with_values(part).merge_dims(1, 2) for part in rows)


def special_token_pattern(contents: Iterable[str]) -> str:
    """A regular expression of RE2 that matches the longest of these strings at a place; "" if there are none."""
    # RE2 takes the first alternative that matches: longest first.
    longest_first = sorted(contents, key=len, reverse=True)
    for content in longest_first:
        check_encodable(content)
    pattern = "|".join("".join(f"\\x{{{ord(letter):x}}}" for letter in content) for content in longest_first)
    if len(pattern) > _SURELY_COMPILES:
        try:
            with tf.init_scope():
                tf.strings.regex_full_match("", pattern)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                "`special_tokens` must be shorter: TensorFlow's regular expressions cannot find them. "
                f"Received: {len(longest_first)} of {sum(map(len, longest_first)):,} characters in all, the longest of "
                f"{len(longest_first[0]):,}."
            ) from error
    return pattern
