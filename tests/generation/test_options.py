"""Sizes, seeds and counts are what `operator.index` takes; what is wrong is refused by the caller's name for it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import samplers
from keras_tfm.export.saved_model import export_text_generator
from keras_tfm.generation import GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.pipelines import SentenceEmbedding
from tests.generation.scripted import ScriptedModel, one_hot_script

INTEGERS = {"max_new_tokens": 5, "num_return_sequences": 2, "alternatives": 3, "seed": 7, "start_token_id": 4}
LEAST = {"max_new_tokens": 0, "num_return_sequences": 1, "alternatives": 0, "seed": -(2**31), "start_token_id": 0}


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.fixture
def runner():
    return GenerationRunner(ScriptedModel(one_hot_script([2, 3, 4, 1], 5)))


@pytest.mark.parametrize("name", INTEGERS)
def test_all_kinds_of_integers_are_integers(name):
    for kind in (int, np.int8, np.uint16, np.int64, np.array, tf.constant, Index):
        options = GenerationOptions(**{name: kind(INTEGERS[name])}, log_probs=True)
        assert (getattr(options, name), type(getattr(options, name))) == (INTEGERS[name], int)


@pytest.mark.parametrize("name", INTEGERS)
def test_what_is_no_such_integer_is_refused_by_name(name):
    for value in (2.0, 2.5, "2", True, [2], np.array([2]), LEAST[name] - 1, *([None] * (name != "seed"))):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer .*Received: {name}="):
            GenerationOptions(**{name: value}, log_probs=True)


@pytest.mark.parametrize(
    "part",
    [
        samplers.BanTokens((1, 5)),
        samplers.SequenceBias({(1,): 1.0, (5, 1): 1.0}),
        samplers.BanSequences(((1, 2), (5,))),
        samplers.ForceFirstToken(5),
        samplers.MinNewTokens(2, (9,)),
        samplers.ExponentialLengthDecay(0, 1.5, (5,)),
        samplers.ConstrainedBeamSampler(num_beams=2, phrases=((1, 5),)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_ids_beyond_the_vocabulary_are_refused_before_any_work(part, runner):
    sampler = part if isinstance(part, samplers.Sampler) else samplers.GreedySampler([part])
    with pytest.raises(ValueError, match=r"ids less than the 5 tokens of the vocabulary. Received: greatest=[59]"):
        next(runner.steps([[1]], GenerationOptions(sampler=sampler), None))


def test_what_is_made_of_tensorflows_graphs_says_so_on_other_backends(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for make in (lambda: export_text_generator(None, "1"), lambda: SentenceEmbedding(None, None)):
        with pytest.raises(RuntimeError, match="must run on the backend TensorFlow. Received: jax. Save the model"):
            make()
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="`generate` must run on the backend TensorFlow or JAX. Received: torch"):
        GenerationRunner(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 2**31}, "`max_new_tokens` must be at most .*Received: max_new_tokens=2147483648"),
        ({"alternatives": 3}, r"`alternatives` needs `log_probs=True`. Received: alternatives=3"),
        ({"stop_token_ids": 5}, "`stop_token_ids` must hold ids.*Received: stop_token_ids=5"),
        ({"stop_token_ids": "5"}, "`stop_token_ids` must hold ids"),
        ({"stop_token_ids": [0.5]}, "`stop_token_ids` must hold ids"),
        ({"stop_token_ids": [2**31]}, "`stop_token_ids` and `stop_sequences` must hold ids of 32 bits"),
        ({"stop_sequences": (5, 6)}, r"`stop_sequences` must hold sequences of ids.*Received: stop_sequences=\(5, 6\)"),
        ({"stop_sequences": 5}, "`stop_sequences` must hold sequences of ids"),
        ({"guidance_scale": "strong"}, "`guidance_scale` must be a finite number"),
        ({"guidance_scale": np.nan}, "`guidance_scale` must be a finite number"),
        ({"max_seconds": "long"}, "`max_seconds` must be a finite number"),
    ],
)
def test_what_is_wrong_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)


def test_a_str_is_no_stop_string_where_no_token_is_known():
    with pytest.raises(TypeError, match=r"`TextGenerator`.*Received: 'abc'"):
        GenerationOptions(stop_strings="abc")


@pytest.mark.usefixtures("without_xla")
def test_numpys_integers_write_what_pythons_write():
    runner = GenerationRunner(ScriptedModel(np.zeros((1, 5))))
    sizes = {"max_new_tokens": 4, "num_return_sequences": 2, "seed": 7, "stop_token_ids": (3,)}
    numpys = {name: np.asarray(value, "int32") for name, value in sizes.items()}
    texts = [
        next(reversed(list(runner.steps([[1]], GenerationOptions(sampler="random", **options), step)))).token_ids
        for options, step in ((sizes, 2), (numpys, np.int64(2)))
    ]
    assert texts[0].tolist() == texts[1].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_probs": True, "alternatives": 6}, "`alternatives` must be at most the 5 .*Received: alternatives=6"),
        ({"start_token_id": 5}, "`start_token_id` must be less than the 5 .*Received: start_token_id=5"),
        ({"guidance_scale": 2.0, "negative_token_ids": "abc"}, "`negative_token_ids` must be integers"),
        ({"guidance_scale": 2.0, "negative_token_ids": [[7]]}, r"`negative_token_ids` must be in \[0, 5\)"),
        ({"guidance_scale": 2.0, "negative_token_ids": [[1], [2], [3]]}, "one for each. Received: 3 for 2 prompts"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_before_any_work(runner, options, message):
    with pytest.raises(ValueError, match=message):
        list(runner.steps([[1], [2]], GenerationOptions(**options), None))
    assert not runner._compiled


def test_a_step_of_no_tokens_is_refused_by_name(runner):
    for step in (0, 2.5, "8"):
        with pytest.raises(ValueError, match="`tokens_per_piece` must be an integer of at least 1, or None"):
            list(runner.steps([[1]], GenerationOptions(), step))


@pytest.mark.parametrize(("rows", "length"), [([[1], [2]], 0), ([], 3)])
def test_no_tokens_have_no_log_probabilities(runner, rows, length):
    options = GenerationOptions(max_new_tokens=length, log_probs=True, alternatives=2)
    (answer,) = runner.steps(rows, options, None)
    assert answer.log_probs.shape == (len(rows), length)
    assert answer.top_ids.shape == answer.top_log_probs.shape == (len(rows), length, 2)
    (plain,) = runner.steps(rows, GenerationOptions(max_new_tokens=length), None)
    assert plain.log_probs is plain.top_ids is plain.top_log_probs is None
