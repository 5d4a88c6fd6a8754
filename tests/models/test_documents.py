"""Rows packed with several documents: positions start anew, and nobody looks into another document."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import layers, ops
from keras_tfm.data import with_document_ids
from keras_tfm.models import build_gpt, build_llama
from tests.harness import float32

DOCUMENTS = np.array([[0, 0, 0, 1, 1, 5, 5, 5], [2, 2, 2, 2, 2, 2, 3, 3]], "int32")


def test_positions_start_anew_at_each_document():
    mask = np.ones(DOCUMENTS.shape, bool)
    positions = ops.next_positions(mask, document_ids=DOCUMENTS)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 2, 3, 4, 5, 0, 1]])
    mask[0, [0, 3, 7]] = False  # padding before, at the start of, and after a document
    positions = ops.next_positions(mask, document_ids=DOCUMENTS)
    np.testing.assert_array_equal(positions[0], [-1, 0, 1, -1, 0, 0, 1, -1])


MODELS = {
    "learned": lambda: build_gpt(
        vocabulary_size=19, max_sequence_length=8, num_layers=2, num_heads=2, hidden_dim=8, position="learned"
    ),
    "relative": lambda: build_gpt(
        vocabulary_size=19, max_sequence_length=8, num_layers=2, num_heads=2, hidden_dim=8, position="relative"
    ),
    "rotary": lambda: build_llama(
        vocabulary_size=19,
        num_layers=2,
        num_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=12,
        windows=(2, None),
        query_key_norm=True,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_row_has_the_logits_and_the_loss_of_its_documents_one_by_one(name):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    model.set_weights([0.3 * rng.normal(size=weight.shape) for weight in model.weights])
    token_ids, next_ids = rng.integers(0, 19, (2, 2, 8)).astype("int32")
    packed = float32(model({"token_ids": token_ids, "document_ids": DOCUMENTS}))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses, counts = [], []
    for row in range(2):
        for document in np.unique(DOCUMENTS[row]):
            here = DOCUMENTS[row] == document
            alone = float32(model(token_ids[row, here][None]))
            np.testing.assert_allclose(packed[row, here], alone[0], atol=1e-5)
            losses.append(float(loss(next_ids[row, here][None], alone)))
            counts.append(here.sum())
    assert float(loss(next_ids, packed)) == pytest.approx(np.average(losses, weights=counts), abs=1e-5)
    assert np.abs(packed - float32(model(token_ids))).max() > 1e-2


@pytest.mark.slow
def test_fit_reads_document_ids_from_a_dataset():
    token_ids = np.array([[5, 6, 0, 7, 8, 0, 9]] * 4, "int32")
    dataset = tf.data.Dataset.from_tensor_slices((token_ids[:, :-1], token_ids[:, 1:])).batch(2)
    dataset = dataset.map(with_document_ids(0))
    inputs, _ = next(iter(dataset))
    np.testing.assert_array_equal(inputs["document_ids"], [[0, 0, 0, 1, 1, 1]] * 2)
    model = MODELS["rotary"]()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(dataset, epochs=3, verbose=0, shuffle=False)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`end_of_text_id` must be an integer.*Received: end_of_text_id=None"):
        with_document_ids(None)
    layer = layers.MultiHeadSelfAttention(2)
    x = np.zeros((2, 8, 4), "float32")
    layer.build(x.shape)
    with pytest.raises(ValueError, match=r"`document_ids` must have shape \(B, T\). Received: shape=\(8,\)"):
        layer(x, document_ids=DOCUMENTS[0])
    with pytest.raises(ValueError, match=r"must not be given together.*document_ids of shape \(2, 8\), and a cache"):
        layer(x, document_ids=DOCUMENTS, cache=layer.init_cache(2, 8))
