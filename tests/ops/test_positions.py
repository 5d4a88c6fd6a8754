"""Positions as data, and what the position schemes make of them."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import backend, ops
from transformers.models.t5.modeling_t5 import T5Attention

from keras_tfm.ops import (
    alibi_slopes,
    apply_rotary,
    next_positions,
    relative_position_buckets,
    rotary_inverse_frequencies,
    sinusoidal_encoding,
)
from tests import reference


def test_real_tokens_are_numbered_and_padding_is_minus_one_on_either_side():
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    expected = [[-1, -1, 0, 1, 2], [0, 1, 2, -1, -1], [-1, 0, -1, 1, -1], [-1] * 5]
    np.testing.assert_array_equal(next_positions(mask), expected)


def test_numbering_goes_on_after_what_each_row_has_read():
    num_read = np.array([3, 1, 0], "int32")
    mask = np.array([[1, 1], [0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(next_positions(mask, num_read), [[3, 4], [-1, 1], [0, -1]])


@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 8))
@hypothesis.settings(max_examples=30)
def test_numbering_in_two_pieces_equals_numbering_at_once(mask, cut):
    mask = np.array([mask])
    whole = ops.convert_to_numpy(next_positions(mask))
    first, second = mask[:, :cut], mask[:, cut:]
    np.testing.assert_array_equal(next_positions(second, first.sum(1).astype("int32")), whole[:, cut:])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [8, 4])
@pytest.mark.parametrize("max_wavelength", [10_000.0, 500.0])
def test_rotary_equals_complex_rotation(interleaved, rotary_dim, max_wavelength):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    positions = np.array([[0, 1, 2, 3, 4], [-1, 0, 7, 100, 3000]], "int32")
    y = apply_rotary(
        ops.convert_to_tensor(x), positions, rotary_inverse_frequencies(rotary_dim, max_wavelength), interleaved
    )
    expected = reference.rotary(x, positions, max_wavelength, rotary_dim, interleaved)
    # An angle of 3000 radians in float32 is off by up to 2e-4.
    np.testing.assert_allclose(y, expected, atol=1e-3)
    np.testing.assert_allclose(y[0], expected[0], atol=2e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_depend_on_the_distance_only(interleaved):
    rng = np.random.default_rng(1)
    query, key = rng.normal(size=(2, 1, 1, 1, 16)).astype("float32")
    frequencies = rotary_inverse_frequencies(16)

    def product(query_position, key_position):
        turned = [
            ops.convert_to_numpy(
                apply_rotary(ops.convert_to_tensor(x), np.array([[position]]), frequencies, interleaved)
            )
            for x, position in ((query, query_position), (key, key_position))
        ]
        return float(np.sum(turned[0] * turned[1]))

    near = [product(start + 3, start) for start in (0, 5, 50)]
    np.testing.assert_allclose(near, near[0], atol=1e-4)  # angles up to 50 radians in float32, times 16 terms
    assert abs(product(9, 0) - near[0]) > 1e-2


def test_rotary_keeps_the_dtype_and_counts_positions_exactly_in_bfloat16():
    x = ops.ones((1, 1, 2, 4), "bfloat16")
    y = apply_rotary(x, np.array([[1000, 1001]]), rotary_inverse_frequencies(4))
    assert backend.standardize_dtype(y.dtype) == "bfloat16"
    expected = reference.rotary(np.ones((1, 1, 2, 4)), np.array([[1000, 1001]]))
    np.testing.assert_allclose(
        ops.cast(y, "float32"), expected, atol=2e-2
    )  # bfloat16 has 8 bits; two products are added


def test_sinusoidal_equals_the_paper_and_is_zero_at_padding():
    positions = np.array([[-1, -1, 0, 1, 2], [0, 1, 2, 77, -1]], "int32")
    for dim, wavelength in ((8, 10_000.0), (6, 100.0)):
        encoding = ops.convert_to_numpy(sinusoidal_encoding(positions, dim, wavelength))
        for b, t in np.ndindex(positions.shape):
            expected = reference.sinusoidal(positions[b, t], dim, wavelength) if positions[b, t] >= 0 else np.zeros(dim)
            np.testing.assert_allclose(encoding[b, t], expected, atol=1e-5)  # an angle of 77 in float32


def test_alibi_slopes_are_those_of_the_authors():
    np.testing.assert_allclose(alibi_slopes(8), [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
    twelve = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    twelve += [0.7071067811865476, 0.35355339059327384, 0.17677669529663692, 0.08838834764831849]
    np.testing.assert_allclose(alibi_slopes(12), twelve, rtol=1e-6)
    np.testing.assert_allclose(alibi_slopes(1), [1 / 256])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (16, 64)])
def test_relative_buckets_are_those_of_t5(bidirectional, num_buckets, max_distance):
    import torch

    distances = np.arange(-300, 301, dtype="int32")
    buckets = relative_position_buckets(distances, num_buckets, max_distance, bidirectional)
    expected = T5Attention._relative_position_bucket(
        torch.tensor(distances.astype("int64")), bidirectional, num_buckets, max_distance
    )
    np.testing.assert_array_equal(buckets, expected.numpy())
