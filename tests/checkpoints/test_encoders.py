"""BERT, DistilBERT and RoBERTa with every head, in and out of transformers; folders of sentence-transformers."""

import json

import keras
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from keras_tfm.checkpoints import load, save
from keras_tfm.models import SentenceEncoder, TextClassifier, build_bert

TOLERANCE = 1e-5  # float32 in another order of summation
IDS = np.random.default_rng(0).integers(5, 29, (2, 9)).astype("int32")
MASK = np.ones((2, 9), bool)
MASK[1, 6:] = False
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
_SIZES = {
    "vocab_size": 29,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}
FAMILIES = {
    "Bert": {**_SIZES, "type_vocab_size": 2},
    "Roberta": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
    "DistilBert": {
        "vocab_size": 29,
        "dim": 12,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 20,
        "max_position_embeddings": 16,
        "initializer_range": 0.3,
    },
}
# Head -> what of the two answers is compared: (theirs, ours).
HEADS = {
    "Model": lambda theirs, ours: (theirs.last_hidden_state, ours["sequence_output"]),
    "ForMaskedLM": lambda theirs, ours: (theirs.logits, ours["masked_lm"]),
    "ForSequenceClassification": lambda theirs, ours: (theirs.logits, ours),
    "ForTokenClassification": lambda theirs, ours: (theirs.logits, ours),
    "ForQuestionAnswering": lambda theirs, ours: (
        torch.stack([theirs.start_logits, theirs.end_logits], -1),
        np.stack([ours["start"], ours["end"]], -1),
    ),
}


def tiny(family, head, **numbers):
    torch.manual_seed(0)
    labels = LABELS if "Classification" in head else {}
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], **labels, **numbers})
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def answer(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS.astype("int64")), attention_mask=torch.tensor(MASK.astype("int64")))


