"""A token that a processor or a grammar bans is never written: by no sampler, and after no later processor."""

import dataclasses

import numpy as np
import pytest
from keras import ops

from keras_tfm import samplers
from keras_tfm.samplers import BanTokens, match_one_of
from tests.generation.eagerly import generate_eagerly
from tests.generation.scripted import ScriptedModel

VOCABULARY_SIZE = 9
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6)))


@dataclasses.dataclass(frozen=True)
class Raises(samplers.Processor):
    """A user's processor that says the same, whatever came before it."""

    def __call__(self, logits, tokens, step):
        return ops.zeros_like(logits) + ops.arange(logits.shape[-1], dtype="float32")


@dataclasses.dataclass(frozen=True)
class SecondBest(samplers.Sampler):
    """A user's sampler, which does not look at what is banned."""

    def choose(self, logits, random):
        return ops.top_k(logits, 2)[1][:, 1]


LATER = (
    samplers.BanSequences(((1, 2),)),
    samplers.BanTokensAtBegin((1,)),
    samplers.EpsilonCutoff(0.5),
    samplers.EtaCutoff(0.5),
    samplers.ExponentialLengthDecay(0, 9.0, (0, 1, 2, 3)),
    samplers.ForceFirstToken(3),
    samplers.ForceLastToken(3, 3),
    samplers.FrequencyPenalty(-1e20),
    samplers.MinLength(2, (1,)),
    samplers.MinNewTokens(2, (1,)),
    samplers.MinP(0.9),
    samplers.NoRepeatNgram(1),
    samplers.PresencePenalty(-3e38),
    Raises(),
    samplers.RepetitionPenalty(1e-30),
    samplers.SequenceBias({(3,): 3e38}),
    samplers.Temperature(0.0),
    samplers.Temperature(1e-38),
    samplers.Temperature(1e38),
    samplers.TopK(0),
    samplers.TopP(1.0),
    samplers.Typical(0.5),
)


def make_samplers(processors, script):
    draft = samplers.DraftModel(ScriptedModel(script[::-1]))
    return {
        "beam": samplers.BeamSampler(processors, num_beams=4),
        "constrained_beam": samplers.ConstrainedBeamSampler(processors, num_beams=4, phrases=((2,),)),
        "contrastive": samplers.ContrastiveSampler(processors, top_k=4, alpha=0.9),
        "custom": SecondBest(processors),
        "custom_draft": samplers.SpeculativeSampler(processors, drafter=draft, rule=SecondBest(), num_drafts=2),
        "diverse_beam": samplers.DiverseBeamSampler(processors, num_beams=4, num_groups=2, diversity_penalty=99.0),
        "draft": samplers.SpeculativeSampler(
            processors, seed=1, drafter=draft, rule=samplers.RandomSampler(), num_drafts=2
        ),
        "greedy": samplers.GreedySampler(processors),
        "lookup": samplers.SpeculativeSampler(processors, num_drafts=2),
        "random": samplers.RandomSampler(processors, seed=1),
    }


@pytest.mark.parametrize("later", LATER, ids=lambda later: f"{type(later).__name__}")
def test_no_later_processor_brings_a_token_back(later):
    random = np.random.default_rng(0)
    logits = ops.convert_to_tensor(random.normal(size=(4, VOCABULARY_SIZE)) * 20, dtype="float32")
    tokens = ops.convert_to_tensor([[0, 1, 2, 3, -1]] * 4, dtype="int32")
    banned = (0, 3, 7)
    for step in (0, 2, 500):
        steps = ops.full((4, 1), step, dtype="int32")
        processors = (BanTokens(banned), later, samplers.Temperature(1e30), samplers.Temperature(1e30))
        shaped = np.asarray(samplers.GreedySampler(processors).process(logits, tokens, steps))
        assert (shaped[:, banned] == samplers.BANNED).all()
        assert not np.isnan(shaped).any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", make_samplers((), np.zeros((1, VOCABULARY_SIZE))))
def test_no_sampler_writes_a_banned_token(name, seed):
    random = np.random.default_rng([seed, *map(ord, name)])
    script = random.normal(size=(5, VOCABULARY_SIZE)) * 5
    allowed = {1, int(random.integers(2, VOCABULARY_SIZE))}  # fewer than there are beams and candidates
    ban = BanTokens(tuple(set(range(VOCABULARY_SIZE)) - allowed))
    later = LATER[int(random.integers(len(LATER)))]
    sampler = make_samplers((ban, later), script)[name]
    answer = generate_eagerly(ScriptedModel(script), [[3, 4, 3]], max_new_tokens=4, sampler=sampler)
    assert set(answer.token_ids.ravel().tolist()) <= allowed | {-1}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("beam", "contrastive", "draft") else pytest.param(name, marks=pytest.mark.slow)
        for name in make_samplers((), np.zeros((1, VOCABULARY_SIZE)))
    ],
)
def test_no_sampler_leaves_a_grammar(name):
    script = np.random.default_rng(7).normal(size=(5, VOCABULARY_SIZE)) * 5
    sequences = [(5, 2, 2), (5, 6, 1), (8, 5, 3)]
    sampler = make_samplers((match_one_of(sequences, VOCABULARY_SIZE), Raises()), script)[name]
    answer = generate_eagerly(ScriptedModel(script), [[3]], max_new_tokens=5, sampler=sampler)
    assert answer.finish_reasons == ("complete",)
    assert tuple(answer.token_ids[0, :3].tolist()) in sequences


def test_fewer_texts_than_beams_are_said_to_be_impossible():
    """Two sequences, four beams: what is returned besides has no tokens."""
    grammar = match_one_of([(2, 1), (2, 3, 3)], 4)
    model = ScriptedModel([[0.0, 9.0, 1.0, 2.0]])
    sampler = samplers.BeamSampler((grammar,), num_beams=4)
    answer = generate_eagerly(model, [[0]], max_new_tokens=5, sampler=sampler, num_return_sequences=4)
    assert answer.token_ids[:, :3].tolist() == [[2, 1, -1], [2, 3, 3], [-1, -1, -1], [-1, -1, -1]]
    assert answer.finish_reasons == ("complete", "complete", "impossible", "impossible")
    assert answer.num_tokens.tolist() == [2, 3, 0, 0]
    assert (answer.scores[2:] == -1e9).all()


def test_more_beams_than_tokens_of_one_step_are_said_to_be_impossible():
    model = ScriptedModel([[0.0, 9.0, 1.0]])
    sampler = samplers.BeamSampler(num_beams=5)
    answer = generate_eagerly(model, [[0]], max_new_tokens=1, sampler=sampler, num_return_sequences=5)
    assert answer.token_ids.ravel().tolist() == [1, 2, 0, -1, -1]
    assert answer.finish_reasons == ("length", "length", "length", "impossible", "impossible")
