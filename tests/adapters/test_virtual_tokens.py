"""Virtual tokens: read before each text as if they were tokens, in training, writing, sessions and files alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_tfm import adapters, checkpoints
from keras_tfm.alignment.reference import Reference
from keras_tfm.generation import TextGenerator
from keras_tfm.models import build_t5
from keras_tfm.samplers import SpeculativeSampler
from tests.conftest import plain_graphs
from tests.generation.lively import lively_model
from tests.models.tiny import VOCABULARY_SIZE, make

IDS = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (4, 9)).astype("int32")
FIRST = [3, 7, 5]  # tokens that virtual ones begin as: what is read is then a text of real tokens
FAMILIES = ["gpt_learned", "llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "bloom"))]


def logits_of(model, ids=IDS, **inputs):
    return ops.convert_to_numpy(model({"token_ids": np.asarray(ids), **inputs}))


def with_first(ids):
    return np.concatenate([np.tile(FIRST, (len(ids), 1)), ids], axis=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_read_as_the_tokens_that_they_begin_as(family):
    model = make(family)
    short = IDS[:, :6]
    mask = np.arange(6) >= np.array([[0], [2], [1], [5]])  # padding is on the left, after the virtual tokens
    expected = [logits_of(model, with_first(short))[:, len(FIRST) :]]
    padding = np.concatenate([np.ones((4, len(FIRST)), "bool"), mask], axis=1)
    expected.append(logits_of(model, with_first(short), padding_mask=padding)[:, len(FIRST) :])
    adapters.add_virtual_tokens(model, len(FIRST), FIRST)
    np.testing.assert_allclose(logits_of(model, short), expected[0], atol=1e-5)
    found = logits_of(model, short, padding_mask=mask)
    np.testing.assert_allclose(found[mask], expected[1][mask], atol=1e-5)
    # The same by the cache.
    read = ops.convert_to_numpy(model.read_logits(short))
    np.testing.assert_allclose(read, expected[0], atol=1e-5)


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize(
    "sampler", ["greedy", pytest.param(SpeculativeSampler(num_drafts=2), marks=pytest.mark.slow, id="speculative")]
)
def test_ragged_prompts_are_continued_as_after_those_tokens(sampler):
    model, prompts = lively_model(num_layers=1), [[1, 2, 3], [4], []]
    expected = model.generate([FIRST + (prompt or [0]) for prompt in prompts], 4, sampler).token_ids
    adapters.add_virtual_tokens(model, len(FIRST), FIRST)
    np.testing.assert_array_equal(model.generate(prompts, 4, sampler).token_ids, expected)
    adapters.use(model, ())
    assert (model.generate(prompts, 4, sampler).token_ids != expected).any()  # another loop, without them


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_a_session_continues_after_them(tiny_tokenizer):
    model = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    adapters.add_virtual_tokens(model, 3, seed=1)
    writer = TextGenerator(model, tiny_tokenizer)
    session = writer.session()
    for turn in ("ROMEO:", " But", ""):
        prompt = session.token_ids.tolist() + tiny_tokenizer.encode(turn)
        session(turn, max_new_tokens=3)
        expected = model.generate([prompt], max_new_tokens=3)
        assert session.token_ids.tolist() == prompt + expected.token_ids[0, : expected.num_tokens[0]].tolist()
        assert session.num_remembered >= len(prompt) - 1  # nothing is read twice


@pytest.mark.slow
def test_a_saved_model_and_xla_read_them(tiny_tokenizer, tmp_path):
    model = lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer, prompts = TextGenerator(model, tiny_tokenizer, "greedy"), ["ROMEO:", "soft", ""]
    without = writer(prompts, max_new_tokens=4)
    adapters.add_virtual_tokens(model, 3, seed=1)
    writer.export(tmp_path / "1", max_new_tokens=4)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    found = [text.decode() for text in served(prompts=tf.constant(prompts))["text"].numpy()]
    assert found == writer(prompts, max_new_tokens=4) != without
    with plain_graphs():
        assert found == writer(prompts, max_new_tokens=4)


@pytest.mark.parametrize("loss", ["chunked", pytest.param("plain", marks=pytest.mark.slow)])
def test_they_alone_train_and_a_file_keeps_them(loss, tmp_path):
    model = make("gpt_learned", dropout=0.0)
    before = {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}
    adapters.add_virtual_tokens(model, 2)
    if loss == "plain":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    (vectors,) = model.trainable_variables
    first = ops.convert_to_numpy(vectors)
    losses = model.fit(IDS[:, :-1], IDS[:, 1:], epochs=8, batch_size=4, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(ops.convert_to_numpy(vectors) - first).max() > 0.01
    for weight in model.weights:
        if weight is not vectors:
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), before[weight.path])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert [weight.shape for weight in again.trainable_variables] == [vectors.shape]


def test_they_are_switched_joined_and_removed():
    model = make("llama")
    plain = logits_of(model)
    expected = logits_of(model, np.concatenate([np.tile([3, 5], (4, 1)), IDS], axis=1))[:, 2:]
    adapters.add_virtual_tokens(model, 1, [3], name="one")
    first = logits_of(model)
    adapters.add_virtual_tokens(model, 1, [5], name="two")
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-5)
    adapters.use(model, "one")
    np.testing.assert_array_equal(logits_of(model), first)
    with pytest.raises(ValueError, match="must be 0 or 1.*Received: 'one': 0.5"):
        adapters.use(model, {"one": 0.5})
    with pytest.raises(ValueError, match=r"in no kernel, and must not be merged. Received: \['one'\]"):
        adapters.merge(model)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    for one in (model, again):
        adapters.remove(one)
        np.testing.assert_array_equal(logits_of(one), plain)


def test_a_reference_keeps_those_of_the_start():
    model = make("llama")
    adapters.add_virtual_tokens(model, 2)
    assert not Reference(model).without_adapters  # without them it would be another model


def test_what_cannot_be_is_said(tmp_path):
    sizes = {"num_heads": 2, "head_dim": 4, "hidden_dim": 8, "intermediate_dim": 16, "num_layers": 1}
    with pytest.raises(ValueError, match="what a `CausalLM` reads. Received: 't5', a Seq2SeqLM"):
        adapters.add_virtual_tokens(build_t5(vocabulary_size=29, name="t5", **sizes))
    model = make("gpt_learned")
    with pytest.raises(ValueError, match="must leave room for a text.* Received: num_tokens=12 for 12 positions"):
        adapters.add_virtual_tokens(model, 12)
    with pytest.raises(ValueError, match="Token ids must be in"):
        adapters.add_virtual_tokens(model, 2, [VOCABULARY_SIZE])
    assert not adapters.adapter_names(model)
    adapters.add_virtual_tokens(model, 4)
    with pytest.raises(ValueError, match="beside 4 virtual tokens. Received: 9 tokens for 8 positions"):
        model(IDS)
    with pytest.raises(ValueError, match="must fit the model's 8 positions"):
        model.generate([[1, 2, 3]], max_new_tokens=6)
    with pytest.raises(ValueError, match="`document_ids` must not be given to a model with virtual tokens"):
        model({"token_ids": IDS[:, :4], "document_ids": IDS[:, :4]})
    with pytest.raises(ValueError, match="must be without adapters that are not in its kernels"):
        checkpoints.save(model, tmp_path / "whole")
