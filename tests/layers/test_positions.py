"""Embeddings, rotary, position biases: against NumPy and T5; errors."""

import numpy as np
import pytest
import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from keras_tfm import layers
from tests import reference

POSITIONS = np.array([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]], "int32")


def test_token_positions_count_real_tokens_and_go_on_after_those_already_read():
    layer, ids = layers.TokenPositions(), np.array([[7, 8, 9]])
    np.testing.assert_array_equal(layer(ids), [[0, 1, 2]])
    np.testing.assert_array_equal(layer(ids, padding_mask=np.array([[False, True, True]])), [[-1, 0, 1]])
    np.testing.assert_array_equal(layer(ids, num_tokens=np.array([2], "int32")), [[2, 3, 4]])


def test_learned_positions_are_rows_of_the_table():
    layer = layers.PositionEmbedding(6, 4)
    y = layer(POSITIONS)
    np.testing.assert_array_equal(y, np.asarray(layer.embeddings)[np.maximum(POSITIONS, 0)])


def test_token_vectors_are_scaled_before_positions_are_added_and_not_on_the_way_back():
    layer = layers.TokenEmbedding(9, 4, position=layers.SinusoidalEmbedding(4), scale=2.0)
    ids = np.array([[1, 2, 8]])
    y = layer(ids)
    table = np.asarray(layer.embedding.embeddings)
    expected = 2 * table[ids] + np.asarray(layer.position(np.array([[0, 1, 2]])))
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(layer(expected, reverse=True), expected @ table.T, atol=1e-5)


def test_token_embedding_adds_positions_and_projects_back_with_the_same_table():
    layer = layers.TokenEmbedding(9, 4, position=layers.PositionEmbedding(6, 4))
    ids = np.array([[1, 2, 8], [0, 0, 3]])
    y = layer(ids)
    table = np.asarray(layer.embedding.embeddings)
    np.testing.assert_allclose(y, table[ids] + np.asarray(layer.position.embeddings)[[0, 1, 2]], atol=1e-6)
    np.testing.assert_allclose(layer(y, reverse=True), np.asarray(y) @ table.T, atol=1e-5)
    later = layer(ids, positions=np.array([[3, 4, 5]] * 2))
    np.testing.assert_allclose(later, table[ids] + np.asarray(layer.position.embeddings)[[3, 4, 5]], atol=1e-6)
    assert len(layer.weights) == 2


def test_token_embedding_dropout_acts_in_training_only():
    layer, ids = layers.TokenEmbedding(9, 4, dropout=0.5), np.array([[1, 2, 8]])
    np.testing.assert_array_equal(layer(ids), layer(ids, training=False))
    assert (np.asarray(layer(ids, training=True)) == 0).any()


