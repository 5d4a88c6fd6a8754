"""A chunked loss trains as the plain one, for tied and untied heads, and no logits are made."""

import keras
import numpy as np
import pytest

from keras_tfm import adapters
from keras_tfm.losses import ChunkedCrossEntropy
from tests.models.tiny import TINY, VOCABULARY_SIZE

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, VOCABULARY_SIZE, (4, 9)).astype("int32")
INPUTS = {"token_ids": IDS[:, :-1], "padding_mask": np.arange(8) < np.array([[8], [5], [8], [3]])}
WEIGHTS = INPUTS["padding_mask"].astype("float32")


def copy_of(model):
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def trained(model, loss, steps=2, **options):
    """(losses of `fit`, the loss of `evaluate`, weights): plain gradient descent, whose steps show the gradients."""
    model.compile(keras.optimizers.SGD(0.5), loss=loss, **options)
    data = (INPUTS, IDS[:, 1:])
    history = model.fit(*data, sample_weight=WEIGHTS, epochs=steps, batch_size=4, shuffle=False, verbose=0)
    return history.history["loss"], model.evaluate(*data, sample_weight=WEIGHTS, verbose=0), model.get_weights()


# Tied, untied without and with a bias, tied and capped.
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_learned", "llama")), "gemma2"]
)
def test_training_equals_that_with_all_logits(name):
    model = TINY[name](**({"dropout": 0.0} if name.startswith("gpt") else {}))
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = trained(copy_of(model), plain)
    found = trained(model, ChunkedCrossEntropy(chunk_size=7))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for one, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # sums of 20 numbers of size 1
    assert model.predict(INPUTS, verbose=0).shape == (4, 8, VOCABULARY_SIZE)


def test_no_logits_are_made(monkeypatch):
    model = TINY["llama"]()
    monkeypatch.setattr(model.head, "call", None)  # nothing calls it
    trained(model, "chunked", steps=1)
    with pytest.raises(TypeError):
        model(INPUTS)


def test_label_smoothing_z_loss_and_ignored_tokens():
    model = TINY["llama"](dtype="float32")
    labels = IDS[:, 1:].copy()
    labels[0, 2] = -100
    loss = ChunkedCrossEntropy(label_smoothing=0.1, z_loss=0.01, ignore_class=-100, reduction=None)
    found = loss.bound_to(model.head_weights)(labels, model._reader({**INPUTS, "document_ids": None}))
    logits = keras.ops.convert_to_numpy(model(INPUTS)).astype("float64")
    log_sum = np.log(np.exp(logits).sum(-1))
    target = np.eye(VOCABULARY_SIZE)[np.maximum(labels, 0)] * 0.9 + 0.1 / VOCABULARY_SIZE
    expected = np.where(labels < 0, 0.0, log_sum - (target * logits).sum(-1) + 0.01 * log_sum**2)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, atol=1e-5)


@pytest.mark.slow
def test_mixed_precision_and_jit_and_a_saved_file(tmp_path):
    model = TINY["gpt_learned"](dtype="mixed_bfloat16")
    losses, _, _ = trained(model, ChunkedCrossEntropy(z_loss=1e-3), steps=6, jit_compile=True)
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.loss, ChunkedCrossEntropy)
    assert again.loss.z_loss == 1e-3
    np.testing.assert_allclose(
        again.evaluate(INPUTS, IDS[:, 1:], verbose=0), model.evaluate(INPUTS, IDS[:, 1:], verbose=0)
    )


@pytest.mark.parametrize("family", ["llama", "gpt_learned"])  # with a head of its own, with tied weights
def test_a_head_in_8_bits_has_the_loss_of_its_logits(family):
    model = TINY[family]()
    model.quantize_for_generation()
    losses = []
    for loss in ("chunked", keras.losses.SparseCategoricalCrossentropy(from_logits=True)):
        model.compile(loss=loss)
        losses.append(model.evaluate(IDS[:, :-1], IDS[:, 1:], verbose=0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_a_chunked_loss_cannot_be_with_is_said():
    with pytest.raises(ValueError, match="`metrics` and `weighted_metrics` must be left out"):
        TINY["llama"]().compile(loss="chunked", metrics=["accuracy"])
    model = TINY["llama"]()
    model.head.quantize("int8")
    with pytest.raises(ValueError, match="which Keras has not quantized"):
        model.compile(loss="chunked")
    with pytest.raises(ValueError, match="must know the head"):
        ChunkedCrossEntropy()(IDS, np.zeros((4, 9, 3)))
    with pytest.raises(ValueError, match="label_smoothing=1.5"):
        ChunkedCrossEntropy(label_smoothing=1.5)


# Rank, lengths of columns, factors; and a LoRA beside a head in 8 bits.
@pytest.mark.parametrize("kind", ["lora", *(pytest.param(x, marks=pytest.mark.slow) for x in ("dora", "ia3", "int8"))])
def test_adapters_beside_the_head_train_as_with_all_logits(kind):
    model = TINY["llama"]()
    if kind == "int8":
        model.quantize_for_generation()
    if kind == "ia3":
        adapters.add_ia3(model, targets="head")
    else:
        adapters.add_lora(model, rank=2, targets=("query", "head"), dora=kind == "dora")
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(0.3 * rng.normal(size=variable.shape))
    expected = trained(copy_of(model), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = trained(model, ChunkedCrossEntropy(chunk_size=7))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for one, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # sums of 20 numbers of size 1


def test_adapters_that_the_weights_of_the_head_cannot_tell_of_are_refused():
    model = TINY["llama"]()
    adapters.add_lora(model, rank=2, targets="head", dropout=0.1)
    with pytest.raises(ValueError, match="must be linear and without dropout.*Received: 'default', a Lora"):
        model.compile(loss="chunked")
    adapters.remove(model)
    adapters.add_bottlenecks(model, 2, targets="head")
    with pytest.raises(ValueError, match="Received: 'default', a Bottleneck"):
        model.head_weights()
