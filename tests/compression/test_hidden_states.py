"""Distillation of hidden states and attention: Keras' distiller computes the formula, and a student learns from it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters
from keras_tfm.compression import with_hidden_states
from keras_tfm.models import TextClassifier, build_bert, build_gpt, build_t5
from tests.models.tiny import VOCABULARY_SIZE, make

RNG = np.random.default_rng(0)
IDS = RNG.integers(1, VOCABULARY_SIZE, (4, 7)).astype("int32")
MASK = np.arange(7) < np.array([[7], [4], [6], [2]])


def classifier(num_layers, hidden_dim):
    sizes = {"vocabulary_size": VOCABULARY_SIZE, "max_sequence_length": 12, "num_layers": num_layers, "num_heads": 2}
    encoder = build_bert(**sizes, hidden_dim=hidden_dim, intermediate_dim=12, dropout=0.0)
    return TextClassifier(encoder, ["bad", "good"], dropout=0.0)


def states_of(encoder):
    """Embedding and outputs of blocks, one after the other, (T, D) of all real tokens and zeros."""
    positions = np.where(MASK, np.arange(7), -1)
    x = encoder.token_embedding(IDS, positions=positions)
    states = [x]
    for block in encoder.stack.blocks:
        x = block(x, positions=positions)
        states.append(x)
    return [np.where(MASK[..., None], ops.convert_to_numpy(x), 0.0) for x in states]


@pytest.mark.slow
def test_the_loss_is_that_of_the_formula_at_other_widths_and_the_student_learns():
    teacher, student = classifier(4, 12), classifier(2, 8)
    shown = with_hidden_states(student, hidden_dim=12, states=[0, 2])
    losses = [
        keras.distillation.LogitsDistillation(temperature=2.0, loss=keras.losses.KLDivergence()),
        keras.distillation.FeatureDistillation("mse", "hidden_0", "hidden_0"),
        keras.distillation.FeatureDistillation("mse", "hidden_4", "hidden_2"),
    ]
    distiller = keras.distillation.Distiller(
        with_hidden_states(teacher), shown, losses, distillation_loss_weights=[1.0, 0.5, 2.0], student_loss_weight=0.25
    )
    inputs = {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": MASK}
    labels = np.arange(4) % 2
    distiller.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = distiller.evaluate(inputs, labels, verbose=0, return_dict=True)["total_loss"]

    logits = [ops.convert_to_numpy(model(inputs)) for model in (teacher, student)]
    logs = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (logits[1], logits[0] / 2, logits[1] / 2)]
    expected = 0.25 * -logs[0][np.arange(4), labels].mean()
    distilled = 4 * (np.exp(logs[1]) * (logs[1] - logs[2])).sum(-1).mean()
    for weight, i, j in ((0.5, 0, 0), (2.0, 4, 2)):
        kernel = ops.convert_to_numpy(shown.get_layer(f"hidden_{j}").projection.kernel)
        theirs, own = states_of(teacher.encoder)[i], states_of(student.encoder)[j]
        distilled += weight * np.square(theirs - own @ kernel).mean()
    assert found == pytest.approx(expected + 0.75 * distilled, rel=1e-5)

    kernels = [block.feed_forward.output_dense.kernel for block in student.encoder.stack.blocks]
    before = [ops.convert_to_numpy(x) for x in kernels]
    history = distiller.fit(inputs, labels, epochs=10, verbose=0).history["total_loss"]
    assert history[-1] < 0.9 * history[0]
    for kernel, first in zip(kernels, before, strict=True):
        assert np.abs(ops.convert_to_numpy(kernel) - first).max() > 0.01


@pytest.mark.slow
def test_attention_is_distilled():
    teacher, student = classifier(2, 12), classifier(1, 8)
    losses = [keras.distillation.FeatureDistillation("mse", "attention_2", "attention_1")]
    shown = with_hidden_states(teacher, attention=[2]), with_hidden_states(student, states=[], attention=[1])
    distiller = keras.distillation.Distiller(*shown, losses, student_loss_weight=1e-3)
    inputs = {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": MASK}
    distiller.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(4) % 2
    theirs, own = (model.inspect(inputs).attention_weights[-1] for model in (teacher, student))
    found = distiller.evaluate(inputs, labels, verbose=0, return_dict=True)["distillation_loss"]
    assert found == pytest.approx(np.square(theirs - own).mean(), rel=1e-5)
    distiller.fit(inputs, labels, epochs=12, verbose=0)
    assert np.square(theirs - student.inspect(inputs).attention_weights[-1]).mean() < 0.7 * found


@pytest.mark.parametrize("name", ["llama", "gpt_relative", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_outputs_are_the_models_own_and_the_weights_too(name):
    model = make(name)
    shown = with_hidden_states(model, inputs=("token_ids",))
    np.testing.assert_allclose(ops.convert_to_numpy(shown(IDS)), ops.convert_to_numpy(model(IDS)), atol=1e-6)
    assert {id(x) for x in shown.variables} == {id(x) for x in model.variables}
    last = ops.convert_to_numpy(keras.Model(shown.input, shown.get_layer("hidden_2").output)(IDS))
    if model.stack.final_norm is not None:
        last = model.stack.final_norm(last)
    np.testing.assert_allclose(ops.convert_to_numpy(model.project(last)), ops.convert_to_numpy(model(IDS)), atol=1e-5)
    assert type(model.stack).__name__ == "TransformerStack"  # as it was


def test_what_cannot_be_shown_is_said():
    sizes = {"num_heads": 2, "head_dim": 4, "hidden_dim": 8, "intermediate_dim": 16, "num_layers": 1}
    with pytest.raises(ValueError, match="one `TransformerStack` and no virtual tokens. Received: 't5' with 2 stacks"):
        with_hidden_states(build_t5(vocabulary_size=29, name="t5", **sizes))
    model = build_gpt(vocabulary_size=29, max_sequence_length=8, num_layers=1, num_heads=2, hidden_dim=8)
    with pytest.raises(
        ValueError, match=r"`inputs` must be of .*\['token_ids'\] among them. Received: inputs=\['ids'\]"
    ):
        with_hidden_states(model, inputs=["ids"])
    with pytest.raises(ValueError, match=r"`states` must be from 0 to 1. Received: states=\[2\]"):
        with_hidden_states(model, states=[2])
    with pytest.raises(ValueError, match=r"`attention` must be from 1 to 1. Received: attention=\[0\]"):
        with_hidden_states(model, attention=[0])
    adapters.add_virtual_tokens(model, 2)
    with pytest.raises(ValueError, match="no virtual tokens"):
        with_hidden_states(model)
