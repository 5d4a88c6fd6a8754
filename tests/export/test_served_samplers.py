"""Every sampler on the disk writes what it writes in Python, at once and step by step, with TensorFlow alone."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.export.writing import write_saved_model
from keras_tfm.generation import TextGenerator
from keras_tfm.samplers import BeamSampler, DraftModel, RandomSampler, SpeculativeSampler
from tests.export.stock_server import STOCK_SERVER, ask_stock_server
from tests.generation.every_sampler import SAMPLERS, make_samplers
from tests.generation.lively import lively_model

PROMPTS = ["ROMEO:", "", "soft"]
LENGTH = 8


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


CLIENT = (
    STOCK_SERVER
    + """
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than all else here
folder, names, prompts = sys.argv[1], *map(json.loads, sys.argv[2:4])
settings = {"max_new_tokens": tf.constant(int(sys.argv[4])), "seed": tf.constant(3)}
prompts = tf.constant(prompts)


def plain(answer):
    answer = {key: answer[key].numpy().tolist() for key in ("text", "finish_reason", "num_tokens", "scores")}
    return {key: [x.decode() if isinstance(x, bytes) else x for x in row] for key, row in answer.items()}


answers = {}
for name in names:
    served = tf.saved_model.load(os.path.join(folder, name)).signatures
    piece = served["prefill"](prompts=prompts, **settings)
    while not all(piece["finish_reason"].numpy()):
        states = {key: tensor for key, tensor in piece.items() if key.startswith("state_")}
        piece = served["decode_step"](num_tokens=tf.constant(3), **states)
    answers[name] = {"serving_default": plain(served["serving_default"](prompts=prompts)), "stream": plain(piece)}
print(json.dumps(answers))
"""
)


@pytest.fixture(scope="module")
def writers(model, tiny_tokenizer):
    samplers = make_samplers(tiny_tokenizer.vocabulary_size)
    writers = {name: TextGenerator(model, tiny_tokenizer, sampler) for name, sampler in samplers.items()}
    quantized = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    quantized.quantize_for_generation()
    return {**writers, "int8": TextGenerator(quantized, tiny_tokenizer, "greedy")}


# Two in `make test`; a process asks for all of a group.
FEW = ("beam", "int8")
OTHERS = tuple(name for name in SAMPLERS if name not in FEW)


@pytest.fixture(scope="module")
def ask(writers, tmp_path_factory):
    """names -> name -> what its SavedModel answers at once and as a stream."""

    @functools.cache
    def answers_of(names):
        folder = tmp_path_factory.mktemp("samplers")
        for name in names:
            module = ServedTextGenerator(writers[name], writers[name].options(), {"max_new_tokens": LENGTH, "seed": 3})
            signatures = module.signatures(("serving_default", "prefill", "decode_step"))
            write_saved_model(module, signatures, folder / name)
        return ask_stock_server(CLIENT, folder, json.dumps(names), json.dumps(PROMPTS), LENGTH)

    return answers_of


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
@pytest.mark.usefixtures("without_xla")
def test_the_served_sampler_writes_as_in_python(writers, ask, name):
    expected = writers[name].generate(PROMPTS, max_new_tokens=LENGTH, seed=3)
    for answer in ask(FEW if name in FEW else OTHERS)[name].values():
        assert answer["text"] == list(expected.texts)
        assert answer["finish_reason"] == list(expected.finish_reasons)
        assert answer["num_tokens"] == expected.num_tokens.tolist()
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-5)


def test_a_draft_model_of_another_vocabulary_raises_before_any_work(model, tiny_tokenizer, tmp_path):
    sampler = SpeculativeSampler(drafter=DraftModel(lively_model(vocabulary_size=29)))
    writer = TextGenerator(model, tiny_tokenizer, sampler)
    message = f"Received: 29 tokens for a model of {tiny_tokenizer.vocabulary_size}"
    with pytest.raises(ValueError, match=message):
        writer("ROMEO:", max_new_tokens=2)
    with pytest.raises(ValueError, match=message):
        writer.export(tmp_path / "1")


@pytest.mark.slow
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
