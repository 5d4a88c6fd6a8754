"""What all tokenizers have in common."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, overload

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers.added_tokens import AddedToken, AddedTokenSplitter, as_added_tokens, with_tokens
from keras_tfm.tokenizers.inputs import (
    are_chats,
    as_id_rows,
    as_id_tensor,
    as_lists,
    as_string_tensor,
    characters_at,
    check_ids,
)
from keras_tfm.tokenizers.vocabulary import as_strings
from keras_tfm.tokenizers.word_splitter import replace_invalid_utf8

TEXTS, CHOICES = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.bool)


class Tokenizer(tf.Module):
    """Texts to token ids and back: the base of all tokenizers, and of your own.

    A tokenizer of your own gives its tokens to this constructor and defines `tokenize_rows`, in TensorFlow ops, for it
    is traced: what is trained with in `tf.data` is what a SavedModel serves. The rest is here: calls on strings in any
    container, `encode`, `decode`, `token_bytes`, copies and pickles; special tokens, which are cut out of texts before
    `tokenize_rows` sees what is between them, and those that are put around each text. What the tokens' bytes, put
    one after another, are not yet the text of, `join_rows` mends. The rest of the library needs this and no more:

    - `data.pack`, `data.language_model_dataset`: a call on n strings, RaggedTensor of integers (n, tokens);
      `end_of_text_id`, which may be None
    - `data.text_pair_dataset`, and the damaged texts: the call, `vocabulary_size`, `end_of_text_id`, `begin_tokens`,
      `end_tokens`, `token_bytes`
    - `TextGenerator`, streams and stop strings: `vocabulary_size`, `encode`, `token_bytes`, `end_of_text_id`
    - `TextGenerator.session`: `decode`
    - `TextGenerator.export`: the call and `detokenize` in the graph, and that it is a `tf.Module`
    - `samplers.match_regex` and other grammars: `vocabulary_size`, `token_bytes`, `end_of_text_id`
    - `checkpoints.save`: `save(folder)`

    The other functions of `data` and the pipelines need [CLS] and [SEP], and places in the text: `WordPieceTokenizer`,
    or the `BytePairTokenizer` of a RoBERTa.

    Args:
        tokens: the token of each id, as it is written; None for an id that no token has.
        token_bytes: the bytes of text that each id stands for. Default: the tokens in UTF-8.
        special_tokens: those of the tokens that are found in a text before anything else, such as one that ends a
            text: strings, or `AddedToken`s, which have rules.
        end_of_text: the special token at which a text ends, or None.
        begin_tokens, end_tokens: tokens that are put before and after each text.
        normalize: what is done in the graph to the text between special tokens, string (N,) to string (N,), before
            those that are `normalized` are looked for in it. Default: nothing.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,).
        add_special_tokens: bool, put `begin_tokens` and `end_tokens` around each text. What a chat template wrote never
            gets any.
        allow_special: bool, False for texts of people who are not to write control tokens: what reads as one of those
            that are `special` is text then.

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several.

    Raises:
        ValueError: if a special token is not among the tokens, or `end_of_text` not among the special tokens; at a
            call, if a `str` holds unpaired surrogates or the rank is not 0 or 1.
        TypeError: if an argument is of another type.

    Example:
        >>> class Letters(Tokenizer):
        ...     def __init__(self, letters):
        ...         super().__init__([*letters, "<end>"], special_tokens=["<end>"], end_of_text="<end>")
        ...         self.letters = letters
        ...         ids = tf.lookup.KeyValueTensorInitializer([*letters], [*range(len(letters))], tf.string, tf.int32)
        ...         self.table = tf.lookup.StaticHashTable(ids, default_value=0)
        ...
        ...     def tokenize_rows(self, texts):
        ...         return tf.ragged.map_flat_values(self.table.lookup, tf.strings.unicode_split(texts, "UTF-8"))
        >>> tokenizer = Letters("_abc")
        >>> tokenizer.encode(["cab", "bx"])
        [[3, 1, 2], [2, 0]]
        >>> tokenizer.decode([3, 1, 2, tokenizer.end_of_text_id], skip_special_tokens=True)
        'cab'
        >>> tokenizer
        <Letters: 5 tokens, 1 of them special>
    """

    _token_place: str = "in the vocabulary"  # for the error of `token_to_id`
    _token_hint: str = ""
    strips_texts: bool = False  # whether `decode` leaves out white space at both ends

    def __init__(
        self,
        tokens: Iterable[str | None],
        token_bytes: Iterable[bytes] | None = None,
        special_tokens: Iterable[str | AddedToken] = (),
        end_of_text: str | None = None,
        begin_tokens: Iterable[str] = (),
        end_tokens: Iterable[str] = (),
        normalize: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        super().__init__()
        self._table = _TokenTable(tokens, token_bytes, special_tokens, end_of_text, begin_tokens, end_tokens)
        added = self._table.added
        self._split_off = AddedTokenSplitter(added, self._table.ids, normalize) if added or normalize else None
        skipped = {self._table.ids[token.content] for token in added if token.special}
        with tf.init_scope(), tf.device("CPU:0"):
            self._token_bytes = tf.constant(self._table.bytes, tf.string)
            self._is_skipped = tf.constant([i in skipped for i in range(self.vocabulary_size)])
            self._yes, self._no = tf.constant([True]), tf.constant([False])

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The ids of texts, in the graph and on the CPU; to be defined by each tokenizer, or else `tokenize_pieces`.

        Args:
            texts: string (N,) in valid UTF-8, without special tokens.

        Returns:
            RaggedTensor of integers (N, tokens).
        """
        raise NotImplementedError(f"`{type(self).__name__}` must define `tokenize_rows`. Received: texts of {texts}.")

    def tokenize_pieces(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        """The ids of what stands between special tokens: `tokenize_rows`, for those to whom it matters where it stands.

        Args:
            texts: string (N,) in valid UTF-8; "" where a special token stands.
            begins_text: bool (N,), whether nothing stands before it in its text.

        Returns:
            RaggedTensor of integers (N, tokens).
        """
        return self.tokenize_rows(texts)

    def places_of_pieces(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """Ids and places, for tokenizers that know where in a text their tokens are.

        Args:
            texts: string (B,) in valid UTF-8, with special tokens.
            allow_special: bool ().

        Returns:
            ids, and where they start and end in the bytes of the text, three RaggedTensors of int32 (B, tokens).
        """
        raise NotImplementedError(
            f"A `{type(self).__name__}` must know where its tokens are. Received: texts of {texts}."
        )

    def join_rows(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """The text of ids, in the graph and on the CPU. Here: the bytes of all tokens, one after another.

        Args:
            token_ids: RaggedTensor of int64 (B, tokens); special tokens that are to be left out are not there.

        Returns:
            string (B,).
        """
        return tf.strings.reduce_join(tf.gather(self._token_bytes, token_ids), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which copies and pickles are made. Here: the attributes of these names."""
        names = inspect.signature(type(self)).parameters
        if missing := [name for name in names if not hasattr(self, name)]:
            raise TypeError(
                f"`{type(self).__name__}` must have an attribute for each argument of its constructor, or define "
                f"`get_config`, to be copied. Received: none for {missing}."
            )
        values = {name: getattr(self, name) for name in names}
        if "special_tokens" in values:
            values["special_tokens"] = [
                token.content if token == AddedToken(token.content) else token for token in self.added_tokens
            ]
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def changed(self, **arguments: Any) -> "Tokenizer":
        """A tokenizer like this one with other values for some of the constructor's arguments."""
        return type(self)(**{**self.get_config(), **arguments})

    def __reduce__(self):
        # Tables cannot be pickled or copied: make them anew.
        return _rebuilt, (type(self), self.get_config())

    def __repr__(self) -> str:
        special = f", {len(self.special_tokens)} of them special" if self.special_tokens else ""
        return f"<{type(self).__name__}: {self.vocabulary_size:,} tokens{special}>"

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Read-only dict from token to id."""
        return self._table.ids

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, V: 0, 1, ..., V - 1."""
        return len(self._table.tokens)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Read-only dict from special token to id, of all that are found in texts."""
        return self._table.special

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The special tokens with their rules."""
        return self._table.added

    @property
    def begin_tokens(self) -> tuple[str, ...]:
        """The tokens that are put before each text."""
        return self._table.begin

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The tokens that are put after each text."""
        return self._table.end

    @property
    def end_of_text(self) -> str | None:
        """The special token at which a text ends; None if there is none."""
        return self._table.end_of_text

    @property
    def end_of_text_id(self) -> int | None:
        """The id of the token at which a text ends; None if there is none."""
        return None if self.end_of_text is None else self._table.ids[self.end_of_text]

    @property
    def ending_ids(self) -> list[int]:
        """The ids that a whole text ends with: those of `end_tokens`, and the end of text if it is not among them."""
        tokens = [*self.end_tokens]
        if self.end_of_text is not None and self.end_of_text not in tokens:
            tokens.append(self.end_of_text)
        return [self.token_to_id(token) for token in tokens]

    def whole_rows(self, texts: Any) -> tf.RaggedTensor:
        """The ids of whole texts, int32 (B, tokens): those of a call, and the end of text where that gives none."""
        rows = tf.cast(self(texts), tf.int32)
        missing = self.ending_ids[len(self.end_tokens) :]
        if not missing:
            return rows
        ends = tf.fill([rows.nrows()], missing[0])
        return tf.concat([rows, tf.RaggedTensor.from_row_lengths(ends, tf.ones_like(rows.row_lengths()))], axis=1)

    def cut_rows(self, rows: tf.RaggedTensor, length: int) -> tf.RaggedTensor:
        """Rows of `whole_rows` of at most so many tokens, with their endings."""
        num_ending = len(self.ending_ids)
        if not num_ending:
            return rows[:, :length]
        return tf.concat([rows[:, :-num_ending][:, : length - num_ending], rows[:, -num_ending:]], axis=1)

    def token_to_id(self, token: str) -> int:
        """The id of a token, written as the vocabulary has it; ValueError if it is not there."""
        if not isinstance(token, str):
            raise TypeError(f"`token` must be a string. Received: {token!r}.")
        if token not in self._table.ids:
            raise ValueError(f"`token` must be {self._token_place}. Received: {token!r}.{self._token_hint}")
        return self._table.ids[token]

    def id_to_token(self, token_id: int) -> str:
        """The token of an id as the vocabulary has it, "" for an id without one; ValueError for an id beyond these."""
        return self._table.tokens[self._checked(token_id)] or ""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of text that an id stands for (b" the"): often, but not always, whole UTF-8 characters."""
        return self._table.bytes[self._checked(token_id)]

    def __call__(
        self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True
    ) -> tf.Tensor | tf.RaggedTensor:
        adds = self._adds(texts) if add_special_tokens else self._no
        texts = as_string_tensor(texts)
        rows = self._tokenize(
            texts if texts.shape.rank else texts[None], adds, self._yes if allow_special else self._no
        )
        return rows if texts.shape.rank else rows.values

    @overload
    def encode(self, texts: str, add_special_tokens: bool = ..., allow_special: bool = ...) -> list[int]: ...

    @overload
    def encode(
        self, texts: Any, add_special_tokens: bool = ..., allow_special: bool = ...
    ) -> list[int] | list[list[int]]: ...

    def encode(
        self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True
    ) -> list[int] | list[list[int]]:
        """The ids as Python lists: the same as calling the tokenizer, outside of graphs.

        Args:
            texts: a string, or a list, array or tensor of strings.
            add_special_tokens, allow_special: as for a call.

        Returns:
            list of ints for one string, list of lists of ints for several.
        """
        return as_lists(self(texts, add_special_tokens, allow_special))

    def tokenize_with_offsets(self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True) -> tuple:
        """Ids and the bytes that each stands for, in the graph.

        `tf.strings.substr(text, start, end - start)` is the text of a token, with its accents and capitals, and of the
        start of one and the end of another the text from the one to the other.

        Args:
            texts, add_special_tokens, allow_special: as for a call.

        Returns:
            ids, starts and ends, each int32 (T,) for one string or RaggedTensor (B, tokens) for several. Starts and
            ends count bytes of UTF-8; if a text is no UTF-8, of the text with U+FFFD in place of what is none. Both are
            0 for the tokens that are put around a text.

        Raises:
            NotImplementedError: if the tokenizer does not know it.
            tf.errors.InvalidArgumentError: if the tokens do not stand for the whole text as it was given.
        """
        adds = self._adds(texts) if add_special_tokens else self._no
        texts = as_string_tensor(texts)
        allows = self._yes if allow_special else self._no
        parts = self._tokenize_with_offsets(texts if texts.shape.rank else texts[None], adds, allows)
        return parts if texts.shape.rank else tuple(rows.values for rows in parts)

    def encode_with_offsets(
        self, texts: Any, add_special_tokens: bool = True, allow_special: bool = True
    ) -> tuple[list, list]:
        """The ids as Python lists, and the characters that each stands for, as Hugging Face's `offset_mapping`.

        Args:
            texts: a string, or a list, array or tensor of strings.
            add_special_tokens, allow_special: as for a call.

        Returns:
            ids and offsets: for one string a list of ints and a list of (start, end), for several lists of these. Both
            ends count characters: `text[start:end]` is a token's text; of bytes after `.decode("utf-8", "replace")`.
        """
        is_one = as_string_tensor(texts).shape.rank == 0
        texts = [texts] if is_one else texts
        ids, starts, ends = map(as_lists, self.tokenize_with_offsets(texts, add_special_tokens, allow_special))
        offsets = []
        for content, *places in zip(as_string_tensor(texts).numpy(), starts, ends, strict=True):
            offsets.append(characters_at(content, *places))
        return (ids[0], offsets[0]) if is_one else (ids, offsets)

    def tokenize_prompts(self, texts: Any) -> tf.RaggedTensor:
        """The ids of texts that a model is to go on with, in the graph.

        Args:
            texts: list, array or tensor of strings (B,).

        Returns:
            RaggedTensor of int32 (B, tokens), as of a call, but with no `end_tokens`, and with the `begin_tokens` not
            twice where a text begins with them, as those of chat templates do.
        """
        return self._tokenize_prompts(as_string_tensor(texts), self._adds(texts))

    def detokenize(self, token_ids: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """The text that ids stand for, in the graph.

        Args:
            token_ids: integers (T,) or (B, T), or RaggedTensor (B, tokens).
            skip_special_tokens: bool, leave special tokens out.

        Returns:
            string () or (B,). It may begin or end within a UTF-8 character if the ids do.

        Raises:
            tf.errors.InvalidArgumentError: at run time, if an id is not in the vocabulary.
        """
        token_ids = as_id_tensor(token_ids)
        if token_ids.shape.rank == 1:
            return self.detokenize(token_ids[None], skip_special_tokens)[0]
        with tf.device("CPU:0"):
            rows = token_ids if isinstance(token_ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(token_ids)
            rows = tf.cast(rows, tf.int64)
            if skip_special_tokens:
                rows = tf.ragged.boolean_mask(rows, rows.with_values(~tf.gather(self._is_skipped, rows.values)))
            return self.join_rows(rows)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD.

        Args:
            token_ids: list, array or tensor of integers (T,) or (B, T); nested lists and RaggedTensors may have rows
                of any lengths.
            skip_special_tokens: bool, leave special tokens out.

        Returns:
            str for (T,), list of str for rows. An empty list is one row without ids: "".

        Raises:
            ValueError: if an id is not in the vocabulary, or `token_ids` are no integers or have another rank.
        """
        rows, is_batch = as_id_rows(token_ids)
        check_ids(rows.values.numpy(), self.vocabulary_size)
        texts = self._decode_rows(rows, bool(skip_special_tokens)).numpy()
        texts = [text.decode("utf-8", "replace") for text in texts]
        return texts if is_batch else texts[0]

    # Traced, since ragged operations one by one take ten times as long for a few ids.
    @tf.function(
        input_signature=[tf.RaggedTensorSpec([None, None], tf.int64, 1, tf.int64), tf.TensorSpec([], tf.bool)],
        autograph=False,
    )
    def _decode_rows(self, rows: tf.RaggedTensor, skip_special_tokens: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            is_kept = ~(tf.gather(self._is_skipped, rows.values) & skip_special_tokens)
            return self.join_rows(tf.ragged.boolean_mask(rows, rows.with_values(is_kept)))

    def _checked(self, token_id: int) -> int:
        token_id = as_integer("token_id", token_id)
        check_ids(token_id, self.vocabulary_size)
        return token_id

    def _adds(self, texts: Any) -> tf.Tensor:
        """bool (B,) or (1,), whether texts get tokens around them: chats have their own."""
        if not (self.begin_tokens or self.end_tokens) or not any(are := are_chats(texts)):
            return self._yes
        return tf.constant([not is_chat for is_chat in are])

    @tf.function(input_signature=[TEXTS, CHOICES, CHOICES], autograph=False)
    def _tokenize(self, texts: tf.Tensor, adds: tf.Tensor, allow_special: tf.Tensor) -> tf.RaggedTensor:
        with tf.device("CPU:0"):
            rows = self._between(texts, allow_special[0])
            return self._around(rows, adds, adds)

    @tf.function(reduce_retracing=True, autograph=False)  # with a signature, every SavedModel would hold it
    def _tokenize_with_offsets(
        self, texts: tf.Tensor, adds: tf.Tensor, allow_special: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        with tf.device("CPU:0"):
            ids, *places = self.places_of_pieces(replace_invalid_utf8(texts), allow_special[0])
            return self._around(ids, adds, adds), *(self._around(place, adds, adds, value=0) for place in places)

    @tf.function(input_signature=[TEXTS, CHOICES], autograph=False)
    def _tokenize_prompts(self, texts: tf.Tensor, adds: tf.Tensor) -> tf.RaggedTensor:
        with tf.device("CPU:0"):
            rows = self._between(texts, tf.constant(True))
            num_begin = len(self.begin_tokens)
            begins = rows[:, :num_begin].to_tensor(-1, shape=[None, num_begin])
            begin_ids = [self._table.ids[token] for token in self.begin_tokens]
            return self._around(rows, adds & ~tf.reduce_all(tf.equal(begins, begin_ids), axis=1), self._no)

    def _between(self, texts: tf.Tensor, allow_special: tf.Tensor) -> tf.RaggedTensor:
        """The ids (B, tokens) of texts and the special tokens in them."""
        texts = replace_invalid_utf8(texts)
        if self._split_off is None:
            return self._checked_rows(self.tokenize_pieces(texts, tf.ones_like(texts, tf.bool)))
        pieces, ids = self._split_off(texts, allow_special)
        is_token = ids.values >= 0
        begins_text = tf.equal(
            tf.range(tf.size(is_token, tf.int64)), tf.gather(pieces.row_starts(), pieces.value_rowids())
        )
        rows = self._checked_rows(self.tokenize_pieces(tf.where(is_token, "", pieces.values), begins_text))
        # Without any token, and with one piece of each text, these are the rows already.
        is_done = ~tf.reduce_any(is_token) & tf.equal(tf.size(is_token), tf.size(texts))
        return tf.cond(
            is_done,
            lambda: rows,
            lambda: pieces.with_values(with_tokens(rows, ids.values, is_token)).merge_dims(1, 2),
        )

    def _checked_rows(self, rows: Any) -> tf.RaggedTensor:
        if not (isinstance(rows, tf.RaggedTensor) and rows.shape.rank == 2 and rows.dtype.is_integer):
            raise TypeError(
                f"`tokenize_rows` of `{type(self).__name__}` must give a RaggedTensor of integers (B, tokens). "
                f"Received: {type(rows).__name__} of shape {getattr(rows, 'shape', None)}."
            )
        return tf.cast(rows, tf.int32).with_row_splits_dtype(tf.int64)

    def _around(
        self, rows: tf.RaggedTensor, adds_begin: tf.Tensor, adds_end: tf.Tensor, value: int | None = None
    ) -> tf.RaggedTensor:
        """The rows (B, tokens) with the tokens that are put around each text, or with `value` in the place of each."""
        begin, end = (
            [self._table.ids[token] if value is None else value for token in tokens]
            for tokens in (self.begin_tokens, self.end_tokens)
        )
        parts = [*_repeated(begin, adds_begin, rows), rows, *_repeated(end, adds_end, rows)]
        return tf.concat(parts, axis=1) if len(parts) > 1 else rows


def _repeated(values: list[int], adds: tf.Tensor, rows: tf.RaggedTensor) -> list[tf.RaggedTensor]:
    """The values in each of as many rows that `adds`, bool (B,) or (1,), says; none if there are no values."""
    if not values:
        return []
    counts = tf.where(tf.broadcast_to(adds, tf.shape(rows.row_lengths())), len(values), 0)
    repeated = tf.tile(tf.constant(values, tf.int32), [tf.math.count_nonzero(counts, dtype=tf.int32)])
    return [tf.RaggedTensor.from_row_lengths(repeated, tf.cast(counts, tf.int64), validate=False)]


class _TokenTable:
    """Tokens by id and ids by token, beside the module, whose tuples and dicts TensorFlow would wrap to track them."""

    def __init__(
        self,
        tokens: Iterable[str | None],
        token_bytes: Iterable[bytes] | None,
        special_tokens: Iterable[str | AddedToken],
        end_of_text: str | None,
        begin_tokens: Iterable[str],
        end_tokens: Iterable[str],
    ):
        self.tokens = tuple(tokens)
        if token_bytes is None:
            token_bytes = [(token or "").encode() for token in self.tokens]
        self.bytes = tuple(token_bytes)
        named = [(token, token_id) for token_id, token in enumerate(self.tokens) if token is not None]
        ids = dict(named)
        if not ids or len(ids) < len(named) or len(self.bytes) != len(self.tokens):
            raise ValueError(
                "`tokens` must differ from each other, and `token_bytes` be one for each. Received: "
                f"{len(self.tokens)} tokens, {len(ids)} different ones, and {len(self.bytes)} `token_bytes`."
            )
        self.ids = MappingProxyType(ids)
        self.added = as_added_tokens(special_tokens, ids)
        if not isinstance(end_of_text, str | None):
            raise TypeError(f"`end_of_text` must be a string or None. Received: end_of_text={end_of_text!r}.")
        self.special = MappingProxyType({token.content: ids[token.content] for token in self.added})
        if end_of_text is not None and end_of_text not in self.special:
            raise ValueError(
                f"`end_of_text` must be a special token. Received: end_of_text={end_of_text!r} and "
                f"special_tokens={tuple(self.special)[:5]}."
            )
        self.end_of_text = end_of_text
        self.begin, self.end = as_strings("begin_tokens", begin_tokens), as_strings("end_tokens", end_tokens)
        for name, tokens in {"begin_tokens": self.begin, "end_tokens": self.end}.items():
            if unknown := [token for token in tokens if token not in ids]:
                raise ValueError(f"`{name}` must be tokens of the vocabulary. Received: {unknown}, which are not.")


def _rebuilt(cls: type[Tokenizer], config: dict[str, Any]) -> Tokenizer:
    return cls(**config)
