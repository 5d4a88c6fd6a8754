"""Who may look at whom."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from keras_tfm.ops import attention_mask, padding_mask
from tests import reference

POSITIONS = st.lists(st.integers(-1, 6), min_size=1, max_size=6)


@hypothesis.given(POSITIONS, POSITIONS, st.booleans(), st.none() | st.integers(1, 5))
@hypothesis.settings(max_examples=60)
def test_visibility_equals_the_rule_pair_by_pair(query, key, causal, window):
    query, key = np.array([query], "int32"), np.array([key], "int32")
    visible = attention_mask(query, key, causal=causal, window=window)
    np.testing.assert_array_equal(visible, reference.visibility(query, key, causal, window)[:, None])


def test_a_query_sees_itself_in_the_smallest_window():
    positions = np.array([[0, 1, 2]])
    np.testing.assert_array_equal(attention_mask(positions, positions, window=1)[0, 0], np.eye(3, dtype=bool))


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (2, 5, 3, 4), (2, 1, 3, 4)])
def test_a_callers_mask_only_restricts(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    query, key = np.array([[1, 2, 3]] * 2), np.array([[0, 1, 2, -1]] * 2)
    visible = attention_mask(query, key, causal=True, mask=mask)
    per_head = mask if mask.ndim == 4 else mask[:, None]
    causal = ops.convert_to_numpy(attention_mask(query, key, causal=True))
    np.testing.assert_array_equal(visible, causal & per_head)


def test_integer_masks_are_accepted():
    np.testing.assert_array_equal(padding_mask(np.array([[1, 0]]), (1, 2)), [[True, False]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_float_masks_are_refused(dtype):
    mask = ops.ones((2, 3), dtype)
    with pytest.raises(TypeError, match=rf"`mask` must be boolean.*dtype={dtype}, shape=\(2, 3\).*attention_bias"):
        padding_mask(mask, (2, 3))
    positions = np.array([[0, 1, 2]] * 2)
    with pytest.raises(TypeError, match=rf"`attention_mask` must be boolean.*dtype={dtype}, shape=\(2, 3, 3\)"):
        attention_mask(positions, positions, mask=ops.ones((2, 3, 3), dtype))


def test_masks_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"`mask` must have rank 2. Received: shape=\(2, 3, 3\)"):
        padding_mask(np.ones((2, 3, 3), bool), (2, 3))
    positions = np.array([[0, 1, 2]] * 2)
    with pytest.raises(ValueError, match=r"`attention_mask` must have rank 3 or 4. Received: shape=\(2, 3\)"):
        attention_mask(positions, positions, mask=np.ones((2, 3), bool))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 1)])
def test_padding_masks_of_another_size_are_refused_with_both_sizes(shape):
    with pytest.raises(ValueError, match=rf"`mask` must have the sizes \(2, 3\).*Received: \({shape[0]}, {shape[1]}\)"):
        padding_mask(np.ones(shape, bool), (2, 3))


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 4), (3, 3, 4), (2, 5, 3, 3)])
def test_attention_masks_of_another_size_are_refused_with_both_sizes(shape):
    query, key = np.array([[0, 1, 2]] * 2), np.array([[0, 1, 2, 3]] * 2)
    received = rf"Received: \({shape[0]}, {shape[-2]}, {shape[-1]}\)"
    with pytest.raises(ValueError, match=rf"`attention_mask` must have the sizes \(2, 3, 4\).*{received}"):
        attention_mask(query, key, mask=np.ones(shape, bool))


def test_unknown_sizes_are_not_compared():
    np.testing.assert_array_equal(padding_mask(np.ones((2, 3), bool), (None, None)), np.ones((2, 3), bool))
