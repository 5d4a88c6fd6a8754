"""Out of Hugging Face, trained with `fit`, and back: the loss is the same on both sides, before and after."""

import keras
import numpy as np
import pytest
import torch
import transformers

from keras_tfm.checkpoints import load, save
from tests.checkpoints.families import tiny
from tests.checkpoints.test_encoders import tiny as tiny_encoder

ROWS = np.random.default_rng(0).integers(2, 29, (8, 13)).astype("int32")


def loss_of(theirs) -> float:
    ids = torch.tensor(ROWS.astype("int64"))
    with torch.no_grad():
        return float(theirs(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("name", ["gpt2", pytest.param("smollm", marks=pytest.mark.slow)])
def test_fine_tuning_gives_a_checkpoint_of_equal_loss(name, tmp_path):
    theirs = tiny(name)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.evaluate(ROWS[:, :-1], ROWS[:, 1:], verbose=0)
    assert before == pytest.approx(loss_of(theirs), rel=1e-5)
    model.fit(ROWS[:, :-1], ROWS[:, 1:], batch_size=4, epochs=5, verbose=0)
    after = model.evaluate(ROWS[:, :-1], ROWS[:, 1:], verbose=0)
    assert after < 0.9 * before
    save(model, tmp_path / "trained")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained", attn_implementation="eager")
    assert loss_of(again) == pytest.approx(after, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_fine_tuning_a_classifier_gives_a_checkpoint_of_equal_loss(family, tmp_path):
    def their_loss(theirs):
        ids = torch.tensor(ROWS.astype("int64"))
        with torch.no_grad():
            return float(theirs(input_ids=ids, labels=torch.tensor(labels)).loss)

    labels = np.arange(len(ROWS)) % 3
    theirs = tiny_encoder(family, "ForSequenceClassification")
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.evaluate(ROWS, labels, verbose=0)
    assert before == pytest.approx(their_loss(theirs), rel=1e-5)
    model.fit(ROWS, labels, batch_size=4, epochs=5, verbose=0)
    after = model.evaluate(ROWS, labels, verbose=0)
    assert after < 0.9 * before
    save(model, tmp_path / "trained")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained").eval()
    assert their_loss(again) == pytest.approx(after, rel=1e-5)


def test_a_loaded_model_is_saved_and_reloaded_by_keras(tmp_path):
    tiny("llama3").save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(ROWS), model(ROWS))
    save(again, tmp_path / "saved")  # found by its wiring
    np.testing.assert_array_equal(load(tmp_path / "saved")(ROWS), model(ROWS))
