"""Groups of beams: equal without a penalty, different with one."""

import numpy as np
import pytest

from keras_tfm.samplers import BeamSampler, DiverseBeamSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel

PROMPTS = [[1, 2, 3], [5]]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


def test_without_a_penalty_each_group_is_a_beam_search(model):
    options = {"max_new_tokens": 6, "stop_token_ids": (2, 4)}
    beam = generate_eagerly(model, PROMPTS, sampler=BeamSampler(num_beams=2), num_return_sequences=2, **options)
    sampler = DiverseBeamSampler(num_beams=6, num_groups=3, diversity_penalty=0.0)
    groups = generate_eagerly(model, PROMPTS, sampler=sampler, num_return_sequences=6, **options)
    np.testing.assert_allclose(groups.scores.reshape(2, 6), np.repeat(beam.scores.reshape(2, 2), 3, axis=1), atol=1e-5)
    expected = {tuple(row) for row in beam.token_ids.tolist()}
    assert {tuple(row) for row in groups.token_ids.tolist()} == expected


def test_the_penalty_counts_the_beams_that_wrote_a_token():
    # One step of p = .5, .3, .2, groups of one: the first takes token 0, the second loses 1 nat on it: 1, and the third
    # has lost 1 nat on both and takes 2 (.5 / e = .18, .3 / e = .11).
    model = ScriptedModel(np.log([[0.5, 0.3, 0.2]]))
    sampler = DiverseBeamSampler(num_beams=3, num_groups=3, diversity_penalty=1.0)
    answer = generate_eagerly(model, [[0]], max_new_tokens=1, sampler=sampler, num_return_sequences=3)
    assert answer.token_ids.tolist() == [[0], [1], [2]]


def test_two_beams_of_a_group_weigh_twice():
    # Groups of 2: the first writes 0 and 1. With half a nat each, 2 (.22) beats 0 (.4 / e^.5 = .24)? No: 0, then 2.
    model = ScriptedModel(np.log([[0.4, 0.3, 0.22, 0.08]]))
    sampler = DiverseBeamSampler(num_beams=4, num_groups=2, diversity_penalty=0.5)
    answer = generate_eagerly(model, [[0]], max_new_tokens=1, sampler=sampler, num_return_sequences=4)
    assert sorted(answer.token_ids[:, 0].tolist()) == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_beams": 5, "num_groups": 2}, "num_beams=5, num_groups=2"), ({"diversity_penalty": -1}, "penalty=-1")],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiverseBeamSampler(**arguments)
