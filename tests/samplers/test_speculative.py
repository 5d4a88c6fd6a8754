"""Speculative decoding writes what its rule alone would write: token for token, or by distribution."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_tfm.samplers import (
    BeamSampler,
    DraftModel,
    GreedySampler,
    NoRepeatNgram,
    PromptLookup,
    RandomSampler,
    SpeculativeSampler,
    Temperature,
)
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel

PROMPTS = [[1, 2, 3], [5], [7, 8] * 9]
OPTIONS = {"max_new_tokens": 12, "stop_token_ids": (26,)}


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


@pytest.fixture(scope="module")
def draft():
    return lively_model(seed=9, num_layers=1)


@pytest.fixture(scope="module")
def greedy(model):
    """processors -> what the greedy sampler writes with them."""
    return {
        processors: generate_eagerly(model, PROMPTS, sampler=GreedySampler(processors), **OPTIONS)
        for processors in ((), (NoRepeatNgram(2),))
    }


@pytest.mark.parametrize("num_drafts", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("drafter", ["lookup", pytest.param("draft", marks=pytest.mark.slow), "itself"])
def test_greedy_speculative_is_greedy(model, draft, greedy, drafter, num_drafts):
    drafters = {"lookup": PromptLookup(), "draft": DraftModel(draft), "itself": DraftModel(model)}
    for processors, expected in greedy.items():
        sampler = SpeculativeSampler(processors, drafter=drafters[drafter], num_drafts=num_drafts)
        answer = generate_eagerly(model, PROMPTS, sampler=sampler, **OPTIONS)
        assert answer.token_ids.tolist() == expected.token_ids.tolist()
        assert answer.finish_reasons == expected.finish_reasons


class CountingModel(ScriptedModel):
    """Counts how often it reads."""

    num_reads = 0

    def read(self, token_ids, state, padding_mask=None):
        self.num_reads += 1
        return super().read(token_ids, state, padding_mask)


def test_right_guesses_save_readings():
    script = np.tile(10 * np.eye(5)[[1, 2, 3]], (9, 1))
    model = CountingModel(script)
    sampler = SpeculativeSampler(drafter=DraftModel(ScriptedModel(script)), num_drafts=4)
    answer = generate_eagerly(model, [[0]], max_new_tokens=21, sampler=sampler)
    assert answer.token_ids[0].tolist() == [1, 2, 3] * 7
    assert model.num_reads == 1 + 4  # the prompt, then five tokens at a time


def test_repeated_text_is_guessed_by_lookup():
    model = CountingModel(np.tile(10 * np.eye(5)[[1, 2, 3]], (20, 1)))
    sampler = SpeculativeSampler(drafter=PromptLookup(), num_drafts=4)
    answer = generate_eagerly(model, [[1, 2, 3] * 3], max_new_tokens=21, sampler=sampler)
    assert answer.token_ids[0].tolist() == [1, 2, 3] * 7
    assert model.num_reads == 1 + 4


class NextByLast(ScriptedModel):
    """A Markov chain: the logits of the next token belong to the last one."""

    def read(self, token_ids, state, padding_mask=None):
        return ops.take(self.script, ops.convert_to_tensor(token_ids), axis=0), state


NUM_DRAWS = 20_000
TARGET, PROPOSAL = np.random.default_rng(0).dirichlet(np.ones(3), (2, 3))
TARGET[0] = [0.5, 0.3, 0.2]


@pytest.fixture(scope="module", params=["draft", "lookup"])
def counts(request):
    """(3, 3, 3): how often each text of three tokens was drawn."""
    drafters = {"draft": DraftModel(NextByLast(np.log(PROPOSAL))), "lookup": PromptLookup()}
    sampler = SpeculativeSampler(drafter=drafters[request.param], rule=RandomSampler(), num_drafts=2, seed=11)
    answer = generate_eagerly(
        NextByLast(np.log(TARGET)),
        [[0, 1, 2, 0, 2, 1, 0]],
        max_new_tokens=3,
        sampler=sampler,
        num_return_sequences=NUM_DRAWS,
    )
    a, b, c = answer.token_ids.T
    return np.bincount(9 * a + 3 * b + c, minlength=27).reshape(3, 3, 3)


def chi_square_p(counts, first):
    """Of the counts, if the first token has these probabilities and the others follow the model."""
    expected = NUM_DRAWS * np.asarray(first)[:, None, None] * TARGET[:, :, None] * TARGET[None]
    return stats.chisquare(counts.ravel(), expected.ravel()).pvalue


def test_draws_follow_the_models_distribution(counts):
    assert chi_square_p(counts, TARGET[0]) > 1e-3


def test_the_draws_are_told_from_those_of_a_biased_sampler(counts):
    """Else the test above would show little: .504, .166, .330 is what another library draws."""
    assert chi_square_p(counts, [0.504, 0.166, 0.330]) < 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_drafts": 0}, "num_drafts=0"),
        ({"rule": BeamSampler()}, "rule=BeamSampler"),
        ({"rule": RandomSampler([Temperature(0.5)])}, "have no processors"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpeculativeSampler(**arguments)


def test_a_bad_ngram_raises():
    with pytest.raises(ValueError, match="max_ngram=0"):
        PromptLookup(max_ngram=0)
