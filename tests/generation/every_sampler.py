"""Every sampler, by name, for the tests that all must pass; over the tokens of `lively_model`."""

import dataclasses

import numpy as np
from keras import ops

from keras_tfm import samplers
from tests.generation.lively import VOCABULARY_SIZE, lively_model


@dataclasses.dataclass(frozen=True)
class BestOrSecond(samplers.Sampler):
    """A user's sampler, as in the README."""

    best: float = 0.7

    def choose(self, logits, random):
        _, ids = ops.top_k(logits, 2)
        return ops.where(random.uniform() < self.best, ids[:, 0], ids[:, 1])


def make_samplers(vocabulary_size=VOCABULARY_SIZE, draft=None):
    """name -> sampler, with a seed where it draws; `draft`: a model of the kind of those that are written with."""
    draft = draft or lively_model(seed=9, num_layers=1, vocabulary_size=vocabulary_size)
    shaping = (samplers.RepetitionPenalty(1.3), samplers.Temperature(0.8), samplers.TopP(0.9))
    numbers = np.random.default_rng(3).integers(1, vocabulary_size, (12, 7))
    phrases = samplers.match_one_of([tuple(row) for row in numbers], vocabulary_size)
    return {
        "greedy": samplers.GreedySampler((samplers.NoRepeatNgram(2),)),
        "random": samplers.RandomSampler(shaping, seed=5),
        "custom": BestOrSecond(seed=5),
        "grammar": samplers.RandomSampler((phrases,), seed=5),
        "beam": samplers.BeamSampler(num_beams=3, length_penalty=0.5),
        "beam_grammar": samplers.BeamSampler((phrases,), num_beams=2, early_stopping=True),
        "diverse_beam": samplers.DiverseBeamSampler(num_beams=4, num_groups=2, diversity_penalty=2.0),
        "constrained_beam": samplers.ConstrainedBeamSampler(num_beams=3, phrases=((6, 8), (3,))),
        "contrastive": samplers.ContrastiveSampler(top_k=3, alpha=0.5),
        "prompt_lookup": samplers.SpeculativeSampler(drafter=samplers.PromptLookup(max_ngram=2), num_drafts=2),
        "draft_model": samplers.SpeculativeSampler(
            (samplers.Temperature(1.5),),
            seed=5,
            drafter=samplers.DraftModel(draft),
            rule=samplers.RandomSampler(),
            num_drafts=2,
        ),
    }


SAMPLERS = make_samplers()
