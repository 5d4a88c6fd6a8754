"""Caches: rolling and 8-bit ones beside the plain one, and taking tokens back."""

import numpy as np
import pytest

from keras_tfm.layers import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_tfm.layers.cache import LONGEST_APPEND, Int8Array, KVCache, RollingKVCache

B, D = 2, 8


def numbers(*shape):
    return np.random.default_rng(shape[1]).normal(size=shape).astype("float32")


def pieces_of(layer, x, sizes, cache):
    """The layer's outputs for x read in pieces."""
    outputs, start = [], 0
    for size in sizes:
        y, cache = layer(x[:, start : start + size], cache=cache)
        outputs.append(np.asarray(y))
        start += size
    return np.concatenate(outputs, axis=1), cache


@pytest.mark.parametrize("sizes", [[1] * 30, [7, 1, 1, 12, 3, 6], [10, 10, 10]])
def test_a_rolling_cache_sees_what_the_window_shows(sizes, monkeypatch):
    monkeypatch.setattr("keras_tfm.layers.cache.LONGEST_APPEND", 12)
    layer = MultiHeadSelfAttention(2, causal=True, window=5)
    x = numbers(B, 30, D)
    expected = np.asarray(layer(x))
    cache = layer.init_cache(B, 1000)
    assert isinstance(cache, RollingKVCache)
    assert cache.key.shape[2] == 5 + 12
    actual, _ = pieces_of(layer, x, sizes, cache)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_rolling_cache_takes_tokens_back(monkeypatch):
    monkeypatch.setattr("keras_tfm.layers.cache.LONGEST_APPEND", 4)
    layer = MultiHeadSelfAttention(2, causal=True, window=3)
    x = numbers(B, 20, D)
    expected = np.asarray(layer(x))
    cache = layer.init_cache(B, 1000)
    for start in range(0, 18, 2):
        wrong = numbers(B, 4, D) + start
        _, cache = layer(np.concatenate([x[:, start : start + 2], wrong[:, :2]], axis=1), cache=cache)
        cache = cache.keep(np.array([start + 2] * 2, "int32"))
    y, _ = layer(x[:, 18:], cache=cache)
    np.testing.assert_allclose(y, expected[:, 18:], atol=1e-5)


def test_too_much_at_once_for_a_rolling_cache_raises():
    layer = MultiHeadSelfAttention(2, causal=True, window=3)
    layer.build((B, None, D))
    cache = layer.init_cache(B, 10)
    _, cache = layer(numbers(B, 6, D), cache=cache)
    with pytest.raises(ValueError, match="has 10 slots, 2 of which.*Received: 9 tokens at once after 6"):
        layer(numbers(B, 9, D), cache=cache)


@pytest.mark.parametrize("kept", [[0, 0], [2, 2], [1, 3]])
def test_rows_keep_what_they_kept(kept):
    layer = MultiHeadSelfAttention(2, causal=True)
    x, guesses = numbers(B, 9, D), numbers(B, 3, D)
    layer.build(x.shape)
    cache = layer.init_cache(B, 20)
    _, cache = layer(x[:, :4], cache=cache)
    _, cache = layer(guesses, cache=cache)
    cache = cache.keep(4 + np.array(kept, "int32"))
    assert int(cache.index) == 4 + max(kept)
    y, _ = layer(x[:, 4:5], cache=cache)
    for row, count in enumerate(kept):
        whole = np.concatenate([x[row, :4], guesses[row, :count], x[row, 4:5]])[None]
        np.testing.assert_allclose(y[row, 0], np.asarray(layer(whole))[0, -1], atol=1e-5)


def test_8_bits_hold_numbers_to_half_a_step():
    x = numbers(3, 4, 5, 8)
    error = np.abs(np.asarray(Int8Array.of(x).to("float32")) - x)
    step = np.abs(x).max(-1, keepdims=True) / 127
    assert (error <= 0.5 * step + 1e-6).all()


@pytest.mark.parametrize("window", [None, 6])
def test_an_8_bit_cache_is_a_quarter_and_nearly_the_same(window):
    layer = MultiHeadSelfAttention(2, causal=True, window=window)
    x = numbers(B, 12, D)
    expected = np.asarray(layer(x))
    cache = layer.init_cache(B, 12, "int8")
    assert np.asarray(cache.key.values).dtype == np.int8
    actual, _ = pieces_of(layer, x, [5, 1, 6], cache)
    # 8 bits are 0.4 % of the greatest number of a head; sums over keys and heads stay near that.
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


def test_an_empty_row_of_zeros_stays_zero():
    assert (np.asarray(Int8Array.of(np.zeros((1, 2))).to("float32")) == 0).all()


def test_caches_say_what_they_are():
    assert isinstance(KVCache.empty(1, 4, 2, 8, "float32"), KVCache)
    assert RollingKVCache.empty(1, 10**6, 2, 8, "float32", window=8).key.shape[2] == 8 + LONGEST_APPEND


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_any_appending_keeping_and_growing_equals_reading_anew(window, seed, monkeypatch):
    monkeypatch.setattr("keras_tfm.layers.cache.LONGEST_APPEND", 6)
    generator = np.random.default_rng(seed)
    layer = MultiHeadSelfAttention(2, causal=True, window=window)
    layer.build((B, None, D))
    cache, rows, num_read = layer.init_cache(B, 4), [np.zeros((0, D), "float32")] * B, np.zeros(B, "int32")
    for _ in range(12):
        length = int(generator.integers(1, 5))
        new, mask = numbers(B, length, D) + generator.normal(), generator.random((B, length)) < 0.8
        y, cache = layer(new, mask=mask, cache=cache.grow(length))
        rows = [np.concatenate([row, x[real]]) for row, x, real in zip(rows, new, mask, strict=True)]
        for i, row in enumerate(rows):
            if mask[i].any():
                expected = np.asarray(layer(row[None]))[0, -int(mask[i].sum()) :]
                np.testing.assert_allclose(np.asarray(y)[i][mask[i]], expected, atol=1e-5)
        # As speculation does: some of what was just read is taken back.
        num_read = np.array([len(row) for row in rows]) - np.minimum(generator.integers(0, 2, B), mask.sum(1))
        cache = cache.keep(num_read.astype("int32"))
        rows = [row[:length] for row, length in zip(rows, num_read, strict=True)]


@pytest.mark.parametrize("return_scores", [False, True])
def test_a_context_serves_all_rows_of_its_prompt(return_scores):
    layer = MultiHeadCrossAttention(num_heads=2)
    x, context = numbers(6, 3, D), numbers(2, 5, D)
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    layer.build(x.shape, context.shape)
    expected = layer(
        x, context=np.repeat(context, 3, 0), context_mask=np.repeat(mask, 3, 0), return_attention_scores=True
    )
    actual = layer(x, cache=layer.remember(context, mask), return_attention_scores=return_scores)
    for one, other in zip(actual if return_scores else (actual,), expected, strict=return_scores):
        np.testing.assert_allclose(one, other, atol=1e-6)