def check_equal(theirs, ours, head):
    expected, actual = HEADS[head](answer(theirs), ours({"token_ids": IDS, "padding_mask": MASK}))
    expected, actual = expected.numpy(), np.asarray(actual)
    assert np.abs(expected).max() > 0.3
    if expected.shape[:2] == MASK.shape:
        expected, actual = expected[MASK], actual[MASK]
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_transformers_in_and_out(family, head, tmp_path):
    theirs = tiny(family, head)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    check_equal(theirs, ours, head)
    save(ours, tmp_path / "ours")
    again, report = getattr(transformers, family + head).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    check_equal(again, ours, head)
    if "Classification" in head:
        assert tuple(ours.class_names) == ("bad", "fair", "good")
        assert again.config.id2label == LABELS["id2label"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_older_names_of_norms_are_read(family, tmp_path):
    theirs = tiny(family, "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in held.items()
    }
    assert set(old) != set(held)
    save_file(old, tmp_path / "model.safetensors")
    check_equal(theirs, load(tmp_path), "ForMaskedLM")
    options = {} if family == "DistilBert" else {"pooler": False}
    ours = load(tmp_path, architecture=f"{family}Model", **options)
    check_equal(getattr(theirs, theirs.base_model_prefix), ours, "Model")


@pytest.mark.parametrize("head", [head for head in HEADS if head != "Model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bare_encoder_is_read_from_the_file_of_any_task(family, head, tmp_path):
    theirs = tiny(family, head)
    theirs.save_pretrained(tmp_path / "task")
    has_pooler = any(".pooler." in name for name in theirs.state_dict())
    options = {} if has_pooler or family == "DistilBert" else {"pooler": False}
    ours = load(tmp_path / "task", architecture=f"{family}Model", **options)
    base = getattr(theirs, theirs.base_model_prefix)
    check_equal(base, ours, "Model")
    save(ours, tmp_path / "encoder")
    check_equal(getattr(transformers, f"{family}Model").from_pretrained(tmp_path / "encoder").eval(), ours, "Model")


def test_an_architecture_of_another_family_is_refused(tmp_path):
    tiny("Bert", "Model").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`architecture` must be one of \['BertModel'.* Received: \['RobertaModel'\]"):
        load(tmp_path, architecture="RobertaModel")


def test_a_roberta_that_keras_reloaded_is_saved_as_one_when_named(tmp_path):
    theirs = tiny("Roberta", "ForMaskedLM")
    theirs.save_pretrained(tmp_path / "theirs")
    load(tmp_path / "theirs").save(tmp_path / "model.keras")
    ours = keras.models.load_model(tmp_path / "model.keras")
    for name in ("RobertaForMaskedLM", "BertForMaskedLM"):  # of equal wiring
        save(ours, tmp_path / name, architecture=name)
        again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / name).eval()
        assert type(again).__name__ == name
        check_equal(again, ours, "ForMaskedLM")


def test_segments_and_the_pooled_vector_are_those_of_transformers(tmp_path):
    theirs = tiny("Bert", "Model", hidden_act="gelu_new")
    theirs.save_pretrained(tmp_path)
    segment_ids = (np.arange(9) > 3).astype("int32")[None].repeat(2, 0)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(IDS.astype("int64")), token_type_ids=torch.tensor(segment_ids.astype("int64"))
        )
    ours = load(tmp_path)({"token_ids": IDS, "segment_ids": segment_ids})
    np.testing.assert_allclose(ours["pooled_output"], expected.pooler_output, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(ours["sequence_output"], expected.last_hidden_state, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_classifier_that_was_built_here_is_read_by_transformers(tmp_path):
    encoder = build_bert(vocabulary_size=29, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=8)
    model = TextClassifier(encoder, class_names=["no", "yes"])
    save(model, tmp_path / "saved")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert theirs.config.id2label == {0: "no", 1: "yes"}
    check = answer(theirs).logits.numpy()
    np.testing.assert_allclose(model({"token_ids": IDS, "padding_mask": MASK}), check, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "only"}}, "at least two. Received: {'0': 'only'}"),
        ({"id2label": {"0": "a", "7": "b"}}, "must name the labels 0, 1"),
        ({"problem_type": "regression"}, "'single_label_classification'. Received: 'regression'"),
    ],
)
def test_labels_that_are_not_supported_are_refused(config, message, tmp_path):
    tiny("Bert", "ForSequenceClassification").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_roberta_with_other_padding_is_refused(tmp_path):
    tiny("Roberta", "Model").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    for change, message in {
        "pad_token_id": "must be 1; .* Received: 2",
        "max_position_embeddings": "Received: 2",
    }.items():
        document = json.loads(path.read_text())
        (tmp_path / "config.json").write_text(json.dumps({**document, change: 2}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
        path.write_text(json.dumps(document))


def sentence_folder(folder, modules=("Transformer", "Pooling", "Normalize"), mode="pooling_mode_mean_tokens"):
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"idx": i, "path": paths.get(kind, f"{i}_{kind}"), "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 12, **modes, mode: True}))


@pytest.mark.parametrize("mode", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_a_folder_of_sentence_transformers_gives_its_vectors(mode, tmp_path):
    theirs = tiny("Bert", "Model")
    theirs.save_pretrained(tmp_path)
    sentence_folder(tmp_path, mode=mode)
    states = answer(theirs).last_hidden_state.numpy()
    expected = states[:, 0] if "cls" in mode else (states * MASK[..., None]).sum(1) / MASK.sum(1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = load(tmp_path)
    assert isinstance(ours, SentenceEncoder)
    np.testing.assert_allclose(ours({"token_ids": IDS, "padding_mask": MASK}), expected, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_a_sentence_encoder_is_saved_as_a_folder_that_gives_its_vectors(family, mode, tmp_path):
    (tmp_path / "theirs").mkdir()
    tiny(family, "Model").save_pretrained(tmp_path / "theirs")
    sentence_folder(tmp_path / "theirs", mode=mode)
    ours = load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "1_Pooling" / "config.json").read_text())[mode] is True
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [f"{family}Model"]
    inputs = {"token_ids": IDS, "padding_mask": MASK}
    np.testing.assert_array_equal(load(tmp_path / "ours")(inputs), ours(inputs))
    theirs = getattr(transformers, f"{family}Model").from_pretrained(tmp_path / "ours").eval()
    check_equal(theirs, ours.encoder, "Model")


def test_a_sentence_encoder_that_was_built_here_is_saved(tmp_path):
    model = SentenceEncoder(build_bert("tiny", vocabulary_size=29, num_layers=1))
    save(model, tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved")(IDS), model(IDS))


@pytest.mark.parametrize(
    "text",
    [
        "[[[[" * 50_000,
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": null}]',
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "nope"}]',
        '[{"type": 5, "path": ""}]',
        "[5]",
        "[]",
        "5",
    ],
)
def test_nonsense_in_modules_json_is_refused(text, tmp_path):
    tiny("Bert", "Model").save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match="Received: "):
        load(tmp_path)


def test_other_sentence_encoders_are_refused(tmp_path):
    tiny("Bert", "Model").save_pretrained(tmp_path)
    sentence_folder(tmp_path, mode="pooling_mode_max_tokens")
    with pytest.raises(ValueError, match=r"must be one of \['cls', 'mean'\]. Received: \['max'\]"):
        load(tmp_path)
    sentence_folder(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    with pytest.raises(ValueError, match="must be .*Normalize.* Received: .*'Dense'"):
        load(tmp_path)
    (tmp_path / "modules.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="must be a list of modules"):
        load(tmp_path)
    text = '[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "../up"}]'
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ValueError, match=r"the pooling beside it. Received: .*\.\./up"):
        load(tmp_path)
