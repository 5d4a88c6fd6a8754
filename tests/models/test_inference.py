"""Kernels for inference: near to the floats, the same in graphs and eagerly, saved, reloaded and served."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm import compat
from keras_tfm.layers.inference_kernels import Int8Kernel, ObservedKernel
from keras_tfm.layers.weights import Projection
from tests.harness import fresh_process

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (6, 11)).astype("int32")
INPUTS = {"token_ids": IDS, "padding_mask": np.arange(11) < np.array([[11], [7], [4], [11], [1], [9]])}


def encoder(seed=0):
    keras.utils.set_random_seed(seed)
    return ktfm.models.build_bert(
        vocabulary_size=50, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=32, pooler=False
    )


def classifier(dtype=None, **options):
    model = ktfm.models.TextClassifier(encoder(), ["a", "b", "c"], pooling=ktfm.layers.MeanPooling())
    if dtype is not None:
        model.quantize_for_inference(dtype, INPUTS if dtype == "int8" else None, **options)
    return model


@pytest.fixture(scope="module", params=["int8", "bfloat16"])
def pair(request):
    """(a classifier in floats, the same quantized)."""
    return classifier(), classifier(request.param)


def kinds(model):
    projections = [layer for layer in compat.all_layers(model) if isinstance(layer, Projection)]
    return {projection.inference_kernel.config()["dtype"] for projection in projections}


def test_it_is_near_to_the_floats_eagerly_and_in_a_graph(pair):
    floats, quantized = pair
    expected, eager = floats(INPUTS).numpy(), quantized(INPUTS).numpy()
    deviation = expected.std()
    assert np.abs(eager - expected).max() < 0.1 * deviation
    in_graph = tf.function(quantized)({name: tf.constant(x) for name, x in INPUTS.items()}).numpy()
    # A row that lies between two steps may be rounded the other way, by sums in another order.
    np.testing.assert_allclose(in_graph, eager, rtol=0, atol=0.03 * deviation)
    np.testing.assert_allclose(quantized.predict(INPUTS, verbose=0), in_graph, rtol=0, atol=0.03 * deviation)


def test_it_saves_reloads_and_copies(pair, tmp_path):
    _, quantized = pair
    quantized.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(INPUTS), quantized(INPUTS))
    assert kinds(again) == kinds(quantized)
    copy = type(quantized).from_config(quantized.get_config())
    copy.set_weights(quantized.get_weights())
    np.testing.assert_array_equal(copy(INPUTS), quantized(INPUTS))


def test_products_that_lose_too_much_are_in_bfloat16():
    assert kinds(classifier("int8", largest_error=1.0)) == {"int8"}
    assert kinds(classifier("int8", largest_error=0.0)) == {"bfloat16"}


def test_an_outlier_channel_moves_into_the_weights():
    kernel = RNG.normal(size=(64, 8)).astype("float32")
    rows = RNG.normal(size=(100, 64)).astype("float32")
    rows[:, 3] *= 100
    observed = ObservedKernel(kernel)
    for start in range(0, 100, 10):
        observed.product(rows[start : start + 10], None)
    chosen, plain = observed.rounded(), Int8Kernel.of(kernel)

    def error(way):
        return np.square(way.product(rows, None) - rows @ kernel).mean()

    assert error(chosen) < 0.2 * error(plain)
    assert chosen.config() == {"dtype": "int8", "has_spread": True}
    np.testing.assert_allclose(chosen.floats(), kernel, rtol=0, atol=0.05 * np.abs(kernel).max())


def test_weights_that_a_graph_has_kept_are_not_loaded_over(tmp_path):
    model = classifier("int8", largest_error=1.0)
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")  # not called yet
    tf.function(model)({name: tf.constant(x) for name, x in INPUTS.items()})
    if compat.has_int8_product():
        with pytest.raises(ValueError, match="must be loaded before it is first called"):
            model.load_weights(tmp_path / "model.weights.h5")
        with pytest.raises(ValueError, match="must be loaded before it is first called"):
            model.set_weights(model.get_weights())


def test_calibration_may_be_token_ids_or_batches():
    for calibration in (IDS, IDS.tolist(), [INPUTS, {"token_ids": IDS}], [IDS, IDS]):
        model = encoder()
        model.quantize_for_inference("int8", calibration, largest_error=1.0)
        assert kinds(model) == {"int8"}


def test_what_cannot_be_is_refused():
    model = classifier("bfloat16")
    with pytest.raises(ValueError, match="quantized already: `quantize_for_inference`"):
        model.quantize_for_inference("bfloat16")
    with pytest.raises(ValueError, match="must not be trained"):
        model(IDS, training=True)
    with pytest.raises(ValueError, match="Received: dtype='int4'"):
        classifier("int4")
    for nothing in (None, [], {**INPUTS, "padding_mask": np.zeros((6, 11), "bool")}):
        with pytest.raises(ValueError, match="Received: calibration="):
            encoder().quantize_for_inference("int8", nothing)
    with pytest.raises(NotImplementedError, match="for encoders"):
        ktfm.models.build_gpt(
            vocabulary_size=9, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=8
        ).quantize_for_inference("bfloat16")
    adapted = encoder()
    ktfm.adapters.add_lora(adapted, rank=2)
    with pytest.raises(ValueError, match="must be merged"):
        adapted.quantize_for_inference("bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("portable", [False, True])
def test_a_pipeline_calibrates_by_texts_and_exports(portable, tmp_path):
    texts = ["to be or not to be", "that is the question", "whether tis nobler"] * 3
    pieces = ktfm.tokenizers.WordPieceTokenizer.train("\n".join(texts), vocabulary_size=50)
    embed = ktfm.pipelines.SentenceEmbedding(ktfm.models.SentenceEncoder(encoder()), pieces, sequence_length=16)
    before = embed(texts)
    embed.quantize_for_inference("int8", texts, largest_error=1.0)
    after = embed(texts)
    assert (before * after).sum(axis=1).min() > 0.995
    assert np.abs(before - after).max() > 1e-5  # rounded, which float32's own noise of 1e-7 is not
    embed.export(tmp_path / "1", portable=portable)
    code = (
        "import sys, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "print(served(tf.constant(sys.argv[2:]))['vectors'].numpy().tolist())\n"
    )
    vectors = np.array(json.loads(fresh_process(code, tmp_path / "1", *texts[:3]).splitlines()[-1]))
    np.testing.assert_allclose(vectors, after[:3], rtol=0, atol=0.01)
