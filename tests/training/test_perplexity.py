"""Perplexity is exp of the mean loss over real tokens, however batches are cut and whatever stands in the padding."""

import keras
import numpy as np
import pytest

from keras_tfm.training import Perplexity


def batches(num_tokens):
    """Batches of unequal sizes and widths: labels, logits, weights."""
    random = np.random.default_rng(num_tokens)
    for rows, width in ((3, 5), (1, 2), (7, 4)):
        labels = random.integers(0, num_tokens, (rows, width))
        logits = random.normal(size=(rows, width, num_tokens)).astype("float32") * 3
        weights = (np.arange(width) < random.integers(1, width + 1, (rows, 1))).astype("float32")
        yield labels, logits, weights


def plain_perplexity(parts):
    losses = []
    for labels, logits, weights in parts:
        for place in np.argwhere(weights > 0):
            row = logits[tuple(place)].astype("float64")
            losses.append(np.log(np.exp(row).sum()) - row[labels[tuple(place)]])
    return np.exp(np.mean(losses))


@pytest.mark.parametrize("num_tokens", [2, 50])
def test_batches_of_unequal_sizes_count_by_their_real_tokens(num_tokens):
    metric = Perplexity()
    parts = list(batches(num_tokens))
    for labels, logits, weights in parts:
        metric.update_state(labels, logits, weights)
    # float32 sums of some 40 losses of size 1 to 10.
    np.testing.assert_allclose(metric.result(), plain_perplexity(parts), rtol=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_what_stands_in_the_padding_does_not_matter():
    labels, logits, weights = next(batches(9))
    expected, ignoring = Perplexity(), Perplexity(ignored_id=-100)
    expected.update_state(labels, logits, weights)
    logits[weights == 0] = np.nan
    ignoring.update_state(np.where(weights > 0, labels, -100), logits)
    np.testing.assert_allclose(ignoring.result(), expected.result(), rtol=1e-6)


def test_probabilities_and_logits_of_half_precision_do_as_well():
    labels, logits, weights = next(batches(9))
    expected, from_probabilities, half = Perplexity(), Perplexity(from_logits=False), Perplexity()
    expected.update_state(labels, logits, weights)
    from_probabilities.update_state(labels, keras.ops.softmax(logits), weights)
    half.update_state(labels, keras.ops.cast(logits, "bfloat16"), weights)
    np.testing.assert_allclose(from_probabilities.result(), expected.result(), rtol=1e-5)
    np.testing.assert_allclose(half.result(), expected.result(), rtol=0.05)  # 8 bits of each logit
    assert half.result().dtype == np.float32


def test_fit_reports_it_with_the_weights_of_the_dataset():
    labels, logits, weights = next(batches(9))
    model = keras.Sequential([keras.Input((None, 9)), keras.layers.Identity()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=[Perplexity.from_config(Perplexity().get_config())])
    found = model.evaluate(logits, labels, sample_weight=weights, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["perplexity"], plain_perplexity([(labels, logits, weights)]), rtol=1e-5)
