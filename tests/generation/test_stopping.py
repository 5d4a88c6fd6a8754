"""How rows end, and what is told about them."""

import time

import numpy as np
import pytest

from keras_tfm.generation import GenerationOptions, TextGenerator
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.samplers import RandomSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel, one_hot_script


def say(token_ids, **options):
    """What is written by a model that says these tokens, of 6."""
    model = ScriptedModel(one_hot_script(token_ids, 6))
    return generate_eagerly(model, [[0]], **{"max_new_tokens": len(token_ids), **options})


def test_a_stop_sequence_of_several_tokens_is_left_out():
    answer = say([1, 2, 3, 2, 4, 5], stop_sequences=((2, 4), (3, 3)))
    assert answer.token_ids.tolist() == [[1, 2, 3, -1, -1, -1]]
    assert answer.num_tokens.tolist() == [3]
    assert answer.finish_reasons == ("stop_sequence",)


def test_the_longest_of_two_stop_sequences_is_left_out():
    answer = say([1, 2, 3, 4, 5], stop_sequences=((4,), (2, 3, 4)))
    assert answer.token_ids.tolist() == [[1, -1, -1, -1, -1]]


def test_a_stop_sequence_does_not_begin_in_the_prompt():
    model = ScriptedModel(one_hot_script([3, 1], 6))
    answer = generate_eagerly(model, [[2]], max_new_tokens=2, stop_sequences=((2, 3),))
    assert answer.token_ids.tolist() == [[3, 1]]


def test_rows_end_by_themselves():
    answer = say([1, 2], max_new_tokens=2)
    assert answer.finish_reasons == ("length",)
    answer = say([1, 2, 5], stop_token_ids=(5,))
    assert answer.finish_reasons == ("stop_token",)
    assert answer.token_ids.tolist() == [[1, 2, -1]]


def test_stop_strings_end_a_text_across_token_borders(tiny_writer):
    whole = tiny_writer("ROMEO:", max_new_tokens=40, seed=4)
    stops = [stop for i in range(len(whole) - 2) if "\ufffd" not in (stop := whole[i : i + 3])]
    assert len(stops) >= 5
    for stop in stops[::3]:
        options = {"max_new_tokens": 40, "seed": 4, "stop_strings": [stop, "light light"]}
        answer = tiny_writer.generate("ROMEO:", **options)
        assert answer.texts[0] == whole[: whole.find(stop)]
        assert answer.finish_reasons == ("stop_string",)
        assert "".join(tiny_writer.stream("ROMEO:", tokens_per_piece=1, **options)) == answer.texts[0]


def test_time_runs_out():
    class SlowRunner(GenerationRunner):
        def compiled(self, *arguments):
            compiled = super().compiled(*arguments)
            extend = compiled.extend
            compiled.extend = lambda *arguments: time.sleep(0.05) or extend(*arguments)
            return compiled

    runner = SlowRunner(ScriptedModel(np.zeros((1, 5))))
    list(runner.steps([[0]], GenerationOptions(max_new_tokens=100), tokens_per_piece=100))  # compiles
    options = GenerationOptions(max_new_tokens=100, max_seconds=0.01)
    *_, last = runner.steps([[0]], options, tokens_per_piece=100)
    assert last.finish_reasons == ("time",)
    assert 1 <= last.num_tokens[0] <= 16


def test_log_probabilities_are_the_models_own():
    model = lively_model(num_layers=1)
    prompt = [3, 4, 5]
    answer = generate_eagerly(
        model, [prompt], max_new_tokens=6, sampler=RandomSampler(seed=2), log_probs=True, alternatives=3
    )
    ids = answer.token_ids[0]
    logits = np.asarray(model(np.array([[*prompt, *ids]])), "float64")[0, len(prompt) - 1 : -1]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    # 1e-4: float32 beside float64.
    np.testing.assert_allclose(answer.log_probs[0], logs[np.arange(6), ids], atol=1e-4)
    best = np.argsort(-logs, axis=-1)[:, :3]
    assert answer.top_ids[0].tolist() == best.tolist()
    np.testing.assert_allclose(answer.top_log_probs[0], np.take_along_axis(logs, best, 1), atol=1e-4)


def test_log_probabilities_end_with_the_text():
    answer = say([1, 2, 5, 1], stop_token_ids=(5,), log_probs=True, alternatives=2)
    assert (answer.log_probs[0, :2] < 0).all()
    assert (answer.log_probs[0, 2:] == 0).all()
    assert (answer.top_ids[0, 2:] == -1).all()
    assert say([1, 2]).log_probs is None
    assert say([1, 2], log_probs=True).top_ids is None


def test_several_texts_for_a_prompt_stand_side_by_side(tiny_tokenizer):
    model = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer = TextGenerator(model, tiny_tokenizer, RandomSampler(seed=3))
    answer = writer(["a", "b"], max_new_tokens=6, num_return_sequences=2)
    assert [len(texts) for texts in answer] == [2, 2]
    assert len({text for texts in answer for text in texts}) == 4
    assert len(writer("a", max_new_tokens=6, num_return_sequences=2)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 0}, "`num_return_sequences`.*Received: num_return_sequences=0"),
        ({"alternatives": -1}, "`alternatives`.*Received: alternatives=-1"),
        ({"stop_sequences": ((1,), ())}, "`stop_sequences` must hold at least one id"),
        ({"negative_token_ids": [[1]]}, "guidance_scale=None"),
        ({"cache_dtype": "int4"}, "'int4'"),
        ({"max_seconds": 0}, "`max_seconds` must be greater than 0"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)


def test_a_sampler_that_leaves_the_vocabulary_raises():
    from tests.generation.every_sampler import BestOrSecond

    class Outside(BestOrSecond):
        def choose(self, logits, random):
            return 99 + 0 * super().choose(logits, random)

    with pytest.raises(ValueError, match="an id outside, for row 0 after 0 new tokens"):
        generate_eagerly(ScriptedModel(np.zeros((1, 5))), [[0]], max_new_tokens=3, sampler=Outside())


def test_nan_logits_raise():
    script = np.zeros((3, 5))
    script[2] = np.nan
    with pytest.raises(ValueError, match="NaN, or an id outside, for row 0 after 2 new tokens"):
        generate_eagerly(ScriptedModel(script), [[0]], max_new_tokens=5)
