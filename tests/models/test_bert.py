"""BERT: equal to Hugging Face, blind to padding and batch mates, pretrained with `fit`, saved, on all backends."""

import keras
import numpy as np
import pytest
import torch

from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.models import Bert, BertPretrainer, MaskedLM, build_bert
from tests.harness import float32, fresh_process
from tests.huggingface import bert_pair, roberta_pair

# float32 in another order of summation; logits are of size 5.
TOLERANCE = 1e-5
TINY = {"vocabulary_size": 29, "max_sequence_length": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 12}


@pytest.fixture(scope="module")
def pair():
    return bert_pair()


@pytest.fixture(scope="module")
def pretrainer(pair):
    return pair[1]


def inputs_of(num_rows=3, length=11):
    """Random ids, two segments, and padding on the right of all rows but the last."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(4, 29, (num_rows, length)).astype("int32")
    lengths = length - 2 * np.arange(num_rows)[::-1, None]
    return {
        "token_ids": token_ids,
        "segment_ids": (np.arange(length) >= lengths // 2).astype("int32"),
        "padding_mask": np.arange(length) < lengths,
    }


def theirs_of(model, token_ids, padding_mask, segment_ids=None):
    arguments = {"input_ids": token_ids, "attention_mask": padding_mask, "token_type_ids": segment_ids}
    tensors = {name: torch.tensor(x.astype("int64")) for name, x in arguments.items() if x is not None}
    with torch.no_grad():
        return model(**tensors)


def check_close(ours, theirs, tolerance=TOLERANCE):
    np.testing.assert_allclose(float32(ours), np.asarray(theirs), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_both_heads_equal_hugging_face_with_padding_and_segments(activation):
    theirs, ours = bert_pair(activation=activation)
    inputs = inputs_of()
    expected, outputs = theirs_of(theirs, **inputs), ours(inputs)
    assert np.abs(expected.prediction_logits.numpy()).max() > 0.5
    real = inputs["padding_mask"]
    check_close(float32(outputs["masked_lm"])[real], expected.prediction_logits.numpy()[real])
    check_close(outputs["next_sentence"], expected.seq_relationship_logits)


def test_encoder_outputs_equal_hugging_face(pair):
    inputs = inputs_of()
    expected, outputs = theirs_of(pair[0].bert, **inputs), pair[1].encoder(inputs)
    real = inputs["padding_mask"]
    check_close(float32(outputs["sequence_output"])[real], expected.last_hidden_state.numpy()[real])
    check_close(outputs["pooled_output"], expected.pooler_output)


def test_roberta_equals_hugging_face_on_whatever_side_the_padding_is():
    theirs, ours = roberta_pair()
    inputs = inputs_of()
    token_ids, mask = inputs["token_ids"], inputs["padding_mask"]
    for side in (slice(None), slice(None, None, -1)):
        real = mask[:, side]
        padded = np.where(real, token_ids, 1)  # their positions are counted from ids that are not padding
        expected = theirs_of(theirs, padded, real).logits.numpy()
        logits = ours({"token_ids": padded, "padding_mask": real})["masked_lm"]
        check_close(float32(logits)[real], expected[real])


def test_mask_positions_pick_the_logits_of_those_positions(pretrainer):
    inputs = inputs_of()
    everywhere = float32(pretrainer(inputs)["masked_lm"])
    places = np.array([[1, 4, 2], [0, 0, 6], [10, 3, 5]], "int32")
    picked = pretrainer({**inputs, "mask_positions": places})["masked_lm"]
    check_close(picked, np.take_along_axis(everywhere, places[..., None], axis=1))


def test_absent_inputs_mean_one_segment_and_no_padding(pretrainer):
    token_ids = inputs_of()["token_ids"]
    full = {
        "token_ids": token_ids,
        "segment_ids": np.zeros_like(token_ids),
        "padding_mask": np.ones(token_ids.shape, bool),
    }
    expected = pretrainer(full)["next_sentence"]
    check_close(pretrainer(token_ids)["next_sentence"], expected)
    check_close(pretrainer.predict(token_ids, verbose=0)["next_sentence"], expected)


def test_padding_its_side_and_batch_mates_change_nothing(pretrainer):
    inputs = inputs_of()
    row = {name: x[1:2, : inputs["padding_mask"][1].sum()] for name, x in inputs.items()}
    alone = pretrainer(row)
    for side in (slice(None), slice(None, None, -1)):
        mask = inputs["padding_mask"][:, side]
        for filler in (0, 28):
            padded = {name: np.full_like(x, filler if name == "token_ids" else 0) for name, x in inputs.items()}
            padded["padding_mask"] = mask
            for name in ("token_ids", "segment_ids"):
                padded[name][mask] = inputs[name][inputs["padding_mask"]]
            outputs = pretrainer(padded)
            check_close(float32(outputs["masked_lm"])[1, mask[1]], float32(alone["masked_lm"])[0])
            check_close(outputs["next_sentence"][1:2], alone["next_sentence"])


def test_texts_packed_in_one_row_are_encoded_as_one_by_one(pretrainer):
    inputs = inputs_of()
    real = inputs["padding_mask"]
    encoder = pretrainer.encoder
    expected = float32(encoder(inputs)["sequence_output"])[real]
    rows = np.broadcast_to(np.arange(3)[:, None], real.shape)
    packed = {name: inputs[name][real][None] for name in ("token_ids", "segment_ids")}
    encoder = _longer(encoder, packed["token_ids"].shape[1])
    outputs = encoder({**packed, "document_ids": rows[real][None].astype("int32")})
    check_close(outputs["sequence_output"][0], expected)


def _longer(encoder, length):
    """The same encoder with more positions, which packed texts do not use."""
    config = encoder.get_config()
    config["token_embedding"]["config"]["position"]["config"]["max_sequence_length"] = length
    longer = Bert.from_config(config)
    for ours, theirs in zip(longer.weights, encoder.weights, strict=True):
        value = np.asarray(theirs)
        ours.assign(np.pad(value, [(0, n - m) for n, m in zip(ours.shape, value.shape, strict=True)]))
    return longer


def pretraining_batch():
    inputs = inputs_of(4, 9)
    places = np.array([[1, 2, 0]] * 4, "int32")
    labels = {"masked_lm": inputs["token_ids"][:, [1, 2, 0]], "next_sentence": np.array([0, 1, 0, 1])}
    weights = {"masked_lm": np.array([[1, 1, 0]] * 4, "float32"), "next_sentence": np.ones(4, "float32")}
    return {**inputs, "mask_positions": places}, labels, weights


def test_fit_lowers_both_losses_and_reports_both_accuracies():
    model = BertPretrainer(build_bert(**TINY, dropout=0.0))
    inputs, labels, weights = pretraining_batch()
    model.compile(keras.optimizers.AdamW(2e-2))
    history = model.fit(inputs, labels, sample_weight=weights, epochs=30, verbose=0).history
    assert {"masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy", "next_sentence_accuracy"} <= set(history)
    assert history["masked_lm_loss"][-1] < 0.3 * history["masked_lm_loss"][0]
    assert history["next_sentence_loss"][-1] < 0.3 * history["next_sentence_loss"][0]
    assert history["masked_lm_accuracy"][-1] > 0.8


def test_slots_without_weight_count_neither_in_the_loss_nor_in_the_accuracy(pretrainer):
    inputs, labels, weights = pretraining_batch()
    model = BertPretrainer.from_config(pretrainer.get_config())
    model.set_weights(pretrainer.get_weights())
    model.compile("adam")
    full = model.evaluate(inputs, labels, sample_weight=weights, verbose=0, return_dict=True)
    fewer = {**inputs, "mask_positions": inputs["mask_positions"][:, :2]}
    labels = {**labels, "masked_lm": labels["masked_lm"][:, :2]}
    weights = {**weights, "masked_lm": weights["masked_lm"][:, :2]}
    expected = model.evaluate(fewer, labels, sample_weight=weights, verbose=0, return_dict=True)
    assert full == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_masked_lm_alone_fits_and_reloads(tmp_path):
    model = MaskedLM(build_bert(**TINY, dropout=0.0))
    inputs, labels, weights = ({k: v for k, v in x.items() if k != "next_sentence"} for x in pretraining_batch())
    model.compile(keras.optimizers.AdamW(2e-2))
    history = model.fit(inputs, labels, sample_weight=weights, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    check_close(other(inputs)["masked_lm"], float32(model(inputs)["masked_lm"]), 0)
    assert other.evaluate(inputs, labels, sample_weight=weights, verbose=0)[0] == pytest.approx(
        model.evaluate(inputs, labels, sample_weight=weights, verbose=0)[0], rel=1e-5
    )


def test_the_head_is_tied_to_the_embedding():
    model = MaskedLM(build_bert(**TINY))
    encoder = model.encoder.count_params()
    assert model.count_params() == encoder + 12 * 12 + 3 * 12 + 29  # dense, norm, bias: no second table


FIT_AND_RELOAD = """
import sys
import keras
import numpy as np
import keras_tfm

