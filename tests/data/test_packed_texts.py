"""Texts in few rows: all are there, rows are about equally long, and an encoder does not tell the difference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tfm.data import pack_texts
from keras_tfm.models import build_bert


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=40), min_size=1, max_size=30), st.data())
def test_every_text_comes_back(texts, data):
    num_rows = data.draw(st.none() | st.integers(1, len(texts)))
    packed = pack_texts(texts, num_rows, padding_id=7)
    token_ids, mask = packed.inputs["token_ids"], packed.inputs["padding_mask"]
    assert [list(text) for text in packed.unpack(token_ids)] == texts
    assert mask.sum() == sum(map(len, texts))
    assert (token_ids[~mask] == 7).all()
    for i, documents in enumerate(packed.unpack(packed.inputs["document_ids"])):
        assert (documents == i).all()
    if num_rows is not None:
        assert token_ids.shape[0] == num_rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 30))
def test_no_row_is_longer_than_another_by_more_than_a_text(lengths, num_rows):
    packed = pack_texts([np.ones(length, "int32") for length in lengths], min(num_rows, len(lengths)))
    filled = packed.inputs["padding_mask"].sum(axis=1)
    assert filled.max() - filled.min() <= max(lengths)
    assert filled.max() == packed.inputs["token_ids"].shape[1]


def test_ragged_texts_are_packed_with_little_padding():
    lengths = np.random.default_rng(0).integers(16, 129, 8)
    rows, width = pack_texts([np.ones(length, "int32") for length in lengths]).inputs["token_ids"].shape
    assert rows * width <= 1.1 * lengths.sum()
    assert width <= 3 * lengths.max()
    assert pack_texts([[1] * 50] * 1000).inputs["token_ids"].shape[0] > 100


def test_states_are_those_of_each_text_alone():
    encoder = build_bert("tiny", vocabulary_size=50, max_sequence_length=32, dropout=0.0)
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 50, length) for length in (5, 17, 9, 30, 1)]
    packed = pack_texts(texts)
    for text, states in zip(texts, packed.unpack(encoder(packed.inputs)["sequence_output"]), strict=True):
        np.testing.assert_allclose(states, encoder(text[None])["sequence_output"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "num_rows", "message"),
    [
        ([], None, "one or more texts"),
        ([[1], [2]], 3, "num_rows=3"),
        ([[1], [2]], 0, "num_rows=0"),
        ([[1], []], None, "text 1 of shape"),
        ([[0.5]], None, "dtype float64"),
        ([[[1]]], None, "text 0 of shape"),
    ],
)
def test_other_input_is_an_error(texts, num_rows, message):
    with pytest.raises(ValueError, match=message):
        pack_texts(texts, num_rows)
