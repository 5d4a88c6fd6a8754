"""Nothing is compiled anew for other numbers, and little for other sizes."""

import logging
import resource

import numpy as np
import pytest

from keras_tfm.generation import GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.samplers import RandomSampler, Temperature, TopK, TopP
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel, one_hot_script


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.usefixtures("without_xla")
def test_few_sizes_are_compiled(caplog):
    runner = GenerationRunner(ScriptedModel(one_hot_script([3], 5)))
    options = [GenerationOptions(max_new_tokens=n, stop_token_ids=(3,)) for n in (1, 16, 17, 32, 33, 40)]
    with caplog.at_level(logging.INFO, "keras_tfm"):
        for length in (1, 16, 17, 32, 33, 64, 65, 128, 129, 200):  # the borders of all buckets
            for of_length in options:
                list(runner.steps([[0] * length], of_length, tokens_per_piece=None))
    assert sum("Compiling" in record.getMessage() for record in caplog.records) == 5


@pytest.mark.slow
def test_200_calls_trace_twice_and_keep_no_memory():
    model, traces = lively_model(num_layers=1), []

    class Counting:
        """The model, counting how often it is traced."""

        def __getattr__(self, name):
            return getattr(model, name)

        def read(self, *arguments):
            traces.append(1)
            return model.read(*arguments)

    runner, rng = GenerationRunner(Counting()), np.random.default_rng(0)
    lengths = [1, 16, 17, 32, 33, 64, 65, 128, 129, 200, *rng.integers(1, 201, 190)]
    before = 0
    for i, length in enumerate(lengths):
        sampler = RandomSampler([Temperature(0.5 + 0.01 * i), TopK(int(1 + i % 20)), TopP(0.5 + 0.002 * i)], seed=i)
        options = GenerationOptions(
            max_new_tokens=int(1 + i % 16), sampler=sampler, stop_token_ids=tuple(range(i % 3)), seed=i
        )
        *_, last = runner.steps([rng.integers(0, 29, length)], options, tokens_per_piece=16)
        assert last.num_tokens[0] <= options.max_new_tokens
        if i == 19:
            before = resident_bytes()
    assert len(traces) <= 8
    assert resident_bytes() - before < 20e6