rng = np.random.default_rng(0)
token_ids = rng.integers(0, 29, (4, 8)).astype("int32")
sizes = dict(vocabulary_size=29, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=8)
gpt = keras_tfm.models.build_gpt(**sizes)
gpt.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
gpt.fit(token_ids, token_ids, verbose=0)
gpt.predict(token_ids, verbose=0)
model = keras_tfm.models.BertPretrainer(keras_tfm.models.build_bert(**sizes))
model.compile("adam")
labels = {"masked_lm": token_ids, "next_sentence": np.zeros(4, "int32")}
model.fit(token_ids, labels, verbose=0)
model.save(sys.argv[1])
other = keras.models.load_model(sys.argv[1])
for name, logits in model.predict(token_ids, verbose=0).items():
    np.testing.assert_allclose(other.predict(token_ids, verbose=0)[name], logits, atol=1e-5)
loss, *_ = model.evaluate(token_ids, labels, verbose=0)
np.testing.assert_allclose(other.evaluate(token_ids, labels, verbose=0)[0], loss, rtol=1e-5)
print(keras.backend.backend(), int(other.optimizer.iterations))
"""


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("tensorflow", "jax", "torch")],
)
def test_models_fit_save_and_reload_on_every_backend(backend, tmp_path):
    # Keras 3.15 saves with `np.array(variable)`, of which NumPy 2 complains.
    script = "import warnings\nwarnings.filterwarnings('ignore', message='__array__ impl')\n" + FIT_AND_RELOAD
    assert f"{backend} 1" in fresh_process(script, tmp_path / "bert.keras", KERAS_BACKEND=backend)


def test_a_model_made_from_its_config_has_the_same_config_and_outputs(pretrainer):
    other = BertPretrainer.from_config(pretrainer.get_config())
    assert other.get_config() == pretrainer.get_config()
    other.set_weights(pretrainer.get_weights())
    check_close(other(inputs_of())["masked_lm"], float32(pretrainer(inputs_of())["masked_lm"]), 0)


@pytest.mark.parametrize(
    ("size", "count"),
    # https://github.com/google-research/bert: "4.4M, 11.3M, 29.1M, 41.7M, 110.1M"; large: 335M.
    [
        ("tiny", 4_385_920),
        ("mini", 11_170_560),
        ("small", 28_763_648),
        ("medium", 41_373_184),
        ("base", 109_482_240),
        ("large", 335_141_888),
    ],
)
def test_sizes_have_the_published_number_of_parameters(size, count):
    assert build_empty(lambda: build_bert(size)).count_params() == count


@pytest.mark.parametrize("num_segments", [0, 1])
def test_models_of_fewer_than_two_segments_leave_segment_ids_unread(num_segments):
    # All packers and datasets give them; an error would keep RoBERTa from being trained on any.
    encoder = build_bert(**TINY, num_segments=num_segments)
    assert "segment_ids" not in [x.name for x in encoder.inputs]
    token_ids = np.array([[1, 2, 3]], "int32")
    expected = encoder(token_ids)["sequence_output"]
    outputs = encoder({"token_ids": token_ids, "segment_ids": np.array([[0, 1, 1]], "int32")})
    np.testing.assert_array_equal(outputs["sequence_output"], expected)
    with pytest.raises(ValueError, match=r"named \['document_ids', .*Received: \['kinds', 'token_ids'\]"):
        encoder({"token_ids": token_ids, "kinds": token_ids})


def test_wrong_inputs_are_refused(pretrainer):
    ids = np.zeros((1, 3), "int32")
    with pytest.raises(ValueError, match=r"Segment ids must be in \[0, 2\). Received: ids from 0 to 2"):
        pretrainer.encoder({"token_ids": ids, "segment_ids": np.array([[0, 1, 2]])})
    with pytest.raises(ValueError, match=r"Token ids must be in \[0, 29\). Received: ids from 29 to 29"):
        pretrainer.encoder(ids + 29)
    with pytest.raises(ValueError, match="`max_sequence_length`=16 learned.*Received: 17 tokens"):
        pretrainer.encoder(np.zeros((1, 17), "int32"))
    with pytest.raises(TypeError, match=r"`padding_mask` must be boolean.*dtype=float32, shape=\(1, 3\)"):
        pretrainer({"token_ids": ids, "padding_mask": ids.astype("float32")})
    with pytest.raises(ValueError, match="must have a pooler.*pooler=None"):
        BertPretrainer(build_bert(**TINY, pooler=False))
    with pytest.raises(ValueError, match=r"'large'.*Received: size='huge'"):
        build_bert("huge")


@pytest.mark.parametrize("max_sequence_length", [1023, 1024])
def test_texts_of_unknown_length_are_read_tile_by_tile_only_if_they_may_be_long(max_sequence_length):
    import tensorflow as tf

    model = build_bert(**{**TINY, "num_layers": 1, "max_sequence_length": max_sequence_length})
    spec = tf.TensorSpec((2, None), tf.int32)
    graph = tf.function(model, autograph=False).get_concrete_function(spec).graph
    functions = graph.as_graph_def().library.function
    ops = {node.op for part in (graph.as_graph_def().node, *(f.node_def for f in functions)) for node in part}
    assert ("While" in ops or "StatelessWhile" in ops) == (max_sequence_length == 1024)
