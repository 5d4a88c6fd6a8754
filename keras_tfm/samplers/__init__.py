"""Samplers choose tokens from logits; processors shape the logits before. Neither knows the model."""

from keras_tfm.samplers.beam import BeamSampler
from keras_tfm.samplers.beam_variants import ConstrainedBeamSampler, DiverseBeamSampler
from keras_tfm.samplers.constraints import (
    BanSequences,
    BanTokens,
    BanTokensAtBegin,
    ForceFirstToken,
    ForceLastToken,
    MinLength,
    MinNewTokens,
    SequenceBias,
)
from keras_tfm.samplers.contrastive import ContrastiveSampler
from keras_tfm.samplers.drafters import DraftModel, PromptLookup
from keras_tfm.samplers.grammar import Grammar, match_json_schema, match_one_of, match_regex
from keras_tfm.samplers.numbers import as_arrays, bucketed, static
from keras_tfm.samplers.penalties import (
    ExponentialLengthDecay,
    FrequencyPenalty,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from keras_tfm.samplers.registry import SAMPLERS, get_sampler
from keras_tfm.samplers.sampler import GreedySampler, Processor, RandomSampler, Sampler, StatefulProcessor
from keras_tfm.samplers.speculative import SpeculativeSampler
from keras_tfm.samplers.state import BANNED, Change, Context, GenerationState, LogProbs, StepRandom, write_token
from keras_tfm.samplers.stop_strings import StopStrings
from keras_tfm.samplers.truncation import EpsilonCutoff, EtaCutoff, MinP, Temperature, TopK, TopP, Typical

__all__ = [
    "BANNED",
    "SAMPLERS",
    "BanSequences",
    "BanTokens",
    "BanTokensAtBegin",
    "BeamSampler",
    "Change",
    "ConstrainedBeamSampler",
    "Context",
    "ContrastiveSampler",
    "DiverseBeamSampler",
    "DraftModel",
    "EpsilonCutoff",
    "EtaCutoff",
    "ExponentialLengthDecay",
    "ForceFirstToken",
    "ForceLastToken",
    "FrequencyPenalty",
    "GenerationState",
    "Grammar",
    "GreedySampler",
    "LogProbs",
    "MinLength",
    "MinNewTokens",
    "MinP",
    "NoRepeatNgram",
    "PresencePenalty",
    "Processor",
    "PromptLookup",
    "RandomSampler",
    "RepetitionPenalty",
    "Sampler",
    "SequenceBias",
    "SpeculativeSampler",
    "StatefulProcessor",
    "StepRandom",
    "StopStrings",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "as_arrays",
    "bucketed",
    "get_sampler",
    "match_json_schema",
    "match_one_of",
    "match_regex",
    "static",
    "write_token",
]


def __dir__() -> list[str]:
    return __all__
