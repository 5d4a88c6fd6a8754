"""Samplers choose tokens from logits; processors shape the logits before. Neither knows the model."""

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
from keras_tfm.samplers.penalties import (
    ExponentialLengthDecay,
    FrequencyPenalty,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from keras_tfm.samplers.processors import BANNED, Processor, Temperature
from keras_tfm.samplers.randomness import StepRandom
from keras_tfm.samplers.sampler import SAMPLERS, GreedySampler, RandomSampler, Sampler, get_sampler
from keras_tfm.samplers.truncation import EpsilonCutoff, EtaCutoff, MinP, TopK, TopP, Typical

__all__ = [
    "BANNED",
    "SAMPLERS",
    "BanSequences",
    "BanTokens",
    "BanTokensAtBegin",
    "EpsilonCutoff",
    "EtaCutoff",
    "ExponentialLengthDecay",
    "ForceFirstToken",
    "ForceLastToken",
    "FrequencyPenalty",
    "GreedySampler",
    "MinLength",
    "MinNewTokens",
    "MinP",
    "NoRepeatNgram",
    "PresencePenalty",
    "Processor",
    "RandomSampler",
    "RepetitionPenalty",
    "Sampler",
    "SequenceBias",
    "StepRandom",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "get_sampler",
]
