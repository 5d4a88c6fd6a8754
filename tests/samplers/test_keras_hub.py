"""Our samplers in real KerasHub models, and KerasHub's in ours."""

import keras_hub
import numpy as np
import pytest

from keras_tfm.samplers import (
    BeamSampler,
    GreedySampler,
    RandomSampler,
    RepetitionPenalty,
    TopK,
    match_one_of,
)
from keras_tfm.samplers.keras_hub import from_keras_hub, to_keras_hub
from tests.generation.lively import lively, lively_model

PROMPTS = [[1, 2, 3], [5]]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


@pytest.fixture(scope="module")
def hub_model():
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=29, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=32
    )
    return lively(keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None))


def write(hub_model, sampler, **options):
    hub_model.compile(sampler=sampler, **options)
    token_ids = np.zeros((2, 12), "int32")
    for row, prompt in zip(token_ids, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    inputs = {"token_ids": token_ids, "padding_mask": token_ids > 0}
    return np.asarray(hub_model.generate(inputs, stop_token_ids=None)["token_ids"]).tolist()


@pytest.mark.slow
def test_our_greedy_writes_as_theirs(hub_model):
    assert write(hub_model, to_keras_hub(GreedySampler())) == write(hub_model, "greedy")


def test_processors_work_in_their_loop_with_jit(hub_model):
    sampler = to_keras_hub(RandomSampler([RepetitionPenalty(5.0), TopK(4)], seed=3))
    first, second = write(hub_model, sampler, jit_compile=True), write(hub_model, sampler, jit_compile=True)
    assert [row[: len(prompt)] for row, prompt in zip(first, PROMPTS, strict=True)] == PROMPTS
    assert first != second  # the draws of each call differ


def test_a_grammar_works_in_their_loop_with_ragged_prompts(hub_model):
    grammar = match_one_of([tuple(range(3, 20))], 29)
    rows = write(hub_model, to_keras_hub(GreedySampler([grammar])))
    assert rows == [[1, 2, 3, *range(3, 12)], [5, *range(3, 14)]]


def test_their_greedy_writes_as_ours(model):
    expected = model.generate(PROMPTS, max_new_tokens=6).token_ids
    sampler = from_keras_hub(keras_hub.samplers.GreedySampler())
    assert model.generate(PROMPTS, max_new_tokens=6, sampler=sampler).token_ids.tolist() == expected.tolist()


@pytest.mark.slow
def test_their_random_samplers_draw_in_our_loop(model):
    top_1 = from_keras_hub(keras_hub.samplers.TopKSampler(k=1, seed=1))
    expected = model.generate(PROMPTS, max_new_tokens=6).token_ids
    assert model.generate(PROMPTS, max_new_tokens=6, sampler=top_1).token_ids.tolist() == expected.tolist()
    top_5 = from_keras_hub(keras_hub.samplers.TopKSampler(k=5, seed=1, temperature=2.0))
    first, second = (model.generate(PROMPTS, max_new_tokens=6, sampler=top_5).token_ids for _ in range(2))
    assert first.tolist() != second.tolist()


def test_samplers_with_loops_of_their_own_are_refused():
    with pytest.raises(TypeError, match="Received: BeamSampler"):
        to_keras_hub(BeamSampler())
    with pytest.raises(TypeError, match="Received: BeamSampler.*`ContrastiveSampler`"):
        from_keras_hub(keras_hub.samplers.BeamSampler())
    with pytest.raises(TypeError, match="Received: str"):
        from_keras_hub("greedy")
