"""What a pass over guesses costs is measured once for each bucket of sizes, and kept in what is exported."""

import pytest
import tensorflow as tf

from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.generation import TextGenerator, pass_cost, runner
from keras_tfm.generation.options import GenerationOptions
from keras_tfm.samplers import GreedySampler, SpeculativeSampler, Temperature
from keras_tfm.samplers.state import GenerationState
from tests.generation.lively import lively_model

STEP, PASS = 0.01, 0.03


def test_a_pass_of_three_steps_costs_three(monkeypatch):
    """A loop that only takes time, also for the call itself; a row had finished, and is written with all the same."""
    now = [0.0]
    monkeypatch.setattr(pass_cost.time, "perf_counter", lambda: now[0])

    def extend(state, room, until, settings, numbers):
        assert state.finish.numpy().tolist() == [0, 0]
        is_always = numbers[-1].numpy() < 1
        num_steps = int(until) - int(state.num_tokens[0])
        now[0] += 0.02 + (PASS * (num_steps > 0) if is_always else STEP * num_steps)
        return state._replace(num_tokens=state.num_tokens + num_steps)

    state = GenerationState(
        tokens=None, num_tokens=tf.constant([1, 0]), finish=tf.constant([0, 1]), decoding=tf.zeros([])
    )
    settings = runner.settings_of(GenerationOptions(), 0)
    cost = pass_cost.measure_pass_cost(extend, state, tf.zeros([16]), settings, SpeculativeSampler(pass_cost=1.0))
    assert cost == pytest.approx(PASS / STEP)


@pytest.fixture
def measurements(monkeypatch):
    """What was measured since; each says that passes cost 1.25."""
    calls = []
    for module in ("keras_tfm.generation.runner", "keras_tfm.export.saved_model"):
        monkeypatch.setattr(f"{module}.measure_pass_cost", lambda *arguments: calls.append(arguments) or 1.25)
    return calls


@pytest.mark.usefixtures("without_xla")
def test_each_bucket_is_measured_once_whatever_the_numbers(measurements):
    model = lively_model(num_layers=1)
    for max_new_tokens, temperature in ((4, 1.0), (9, 0.5), (64, 0.5), (65, 0.5)):
        sampler = SpeculativeSampler((Temperature(temperature),))
        answer = model.generate([5, 7, 5], max_new_tokens=max_new_tokens, sampler=sampler)
        expected = model.generate([5, 7, 5], max_new_tokens=max_new_tokens, sampler=GreedySampler())
        assert answer.token_ids.tolist() == expected.token_ids.tolist()
    assert len(measurements) == 2  # up to 64 new tokens, and up to 128
    model.generate([5, 7, 5], max_new_tokens=40, sampler=SpeculativeSampler(pass_cost=2.0))
    assert len(measurements) == 2


def test_an_export_measures_and_keeps_the_cost(measurements, tiny_tokenizer):
    model = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer = TextGenerator(model, tiny_tokenizer, SpeculativeSampler())
    module = ServedTextGenerator(writer, writer.options(), {"max_new_tokens": 8, "seed": 0})
    assert len(measurements) == 1
    assert module._options.sampler.pass_cost == 1.25
