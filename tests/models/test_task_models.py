"""Classifier, regressor, token and span classifier, sentence encoder: `fit`, padding, saving, errors."""

import keras
import numpy as np
import pytest

import keras_tfm
from keras_tfm.data import masked_lm_dataset, sentence_pair_dataset, text_label_dataset
from keras_tfm.layers import FirstTokenPooling, MeanPooling
from keras_tfm.models import (
    BertPretrainer,
    MaskedLM,
    SentenceEncoder,
    SentencePairRanker,
    SentencePairRegressor,
    SpanClassifier,
    TextClassifier,
    TextRegressor,
    TokenClassifier,
    build_bert,
)
from keras_tfm.tokenizers import WordPieceTokenizer
from tests.harness import float32

TINY = {"vocabulary_size": 29, "max_sequence_length": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
LABELS = ("bad", "fair", "good")


def encoder(**options):
    return build_bert(**{**TINY, "dropout": 0.0, **options})


def lively(model):
    """Weights of size 0.3, so that outputs differ clearly."""
    rng = np.random.default_rng(0)
    model.set_weights([0.3 * rng.normal(size=w.shape) + (w.ndim == 1) for w in model.weights])
    return model


MODELS = {
    "text_classifier": lambda: TextClassifier(encoder(), LABELS),
    "text_classifier_mean": lambda: TextClassifier(encoder(pooler=False), LABELS, pooling=MeanPooling()),
    "text_regressor": lambda: TextRegressor(encoder()),
    "token_classifier": lambda: TokenClassifier(encoder(), LABELS),
    "span_classifier": lambda: SpanClassifier(encoder()),
    "sentence_encoder": lambda: SentenceEncoder(encoder(pooler=False)),
    "sentence_encoder_first": lambda: SentenceEncoder(encoder(num_segments=0), pooling=FirstTokenPooling()),
}


@pytest.fixture(scope="module")
def models():
    return {name: lively(make()) for name, make in MODELS.items()}


def batch(num_rows=4, length=9, segments=True):
    rng = np.random.default_rng(1)
    lengths = length - np.arange(num_rows)[:, None]
    inputs = {
        "token_ids": rng.integers(4, 29, (num_rows, length)).astype("int32"),
        "padding_mask": np.arange(length) < lengths,
    }
    if segments:
        inputs["segment_ids"] = (np.arange(length) > 4).astype("int32") * np.ones((num_rows, 1), "int32")
    return inputs


def inputs_for(model, **options):
    return batch(segments="segment_ids" in [x.name for x in model.inputs], **options)


@pytest.mark.parametrize("name", MODELS)
def test_padding_its_side_and_batch_mates_change_nothing(models, name):
    model = models[name]
    inputs = inputs_for(model)
    real = inputs["padding_mask"]
    row = {key: x[2:3, real[2]] for key, x in inputs.items()}
    alone = keras.tree.map_structure(lambda x: float32(x)[0], model(row))
    for side in (slice(None), slice(None, None, -1)):
        padded = {key: np.full_like(x, 3 if key == "token_ids" else 0) for key, x in inputs.items()}
        for key, x in inputs.items():
            padded[key][real[:, side]] = x[real]
        outputs = keras.tree.map_structure(lambda x: float32(x)[2], model(padded))
        for ours, expected in zip(keras.tree.flatten(outputs), keras.tree.flatten(alone), strict=True):
            # Span logits of padding are -1e9, so that a softmax over the row is the same as without.
            at_padding = ours[~real[2, side]] if name == "span_classifier" else np.zeros(0)
            np.testing.assert_array_equal(at_padding, np.full_like(at_padding, -1e9))
            per_token = ours.ndim and len(ours) == real.shape[1] and "sentence" not in name
            np.testing.assert_allclose(ours[real[2, side]] if per_token else ours, expected, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_reloaded_model_has_the_same_config_labels_and_outputs(models, name, tmp_path):
    model = models[name]
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    copy = model.__class__.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert getattr(other, "labels", None) == getattr(model, "labels", None)
    inputs = inputs_for(model)
    for ours, theirs in zip(keras.tree.flatten(model(inputs)), keras.tree.flatten(other(inputs)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("name", "loss", "labels"),
    [
        pytest.param("text_classifier", crossentropy, np.array([0, 2, 1, 0]), marks=pytest.mark.slow),
        pytest.param("text_classifier_mean", crossentropy, np.array([0, 2, 1, 0]), marks=pytest.mark.slow),
        pytest.param("text_regressor", lambda: "mse", np.array([0.5, -1.0, 2.0, 0.0]), marks=pytest.mark.slow),
        ("token_classifier", crossentropy, np.arange(36).reshape(4, 9) % 3),
        pytest.param(
            "span_classifier",
            lambda: {"start": crossentropy(), "end": crossentropy()},
            {"start": np.array([0, 1, 2, 3]), "end": np.array([4, 1, 5, 3])},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_fit_memorises_a_batch(name, loss, labels):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.compile(keras.optimizers.Adam(2e-2), loss())
    weights = inputs_for(model)["padding_mask"].astype("float32") if name == "token_classifier" else None
    history = model.fit(inputs_for(model), labels, sample_weight=weights, epochs=60, verbose=0).history["loss"]
    assert history[-1] < 0.25 * history[0]


def pairs():
    rng = np.random.default_rng(2)
    first, second = (
        {
            "token_ids": rng.integers(4, 29, (6, 5)).astype("int32"),
            "segment_ids": np.zeros((6, 5), "int32"),
            "padding_mask": np.ones((6, 5), bool),
        }
        for _ in range(2)
    )
    return {"first": first, "second": second}


@pytest.mark.slow
def test_in_batch_negatives_bring_each_pair_together():
    model = SentenceEncoder(encoder())
    ranker = SentencePairRanker(model)
    ranker.compile(keras.optimizers.Adam(2e-2), crossentropy(), metrics=["accuracy"])
    history = ranker.fit(pairs(), np.arange(6), batch_size=6, shuffle=False, epochs=25, verbose=0).history
    assert history["accuracy"][-1] == 1.0
    first, second = (model.predict(pairs()[side], verbose=0) for side in ("first", "second"))
    np.testing.assert_array_equal(np.argmax(first @ second.T, axis=1), np.arange(6))
    np.testing.assert_allclose(ranker(pairs()), 20 * first @ second.T, atol=1e-4)


@pytest.mark.slow
def test_pair_scores_are_learned_as_cosines():
    model = SentenceEncoder(encoder())
    regressor = SentencePairRegressor(model)
    scores = np.array([1.0, 0.0, 0.5, 1.0, -0.2, 0.3], "float32")
    regressor.compile(keras.optimizers.Adam(1e-2), "mse")
    regressor.fit(pairs(), scores, batch_size=6, epochs=80, verbose=0)
    np.testing.assert_allclose(regressor.predict(pairs(), verbose=0), scores, atol=0.2)


@pytest.mark.parametrize("kind", [SentencePairRanker, SentencePairRegressor])
def test_pair_models_reload(kind, tmp_path):
    model = kind(SentenceEncoder(encoder()))
    model.save(tmp_path / "pairs.keras")
    other = keras.models.load_model(tmp_path / "pairs.keras")
    np.testing.assert_array_equal(other(pairs()), model(pairs()))


def test_sentence_vectors_have_length_1(models):
    for name in ("sentence_encoder", "sentence_encoder_first"):
        vectors = float32(models[name](inputs_for(models[name])))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_models_without_segments_are_fitted_to_the_datasets_of_the_library():
    tokens = "[PAD] [UNK] [CLS] [SEP] [MASK] . a cat the hat on sat"
    tokenizer = WordPieceTokenizer({token: i for i, token in enumerate(tokens.split(" "))})
    texts, others = ["a cat sat.", "the hat. a hat.", "cat on hat."] * 4, ["the cat", "hat", "on the hat"] * 4
    labels = ["bad", "fair", "good"] * 4
    classifier = TextClassifier(encoder(num_segments=0), LABELS)
    masked = MaskedLM(encoder(num_segments=0))
    ranker = SentencePairRanker(SentenceEncoder(encoder(num_segments=0)))
    fits = (
        (classifier, text_label_dataset(texts, labels, tokenizer, 16, 4, pairs=others, class_names=LABELS)),
        (masked, masked_lm_dataset(texts, tokenizer, 16, 4, next_sentence=False)),
        (ranker, sentence_pair_dataset(texts[:3], others[:3], tokenizer, 16, 3)),
    )
    for model, dataset in fits:
        options = {} if model is masked else {"loss": crossentropy()}
        model.compile(keras.optimizers.Adam(2e-2), **options)
        losses = model.fit(dataset, epochs=12, shuffle=False, verbose=0).history["loss"]
        assert losses[-1] < losses[0]


def test_parts_of_another_type_are_refused():
    sentence_encoder = SentenceEncoder(encoder())
    for make in (
        lambda x: TextClassifier(x, LABELS),
        TextRegressor,
        lambda x: TokenClassifier(x, LABELS),
        SpanClassifier,
        SentenceEncoder,
        MaskedLM,
        BertPretrainer,
    ):
        with pytest.raises(TypeError, match="`encoder` must be a `Bert`.*type SentenceEncoder; pass its `.encoder`"):
            make(sentence_encoder)
        with pytest.raises(TypeError, match="`encoder` must be a `Bert`.*Received: 'bert' of type str"):
            make("bert")
    for kind in (SentencePairRanker, SentencePairRegressor):
        with pytest.raises(TypeError, match="must be a `SentenceEncoder`. Received: <Bert.*put a `Bert` into one"):
            kind(encoder())


def test_no_metrics_can_be_asked_for():
    model = MaskedLM(encoder())
    model.compile("adam", weighted_metrics=[])
    ids = np.array([[2, 5, 6, 3]])
    assert list(model.fit(ids, {"masked_lm": ids}, verbose=0).history) == ["loss"]


def test_a_frozen_encoder_does_not_learn():
    model = MODELS["text_classifier"]()
    model.encoder.trainable = False
    assert len(model.trainable_weights) == 2
    before = model.encoder.get_weights()
    model.compile("adam", crossentropy())
    model.fit(inputs_for(model), np.array([0, 2, 1, 0]), verbose=0)
    for ours, old in zip(model.encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_what_is_frozen_is_still_frozen_after_a_reload(tmp_path):
    model = MODELS["token_classifier"]()
    model.encoder.token_embedding.trainable = False
    model.encoder.stack.blocks[0].self_attention.trainable = False
    pairs_model = SentencePairRegressor(SentenceEncoder(encoder()))
    pairs_model.sentence_encoder.encoder.token_embedding.trainable = False
    for number, one in enumerate((model, pairs_model)):
        one.save(tmp_path / f"{number}.keras")
        other = keras.models.load_model(tmp_path / f"{number}.keras")
        assert len(other.trainable_weights) == len(one.trainable_weights) < len(one.weights)
    model.trainable = False
    assert model.__class__.from_config(model.get_config()).trainable_weights == []


def test_parts_that_a_model_makes_by_itself_are_still_frozen_in_a_copy_and_the_others_still_are_not():
    one = MaskedLM(encoder())
    one.masked_lm.dense.trainable = False
    two = MODELS["text_classifier"]()
    two.encoder.trainable = False
    two.encoder.stack.blocks[0].feed_forward.trainable = True
    two.head.trainable = False
    for model, num_trainable in ((one, len(one.weights) - 2), (two, 4)):
        other = model.__class__.from_config(model.get_config())
        expected = [weight.trainable for weight in model.weights]
        assert [weight.trainable for weight in other.weights] == expected
        assert len(other.trainable_weights) == num_trainable
        assert other.get_config() == model.get_config()


def test_an_encoder_is_made_of_an_embedding_and_blocks_without_cross_attention():
    embedding = encoder().token_embedding
    block = keras_tfm.layers.TransformerBlock(
        keras_tfm.layers.MultiHeadSelfAttention(2),
        keras_tfm.layers.FeedForward(8),
        cross_attention=keras_tfm.layers.MultiHeadCrossAttention(2),
    )
    for model in (keras_tfm.models.Bert, keras_tfm.models.CausalLM):
        with pytest.raises(ValueError, match="must be without cross-attention.*in block 0. Make the block without it"):
            model(embedding, keras_tfm.layers.TransformerStack([block]))
        with pytest.raises(TypeError, match="`token_embedding` must be a `TokenEmbedding.*Received: 64 of type int"):
            model(64, keras_tfm.layers.TransformerStack([block]))
        with pytest.raises(TypeError, match="`stack` must be a layer, .*Received: stack=4, of type int"):
            model(embedding, 4)


def test_token_ids_may_be_lists_and_neither_ragged_nor_floats():
    model = encoder()
    ids = [[2, 5, 6, 3], [2, 7, 8, 3]]
    np.testing.assert_array_equal(model(ids)["pooled_output"], model(np.array(ids))["pooled_output"])
    for wrong in ([[2, 5], [3]], [[2.0, 5.0]], ["text"]):
        with pytest.raises(TypeError, match="Token ids must be an int array .*Pad shorter rows"):
            model(wrong)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ragged tensors are TensorFlow's")
def test_ragged_tensors_are_refused_with_what_to_pass_instead():
    import tensorflow as tf

    ids = tf.ragged.constant([[2, 5, 3], [2, 3]])
    states = tf.RaggedTensor.from_row_lengths(np.ones((5, 8), "float32"), [3, 2])
    for call in (
        lambda: encoder()(ids),
        lambda: encoder()({"token_ids": ids}),
        lambda: keras_tfm.layers.TokenEmbedding(11, 8)(ids),
        lambda: keras_tfm.layers.MultiHeadSelfAttention(2)(states),
        lambda: keras_tfm.layers.FeedForward(8)(states),
        lambda: keras_tfm.layers.MeanPooling()(states),
    ):
        with pytest.raises(TypeError, match=r"must be a dense tensor. Received: a ragged one. .*`x.to_tensor\(\)`"):
            call()


def test_labels_out_of_range_are_refused_by_fit():
    model = MODELS["text_classifier"]()
    model.compile("adam", crossentropy())
    with pytest.raises(Exception, match="label value of 3 which is outside the valid range of .0, 3"):
        model.fit(inputs_for(model), np.array([0, 3, 1, 0]), verbose=0)


@pytest.mark.parametrize("labels", [("one",), ("a", "b", "a"), "ab", 3, (1, 2)])
def test_labels_that_are_no_names_are_refused(labels):
    for make in (TextClassifier, TokenClassifier):
        with pytest.raises(
            ValueError, match="`class_names` must be at least two different names. Received: class_names="
        ):
            make(encoder(), labels)


def test_a_config_that_still_says_labels_is_read():
    config = TextClassifier(encoder(), LABELS).get_config()
    config["labels"] = config.pop("class_names")
    assert TextClassifier.from_config(config).class_names == LABELS


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="`dropout` must be at least 0 and less than 1. Received: dropout=1.5"):
        TextRegressor(encoder(), dropout=1.5)
    with pytest.raises(ValueError, match="`scale` must be positive. Received: scale=0"):
        SentencePairRanker(SentenceEncoder(encoder()), scale=0)
