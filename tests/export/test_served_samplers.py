"""Every sampler inside a SavedModel writes what it writes in Python, at once and step by step."""

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.generation import TextGenerator
from keras_tfm.samplers import BeamSampler, RandomSampler
from tests.generation.every_sampler import SAMPLERS, make_samplers
from tests.generation.lively import lively_model

PROMPTS = ["ROMEO:", "", "soft"]
LENGTH = 8


@pytest.fixture(scope="module")
def samplers(tiny_tokenizer):
    return make_samplers(tiny_tokenizer.vocabulary_size)


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)


def stream(signatures, num_tokens, **settings):
    """The answers of `prefill` and of each `decode_step`, as a client would ask for them."""
    answers = [signatures["prefill"](**settings)]
    while not all(answers[-1]["finish_reason"].numpy()):
        states = {name: tensor for name, tensor in answers[-1].items() if name.startswith("state_")}
        answers.append(signatures["decode_step"](num_tokens=tf.constant(num_tokens), **states))
    return answers


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.usefixtures("without_xla")
def test_the_served_sampler_writes_as_in_python(model, tiny_tokenizer, samplers, name):
    writer = TextGenerator(model, tiny_tokenizer, samplers[name])
    options = writer.options()
    expected = writer.generate(PROMPTS, max_new_tokens=LENGTH, seed=3)
    module = ServedTextGenerator(writer, options, {"max_new_tokens": LENGTH, "seed": 3})
    signatures = module.signatures()
    settings = {"prompts": tf.constant(PROMPTS), "max_new_tokens": tf.constant(LENGTH), "seed": tf.constant(3)}
    for answer in (signatures["serving_default"](tf.constant(PROMPTS)), stream(signatures, 3, **settings)[-1]):
        assert [text.decode() for text in answer["text"].numpy()] == list(expected.texts)
        assert [reason.decode() for reason in answer["finish_reason"].numpy()] == list(expected.finish_reasons)
        assert answer["num_tokens"].numpy().tolist() == expected.num_tokens.tolist()
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-5)


@pytest.mark.usefixtures("without_xla")
def test_several_texts_and_stop_strings_are_served_from_the_disk(model, tiny_tokenizer, tmp_path):
    writer = TextGenerator(model, tiny_tokenizer, RandomSampler(seed=2))
    free = writer("ROMEO:", max_new_tokens=32, num_return_sequences=2)
    pairs = [text[i : i + 2] for text in free for i in range(4, len(text) - 4)]
    stop = next(pair for pair in pairs if "\ufffd" not in pair)
    writer.export(tmp_path / "1", max_new_tokens=32, seed=2, num_return_sequences=2, stop_strings=[stop])
    served = tf.saved_model.load(str(tmp_path / "1"))
    answer = served.signatures["serving_default"](tf.constant(["ROMEO:"]))
    expected = writer.generate("ROMEO:", max_new_tokens=32, num_return_sequences=2, stop_strings=[stop])
    assert [text.decode() for text in answer["text"].numpy()] == list(expected.texts)
    assert [reason.decode() for reason in answer["finish_reason"].numpy()] == list(expected.finish_reasons)
    settings = {"prompts": ["ROMEO:"], "max_new_tokens": 32, "seed": 2, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    pieces = stream(served.signatures, 1, **{name: tf.constant(value) for name, value in settings.items()})
    for row, whole in enumerate(expected.texts):
        shown = [piece["text"].numpy()[row].decode() for piece in pieces]
        assert shown[-1] == whole
        assert all(whole.startswith(text) for text in shown)  # nothing shown is taken back


def test_a_temperature_for_beam_search_raises(model, tiny_tokenizer, tmp_path):
    writer = TextGenerator(model, tiny_tokenizer, BeamSampler())
    with pytest.raises(ValueError, match=r"Received: \{'temperature': 0\.5\} for BeamSampler"):
        writer.export(tmp_path / "1", temperature=0.5)
