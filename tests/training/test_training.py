"""Rates by layer, warm-up with linear decay, scores of entities and of answers, losses beside torch's."""

import keras
import numpy as np
import pytest

from keras_tfm import checkpoints
from keras_tfm.models import SentenceEncoder, SentencePairRanker, TextClassifier, build_bert, build_gpt
from keras_tfm.training import LayerwiseAdamW, WarmupLinearDecay, answer_scores, entity_scores, layerwise_factors


def classifier():
    encoder = build_bert(vocabulary_size=9, max_sequence_length=4, num_layers=2, num_heads=1, hidden_dim=4, dropout=0.0)
    return TextClassifier(encoder, ["a", "b"], dropout=0.0)


def test_factors_fall_from_the_head_to_the_embedding():
    model = classifier()
    factors = dict(zip(map(id, model.trainable_variables), layerwise_factors(model, 0.5), strict=True))
    encoder = model.encoder
    for layer, expected in (
        (model.head, 1.0),
        (encoder.pooler, 1.0),
        (encoder.stack.blocks[1], 0.5),
        (encoder.stack.blocks[0], 0.25),
        (encoder.token_embedding, 0.125),
    ):
        assert {factors[id(variable)] for variable in layer.trainable_variables} == {expected}


def test_factors_of_a_pair_model_are_those_of_its_encoder():
    ranker = SentencePairRanker(SentenceEncoder(classifier().encoder))
    factors = dict(zip(map(id, ranker.trainable_variables), layerwise_factors(ranker, 0.5), strict=True))
    assert {factors[id(variable)] for variable in ranker.encoder.stack.blocks[1].trainable_variables} == {0.5}
    assert min(factors.values()) == 0.125
    with pytest.raises(TypeError, match=r"`model` must be a `Bert` or a task model.*Received: <Sequential.*Sequential"):
        layerwise_factors(keras.Sequential(), 0.5)


def test_the_first_step_of_each_variable_is_its_factor_times_the_rate():
    variables = [keras.Variable([1.0]), keras.Variable([1.0])]
    optimizer = LayerwiseAdamW([1.0, 0.25], learning_rate=0.1, weight_decay=0.0)
    optimizer.build(variables)
    optimizer.apply([np.array([3.0], "float32"), np.array([3.0], "float32")], variables)
    # Adam's first step is the rate, whatever the gradient.
    np.testing.assert_allclose([1 - float(v.numpy()[0]) for v in variables], [0.1, 0.025], rtol=1e-4)


@pytest.mark.slow
def test_a_model_with_a_layerwise_optimizer_reloads_and_goes_on(tmp_path):
    model = classifier()
    model.encoder.token_embedding.trainable = False
    optimizer = LayerwiseAdamW(layerwise_factors(model, 0.9), WarmupLinearDecay(1e-2, 20))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.array([[1, 2, 3], [4, 5, 6]]), np.array([0, 1])
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    assert other.optimizer.factors == optimizer.factors
    assert int(other.optimizer.iterations) == 2
    for one in (model, other):
        one.fit(x, y, verbose=0)
    np.testing.assert_allclose(other(x), model(x), atol=1e-6)


def test_wrong_factors_are_refused():
    model = classifier()
    with pytest.raises(ValueError, match="`decay` must be greater than 0 and at most 1. Received: decay=1.5"):
        layerwise_factors(model, 1.5)
    with pytest.raises(ValueError, match="Received: 1 factors for 2 variables"):
        LayerwiseAdamW([1.0]).build([keras.Variable([1.0]), keras.Variable([1.0])])


