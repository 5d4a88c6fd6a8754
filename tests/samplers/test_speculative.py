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


ALWAYS, NEVER = 0.0, 1e9  # costs of a pass


@pytest.mark.parametrize("pass_cost", [ALWAYS, 1.5, pytest.param(NEVER, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_drafts", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("drafter", ["lookup", pytest.param("draft", marks=pytest.mark.slow), "itself"])
def test_greedy_speculative_is_greedy(model, draft, greedy, drafter, num_drafts, pass_cost):
    drafters = {"lookup": PromptLookup(), "draft": DraftModel(draft), "itself": DraftModel(model)}
    for processors, expected in greedy.items():
        sampler = SpeculativeSampler(processors, drafter=drafters[drafter], num_drafts=num_drafts, pass_cost=pass_cost)
        answer = generate_eagerly(model, PROMPTS, sampler=sampler, **OPTIONS)
        assert answer.token_ids.tolist() == expected.token_ids.tolist()
        assert answer.finish_reasons == expected.finish_reasons


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
@pytest.mark.usefixtures("without_xla")
def test_no_text_hangs_on_when_is_guessed(draft, seed):
    """Random models and prompts, drawn and not, whichever way: the text of the rule, draw for draw."""
    generator = np.random.default_rng(seed)
    model = lively_model(seed=20 + seed, num_layers=1)
    prompts = [generator.integers(0, 29, length).tolist() * 2 for length in (1, 6, 11)]
    options = {"max_new_tokens": 40, "stop_token_ids": (26,), "seed": seed}
    processors = (Temperature(0.3),) if seed % 2 else (Temperature(1.0),)
    expected = model.generate(prompts, sampler=RandomSampler(processors), **options)
    for drafter in (PromptLookup(), DraftModel(draft)):
        for pass_cost in (ALWAYS, 1.3, NEVER):
            sampler = SpeculativeSampler(
                processors, drafter=drafter, rule=RandomSampler(), num_drafts=3, pass_cost=pass_cost
            )
            answer = model.generate(prompts, sampler=sampler, **options)
            assert answer.token_ids.tolist() == expected.token_ids.tolist()
            *_, streamed = model.generate_steps(prompts, sampler=sampler, tokens_per_piece=3, **options)
            assert streamed.token_ids.tolist() == expected.token_ids.tolist()


class CountingModel(ScriptedModel):
    """Notes how many tokens it reads each time."""

    def __init__(self, script):
        super().__init__(script)
        self.read_lengths = []

    @property
    def num_passes(self):
        """How often it read several tokens, the prompt excepted."""
        return sum(length > 1 for length in self.read_lengths[1:])

    def read(self, token_ids, state, padding_mask=None):
        self.read_lengths.append(token_ids.shape[1])
        return super().read(token_ids, state, padding_mask)


def written(script, sampler, num_tokens, prompt=(0,)):
    """(the model, the text): what a model with this script is asked to read."""
    model = CountingModel(script)
    answer = generate_eagerly(model, [list(prompt)], max_new_tokens=num_tokens, sampler=sampler)
    return model, answer.token_ids[0].tolist()


ROUND = np.tile(10 * np.eye(5)[[1, 2, 3]], (200, 1))
ANEW = 10 * np.eye(640)[np.arange(1, 600)]  # no token twice


def test_right_guesses_save_readings():
    sampler = SpeculativeSampler(drafter=DraftModel(ScriptedModel(ROUND)), num_drafts=4)
    model, text = written(ROUND, sampler, 21)
    assert text == [1, 2, 3] * 7
    assert model.read_lengths[1:] == [5] * 4  # after the prompt, five tokens at a time


@pytest.mark.parametrize(("pass_cost", "most_plain"), [(ALWAYS, 0), (1.5, 4), (2.5, 12)])
def test_repeated_text_is_guessed_by_lookup_as_soon_as_it_is_worth_it(pass_cost, most_plain):
    sampler = SpeculativeSampler(drafter=PromptLookup(), num_drafts=4, pass_cost=pass_cost)
    model, text = written(ROUND, sampler, 101, prompt=[1, 2, 3] * 3)
    assert text == ([1, 2, 3] * 34)[:101]
    num_plain = len(model.read_lengths) - 1 - model.num_passes
    assert num_plain <= most_plain
    assert model.num_passes == -(-(100 - num_plain) // 5)


def test_what_never_repeats_is_written_without_passes():
    model, text = written(ANEW, SpeculativeSampler(drafter=PromptLookup(), pass_cost=1.2), 100)
    assert text == list(range(1, 101))
    assert model.num_passes == 0


def test_a_word_that_is_followed_by_others_each_time_is_soon_not_guessed_after():
    """Matches of one token that never go on: passes after them would be in vain."""
    tokens = [token for i in range(30) for token in (1, 2 + 3 * i, 3 + 3 * i, 4 + 3 * i)]
    sampler = SpeculativeSampler(drafter=PromptLookup(), pass_cost=1.2)
    model, text = written(10 * np.eye(100)[tokens], sampler, 120)
    assert text == tokens
    assert model.num_passes == 0


def test_lookup_finds_out_when_a_text_begins_to_repeat_itself_and_when_it_ends():
    tokens = [*range(9, 49), *[1, 2, 3, 4, 5] * 16, *range(49, 89)]
    sampler = SpeculativeSampler(drafter=PromptLookup(), pass_cost=2.0)
    model, text = written(10 * np.eye(90)[tokens], sampler, 160)
    assert text == tokens
    assert 10 <= model.num_passes <= 16  # of five tokens each, of eighty


@pytest.mark.parametrize(("pass_cost", "num_passes"), [(1.5, 9), (2.2, 4), (3.4, 3), (4.8, 2)])
def test_a_draft_model_that_is_wrong_is_tried_again_ever_more_rarely(pass_cost, num_passes):
    draft = ScriptedModel(ANEW[::-1])
    model, text = written(ANEW, SpeculativeSampler(drafter=DraftModel(draft), pass_cost=pass_cost), 250)
    assert text == list(range(1, 251))
    assert model.num_passes == num_passes
    assert len(model.read_lengths) - 1 + (pass_cost - 1) * model.num_passes <= 250 / 0.97


def test_a_draft_model_that_becomes_right_is_found():
    """It is wrong for the first 50 tokens. When it is tried it reads what it has missed, or it would stay wrong."""
    draft = ANEW.copy()
    draft[:50] = ANEW[-50:]
    model, text = written(ANEW, SpeculativeSampler(drafter=DraftModel(ScriptedModel(draft)), pass_cost=2.2), 250)
    assert text == list(range(1, 251))
    assert model.num_passes == 3 + 27
    assert len(model.read_lengths) <= 150


def test_a_pass_that_costs_more_than_it_can_give_is_never_made():
    for drafter in (PromptLookup(), DraftModel(ScriptedModel(ROUND))):
        model, _ = written(ROUND, SpeculativeSampler(drafter=drafter, num_drafts=2, pass_cost=3.0), 60)
        assert model.num_passes == 0


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
        ({"pass_cost": -1.0}, "pass_cost=-1.0"),
        ({"rule": RandomSampler([Temperature(0.5)])}, "have no processors"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpeculativeSampler(**arguments)


def test_a_bad_ngram_raises():
    with pytest.raises(ValueError, match="max_ngram=0"):
        PromptLookup(max_ngram=0)
