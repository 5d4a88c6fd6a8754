"""Speculative decoding writes what its rule alone would write, and reads drafts where that saves time."""

from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_tfm.generation import compiled, runner
from keras_tfm.generation.compiled import CompiledGeneration
from keras_tfm.generation.options import GenerationOptions
from keras_tfm.generation.runner import settings_of
from keras_tfm.samplers import (
    BeamSampler,
    DraftModel,
    GreedySampler,
    NoRepeatNgram,
    PromptLookup,
    RandomSampler,
    SpeculativeSampler,
    Temperature,
    speculative,
)
from keras_tfm.samplers.state import GenerationState
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel, one_hot_script

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


def test_draws_are_those_of_the_rule(model, draft):
    processors = (NoRepeatNgram(2), Temperature(2.0))
    expected = generate_eagerly(model, PROMPTS, max_new_tokens=6, sampler=RandomSampler(processors, seed=3))
    for drafter in (PromptLookup(), DraftModel(draft)):
        sampler = SpeculativeSampler(processors, seed=3, drafter=drafter, rule=RandomSampler(), num_drafts=2)
        answer = generate_eagerly(model, PROMPTS, max_new_tokens=6, sampler=sampler)
        assert answer.token_ids.tolist() == expected.token_ids.tolist()


class CountingModel(ScriptedModel):
    """Counts how often it reads, and how often several tokens at once; the prompt aside."""

    def __init__(self, script):
        super().__init__(script)
        self.num_reads, self.num_wide_reads = -1, -1

    def read(self, token_ids, state, padding_mask=None):
        self.num_reads += 1
        self.num_wide_reads += token_ids.shape[1] > 1
        return super().read(token_ids, state, padding_mask)


def test_right_guesses_save_readings():
    script = np.tile(10 * np.eye(5)[[1, 2, 3]], (9, 1))
    model = CountingModel(script)
    sampler = SpeculativeSampler(drafter=DraftModel(ScriptedModel(script)), num_drafts=4)
    answer = generate_eagerly(model, [[0]], max_new_tokens=21, sampler=sampler)
    assert answer.token_ids[0].tolist() == [1, 2, 3] * 7
    assert model.num_reads == 4  # five tokens at a time


def test_repeated_text_is_guessed_by_lookup():
    model = CountingModel(np.tile(10 * np.eye(5)[[1, 2, 3]], (20, 1)))
    sampler = SpeculativeSampler(drafter=PromptLookup(), num_drafts=4)
    answer = generate_eagerly(model, [[1, 2, 3] * 3], max_new_tokens=21, sampler=sampler)
    assert answer.token_ids[0].tolist() == [1, 2, 3] * 7
    assert model.num_reads == 4


def test_text_that_cannot_be_guessed_is_written_token_by_token():
    model = CountingModel(one_hot_script(range(30), 30))
    answer = generate_eagerly(model, [[0]], max_new_tokens=30, sampler=SpeculativeSampler(drafter=PromptLookup()))
    assert answer.token_ids[0].tolist() == list(range(30))
    assert model.num_wide_reads == 1


def test_lookup_sees_when_a_text_begins_to_repeat_itself():
    model = CountingModel(one_hot_script([*range(24), *list(range(14, 24)) * 3], 24))
    generate_eagerly(model, [[0]], max_new_tokens=54, sampler=SpeculativeSampler(drafter=PromptLookup()))
    assert model.num_reads <= 24 + 14


def test_no_row_waits_for_drafts_of_others():
    model = CountingModel(one_hot_script(range(20), 20))
    generate_eagerly(model, [[0], list(range(19)), [1]], max_new_tokens=20, sampler=SpeculativeSampler())
    assert model.num_wide_reads <= 1


def test_a_bad_draft_model_is_asked_now_and_then(monkeypatch):
    monkeypatch.setattr(speculative, "_PAUSE", 20)  # a try after 10 tokens
    script = np.arange(60) % 30
    model, drafts = CountingModel(one_hot_script(script, 31)), script.copy()
    drafts[:20] = 30
    sampler = SpeculativeSampler(drafter=DraftModel(ScriptedModel(one_hot_script(drafts, 31))))
    answer = generate_eagerly(model, [[0]], max_new_tokens=60, sampler=sampler)
    assert answer.token_ids[0].tolist() == script.tolist()
    assert model.num_reads - model.num_wide_reads == 2 * 10
    assert model.num_wide_reads <= 5 + 1 + 7


def test_a_draft_model_reads_what_was_written_without_it(monkeypatch, model):
    """Else it would not guess each token of itself."""
    monkeypatch.setattr(runner, "USUAL_COST", 4.999)
    monkeypatch.setattr(speculative, "_PAUSE", 5)  # a try after 20 tokens: more than it reads at once
    reads = []
    monkeypatch.setattr(type(model), "read", _noting(type(model).read, reads))
    answer = generate_eagerly(model, PROMPTS, max_new_tokens=27, sampler=SpeculativeSampler(drafter=DraftModel(model)))
    assert answer.num_tokens.tolist() == [27] * 3
    # The prompt, by both; 20 tokens; what the draft model has not read, its drafts, five tokens; and a last one.
    assert reads[2:] == [*[1] * 20, *[16, 16, 1, 1, 1, 1, 1], 5, 1]


def _noting(read, widths):
    def noted(self, token_ids, *arguments):
        widths.append(token_ids.shape[1])
        return read(self, token_ids, *arguments)

    return noted


def test_the_cost_of_drafts_is_measured(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(compiled, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def extend(state, room, until, settings, numbers):
        num_new = max(int(until) - 1, 0)
        num_drafted = num_new // 2 if settings.draft_cost < 1 else 0  # of two tokens each
        clock[0] += 0.3 + 2.5 * num_drafted if num_drafted else 0.3 + 1.0 * num_new
        return state._replace(num_tokens=state.num_tokens + num_new, memory=SimpleNamespace(num_drafted=num_drafted))

    settings = settings_of(GenerationOptions(max_new_tokens=9), seed=0)
    state = GenerationState((), np.array([1, 1]), np.zeros(2), ())
    loop = SimpleNamespace(extend=extend, _has_drafts=True)
    assert np.isclose(CompiledGeneration.measured_draft_cost(loop, state, (), settings, []), 2.5)
    settings = settings._replace(max_new_tokens=1)  # there is nothing to measure
    assert CompiledGeneration.measured_draft_cost(loop, state, (), settings, []) == speculative.USUAL_COST


class NextByLast(ScriptedModel):
    """A Markov chain: the logits of the next token belong to the last one."""

    def read(self, token_ids, state, padding_mask=None):
        token_ids = ops.convert_to_tensor(token_ids)
        mask = ops.ones_like(token_ids, "bool") if padding_mask is None else padding_mask
        state = state.after(state.next_positions(mask), state.memories)
        return ops.take(self.script, token_ids, axis=0), state


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