def test_the_rate_rises_to_the_peak_and_falls_to_0():
    schedule = WarmupLinearDecay(2.0, total_steps=10, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(rates[:4], [0.4, 0.8, 1.2, 1.6], rtol=1e-6)
    assert max(rates) == pytest.approx(2.0) == rates[4]
    np.testing.assert_allclose(np.diff(rates[4:11]), -2 / 6, rtol=1e-5)
    assert rates[10] == rates[11] == 0
    assert all(rate > 0 for rate in rates[:10])
    assert WarmupLinearDecay.from_config(schedule.get_config()).get_config() == schedule.get_config()
    assert WarmupLinearDecay(1.0, 1000).warmup_steps == 100


def test_wrong_schedules_are_refused():
    with pytest.raises(ValueError, match="Received: warmup_steps=10, total_steps=10"):
        WarmupLinearDecay(1.0, total_steps=10, warmup_steps=10)
    with pytest.raises(ValueError, match="`total_steps` must be an integer of at least 1. Received: total_steps=0"):
        WarmupLinearDecay(1.0, total_steps=0)


def test_only_whole_entities_count():
    expected = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"]]
    found = [["B-A", "O", "O", "B-B"], ["O", "B-A"]]  # two of three are right, and two of the three found
    scores = entity_scores(expected, found)
    assert scores == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    assert entity_scores(expected, [["O"] * 4, ["O"] * 2]) == {"precision": 0, "recall": 0, "f1": 0}
    # An "I-" without a "B-" begins an entity; a new "B-" and another kind end one.
    assert entity_scores([["B-A", "I-A", "B-A", "I-B"]], [["I-A", "I-A", "I-B", "B-B"]])["recall"] == pytest.approx(
        2 / 3
    )
    with pytest.raises(ValueError, match=r"Received: \[4, 2\] and \[4\]"):
        entity_scores(expected, found[:1])


def test_labels_without_b_and_i_are_entities_of_one_word():
    scores = entity_scores([["NOUN", "NOUN", "O", "VERB"]], [["NOUN", "O", "O", "VERB"]])
    assert scores == pytest.approx({"precision": 1, "recall": 2 / 3, "f1": 4 / 5})
    assert entity_scores([["X-ray", "O"]], [["X-ray", "O"]])["f1"] == 1
    with pytest.raises(TypeError, match="Labels must be names. Received: 3 of type int"):
        entity_scores([[3]], [["O"]])


@pytest.mark.parametrize(
    ("expected", "found", "exact_match", "f1"),
    [
        ("the Globe", "Globe", 1, 1),
        ("Globe theatre.", "the globe", 0, 2 / 3),
        ("a red, red rose", "red rose", 0, 4 / 5),
        ("", "", 1, 1),
        ("", "Globe", 0, 0),
        ("Rome", "Paris", 0, 0),
    ],
)
def test_answers_are_compared_as_squad_does(expected, found, exact_match, f1):
    assert answer_scores([expected], [found]) == pytest.approx({"exact_match": exact_match, "f1": f1})
    with pytest.raises(ValueError, match="Received: 1 and 0"):
        answer_scores([expected], [])


@pytest.mark.slow
def test_two_hundred_steps_lose_what_transformers_loses_under_torch(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    vocabulary_size, length, batch, steps = 512, 64, 8, 200
    rng = np.random.default_rng(0)
    following = rng.integers(0, vocabulary_size, (vocabulary_size, 4))  # a Markov chain, which can be learned
    ids = np.empty((steps * batch, length + 1), "int32")
    ids[:, 0] = rng.integers(0, vocabulary_size, len(ids))
    for i in range(length):
        ids[:, i + 1] = following[ids[:, i], rng.integers(0, 4, len(ids))]
    ids = ids.reshape(steps, batch, length + 1)

    sizes = dict(vocabulary_size=vocabulary_size, max_sequence_length=length, num_layers=2, num_heads=4, hidden_dim=64)
    model = build_gpt(**sizes)
    checkpoints.save(model, tmp_path / "gpt2")
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2")  # in evaluation mode: without dropout
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-8)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.01, eps=1e-8)
    losses = np.empty((steps, 2))
    for i, x in enumerate(ids):
        losses[i, 0] = model.train_on_batch(x[:, :-1], x[:, 1:])
        model.reset_metrics()
        x = torch.tensor(x, dtype=torch.int64)
        loss = torch.nn.functional.cross_entropy(other(x[:, :-1]).logits.flatten(0, 1), x[:, 1:].flatten())
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        losses[i, 1] = loss.item()
    assert losses[-1].max() < 0.6 * losses[0].min()
    # Sums of another order, fed back 200 times; measured: 1.4e-4.
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], atol=1e-3)
