"""Stateless random numbers: Threefry's published answers, and that draws are uniform and repeatable."""

import numpy as np
import pytest
from keras import backend, ops

from keras_tfm.ops import random_bits, random_uniform

# kat_vectors of the Random123 distribution, threefry2x32 with 20 rounds.
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def uint32(*numbers):
    return tuple(ops.convert_to_tensor(np.asarray(number, "uint32"), "uint32") for number in numbers)


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_random_bits_are_the_known_answers_of_random123(key, counter, answer):
    assert tuple(int(x) for x in random_bits(uint32(*key), uint32(*counter))) == answer


def test_keys_and_counters_broadcast():
    rows, steps = np.arange(3)[:, None], np.arange(4)[None]
    table = random_bits(uint32(5, 6), uint32(rows, steps))[0]
    table = ops.convert_to_numpy(table)
    assert table.shape == (3, 4)
    assert len(np.unique(table)) == 12
    for i, j in np.ndindex(3, 4):
        assert int(random_bits(uint32(5, 6), uint32(i, j))[0]) == table[i, j]


def test_uniform_draws_are_uniform_in_the_open_interval():
    n = 200_000
    draws = random_uniform(uint32(7, 8), uint32(np.arange(n), 0))
    draws = ops.convert_to_numpy(draws)
    assert draws.dtype == np.float32
    assert draws.min() > 0
    assert draws.max() < 1
    # Four standard errors of the mean (0.29 / sqrt(n)) and of the variance (0.075 / sqrt(n)).
    assert abs(draws.mean() - 1 / 2) < 4 * 0.29 / n**0.5
    assert abs(draws.var() - 1 / 12) < 4 * 0.075 / n**0.5
    counts = np.histogram(draws, bins=16, range=(0, 1))[0]
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 40  # chi-square, 15 degrees of freedom: p < 0.0005


@pytest.mark.skipif(backend.backend() != "tensorflow", reason="generation, which compiles draws, is TensorFlow's")
def test_compiled_draws_equal_eager_ones():
    import tensorflow as tf

    counter = uint32(np.arange(1000), 3)
    eager = random_uniform(uint32(1, 2), counter)
    for jit_compile in (False, True):
        compiled = tf.function(random_uniform, jit_compile=jit_compile)(uint32(1, 2), counter)
        np.testing.assert_array_equal(eager, compiled)
