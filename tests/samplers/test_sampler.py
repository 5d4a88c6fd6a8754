"""Samplers choose from logits by (seed, row, step) alone, and come apart into structure and numbers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_tfm import samplers
from keras_tfm.samplers.numbers import split_numbers, with_numbers


def step_random(seed=0, rows=1, step=0):
    return samplers.StepRandom(tf.constant(seed), tf.range(rows), tf.constant(step))


def test_greedy_takes_the_first_best():
    assert samplers.GreedySampler().choose(tf.constant([[0.0, 2.0, 2.0]]), step_random()).numpy() == [1]


def test_random_draws_follow_the_softmax():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    num_draws = 20_000
    logits = tf.tile(tf.constant(np.log(probabilities)[None], tf.float32), [num_draws, 1])
    tokens = samplers.RandomSampler().choose(logits, step_random(seed=3, rows=num_draws)).numpy()
    counts = np.bincount(tokens, minlength=4)
    chi_square = ((counts - num_draws * probabilities) ** 2 / (num_draws * probabilities)).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001, with a fixed seed


def test_row_and_step_and_seed_each_change_the_draw():
    base = step_random(seed=1, rows=4, step=2).gumbel(64).numpy()
    assert len({row.tobytes() for row in base}) == 4
    assert not np.array_equal(base, step_random(seed=2, rows=4, step=2).gumbel(64).numpy())
    assert not np.array_equal(base, step_random(seed=1, rows=4, step=3).gumbel(64).numpy())


def test_a_row_draws_the_same_in_any_batch():
    alone = step_random(seed=1, rows=1, step=5)
    together = step_random(seed=1, rows=3, step=5)
    np.testing.assert_array_equal(alone.gumbel(10)[0], together.gumbel(10)[0])
    np.testing.assert_array_equal(alone.uniform()[0], together.uniform()[0])


def test_numbers_come_out_and_go_back_in_order():
    sampler = samplers.RandomSampler([samplers.Temperature(0.5), samplers.TopK(3), samplers.BanTokens((4, 5))])
    structure, numbers = split_numbers(sampler)
    assert [number.tolist() for number in numbers] == [0.5, 3, [4, 5]]
    doubled = with_numbers(sampler, [number * 2 for number in numbers])
    assert doubled.processors[0].temperature == 1.0
    assert doubled.processors[2].token_ids.tolist() == [8, 10]
    other = samplers.RandomSampler([samplers.Temperature(0.9), samplers.TopK(7), samplers.BanTokens((1, 2))])
    assert split_numbers(other)[0] == structure
    assert split_numbers(samplers.RandomSampler([samplers.TopK(7)]))[0] != structure


def test_samplers_go_by_name():
    assert samplers.get_sampler("greedy") == samplers.GreedySampler()
    assert set(samplers.SAMPLERS) == {"beam", "greedy", "random", "top_k", "top_p"}


def test_an_unknown_name_raises_and_shows_the_known_ones():
    with pytest.raises(ValueError, match=r"\['beam', 'greedy', 'random', 'top_k', 'top_p'\].*'gredy'"):
        samplers.get_sampler("gredy")


@pytest.mark.parametrize("stranger", [None, 3, samplers.GreedySampler])
def test_what_is_no_sampler_raises(stranger):
    with pytest.raises(TypeError, match="must be a name or a `Sampler` object"):
        samplers.get_sampler(stranger)


def test_a_processor_that_is_no_dataclass_raises():
    with pytest.raises(TypeError, match="derived from `Processor`"):
        samplers.RandomSampler([lambda logits, tokens, step: logits])


def test_the_bases_say_what_to_define():
    with pytest.raises(NotImplementedError, match=r"Sampler must define `choose"):
        samplers.Sampler().choose(None, None)
    with pytest.raises(NotImplementedError, match=r"Processor must define `__call__"):
        samplers.Processor()(None, None, None)


def test_a_custom_sampler_takes_ten_lines():
    @dataclasses.dataclass(frozen=True)
    class BestOrSecond(samplers.Sampler):
        best: float = 0.9

        def choose(self, logits, random):
            _, ids = ops.top_k(logits, 2)
            return ops.where(random.uniform() < self.best, ids[:, 0], ids[:, 1])

    logits = tf.tile(tf.constant([[1.0, 3.0, 2.0]]), [2000, 1])
    tokens = BestOrSecond(best=0.7).choose(logits, step_random(rows=2000)).numpy()
    assert set(tokens) == {1, 2}
    assert abs((tokens == 1).mean() - 0.7) < 0.04  # 4 standard deviations of 2,000 draws
