"""Preference losses: values and gradients are those of their papers, padding counts in no mean, `fit` learns."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import adapters, alignment, data
from tests.alignment.conftest import random_pairs, tiny_policy

ROWS = [{"prompt": f"{a}+{b}=", "chosen": "5", "rejected": "77"} for a in range(3) for b in range(3)]
KINDS = ("DPO", "IPO", "HingeDPO", "SimPO", "ORPO", "KTO")


def trainer_of(kind, policy, **options):
    return getattr(alignment, kind)(policy, **options)


def loss_and_gradient(trainer, inputs, log_probs, reference, labels=None):
    """What a trainer says of given log-probabilities."""
    trainer.reference = trainer.reference and types.SimpleNamespace(log_probs=lambda _: reference)
    log_probs = tf.constant(log_probs)
    with tf.GradientTape() as tape:
        tape.watch(log_probs)
        loss = trainer.compute_loss(x=inputs, y=labels, y_pred=log_probs)
    return float(loss), tape.gradient(loss, log_probs).numpy()


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def by_hand(kind, inputs, log_probs, reference, labels, beta):
    """The papers' formulas, pair by pair, in float64."""
    losses, likelihoods = [], []
    mask, real = inputs["answer_mask"][..., 1:], inputs["padding_mask"][..., 1:]
    strange = [float((log_probs - reference)[i, 1][mask[i, 1]].sum()) for i in range(len(mask))]
    for i in range(len(mask)):
        p = [log_probs[i, j][mask[i, j]].astype("float64") for j in (0, 1)]
        r = [p[j] - reference[i, j][mask[i, j]] for j in (0, 1)]
        likelihoods.extend(log_probs[i, 0][real[i, 0]])
        odds = [np.log(np.exp(x.mean()) / (1 - np.exp(x.mean()))) for x in p]
        good = r[0].sum() - max(np.mean(strange), 0)
        losses.append(
            {
                "DPO": -log_sigmoid(beta * (r[0].sum() - r[1].sum())),
                "IPO": (r[0].mean() - r[1].mean() - 1 / (2 * beta)) ** 2,
                "HingeDPO": max(0, 1 - beta * (r[0].sum() - r[1].sum())),
                "SimPO": -log_sigmoid(beta * (p[0].mean() - p[1].mean()) - 0.5),
                "ORPO": -beta * log_sigmoid(odds[0] - odds[1]),
                "KTO": 1 - 1 / (1 + np.exp(-beta * good if labels[i] else beta * good)),
            }[kind]
        )
    return np.mean(losses) - (np.mean(likelihoods) if kind == "ORPO" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_its_papers_formula_and_padding_is_in_no_mean(kind, policy):
    inputs, log_probs, reference = random_pairs()
    labels = np.array([True, False, False, True])
    trainer = trainer_of(kind, policy, beta=0.7)
    loss, gradient = loss_and_gradient(trainer, inputs, log_probs, reference, labels)
    assert loss == pytest.approx(by_hand(kind, inputs, log_probs, reference, labels, 0.7), abs=1e-5)
    assert not gradient[~inputs["padding_mask"][..., 1:]].any()
    wider = {name: np.pad(x, ((0, 0), (0, 0), (0, 5))) for name, x in inputs.items()}
    padded = (np.pad(x, ((0, 0), (0, 0), (0, 5))) for x in (log_probs, reference))
    assert loss_and_gradient(trainer, wider, *padded, labels)[0] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("lora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_before_the_first_step_policy_and_reference_are_equal_bit_for_bit(lora, policy, tokenizer):
    if lora:
        adapters.add_lora(policy, rank=2)
    trainer = alignment.DPO(policy)
    assert (trainer.reference.model is policy) is lora
    inputs = next(iter(data.preference_dataset(ROWS, tokenizer, 16, 4)))
    np.testing.assert_array_equal(trainer(inputs), trainer.reference.log_probs(inputs))


def test_the_reference_stays_while_an_adapter_learns(policy, tokenizer):
    dataset = data.preference_dataset(ROWS, tokenizer, 16, 3)
    inputs = next(iter(dataset))
    adapters.add_lora(policy, rank=2, targets=("query", "value", "feed_forward"))
    trainer = alignment.DPO(policy, beta=0.5)
    before = trainer.reference.log_probs(inputs).numpy()
    trainer.compile(keras.optimizers.Adam(0.01))
    history = trainer.fit(dataset, epochs=4, shuffle=False, verbose=0).history
    assert history["loss"][-1] < 0.6
    assert history["accuracy"][-1] == 1.0
    np.testing.assert_array_equal(trainer.reference.log_probs(inputs), before)
    assert not np.array_equal(trainer(inputs), before)
    # An adapter that has learned is part of where the next run starts: it is copied.
    assert alignment.DPO(policy).reference.model is not policy


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["KTO", "ORPO"])
def test_a_policy_learns_from_pairs_and_from_judgements(kind, tokenizer):
    trainer = trainer_of(kind, tiny_policy(tokenizer), beta=1.0)
    trainer.compile(keras.optimizers.Adam(0.01))
    dataset = data.preference_dataset(ROWS, tokenizer, 16, 3)
    if kind == "KTO":
        rows = [{"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
                for row in ROWS for key in ("chosen", "rejected")]  # fmt: skip
        dataset = data.judged_dataset(rows, tokenizer, 16, 6)
    losses = trainer.fit(dataset, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    assert trainer.evaluate(dataset, verbose=0, return_dict=True)["loss"] < losses[0]


def test_wrong_arguments_are_refused_before_training(policy, tokenizer):
    with pytest.raises(ValueError, match=r"`beta` must be greater than 0\. Received: beta=-1"):
        alignment.DPO(policy, beta=-1)
    other = tiny_policy(type(tokenizer)("ab", ["<|endoftext|>"]))
    with pytest.raises(ValueError, match="`reference` must have the vocabulary of `policy`"):
        alignment.DPO(policy, reference=other)
    trainer = alignment.KTO(policy)
    inputs, log_probs, reference = random_pairs()
    with pytest.raises(ValueError, match="`KTO` must be told which answers are good"):
        loss_and_gradient(trainer, inputs, log_probs, reference)


def test_a_reward_model_learns_which_answers_are_better(policy, tokenizer):
    model = fitted_reward_model(policy, tokenizer)
    history = model.history.history
    assert history["accuracy"][-1] == 1.0
    assert history["loss"][-1] < 0.5


@pytest.mark.slow
def test_a_reward_model_keeps_what_it_learned_in_a_file(policy, tokenizer, tmp_path):
    model = fitted_reward_model(policy, tokenizer)
    better, worse = model.reward_function(tokenizer, 16)(["1+2="] * 2, ["5", "77"])
    assert better > worse
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.reward_function(tokenizer, 16)(["1+2="], ["5"]) == pytest.approx([better], abs=1e-6)


def fitted_reward_model(policy, tokenizer):
    model = alignment.RewardModel(policy, centering=0.01)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(data.preference_dataset(ROWS, tokenizer, 16, 3), epochs=4, shuffle=False, verbose=0)
    return model


@pytest.mark.slow
def test_a_reward_is_the_same_however_wide_its_row_is_padded(policy, tokenizer):
    model = alignment.RewardModel(policy)
    rewards = [model.reward_function(tokenizer, width)(["1+2="], ["3"])[0] for width in (6, 16)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-6)
