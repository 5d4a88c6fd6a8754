"""What every encoder-decoder owes: padding, neighbours and caches change nothing; training, saving, errors."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.layers import FeedForward, MultiHeadSelfAttention, TokenEmbedding, TransformerBlock, TransformerStack
from keras_tfm.models import Seq2SeqLM, build_transformer
from keras_tfm.samplers import BeamSampler
from tests.generation.eagerly import generate_eagerly
from tests.harness import float32, fresh_process
from tests.models.tiny import compile_model
from tests.models.tiny_seq2seq import SIZES, TINY, VOCABULARY_SIZE, batch, make

# float32 sums over other numbers of slots, in another order.
ATOL = 2e-5
SIDES = ("encoder", "decoder")
# One pre-norm and one post-norm in `make test`.
NAMES = [name if name in ("t5_gated", "bart") else pytest.param(name, marks=pytest.mark.slow) for name in TINY]


class Models(dict):
    """name -> model, made when it is first asked for."""

    def __missing__(self, name):
        self[name] = make(name)
        return self[name]


@pytest.fixture(scope="module")
def models():
    return Models()


def padded(ids, mask, filler):
    """Rows with `filler` where the mask is False, and their ids, in order, elsewhere."""
    rows = np.full(mask.shape, filler, "int32")
    for row, real, given in zip(rows, mask, ids, strict=True):
        row[real] = given[: real.sum()]
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_is_causal_and_sees_the_whole_source(models, name):
    inputs, _ = batch(2)
    logits = float32(models[name](inputs))
    assert logits.shape == (2, 6, VOCABULARY_SIZE)
    for t in (1, 5):
        changed = inputs["decoder_token_ids"].copy()
        changed[:, t:] = (changed[:, t:] + 1) % VOCABULARY_SIZE
        other = float32(models[name]({**inputs, "decoder_token_ids": changed}))
        np.testing.assert_allclose(other[:, :t], logits[:, :t], atol=ATOL)
        assert np.abs(other[:, t] - logits[:, t]).max() > 10 * ATOL
    for place in (0, 6):
        changed = inputs["encoder_token_ids"].copy()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY_SIZE
        other = float32(models[name]({**inputs, "encoder_token_ids": changed}))
        assert (np.abs(other - logits).max(axis=(0, 2)) > 10 * ATOL).all()


@pytest.mark.parametrize("name", NAMES)
def test_padding_of_any_content_on_any_side_and_neighbours_change_nothing(models, name):
    inputs, _ = batch(3)
    masks = {name: np.ones(inputs[f"{name}_token_ids"].shape, bool) for name in SIDES}
    masks["encoder"][0, :3] = masks["encoder"][1, -4:] = masks["encoder"][2, 2] = False
    masks["decoder"][0, -2:] = masks["decoder"][1, :2] = False
    rows = {side: padded(inputs[f"{side}_token_ids"], masks[side], VOCABULARY_SIZE - 1) for side in SIDES}
    given = {f"{side}_token_ids": rows[side] for side in SIDES}
    together = float32(models[name](given | {f"{side}_padding_mask": masks[side] for side in SIDES}))
    for i in range(3):
        alone = models[name]({f"{side}_token_ids": rows[side][i, masks[side][i]][None] for side in SIDES})
        np.testing.assert_allclose(together[i, masks["decoder"][i]], float32(alone)[0], atol=ATOL)


@pytest.mark.parametrize("name", NAMES)
def test_reading_with_a_cache_gives_the_logits_of_a_full_pass(models, name):
    model, (inputs, _) = models[name], batch(2)
    mask = np.ones((2, 7), bool)
    mask[0, 4:] = False
    full = float32(model({**inputs, "encoder_padding_mask": mask}))
    source = {"encoder_token_ids": inputs["encoder_token_ids"], "encoder_padding_mask": mask}
    target = inputs["decoder_token_ids"]
    for pieces in ((6,), (1, 3, 2), (1,) * 6):
        state, start = model.init_state(2, 6, **source), 0
        for size in pieces:
            hidden, state = model.read(target[:, start : start + size], state)
            expected = full[:, start : start + size]
            np.testing.assert_allclose(float32(model.project(hidden)), expected, atol=ATOL)
            start += size
    # Three texts of each source share what is remembered of it.
    state = model.init_state(6, 6, **source)
    assert state.memories[0].cross_attention.key.shape[0] == 2
    hidden, _ = model.read(np.repeat(target, 3, axis=0), state)
    np.testing.assert_allclose(float32(model.project(hidden)), np.repeat(full, 3, axis=0), atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "t5_gated", "bart"])
def test_a_batch_is_memorised(name):
    model, (inputs, targets) = compile_model(TINY[name](dropout=0.0)), batch()
    history = model.fit(inputs, targets, epochs=100, verbose=0)
    assert history.history["loss"][-1] < 0.5
    assert (float32(model.predict(inputs, verbose=0)).argmax(-1) == targets).mean() > 0.9


def test_dropout_draws_in_training():
    model, (inputs, _) = make("bart"), batch()
    first, second = (float32(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_by_config_and_a_saved_model_are_the_same(models, name, tmp_path):
    model, (inputs, _) = models[name], batch(2)
    copy = Seq2SeqLM.from_config(json.loads(json.dumps(model.get_config())))
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    copy.set_weights(model.get_weights())
    model.save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert saved.start_token_id == model.start_token_id
    for other in (copy, saved):
        is_shared = other.decoder_embedding.embedding is other.encoder_embedding.embedding
        assert is_shared == (name != "transformer_pre_two_vocabularies")
        assert len(other.weights) == len(model.weights)
        np.testing.assert_allclose(float32(other(inputs)), float32(model(inputs)), atol=ATOL)


@pytest.mark.slow
def test_a_saved_model_loads_in_a_fresh_process(models, tmp_path):
    inputs, _ = batch(1)
    models["bart"].save(tmp_path / "model.keras")
    script = (
        "import sys, json, numpy as np, keras, keras_tfm\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "inputs = {name: np.array(ids) for name, ids in json.loads(sys.argv[2]).items()}\n"
        "print(np.asarray(model(inputs))[0, -1].tolist())"
    )
    ids = {name: x.tolist() for name, x in inputs.items()}
    answer = json.loads(fresh_process(script, tmp_path / "model.keras", json.dumps(ids)))
    np.testing.assert_allclose(answer, float32(models["bart"](inputs))[0, -1], atol=ATOL)


def test_a_graph_of_unknown_lengths_gives_what_eager_calls_give(models):
    inputs, _ = batch(2)
    spec = [{name: tf.TensorSpec([None, None], tf.int32) for name in inputs}]
    for name in ("t5", "transformer_pre_two_vocabularies"):
        graph = tf.function(models[name], input_signature=spec)
        np.testing.assert_allclose(float32(graph(inputs)), float32(models[name](inputs)), atol=ATOL)


def test_half_precision_is_close(models):
    inputs, _ = batch(2)
    expected = float32(models["marian"](inputs))
    half = TINY["marian"](dtype="mixed_bfloat16")
    half.set_weights(models["marian"].get_weights())
    assert half(inputs).dtype == "bfloat16"
    np.testing.assert_allclose(float32(half(inputs)), expected, atol=0.05 * np.abs(expected).max())


def attention_block(**options):
    return TransformerBlock(MultiHeadSelfAttention(2), FeedForward(8), **options)


def test_wrong_parts_and_inputs_are_named():
    inputs, _ = batch(2)
    model = make("transformer")
    for wrong, kind, message in (
        ({**inputs, "token_ids": inputs["encoder_token_ids"]}, ValueError, "'encoder_token_ids', 'decoder_token_ids'"),
        ({"encoder_token_ids": inputs["encoder_token_ids"]}, ValueError, r"Received: \['encoder_token_ids'\]"),
        (inputs["encoder_token_ids"], TypeError, "must be a dict of .*'encoder_token_ids'"),
        ({**inputs, "decoder_padding_mask": np.ones((2, 6), "float32")}, TypeError, "`decoder_padding_mask`"),
        ({**inputs, "encoder_token_ids": np.full((2, 3), VOCABULARY_SIZE)}, ValueError, "ids from 17 to 17"),
    ):
        with pytest.raises(kind, match=message):
            model(wrong)
    embedding, stack = TokenEmbedding(9, 8), TransformerStack([attention_block()])
    with pytest.raises(ValueError, match="blocks of `decoder` must have a `cross_attention`.*none in block 0"):
        Seq2SeqLM(embedding, stack, stack)
    with pytest.raises(ValueError, match="The blocks of `encoder` must be without cross-attention"):
        Seq2SeqLM(embedding, model.decoder, model.decoder)
    with pytest.raises(TypeError, match="`encoder_embedding` must be a `TokenEmbedding"):
        Seq2SeqLM(keras.layers.Embedding(9, 8), stack, stack)
    with pytest.raises(ValueError, match="`start_token_id` must be one of the 17 tokens.*start_token_id=17"):
        build_transformer(**SIZES, start_token_id=17)
    with pytest.raises(ValueError, match="`table` must be .*one of 9 tokens and width 8, for vocabulary_size=7"):
        TokenEmbedding(7, 8, table=embedding.embedding)
    with pytest.raises(ValueError, match="without .*'num_heads'"):
        build_transformer(vocabulary_size=5, num_layers=2)


@pytest.mark.parametrize("name", ["t5", pytest.param("marian", marks=pytest.mark.slow)])
def test_a_loss_in_chunks_is_the_loss_of_all_logits(models, name):
    """The head's scale (T5) and its bias (Marian) are in it."""
    inputs, targets = batch()
    if name == "marian":
        models[name].decoder_embedding.bias.assign(np.linspace(-1, 1, VOCABULARY_SIZE))
    losses = []
    for loss in (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "chunked"):
        models[name].compile(loss=loss, run_eagerly=True)
        losses.append(models[name].test_on_batch(inputs, targets))
    np.testing.assert_allclose(*losses, rtol=1e-5)  # sums of float32 in another order


def test_weights_in_8_bits_are_those_of_every_part_and_are_saved(tmp_path):
    model, (inputs, _) = make("t5_gated"), batch(2)
    expected = float32(model(inputs))
    model.quantize_for_generation()
    logits = float32(model(inputs))
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    floats = [weight.path for weight in model.weights if len(weight.shape) > 1 and weight.dtype != "int8"]
    assert all("scale" in path or "position_bias" in path for path in floats), floats
    ids = [inputs[f"{side}_token_ids"] for side in SIDES]
    np.testing.assert_allclose(float32(model.read_logits(*ids)), logits, atol=ATOL)
    answer = generate_eagerly(model, ids[0], max_new_tokens=5, sampler=BeamSampler(num_beams=3))
    assert answer.token_ids.shape == (2, 5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(float32(keras.saving.load_model(tmp_path / "model.keras")(inputs)), logits)