def test_alibi_lowers_the_score_with_the_distance():
    bias = layers.AlibiBias(8)(POSITIONS[1:])
    for head, slope in ((0, 1 / 2), (7, 1 / 256)):
        for t, s in np.ndindex(5, 5):
            assert float(bias[0, head, t, s]) == pytest.approx(-slope * abs(t - s))
    few = layers.AlibiBias(8)(POSITIONS[1:, 2:], key_positions=POSITIONS[1:])
    np.testing.assert_array_equal(few, bias[:, :, 2:])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_bias_is_that_of_t5(bidirectional):
    length = 50
    layer = layers.RelativePositionBias(3, num_buckets=8, max_distance=20, bidirectional=bidirectional)
    positions = np.arange(length)[None]
    bias = layer(positions)
    config = T5Config(
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        is_decoder=not bidirectional,
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    with torch.no_grad():
        theirs.relative_attention_bias.weight.copy_(torch.tensor(np.array(layer.embeddings.value)))
        expected = theirs.compute_bias(length, length).numpy()
    np.testing.assert_allclose(bias, expected, atol=1e-6)


def test_rotary_layer_equals_numpy():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    y = layers.RotaryEmbedding(max_wavelength=70.0, rotary_dim=6)(x, positions=POSITIONS)
    np.testing.assert_allclose(y, reference.rotary(x, POSITIONS, 70.0, 6), atol=1e-5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`max_wavelength` must be positive. Received: max_wavelength=0"):
        layers.RotaryEmbedding(max_wavelength=0)
    for wrong in (3, 0, -2):
        with pytest.raises(ValueError, match=f"`rotary_dim` must be even and at least 2. Received: rotary_dim={wrong}"):
            layers.RotaryEmbedding(rotary_dim=wrong)
    with pytest.raises(ValueError, match="`hidden_dim` must be even. Received: hidden_dim=7"):
        layers.SinusoidalEmbedding(7)
    with pytest.raises(ValueError, match="multiple of 4 .*Received: num_buckets=6, max_distance=128"):
        layers.RelativePositionBias(2, num_buckets=6)
    with pytest.raises(ValueError, match="greater than num_buckets / 2. Received: num_buckets=32, max_distance=16"):
        layers.RelativePositionBias(2, max_distance=16, bidirectional=False)
    for make in (
        lambda: layers.AlibiBias(0),
        lambda: layers.RelativePositionBias(0),
    ):
        with pytest.raises(ValueError, match="`num_heads` must be an integer of at least 1. Received: num_heads=0"):
            make()
    with pytest.raises(ValueError, match="`max_sequence_length` must be an integer.*max_sequence_length=0"):
        layers.PositionEmbedding(0, 4)
    with pytest.raises(ValueError, match="`vocabulary_size` must be an integer.*vocabulary_size=-1"):
        layers.TokenEmbedding(-1, 4)
    with pytest.raises(ValueError, match="`dropout` must be at least 0.*dropout=1"):
        layers.TokenEmbedding(4, 4, dropout=1)


def test_wrong_inputs_are_refused():
    x = np.ones((1, 2, 5, 6), "float32")
    with pytest.raises(ValueError, match="Received: rotary_dim=8, head_dim=6"):
        layers.RotaryEmbedding(rotary_dim=8)(x, positions=POSITIONS[1:])
    with pytest.raises(ValueError, match="Received: rotary_dim=5, head_dim=5"):
        layers.RotaryEmbedding()(x[..., :5], positions=POSITIONS[1:])
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, N, T, H\). Received: shape=\(1, 5, 6\)"):
        layers.RotaryEmbedding()(x[:, 0], positions=POSITIONS[1:])
    with pytest.raises(ValueError, match="`max_sequence_length`=4 learned positions. Received: 5 tokens"):
        layers.PositionEmbedding(4, 8)(POSITIONS)
    for layer in (layers.PositionEmbedding(4, 8), layers.SinusoidalEmbedding(8)):
        with pytest.raises(ValueError, match=r"`positions` must have shape \(B, T\). Received: shape=\(2,\)"):
            layer(POSITIONS[:, 0])
    embedding = layers.TokenEmbedding(9, 4)
    with pytest.raises(ValueError, match=r"`token_ids` must have shape \(B, T\). Received: shape=\(2,\)"):
        embedding(np.array([1, 2]))
    for wrong in (9, -1):
        with pytest.raises(ValueError, match=r"in \[0, 9\). Received: ids from"):
            embedding(np.array([[wrong]]))
    tokens = layers.TokenPositions()
    with pytest.raises(ValueError, match=r"`token_ids` must have shape \(B, T\). Received: shape=\(2,\)"):
        tokens(np.array([1, 2]))
    with pytest.raises(TypeError, match="`padding_mask` must be boolean.*dtype=float32"):
        tokens(np.array([[1, 2]]), padding_mask=np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match=r"`padding_mask` must have the sizes \(1, 2\).*Received: \(1, 3\)"):
        tokens(np.array([[1, 2]]), padding_mask=np.ones((1, 3), bool))
