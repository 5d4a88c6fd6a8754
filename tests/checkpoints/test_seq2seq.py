"""Encoder-decoders: their checkpoint gives our model the same logits and texts, and ours gives theirs the same."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

from keras_tfm.checkpoints import load, save, summary
from keras_tfm.checkpoints.architecture import architectures_of
from keras_tfm.checkpoints.config_keys import read_config
from keras_tfm.samplers import BanTokens, BeamSampler, GreedySampler
from tests.checkpoints.seq2seq_families import SEQ2SEQ, tiny_seq2seq
from tests.generation.eagerly import generate_eagerly

# float32 in another order of summation; logits are of size 5.
TOLERANCE = 1e-5
RNG = np.random.default_rng(0)
SOURCES = RNG.integers(3, 22, (3, 9)).astype("int32")
TARGETS = RNG.integers(3, 22, (3, 6)).astype("int32")
MASK = np.arange(9) < np.array([[9], [4], [7]])  # Hugging Face pads sources on the right


@pytest.fixture(scope="module", params=SEQ2SEQ)
def case(request, tmp_path_factory):
    """(Hugging Face's model, its folder, ours from there)."""
    theirs, folder = tiny_seq2seq(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, folder, load(folder)


def their_logits(model, mask=MASK):
    with torch.no_grad():
        answer = model(
            input_ids=torch.tensor(SOURCES).long(),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(TARGETS).long(),
        )
    return answer.logits.numpy()


def our_logits(model, mask=MASK):
    inputs = {"encoder_token_ids": SOURCES, "encoder_padding_mask": mask, "decoder_token_ids": TARGETS}
    return np.asarray(model(inputs))


def check_equal(actual, expected):
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_loaded_model_gives_the_logits_of_transformers(case):
    theirs, _, ours = case
    check_equal(our_logits(ours), their_logits(theirs))


def test_a_saved_model_is_loaded_by_transformers_and_by_us_with_the_same_logits(case, tmp_path):
    theirs, _, ours = case
    save(ours, tmp_path / "saved")
    again, report = type(theirs).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    check_equal(their_logits(again), our_logits(ours))
    assert again.config.decoder_start_token_id == ours.start_token_id
    for first, second in zip(ours.weights, load(tmp_path / "saved").weights, strict=True):
        np.testing.assert_array_equal(first, second)
    assert summary(tmp_path / "saved")["num layers"] == "2"


WAYS = {
    "greedy": ({}, GreedySampler()),
    "beams": ({"num_beams": 4}, BeamSampler(num_beams=4)),
    "long": ({"num_beams": 4, "length_penalty": 2.0}, BeamSampler(num_beams=4, length_penalty=2.0)),
    "short": (
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True},
        BeamSampler(num_beams=3, length_penalty=-1.0, early_stopping=True),
    ),
}


# All ways for one wiring, and beams for another, in `make test`; the dearest way for each.
CASES = [(name, way) for name in SEQ2SEQ for way in WAYS if name == "t5_gated_untied" or way == "long"]
FEW = [("t5_gated_untied", "beams"), ("bart", "beams")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """name -> (Hugging Face's model, ours from its folder)."""

    @functools.cache
    def pair(name):
        theirs, folder = tiny_seq2seq(name), tmp_path_factory.mktemp(name)
        theirs.save_pretrained(folder)
        return theirs, load(folder)

    return pair


@pytest.mark.parametrize(
    ("name", "way"), [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in FEW)]
)
def test_texts_are_those_of_transformers(loaded, name, way):
    theirs, ours = loaded(name)
    options, sampler = WAYS[way]
    start, end = ours.start_token_id, theirs.config.eos_token_id
    with torch.no_grad():
        expected = theirs.generate(
            input_ids=torch.tensor(SOURCES).long(),
            attention_mask=torch.tensor(MASK).long(),
            max_new_tokens=6,
            do_sample=False,
            decoder_start_token_id=start,
            bad_words_ids=[[start]],
            **{"num_beams": 1, **options},
        ).numpy()[:, 1:]
    sampler = dataclasses.replace(sampler, processors=(BanTokens((start,)),))
    sources = [row[mask].tolist() for row, mask in zip(SOURCES, MASK, strict=True)]
    answer = generate_eagerly(ours, sources, max_new_tokens=6, sampler=sampler, stop_token_ids=(end,))
    for theirs_row, ids, length in zip(expected, answer.token_ids, answer.num_tokens, strict=True):
        assert ids[:length].tolist() == theirs_row[:length].tolist()
        assert length == len(theirs_row) or theirs_row[length] == end


_HALF = {"attention_heads": 16, "ffn_dim": 4096, "layers": 12, "layerdrop": 0.0}
_BART = {f"{side}_{key}": number for side in ("encoder", "decoder") for key, number in _HALF.items()}
PUBLISHED = {  # what the first files say
    "t5": {"d_ff": 2048, "d_kv": 64, "n_positions": 512, "output_past": True, "task_specific_params": {"a": {}}},
    "mt5": {"tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer", "feed_forward_proj": "gated-gelu"},
    "bart": {
        **_BART,
        "force_bos_token_to_be_generated": True,
        "normalize_before": False,
        "normalize_embedding": True,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": False,
        "extra_pos_embeddings": 2,
        "classif_dropout": 0.1,
        "no_repeat_ngram_size": 3,
    },
    "mbart": {**_BART, "normalize_before": True, "add_final_layer_norm": True, "decoder_start_token_id": 250004},
    "marian": {
        **_BART,
        "static_position_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "extra_pos_embeddings": 58101,
        "bad_words_ids": [[58100]],
        "decoder_vocab_size": 58101,
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_configs_of_the_first_files_are_read(family):
    config = {"is_encoder_decoder": True, "pad_token_id": 0, "vocab_size": 58101, **PUBLISHED[family]}
    arguments = read_config(architectures_of(family)[0].config, config)
    assert {"num_layers", "num_decoder_layers", "start_token_id", "activation"} <= arguments.keys()


def test_a_config_that_does_not_fit_is_refused_by_the_name_of_its_key(tmp_path):
    theirs = tiny_seq2seq("mbart")
    theirs.save_pretrained(tmp_path / "mbart")
    path = tmp_path / "mbart" / "config.json"
    config = json.loads(path.read_text())
    (tmp_path / "mbart" / "generation_config.json").unlink(missing_ok=True)
    for change, message in (
        ({"decoder_start_token_id": None}, "`decoder_start_token_id` of the config.*Received: None"),
        ({"decoder_start_token_id": 29}, "`start_token_id` must be one of the 29 tokens"),
        ({"decoder_attention_heads": 2}, "`encoder_attention_heads` and `decoder_attention_heads`.*4 and 2"),
        ({"normalize_before": False}, "`normalize_before` of the config must be True"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "mbart")
