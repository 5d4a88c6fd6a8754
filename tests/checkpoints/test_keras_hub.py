"""Backbones of KerasHub and our models made from them give the same outputs."""

import keras
import keras_hub
import numpy as np
import pytest
import transformers

from keras_tfm.checkpoints import from_keras_hub, save
from tests.huggingface import logits_of

SIZES = {"vocabulary_size": 29, "num_layers": 2, "intermediate_dim": 20}
TOKEN_IDS = np.random.default_rng(0).integers(0, 29, (2, 9)).astype("int32")
MASK = np.ones((2, 9), bool)


def shaken(backbone):
    rng = np.random.default_rng(1)
    backbone.set_weights([weight + 0.3 * rng.normal(size=weight.shape) for weight in backbone.get_weights()])
    return backbone


def gpt2():
    return shaken(
        keras_hub.models.GPT2Backbone(**SIZES, num_heads=2, hidden_dim=8, max_sequence_length=16, dropout=0.1)
    )


def llama(kind=keras_hub.models.LlamaBackbone, **options):
    return shaken(kind(**SIZES, num_query_heads=4, num_key_value_heads=2, hidden_dim=16, **options))


LLAMA3 = {
    "rope_frequency_adjustment_factor": 4.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_pretraining_sequence_length": 16,
}


@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        llama,
        lambda: llama(rope_max_wavelength=500, tie_word_embeddings=True, layer_norm_epsilon=1e-3),
        lambda: llama(**LLAMA3),
        lambda: llama(keras_hub.models.Llama3Backbone, **LLAMA3),
    ],
    ids=["gpt2", "llama", "llama_tied", "llama3", "llama3_class"],
)
def test_causal_backbones_give_the_same_logits(make):
    backbone = make()
    hidden = backbone({"token_ids": TOKEN_IDS, "padding_mask": MASK})
    expected = backbone.token_embedding(hidden, reverse=True)
    ours = from_keras_hub(backbone)(TOKEN_IDS)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)


def test_a_bert_backbone_gives_the_same_outputs():
    backbone = shaken(
        keras_hub.models.BertBackbone(**SIZES, num_heads=2, hidden_dim=8, max_sequence_length=16, num_segments=2)
    )
    segment_ids = (np.arange(9) > 4).astype("int32")[None].repeat(2, 0)
    inputs = {"token_ids": TOKEN_IDS, "padding_mask": MASK, "segment_ids": segment_ids}
    expected, ours = backbone(inputs), from_keras_hub(backbone)(inputs)
    for name in ("sequence_output", "pooled_output"):
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-5, rtol=1e-5)


def test_a_backbone_goes_on_to_transformers(tmp_path):
    model = from_keras_hub(gpt2())
    save(model, tmp_path / "saved")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(model(TOKEN_IDS), logits_of(theirs, TOKEN_IDS), atol=1e-5, rtol=1e-5)


def test_other_backbones_are_refused():
    # Pinned: KerasHub gives the same outputs with and without it.
    ids = {"token_ids": TOKEN_IDS, "padding_mask": MASK}
    scaled, plain = llama(rope_position_scaling_factor=2.0), llama()
    plain.set_weights(scaled.get_weights())
    np.testing.assert_array_equal(scaled(ids), plain(ids))
    with pytest.raises(ValueError, match=r"must be 1: .* Received: 2.0"):
        from_keras_hub(scaled)
    with pytest.raises(ValueError, match=r"one of \['BertBackbone', 'GPT2Backbone'.* Received: Sequential"):
        from_keras_hub(keras.Sequential())
    task = keras_hub.models.GPT2CausalLM(backbone=gpt2())
    with pytest.raises(ValueError, match="Received: GPT2CausalLM. Pass its `.backbone`."):
        from_keras_hub(task)
