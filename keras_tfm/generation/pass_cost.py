"""What a pass over guesses costs, in steps of one token: measured on the compiled loop itself, where it runs."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_tfm.generation import loop
from keras_tfm.samplers.numbers import split_numbers
from keras_tfm.samplers.sampler import Sampler
from keras_tfm.samplers.speculative import SpeculativeSampler
from keras_tfm.types import Tensor

_ALWAYS, _NEVER = 0.0, 1e9  # costs at which the sampler guesses always, and never
_ROUNDS = 5
_MOST_SECONDS = 2.0  # after which no further round begins


def numbers_of(sampler: Sampler) -> list[tf.Tensor]:
    """The sampler's numbers as a compiled loop takes them."""
    return [tf.constant(number) for number in split_numbers(sampler)[1]]


def measure_pass_cost(
    extend: Callable, state: Any, room: Tensor, settings: loop.Settings, sampler: SpeculativeSampler
) -> float:
    """Times a pass and plain steps, in turn, several times; the least times count, which others disturb least.

    Args:
        extend: of a `CompiledGeneration` or a `JittedGeneration`, compiled for these sizes.
        state: `GenerationState` after the prefill; it is not modified.
        room, settings: as `extend` takes them.
        sampler: `SpeculativeSampler` with a `pass_cost`.
    """
    ones = ops.ones_like(state.num_tokens)
    state = state._replace(num_tokens=ones, finish=ops.zeros_like(state.finish))
    num_steps = min(sampler.num_drafts, room.shape[0] - 1)
    settings = settings._replace(max_new_tokens=tf.constant(room.shape[0]))

    def seconds(num_tokens, pass_cost):
        """Of writing until there are so many tokens, and how many there are."""
        numbers = numbers_of(dataclasses.replace(sampler, pass_cost=pass_cost))
        # On JAX, a call takes the caches that it is given.
        given = state._replace(decoding=tree.map_structure(ops.copy, state.decoding))
        start = time.perf_counter()
        after = extend(given, room, tf.constant(num_tokens), settings, numbers)
        written = ops.convert_to_numpy(after.num_tokens).max()
        return time.perf_counter() - start, written

    begun = time.perf_counter()
    rounds: list[tuple[float, float, float]] = []
    while len(rounds) <= _ROUNDS and (len(rounds) < 3 or time.perf_counter() - begun < _MOST_SECONDS):
        call, _ = seconds(1, _NEVER)  # what a call takes that writes nothing
        plain, written = seconds(1 + num_steps, _NEVER)
        one_pass, _ = seconds(2, _ALWAYS)  # gives a token at least
        rounds.append((call, plain, one_pass))
    call, plain, one_pass = np.min(rounds[1:], axis=0)  # the first may still set something up
    step = max(plain - call, 1e-9) / max(written - 1, 1)
    return float(max(one_pass - call, 0.0) / step)
