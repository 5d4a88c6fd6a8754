"""Samplers by name."""

import dataclasses

from keras_tfm.samplers.beam import BeamSampler
from keras_tfm.samplers.sampler import GreedySampler, RandomSampler, Sampler
from keras_tfm.samplers.truncation import Temperature, TopK, TopP

SAMPLERS = {
    "beam": BeamSampler(),
    "greedy": GreedySampler(),
    "random": RandomSampler(),
    "top_k": RandomSampler((Temperature(1.0), TopK(50))),
    "top_p": RandomSampler((Temperature(1.0), TopP(0.95))),
}


def get_sampler(sampler: "str | Sampler") -> Sampler:
    """A sampler by its name in `SAMPLERS`; a sampler itself passes.

    Raises:
        ValueError: for an unknown name. TypeError: for anything else.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(
                f"`sampler` must be one of {sorted(SAMPLERS)} or a `Sampler`. Received: sampler={sampler!r}."
            )
        return SAMPLERS[sampler]
    if not isinstance(sampler, Sampler) or not dataclasses.is_dataclass(sampler):
        raise TypeError(f"`sampler` must be a name or a `Sampler` object. Received: {sampler!r}.")
    return sampler
