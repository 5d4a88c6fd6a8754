"""WordPiece in the graph: texts to ids and their places in the text, and ids to text."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_tfm.tokenizers.added_tokens import places_in_rows, shifted
from keras_tfm.tokenizers.bert_rules import UNKNOWN, BertSplitter, CharacterMapper, CharacterTable

MAX_CHARACTERS = 100  # longer words are unknown, in BERT and here
_CODE_POINT_BITS = 21
_FIRST, _NEXT = 0, 1  # roots of the trie: of pieces that begin a word, and of "##" pieces


class PieceCutter(tf.Module):
    """Splits texts into words, makes the characters of each different word plain, and cuts it into pieces, once.

    Args:
        vocabulary: dict from piece to id.
        table: CharacterTable of the rules.

    Call arguments:
        texts: string (N,), valid UTF-8.

    Returns:
        Three RaggedTensors of int32 (N, tokens): ids, and where each token starts and ends in the bytes of its text.
    """

    def __init__(self, vocabulary: Mapping[str, int], table: CharacterTable):
        super().__init__(name="piece_cutter")
        self._split = BertSplitter(table)
        self._map = CharacterMapper(table.replacements)
        self._match = PieceMatcher(vocabulary, vocabulary[UNKNOWN])

    def ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The ids alone (N, tokens): half as much to trace."""
        words = self._split(texts)  # (N, words)
        distinct, index = tf.unique(words.values)
        characters, *_ = self._map(distinct)
        ids, *_ = self._match(characters)
        return words.with_values(tf.gather(ids, index)).merge_dims(1, 2)

    def __call__(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        words = self._split(texts)  # (N, words)
        distinct, index = tf.unique(words.values)
        characters, first_bytes, last_bytes = self._map(distinct)
        ids, begins, closes = self._match(characters)
        starts = begins.with_values(tf.gather(first_bytes.values, begins.values))
        ends = closes.with_values(tf.gather(last_bytes.values, closes.values - 1))
        shift = places_in_rows(words)  # words leave no gaps
        ids, starts, ends = (tf.gather(pieces, index) for pieces in (ids, starts, ends))  # (words of all texts, pieces)
        parts = (ids, shifted(starts, shift), shifted(ends, shift))
        return tuple(words.with_values(part).merge_dims(1, 2) for part in parts)


class PieceMatcher(tf.Module):
    """Cuts words into the pieces of a vocabulary: from the left, the longest that fits each time.

    All words walk through a trie of the pieces together, one character in an iteration; those that are finished drop
    out. A word that cannot be cut, or has too many characters, is one unknown piece.

    Args:
        vocabulary: dict from piece to id; pieces that do not begin a word are written with "##" before them.
        unknown_id: int.
        max_characters: int, a longer word is unknown.

    Call arguments:
        words: RaggedTensor of int32 (W, characters), code points.

    Returns:
        Three RaggedTensors of int32 (W, pieces): ids; the first character of each piece; and the first character after
        it, counted over all words. A word without characters has no pieces.

    Reference:
        Wu et al. 2016, "Google's Neural Machine Translation System", section 4.1, https://arxiv.org/abs/1609.08144;
        the greedy search is BERT's, Devlin et al. 2019, https://arxiv.org/abs/1810.04805
    """

    def __init__(self, vocabulary: Mapping[str, int], unknown_id: int, max_characters: int = MAX_CHARACTERS):
        super().__init__(name="piece_matcher")
        self._unknown_id = unknown_id
        self._max_characters = max_characters
        children, piece_ids = _trie(vocabulary)
        keys = np.fromiter(children, np.int64, len(children))
        nodes = np.fromiter(children.values(), np.int32, len(children))
        with tf.init_scope(), tf.device("CPU:0"):
            self._children = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, nodes), default_value=-1
            )
            self._piece_ids = tf.constant(piece_ids, tf.int32)  # of each node; -1 if no piece ends there

    def __call__(self, words: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        splits = tf.cast(words.row_splits, tf.int32)
        starts, ends = splits[:-1], splits[1:]
        lengths = ends - starts
        is_unknown = lengths > self._max_characters
        walking = tf.where((lengths > 0) & ~is_unknown)[:, 0]
        # For each walking word: its number, its end, the node, the character to come, where the piece at hand begins,
        # where the longest piece found there ends, and its id.
        word, start = tf.cast(walking, tf.int32), tf.gather(starts, walking)
        none = tf.fill(tf.shape(word), -1)
        state = tf.stack([word, tf.gather(ends, walking), tf.zeros_like(word), start, start, start, none])
        found = tf.fill(tf.shape(words.values), -1)  # for each character: the id of the piece that begins there
        _, found, is_unknown = tf.while_loop(
            lambda state, *_: tf.shape(state)[1] > 0,
            lambda *loop: self._walk(tf.cast(words.values, tf.int64), *loop),
            (state, found, is_unknown),
            shape_invariants=(tf.TensorShape([7, None]), tf.TensorShape([None]), tf.TensorShape([None])),
        )
        # Words that came to nothing half-way have left pieces behind.
        is_lost = tf.repeat(is_unknown, lengths)
        found = tf.where(is_lost, -1, found)
        first = tf.boolean_mask(starts, is_unknown & (lengths > 0))[:, None]
        found = tf.tensor_scatter_nd_update(found, first, tf.fill(tf.shape(first)[:1], self._unknown_id))

        begins = tf.cast(tf.where(found >= 0)[:, 0], tf.int32)
        pieces_before = tf.concat([[0], tf.cumsum(tf.cast(found >= 0, tf.int32))], axis=0)
        row_splits = tf.gather(pieces_before, splits)
        # Pieces leave no gaps, and a word without pieces has no characters: each ends where the next one begins.
        closes = tf.concat([begins[1:], tf.shape(found)[:1]], axis=0)[: tf.size(begins)]

        def of_words(values: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_row_splits(values, tf.cast(row_splits, tf.int64), validate=False)

        return of_words(tf.gather(found, begins)), of_words(begins), of_words(closes)

    def _walk(self, characters: tf.Tensor, state: tf.Tensor, found: tf.Tensor, is_unknown: tf.Tensor):
        """One iteration: every word takes one step down the trie, or ends a piece if there is none."""
        word, end, node, place, begin, best_end, best_id = tf.unstack(state, num=7)
        character = tf.gather(characters, tf.minimum(place, tf.size(characters) - 1))
        key = tf.bitwise.left_shift(tf.cast(node, tf.int64), _CODE_POINT_BITS) + character
        child = tf.where(place < end, self._children.lookup(key), -1)
        goes_on = child >= 0

        piece_id = tf.gather(self._piece_ids, tf.maximum(child, 0))
        is_longer = goes_on & (piece_id >= 0)
        best_end, best_id = tf.where(is_longer, place + 1, best_end), tf.where(is_longer, piece_id, best_id)

        has_piece = ~goes_on & (best_id >= 0)
        found = tf.tensor_scatter_nd_update(
            found, tf.boolean_mask(begin, has_piece)[:, None], tf.boolean_mask(best_id, has_piece)
        )
        is_stuck = ~goes_on & (best_id < 0)
        stuck = tf.boolean_mask(word, is_stuck)[:, None]
        is_unknown = tf.tensor_scatter_nd_update(is_unknown, stuck, tf.fill(tf.shape(stuck)[:1], True))

        place = tf.where(goes_on, place + 1, best_end)
        begin = tf.where(goes_on, begin, best_end)
        node = tf.where(goes_on, child, _NEXT)
        best_id = tf.where(goes_on, best_id, -1)
        keeps_walking = goes_on | (has_piece & (best_end < end))
        state = tf.stack([word, end, node, place, begin, best_end, best_id])
        return tf.boolean_mask(state, keeps_walking, axis=1), found, is_unknown


def _trie(vocabulary: Mapping[str, int]) -> tuple[dict[int, int], list[int]]:
    """Children, (node, code point) in one number -> node, and the id of the piece that ends at each node or -1."""
    children: dict[int, int] = {}
    piece_ids = [-1, -1]
    for piece, piece_id in vocabulary.items():
        if not piece:
            continue
        is_next = piece.startswith("##") and len(piece) > 2
        node = _NEXT if is_next else _FIRST
        for character in piece[2:] if is_next else piece:
            key = (node << _CODE_POINT_BITS) + ord(character)
            node = children.setdefault(key, len(piece_ids))
            if node == len(piece_ids):
                piece_ids.append(-1)
        piece_ids[node] = piece_id
    return children, piece_ids


def written(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """How the WordPiece decoder of the library `tokenizers` writes each token, if it is the first one and if it is not.

    Words are written with a space before them unless they are the first; "##" pieces and . , ! ? without. A "##" piece
    that comes first keeps its "##".

    Args:
        tokens: the token of each id.

    Returns:
        two lists of strings.
    """
    import tokenizers

    write = tokenizers.decoders.WordPiece(prefix="##", cleanup=True).decode
    return [write([token]) for token in tokens], [write(["x", token])[1:] for token in tokens]
