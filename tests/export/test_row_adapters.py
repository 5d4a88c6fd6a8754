"""A SavedModel with several adapters: each row uses its own, and writes what Python writes with that one alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import adapters
from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.export.writing import write_saved_model
from keras_tfm.generation import TextGenerator
from tests.conftest import plain_graphs
from tests.generation.lively import lively_model

PROMPTS = ["ROMEO:", "soft", "ROMEO:", "ROMEO:", ""]
CHOSEN = ["low", "dora", "", "dora", "factors"]
NAMES = ("low", "dora", "factors")
LENGTH = 6


@pytest.fixture(scope="module")
def writer(tiny_tokenizer):
    keras.utils.set_random_seed(0)
    model = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    adapters.add_lora(model, rank=2, name="low")
    adapters.add_lora(model, rank=3, targets=("query", "value", "attention_output"), dora=True, name="dora")
    adapters.add_ia3(model, targets="key", name="factors")
    rng = np.random.default_rng(0)
    for projection in adapters.projections_of(model).values():
        for adapter in projection.adapters:
            for variable in adapter.variables:
                variable.assign_add(rng.normal(size=variable.shape))
    return TextGenerator(model, tiny_tokenizer, "greedy")


@pytest.fixture(scope="module")
def served(writer, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "1"
    defaults = {"max_new_tokens": LENGTH, "seed": 0}
    module = ServedTextGenerator(writer, writer.options(), defaults, adapters=NAMES)
    write_saved_model(
        module, module.signatures(("serving_default", "generate", "prefill", "decode_step", "logits")), path
    )
    return tf.saved_model.load(str(path)).signatures


@pytest.fixture(scope="module")
def expected(writer):
    """What Python writes, of each prompt with its adapter alone."""
    texts = []
    with plain_graphs():
        for prompt, name in zip(PROMPTS, CHOSEN, strict=True):
            adapters.use(writer.model, name or ())
            texts.append(writer(prompt, max_new_tokens=LENGTH))
    adapters.use(writer.model, NAMES)
    return texts


SETTINGS = {"max_new_tokens": tf.constant(LENGTH), "seed": tf.constant(0)}


@pytest.mark.slow
def test_each_row_uses_its_own(served, expected):
    assert len({expected[i] for i in (0, 2, 3)}) == 3  # one prompt, three adapters
    prompts, adapter = tf.constant(PROMPTS), tf.constant(CHOSEN)
    found = served["generate"](prompts=prompts, adapter=adapter, **SETTINGS)["text"]
    assert [text.decode() for text in found.numpy()] == expected
    piece = served["prefill"](prompts=prompts, adapter=adapter, **SETTINGS)
    states = {name: tensor for name, tensor in piece.items() if name.startswith("state_")}
    piece = served["decode_step"](num_tokens=tf.constant(LENGTH), **states)
    assert [text.decode() for text in piece["text"].numpy()] == expected
    assert served["serving_default"](prompts=prompts[2:3])["text"].numpy()[0].decode() == expected[2]


@pytest.mark.slow
def test_logits_are_those_without_adapters(served, writer):
    ids = np.array([[1, 2, 3]], "int32")
    adapters.use(writer.model, ())
    expected = writer.model(ids)
    adapters.use(writer.model, NAMES)
    # Sums of 32 numbers of size 10, in another order.
    np.testing.assert_allclose(served["logits"](token_ids=tf.constant(ids))["logits"], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [["low", "high", "", "", ""], ["low"], ["low"] * 9])
def test_names_that_are_not_there_are_refused(served, wrong):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`adapter` must be one name for each prompt"):
        served["generate"](prompts=tf.constant(PROMPTS), adapter=tf.constant(wrong), **SETTINGS)


def test_what_cannot_be_chosen_by_row_is_not_exported(writer, tmp_path):
    with pytest.raises(ValueError, match=r"must be names of .*\['dora', 'factors', 'low'\].*Received: \['high'\]"):
        writer.export(tmp_path / "1", adapters=["low", "high"])
    adapters.use(writer.model, {"low": 0.5})
    with pytest.raises(ValueError, match=r"must count in full, and not be merged. Received: \['low'\]"):
        writer.export(tmp_path / "1", adapters="low")
    adapters.use(writer.model, NAMES)
    assert not (tmp_path / "1").exists()
