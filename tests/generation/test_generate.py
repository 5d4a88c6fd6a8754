"""Generation with a KV cache equals the slow way, and every row depends on itself alone."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm.generation.compiled import bucket
from keras_tfm.generation.loop import Shape
from keras_tfm.generation.options import GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.samplers import GreedySampler, RandomSampler, Temperature, TopK, TopP
from tests.generation.lively import lively, lively_model, slow_greedy
from tests.generation.scripted import ScriptedModel, one_hot_script

PROMPTS = [[1, 2, 3], [5], [7] * 20]


@pytest.fixture(scope="module")
def model():
    return lively(
        ktfm.models.build_gpt(
            vocabulary_size=97, max_sequence_length=64, num_layers=2, num_heads=2, hidden_dim=32, position="rotary"
        )
    )


@pytest.fixture(scope="module")
def learned_model():
    return ktfm.models.build_gpt(vocabulary_size=11, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=8)


def test_greedy_equals_a_full_forward_pass_per_token(model):
    generation = model.generate(PROMPTS, max_new_tokens=12)
    assert generation.token_ids.tolist() == [slow_greedy(model, prompt, 12) for prompt in PROMPTS]
    assert generation.num_tokens.tolist() == [12, 12, 12]


@pytest.mark.usefixtures("with_and_without_xla")
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "alibi", "relative"])
def test_every_position_scheme_generates_as_it_reads(position):
    model = lively(
        ktfm.models.build_gpt(
            vocabulary_size=31, max_sequence_length=32, num_layers=1, num_heads=2, hidden_dim=16, position=position
        )
    )
    generation = model.generate([[1, 2, 3], [4]], max_new_tokens=8)
    assert generation.token_ids.tolist() == [slow_greedy(model, prompt, 8) for prompt in ([1, 2, 3], [4])]


@pytest.mark.usefixtures("with_and_without_xla")
def test_llama_generates_as_it_reads():
    model = lively_model()
    generation = model.generate([[1, 2, 3], [4]], max_new_tokens=8)
    assert generation.token_ids.tolist() == [slow_greedy(model, prompt, 8) for prompt in ([1, 2, 3], [4])]


@pytest.mark.usefixtures("with_and_without_xla")
def test_ragged_prompts_in_a_batch_equal_one_by_one():
    model = lively_model(num_layers=1)
    sampler = RandomSampler([Temperature(0.8), TopK(20)], seed=5)
    together = model.generate(PROMPTS, max_new_tokens=10, sampler=sampler)
    # Row i's draws belong to i, so row i must stand at place i when it is alone.
    for i, prompt in enumerate(PROMPTS):
        padded = [*([[3]] * i), prompt]  # of another bucket than all together, in rows and in tokens
        alone = model.generate(padded, max_new_tokens=10, sampler=sampler)
        assert alone.token_ids[i].tolist() == together.token_ids[i].tolist()


def test_the_seed_decides(model):
    def write(seed):
        return model.generate([[1, 2]], max_new_tokens=16, sampler="random", seed=seed).token_ids.tolist()

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_without_a_seed_each_call_differs(model):
    first, second = (model.generate([[1, 2]], max_new_tokens=16, sampler="random").token_ids for _ in range(2))
    assert first.tolist() != second.tolist()


def test_other_numbers_do_not_compile_anew():
    model = ScriptedModel(np.zeros((1, 5)))
    runner = GenerationRunner(model)
    traces = []
    model.read = lambda *arguments, read=model.read: traces.append(1) or read(*arguments)
    for i in range(1, 9):
        sampler = RandomSampler([Temperature(0.1 * i), TopP(0.1 * i)])
        options = GenerationOptions(max_new_tokens=i, sampler=sampler, stop_token_ids=(i % 5,), seed=i)
        list(runner.steps([[1] * i], options, tokens_per_piece=3))
    assert len(traces) == 2  # the beginning and the loop


def test_a_row_ends_before_its_stop_token_and_is_padded():
    runner = GenerationRunner(ScriptedModel(one_hot_script([2, 3, 4, 1], 5)))
    *_, last = runner.steps([[0], [0]], GenerationOptions(max_new_tokens=4, stop_token_ids=(4,)), tokens_per_piece=4)
    assert last.token_ids.tolist() == [[2, 3, -1, -1]] * 2
    assert last.num_tokens.tolist() == [2, 2]


def test_a_first_token_that_stops_leaves_an_empty_row():
    runner = GenerationRunner(ScriptedModel(one_hot_script([4, 1], 5)))
    *_, last = runner.steps([[0]], GenerationOptions(max_new_tokens=3, stop_token_ids=(4, 2)), tokens_per_piece=3)
    assert last.token_ids.tolist() == [[-1, -1, -1]]
    assert last.num_tokens.tolist() == [0]


def test_a_row_that_has_ended_does_not_disturb_the_others(model):
    free = model.generate(PROMPTS, max_new_tokens=10).token_ids
    stop = int(free[0, 4])
    stopped = model.generate(PROMPTS, max_new_tokens=10, stop_token_ids=(stop,))
    for row, length, whole in zip(stopped.token_ids, stopped.num_tokens, free, strict=True):
        assert row[:length].tolist() == whole[:length].tolist()
        assert stop not in row
        assert (row[length:] == -1).all()
    assert stopped.num_tokens[0] <= 4


def test_steps_show_the_same_tokens_as_the_whole(model):
    whole = model.generate([[1, 2]], max_new_tokens=11)
    steps = list(model.generate_steps([[1, 2]], max_new_tokens=11, tokens_per_piece=4))
    assert [step.num_tokens[0] for step in steps] == [1, 5, 9, 11]
    assert steps[-1].token_ids.tolist() == whole.token_ids.tolist()


def test_closing_the_steps_ends_the_work():
    calls = []
    runner = GenerationRunner(ScriptedModel(np.zeros((1, 5))))
    options = GenerationOptions(max_new_tokens=1000)
    steps = runner.steps([[1]], options, tokens_per_piece=1)
    compiled = runner.compiled(GreedySampler(), Shape(), options, has_prefix=False, num_rows=1)
    extend = compiled.extend
    compiled.extend = lambda state, room, until, *rest: calls.append(int(until)) or extend(state, room, until, *rest)
    next(steps)
    next(steps)
    steps.close()
    assert calls == [0, 1, 2]  # until 0 tokens are there: that only compiles


def test_an_empty_prompt_starts_from_the_start_token(model):
    empty = model.generate([[], [9]], max_new_tokens=5, start_token_id=6).token_ids
    start = model.generate([[6], [9]], max_new_tokens=5).token_ids
    assert empty.tolist() == start.tolist()


@pytest.mark.parametrize(
    "prompts",
    [np.array([[1, 2]]), [1, 2], np.array([1, 2]), tf.ragged.constant([[1, 2]]), tf.constant([[1, 2]]), ((1, 2),)],
)
def test_prompts_come_in_many_forms(model, prompts):
    expected = model.generate([[1, 2]], max_new_tokens=3).token_ids
    assert model.generate(prompts, max_new_tokens=3).token_ids.tolist() == expected.tolist()


def test_nothing_asked_for_gives_nothing(model):
    assert model.generate([[1]], max_new_tokens=0).token_ids.shape == (1, 0)
    assert model.generate([], max_new_tokens=3).token_ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_ids": [[1, 11]]}, r"\[0, 11\).*ids from 1 to 11 in row 0"),
        ({"token_ids": [[1], [-3]]}, "ids from -3 to -3 in row 1"),
        ({"token_ids": [[0.5]]}, "dtype float64"),
        ({"token_ids": [[[1]]]}, r"row 0 of shape \(1, 1\)"),
        (
            {"token_ids": [[1] * 7], "max_new_tokens": 2},
            "8 positions. Received: a prompt of 7 tokens and max_new_tokens=2",
        ),
        ({"token_ids": [[]], "max_new_tokens": 8}, "a prompt of 1 tokens and max_new_tokens=8"),
        ({"token_ids": [[1]], "max_new_tokens": -1}, "Received: max_new_tokens=-1"),
        ({"token_ids": [[1]], "max_new_tokens": 2.5}, r"Received: max_new_tokens=2\.5"),
        ({"token_ids": [[1]], "sampler": "beem"}, "'beem'"),
    ],
)
def test_bad_input_raises_before_any_work(learned_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        learned_model.generate(**{"max_new_tokens": 2, **arguments})
    assert not learned_model.generation_runner._compiled


def test_buckets_are_powers_of_two():
    assert [int(bucket(tf.constant(n), 16)) for n in (1, 16, 17, 32, 33, 1000)] == [16, 16, 32, 32, 64, 1024]
