"""Many merges at once against one at a time."""

import itertools

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm.tokenizers.pair_merger import ByteMerger, PairMerger


def merge_one_by_one(word, merges, ranks=None):
    """The textbook: the pair of lowest rank, the leftmost of several, until there is none."""
    tokens, ranks = list(word), ranks or range(len(merges))
    while True:
        pairs = enumerate(itertools.pairwise(tokens))
        ranked = [(ranks[merges.index(pair)], place) for place, pair in pairs if pair in merges]
        if not ranked:
            return tokens
        _, place = min(ranked)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]


def merge_at_once(words, merges):
    tokens = [chr(byte) for byte in range(256)]
    tokens += sorted({left + right for left, right in merges} - set(tokens))
    ids = {token: number for number, token in enumerate(tokens)}
    merger = ByteMerger(range(256), [(ids[left], ids[right], ids[left + right]) for left, right in merges], len(ids))
    return [[tokens[number] for number in row] for row in merger(tf.constant(words, tf.string)).to_list()]


@st.composite
def merge_lists(draw):
    """Lists in which each part is a letter or made before; a token may be made in several ways, used by the last."""
    merges, tokens = [], ["a", "b", "c"]
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        used = {part for merge in merges for part in merge}
        if pair not in merges and "".join(pair) not in used and len("".join(pair)) < 12:
            merges.append(pair)
            tokens.append("".join(pair))
    return merges


@st.composite
def disordered_merge_lists(draw):
    """Lists in which tokens may be used before they are made, as those made from tiktoken's files are (Llama 3)."""
    merges, tokens = [], ["a", "b", "c"]
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in merges and len("".join(pair)) < 12:
            merges.append(pair)
            tokens.append("".join(pair))
    return draw(st.permutations(merges))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.one_of(merge_lists(), disordered_merge_lists()),
    st.lists(st.text("abc", max_size=24), max_size=12),
    st.lists(st.text("a", max_size=24), max_size=3),
)
def test_merging_at_once_equals_merging_one_by_one(merges, words, runs):
    words = words + runs
    assert merge_at_once(words, merges) == [merge_one_by_one(word, merges) for word in words]


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        ("", []),
        ("aaaaa", ["aa", "aa", "a"]),
        ("aaab", ["aa", "ab"]),  # runs are merged from the left
        ("baab", ["b", "aa", "b"]),
        ("abcabc", ["abc", "abc"]),
        ("abcd", ["abc", "d"]),  # cd has a lower rank than abc, not than bc
    ],
)
def test_pairs_of_lower_rank_come_first(word, tokens):
    merges = [("a", "a"), ("b", "c"), ("c", "d"), ("a", "bc"), ("a", "b")]
    assert merge_at_once([word], merges) == [tokens]


def test_a_vocabulary_without_merges_leaves_bytes():
    assert merge_at_once(["abc", "", "a"], []) == [["a", "b", "c"], [], ["a"]]


@st.composite
def scored_pieces(draw):
    """As SentencePiece has them: whatever makes a piece is a merge, all merges that make it have the piece's rank."""
    letters = st.text("abc", min_size=2, max_size=6)
    pieces = sorted(draw(st.sets(letters, min_size=1, max_size=12)))
    ranks = draw(st.lists(st.integers(0, draw(st.sampled_from([3, 100]))), min_size=len(pieces), max_size=len(pieces)))
    known = {*pieces, *"abc"}
    return [
        (rank, (piece[:place], piece[place:]))
        for piece, rank in zip(pieces, ranks, strict=True)
        for place in range(1, len(piece))
        if {piece[:place], piece[place:]} <= known
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scored_pieces(), st.lists(st.text("abc", max_size=24), max_size=12))
def test_of_merges_of_equal_rank_the_leftmost_comes_first(scored, words):
    ranks, merges = [rank for rank, _ in scored], [merge for _, merge in scored]
    tokens = sorted({*"abc", *(part for merge in merges for part in merge), *map("".join, merges)})
    ids = {token: number for number, token in enumerate(tokens)}
    merger = PairMerger([(ids[left], ids[right], ids[left + right]) for left, right in merges], len(ids), ranks)
    symbols = tf.ragged.constant([[ids[letter] for letter in word] for word in words], tf.int32, ragged_rank=1)
    merged, begins = merger(symbols)
    texts = [[tokens[number] for number in row] for row in merged.to_list()]
    assert texts == [merge_one_by_one(word, merges, ranks) for word in words]
    places = itertools.accumulate((len(token) for row in texts for token in row), initial=0)
    assert begins.values.numpy().tolist() == list(places)[:-1]


def test_a_merge_of_a_later_part_is_not_taken_too_early():
    merges = [("ab", "a"), ("a", "b")]  # the first needs what the second makes
    assert merge_at_once(["abab", "ababab"], merges) == [merge_one_by_one(word, merges) for word in ("abab", "ababab")]


def test_symbols_that_nothing_merges_with_stay_as_they_are():
    merged, begins = PairMerger([(0, 1, 2)], 3)(tf.RaggedTensor.from_row_lengths([0, -1, 1, 0, 1, -1], [3, 3]))
    assert merged.to_list() == [[0, -1, 1], [2, -1]]
    assert begins.to_list() == [[0, 1, 2], [3, 5]]
