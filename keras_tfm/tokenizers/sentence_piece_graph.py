"""SentencePiece in the graph: texts to ids and their places in the text, and ids to text."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.added_tokens import with_tokens
from keras_tfm.tokenizers.code_points import (
    Characters,
    CodePointTable,
    KeyFinder,
    Trie,
    before,
    num_bytes,
    read_from_left,
    repeated,
)
from keras_tfm.tokenizers.pair_merger import PairMerger
from keras_tfm.tokenizers.sentence_piece_rules import WORD_SIGN
from keras_tfm.tokenizers.unigram_cutter import UnigramCutter
from keras_tfm.tokenizers.vocabulary import id_table

_SIGN = ord(WORD_SIGN)
_UNKNOWN = -1  # a character that is in no piece
# `sentencepiece` adds up scores in float32 from the beginning of a text. How much that may change for each character
# before a word, with a margin; texts of up to so many characters are cut again as a whole where it may matter.
_ROUNDING, _LONGEST_SUM = 1e-5, 4096
_REPLACEMENT = "\ufffd".encode()

Step = Callable[[Characters, tf.Tensor], Characters]
"""What a rule makes of the characters of texts (R,), and of bool (R,), whether nothing stands before each text."""


@dataclasses.dataclass(frozen=True)
class PairModel:
    """BPE: which pairs are merged.

    Args:
        symbols: dict from character to the id that words begin with; ids from the vocabulary's size on are characters
            that are no piece themselves, but parts of some.
        merges: (left id, right id, merged id) of each merge.
        ranks: of each merge; the lowest comes first.
        products: what the merges make, as text.
    """

    symbols: Mapping[str, int]
    merges: Sequence[tuple[int, int, int]]
    ranks: Sequence[int]
    products: Sequence[str]


@dataclasses.dataclass(frozen=True)
class UnigramModel:
    """Unigram: the arguments of `UnigramCutter`."""

    scores: Mapping[str, float]
    ids: Mapping[str, int]
    least_score: float
    dtype: tf.DType = tf.float32


@dataclasses.dataclass(frozen=True)
class CuttingRules:
    """How texts are cut into pieces.

    Args:
        model: PairModel or UnigramModel.
        steps: what is done to the characters first.
        cuts_at_signs: bool, each "▁" begins a word, in which all pieces lie. False: words may be as long as the text.
        cuts_where_no_piece_goes_on: bool, words also end before or after "▁" where no piece goes across, which changes
            nothing unless `whole_words` may be longer.
        whole_words: dict from words that are one token to its id.
        fixed_words: bool, `whole_words` are found in a text wherever they stand and are words by themselves.
        byte_ids: the ids of the 256 bytes, of which unknown characters are made, -1 for those that there are not; or
            None.
        unknown_id: the id of unknown characters; None, to leave them out.
        joins_unknown: bool, several unknown characters are one token.
    """

    model: PairModel | UnigramModel
    steps: Sequence[Step]
    cuts_at_signs: bool = False
    cuts_where_no_piece_goes_on: bool = True
    whole_words: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fixed_words: bool = False
    byte_ids: Sequence[int] | None = None
    unknown_id: int | None = None
    joins_unknown: bool = True


class SentencePieceCutter(tf.Module):
    """Makes texts plain, splits them into words, and cuts each different word into pieces, once.

    Args:
        rules: CuttingRules.
        vocabulary_size: int.

    Call arguments:
        texts: string (R,), valid UTF-8.
        begins_text: bool (R,), whether nothing stands before each.

    Returns:
        Three RaggedTensors of int32 (R, tokens): ids, the first character that each token stands for, and the one after
        its last.
    """

    def __init__(self, rules: CuttingRules, vocabulary_size: int):
        super().__init__(name="sentence_piece_cutter")
        self._untracked = _Untracked(rules)
        # TensorFlow is to find the tables of steps.
        self._parts = [step for step in rules.steps if isinstance(step, tf.Module)]
        model = rules.model
        pieces: Collection[str]
        self._symbols: CodePointTable | None = None
        if isinstance(model, PairModel):
            pieces = model.products
            size = max([vocabulary_size, *(number + 1 for number in model.symbols.values())])
            self._symbols = CodePointTable([*map(ord, model.symbols)], [*model.symbols.values()], _UNKNOWN)
            self._cut = PairMerger(model.merges, size, model.ranks)
        else:
            pieces = model.scores
            self._cut = UnigramCutter(model.scores, model.ids, model.least_score, model.dtype)
        self._sums_over_texts = isinstance(model, UnigramModel) and model.dtype == tf.float32
        # Words end where no piece goes on.
        cuts = rules.cuts_where_no_piece_goes_on
        self._cuts_before_signs = cuts and not any(_crosses(piece, True) for piece in pieces)
        self._cuts_after_signs = cuts and not any(_crosses(piece, False) for piece in pieces)
        self._whole_ids = id_table(rules.whole_words) if rules.whole_words else None
        self._fixed = KeyFinder(Trie.of([*rules.whole_words])) if rules.whole_words and rules.fixed_words else None
        self._vocabulary_size = vocabulary_size
        if rules.byte_ids is not None:
            self._lacks_bytes = min(rules.byte_ids) < 0
            with tf.init_scope(), tf.device("CPU:0"):
                self._byte_ids = tf.constant(rules.byte_ids, tf.int32)

    @property
    def _rules(self) -> CuttingRules:
        return self._untracked.rules

    def ids(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tf.RaggedTensor:
        """The ids alone (R, tokens): less to trace."""
        return self._pieces(self._normalized(texts, begins_text), tf.size(texts), with_places=False)[0]

    def __call__(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        return self._pieces(self._normalized(texts, begins_text), tf.size(texts), with_places=True)

    def ids_and_pieces(self, texts: tf.Tensor, begins_text: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """The ids, and the pieces as `sentencepiece` writes them, string (R, tokens); of bytes, their character."""
        characters = self._normalized(texts, begins_text)
        places = tf.range(tf.size(characters.codes))
        columns = self._pieces(characters._replace(starts=places, ends=places + 1), tf.size(texts), with_places=True)
        ids, firsts, ends = columns
        codes = tf.ragged.map_flat_values(
            tf.gather, characters.codes, tf.ragged.range(firsts.values, ends.values, row_splits_dtype=tf.int64)
        )
        return ids, ids.with_values(tf.strings.unicode_encode(codes, "UTF-8"))

    def _normalized(self, texts: tf.Tensor, begins_text: tf.Tensor) -> Characters:
        characters = Characters.of(texts)
        for step in self._rules.steps:
            characters = step(characters, begins_text)
        return characters

    def _pieces(self, characters: Characters, num_texts: tf.Tensor, with_places: bool) -> tuple[tf.RaggedTensor, ...]:
        columns = self._cut_words(characters, self._begins_word(characters), num_texts, with_places)
        ids, rows, *places = self._without_unknown(*columns)
        return tuple(
            tf.RaggedTensor.from_value_rowids(
                values, tf.cast(rows, tf.int64), tf.cast(num_texts, tf.int64), validate=False
            )
            for values in (ids, *places)
        )

    def _cut_words(self, characters: Characters, begins, num_texts: tf.Tensor, with_places: bool) -> list[tf.Tensor]:
        """Ids, rows and perhaps places (tokens,) of words, of which `begins` (N,) tells where they begin."""
        if not self._sums_over_texts:
            return self._cut_once(characters, begins, with_places)[0]

        def again(characters, begins, _, *found):
            columns, gaps, words = self._cut_once(characters, begins, with_places)
            # Scores add up from the beginning of the text: where that may matter, the text becomes one word.
            rows, sizes = tf.gather(characters.rows, words), tf.math.bincount(characters.rows, minlength=num_texts)
            limits = tf.where(sizes <= _LONGEST_SUM, tf.cast(sizes, tf.float32) * _ROUNDING, -1.0)
            is_close = tf.math.unsorted_segment_min(gaps, rows, num_texts) < limits
            has_words = tf.math.bincount(rows, minlength=num_texts) > 1
            is_again = is_close & has_words
            kept = tf.where(~tf.gather(is_again, columns[1]))[:, 0]
            found = tuple(
                tf.concat([old, tf.gather(new, kept)], axis=0) for old, new in zip(found, columns, strict=True)
            )
            characters = characters.where(tf.gather(is_again, characters.rows))
            return characters, characters.is_first(), tf.reduce_any(is_again), *found

        flexible, num_columns = tf.TensorShape([None]), 4 if with_places else 2
        _, _, _, *found = tf.while_loop(
            lambda characters, begins, goes_on, *found: goes_on,
            again,
            (characters, begins, tf.constant(True), *[tf.zeros([0], tf.int32)] * num_columns),
            shape_invariants=(Characters(*[flexible] * 4), flexible, tf.TensorShape([]), *[flexible] * num_columns),
        )
        order = tf.argsort(found[1], stable=True)  # by text
        return [tf.gather(column, order) for column in found]

    def _cut_once(self, characters: Characters, begins: tf.Tensor, with_places: bool):
        """As `_cut_words`; then of each word the least gap between ways to cut it, and its first character (words,)."""
        begins_word = tf.cast(tf.where(begins)[:, 0], tf.int32)
        splits = tf.concat([begins_word, tf.shape(characters.codes)], axis=0)
        words = tf.RaggedTensor.from_row_splits(characters.codes, tf.cast(splits, tf.int64), validate=False)
        distinct, index = tf.unique(tf.strings.unicode_encode(words, "UTF-8"))
        (tokens, firsts, lasts), gaps = self._distinct(distinct)

        ids = tf.gather(tokens, index)  # (words of all texts, tokens)
        begin = tf.gather(begins_word, tf.cast(ids.value_rowids(), tf.int32))
        columns = [ids.values, tf.gather(characters.rows, begin)]
        if with_places:
            columns.append(tf.gather(characters.starts, begin + tf.gather(firsts, index).values))
            columns.append(tf.gather(characters.ends, begin + tf.gather(lasts, index).values))
        return columns, None if gaps is None else tf.gather(gaps, index), begins_word

    def _without_unknown(self, ids: tf.Tensor, rows: tf.Tensor, *places: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The columns (tokens,), where unknown characters have their id, and perhaps only one together, or are gone."""
        is_unknown = tf.equal(ids, _UNKNOWN)
        if self._rules.unknown_id is None:
            return tuple(tf.boolean_mask(column, ~is_unknown) for column in (ids, rows, *places))
        ids = tf.where(is_unknown, self._rules.unknown_id, ids)
        if not self._rules.joins_unknown:
            return ids, rows, *places
        goes_on = is_unknown & before(is_unknown, False) & tf.equal(rows, before(rows, -1))
        if places:
            run = tf.cumsum(tf.cast(~goes_on, tf.int32)) - 1
            places = places[0], tf.gather(tf.math.segment_max(places[1], run), run)
        return tuple(tf.boolean_mask(column, ~goes_on) for column in (ids, rows, *places))

    def _begins_word(self, characters: Characters) -> tf.Tensor:
        """bool (N,)."""
        is_sign, begins = tf.equal(characters.codes, _SIGN), characters.is_first()
        if self._rules.cuts_at_signs:
            begins |= is_sign
        if self._cuts_before_signs:
            begins |= is_sign & ~before(is_sign, False)
        if self._cuts_after_signs:
            begins |= ~is_sign & before(is_sign, False)
        if self._fixed is not None:
            length, _ = self._fixed.longest(characters.codes, characters.limits())
            is_found = read_from_left(length)
            here = tf.where(is_found)
            begins |= is_found
            ends = tf.scatter_nd(
                here + tf.cast(tf.gather(length, here), tf.int64),
                tf.ones_like(here[:, 0]),
                [tf.size(length, tf.int64) + 1],
            )
            begins |= ends[:-1] > 0
        return begins

    def _distinct(self, words: tf.Tensor):
        """Of each word (W,) the ids, and the first and the last character of it that each stands for, (W, tokens); then
        the gaps of `UnigramCutter`, or None."""
        whole = None
        if self._whole_ids is not None:
            whole = self._whole_ids.lookup(words)
            num_characters = tf.strings.length(words, "UTF8_CHAR")
            words = tf.where(whole >= 0, "", words)
        characters = tf.strings.unicode_decode(words, "UTF-8")
        codes = characters.values
        symbols = characters if self._symbols is None else characters.with_values(self._symbols(codes))
        gaps: list[Any]
        tokens, firsts, *gaps = self._cut(symbols)
        first = firsts.values
        token = tf.where(tokens.values < self._vocabulary_size, tokens.values, _UNKNOWN)
        # Pieces leave no gaps, and only words without pieces have no characters.
        last = tf.concat([first[1:], tf.shape(codes)[:1]], axis=0)[: tf.size(first)] - 1
        start = tf.gather(tf.cast(characters.row_starts(), tf.int32), tf.cast(tokens.value_rowids(), tf.int32))
        columns = tokens.with_values(token), firsts.with_values(first - start), firsts.with_values(last - start)
        if self._rules.byte_ids is not None:
            columns = self._with_bytes(columns, tf.gather(codes, first))
        gap = gaps[0] if gaps else None
        if whole is None:
            return columns, gap
        is_whole = whole >= 0
        values = (whole, tf.zeros_like(whole), num_characters - 1)
        columns = tuple(with_tokens(column, value, is_whole) for column, value in zip(columns, values, strict=True))
        return columns, gap

    def _with_bytes(self, columns, codes: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """With the bytes of unknown characters; `codes` (tokens,) are the characters that tokens begin with."""
        tokens = columns[0].values
        counts = tf.where(tf.equal(tokens, _UNKNOWN), num_bytes(codes), 1)
        token, place = repeated(counts)
        byte = tf.gather(self._byte_ids, _byte(tf.gather(codes, token), place))
        if self._lacks_bytes:  # characters with such a byte stay unknown
            has_all = tf.math.segment_min(byte, token) >= 0
            counts = tf.where(has_all, counts, 1)
            token, place = repeated(counts)
            byte = tf.gather(self._byte_ids, _byte(tf.gather(codes, token), place))
            byte = tf.where(tf.gather(has_all, token), byte, _UNKNOWN)
        ids = tf.where(tf.equal(tf.gather(tokens, token), _UNKNOWN), byte, tf.gather(tokens, token))
        values = ids, *(tf.gather(column.values, token) for column in columns[1:])
        lengths = tf.cast(counts, tf.int64)
        return tuple(
            column.with_values(tf.RaggedTensor.from_row_lengths(value, lengths, validate=False)).merge_dims(1, 2)
            for column, value in zip(columns, values, strict=True)
        )


class _Untracked:
    """Keeps TensorFlow, which would wrap dicts and lists to track what is in them, off the rules."""

    def __init__(self, rules: CuttingRules):
        self.rules = rules


def _crosses(piece: str, before_sign: bool) -> bool:
    """Whether a piece holds something else just before a word sign, or just after one."""
    words = piece.split(WORD_SIGN)
    return len(words) > 1 and any(words[:-1] if before_sign else words[1:])


def _byte(codes: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """The byte at that place in the UTF-8 of each code point."""
    count = num_bytes(codes)
    lead = tf.bitwise.bitwise_and(tf.bitwise.right_shift(tf.fill(tf.shape(codes), 0xF00), count), 0xFF)
    head = tf.bitwise.bitwise_or(tf.where(count > 1, lead, 0), tf.bitwise.right_shift(codes, 6 * (count - 1)))
    rest = tf.bitwise.bitwise_and(tf.bitwise.right_shift(codes, 6 * tf.maximum(count - 1 - place, 0)), 0x3F)
    return tf.where(tf.equal(place, 0), head, tf.bitwise.bitwise_or(rest, 0x80))


@dataclasses.dataclass(frozen=True)
class JoiningRules:
    """How ids become text again.

    Args:
        texts: bytes of each id.
        first_texts: bytes of each id where no token before it, in its text, has closed the beginning.
        closes: bool for each id, whether it closes the beginning.
        is_byte: bool for each id, whether it is a byte, which may be a part of a character.
        replaces_runs: bool. Bytes that are no UTF-8 become U+FFFD: True, all bytes of a run of byte tokens that is not
            UTF-8 throughout, as in `tokenizers`; False, those that are a part of no character, as in `sentencepiece`.
    """

    texts: Sequence[bytes]
    first_texts: Sequence[bytes]
    closes: Sequence[bool]
    is_byte: Sequence[bool]
    replaces_runs: bool

    def extended(self, tokens: Mapping[int, str], size: int) -> "JoiningRules":
        """With so many ids, of which the new ones stand for tokens that are written as they are, or for nothing."""
        new = [tokens.get(number, "").encode() for number in range(len(self.texts), size)]
        return dataclasses.replace(
            self,
            texts=[*self.texts, *new],
            first_texts=[*self.first_texts, *new],
            closes=[*self.closes, *map(bool, new)],
            is_byte=[*self.is_byte, *[False] * len(new)],
        )


class SentencePieceJoiner(tf.Module):
    """Writes the text of ids.

    Args:
        rules: JoiningRules.

    Call arguments:
        token_ids: RaggedTensor of int64 (B, tokens).

    Returns:
        string (B,).
    """

    def __init__(self, rules: JoiningRules):
        super().__init__(name="sentence_piece_joiner")
        self._has_bytes, self._replaces_runs = any(rules.is_byte), rules.replaces_runs
        values = [text[0] if is_byte else 0 for text, is_byte in zip(rules.texts, rules.is_byte, strict=True)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._texts = tf.constant(list(rules.texts), tf.string)
            self._first_texts = tf.constant(list(rules.first_texts), tf.string)
            self._closes = tf.constant(np.array(rules.closes, np.int32))
            self._bytes = tf.constant(np.where(rules.is_byte, values, -1), tf.int32)

    def __call__(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        ids, rows = token_ids.values, tf.cast(token_ids.value_rowids(), tf.int32)
        closed = tf.cumsum(tf.gather(self._closes, ids), exclusive=True)
        at_start = tf.gather(tf.concat([closed, [0]], axis=0), tf.cast(token_ids.row_starts(), tf.int32))
        is_open = tf.equal(closed, tf.gather(at_start, rows))
        texts = tf.where(is_open, tf.gather(self._first_texts, ids), tf.gather(self._texts, ids))
        if self._has_bytes:
            is_wrong = self._is_wrong(tf.gather(self._bytes, ids), rows)
            texts = tf.where(is_wrong, _REPLACEMENT, texts)
        return tf.strings.reduce_join(token_ids.with_values(texts), axis=-1)

    def _is_wrong(self, values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """bool (N,), whether U+FFFD stands for a token; `values` are the bytes of byte tokens, -1 for others."""
        followers = [_shifted(values, rows, shift) for shift in (1, 2, 3)]
        is_tail = [(byte >= 0x80) & (byte < 0xC0) for byte in followers]
        second = followers[0]
        two = (values >= 0xC2) & (values < 0xE0) & is_tail[0]
        three = (values >= 0xE0) & (values < 0xF0) & is_tail[0] & is_tail[1]
        three &= ~(tf.equal(values, 0xE0) & (second < 0xA0)) & ~(tf.equal(values, 0xED) & (second >= 0xA0))
        four = (values >= 0xF0) & (values < 0xF5) & is_tail[0] & is_tail[1] & is_tail[2]
        four &= ~(tf.equal(values, 0xF0) & (second < 0x90)) & ~(tf.equal(values, 0xF4) & (second >= 0x90))
        one = (values >= 0) & (values < 0x80)
        is_right = one | two | three | four
        for is_begun, size in ((two, 2), (three, 3), (four, 4)):
            for shift in range(1, size):
                is_right |= tf.concat([tf.zeros_like(is_begun[:shift]), is_begun[:-shift]], axis=0)
        is_byte = values >= 0
        if self._replaces_runs:
            begins = ~is_byte | ~before(is_byte, False) | (rows != before(rows, -1))
            run = tf.cumsum(tf.cast(begins, tf.int32)) - 1
            is_right = tf.gather(tf.math.segment_min(tf.cast(is_right, tf.int32), run), run) > 0
        return is_byte & ~is_right


def _shifted(values: tf.Tensor, rows: tf.Tensor, shift: int) -> tf.Tensor:
    """For each element the one so many places after it in its row, or -1."""
    values = tf.concat([values[shift:], tf.fill([shift], -1)], axis=0)[: tf.size(values)]
    there = tf.concat([rows[shift:], tf.fill([shift], -1)], axis=0)[: tf.size(rows)]
    return tf.where(tf.equal(rows, there), values, -1)
