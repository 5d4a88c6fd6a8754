"""Samplers choose tokens from logits; processors shape the logits before. Neither knows the model."""

from keras_tfm.samplers.processors import (
    BANNED,
    BanTokens,
    MinP,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from keras_tfm.samplers.randomness import StepRandom
from keras_tfm.samplers.sampler import SAMPLERS, GreedySampler, RandomSampler, Sampler, get_sampler

__all__ = [
    "BANNED",
    "SAMPLERS",
    "BanTokens",
    "GreedySampler",
    "MinP",
    "Processor",
    "RandomSampler",
    "RepetitionPenalty",
    "Sampler",
    "StepRandom",
    "Temperature",
    "TopK",
    "TopP",
    "get_sampler",
]
