"""Many merges at once against one at a time."""

import itertools

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm.tokenizers.pair_merger import ByteMerger


def merge_one_by_one(word, merges):
    """The textbook: the pair of lowest rank, the leftmost of several, until there is none."""
    tokens = list(word)
    while True:
        pairs = enumerate(itertools.pairwise(tokens))
        ranked = [(merges.index(pair), place) for place, pair in pairs if pair in merges]
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
