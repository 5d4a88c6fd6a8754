"""Strings in, answers out: each pipeline learns from strings, and its SavedModel says it with TensorFlow alone."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.data import answer_span_dataset, sentence_pair_dataset, text_label_dataset, word_label_dataset
from keras_tfm.models import (
    SentenceEncoder,
    SentencePairRanker,
    SentencePairRegressor,
    SpanClassifier,
    TextClassifier,
    TextRegressor,
    TokenClassifier,
)
from keras_tfm.pipelines import (
    EntityRecognition,
    QuestionAnswering,
    SentenceEmbedding,
    TextClassification,
    TextRegression,
)
from keras_tfm.tokenizers import WordPieceTokenizer
from tests.harness import fresh_process

TEXTS = ["a good day", "a bad night, very bad", "the day was fair", "", "good", "what a bad day in rome"]
LABELS = ["good", "bad", "fair", "fair", "good", "bad"]
CLIENT = """
import json, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures
columns = json.loads(sys.argv[2])
answers = {}
for name in served:
    names = served[name].structured_input_signature[1]
    given = {key: tf.constant(columns[key], tf.string) for key in names}
    outputs = served[name](**given)
    answers[name] = {
        key: [x.decode() for x in value.numpy().ravel()] if value.dtype == tf.string else value.numpy().tolist()
        for key, value in outputs.items()
    }
assert not [m for m in sys.modules if m.split(".")[0] in ("keras_tfm", "keras_hub", "tensorflow_text")]
print(json.dumps(answers))
"""


def served(pipeline, folder, **columns):
    """signature -> output -> values, in a process that imports only tensorflow."""
    pipeline.export(folder / "deep" / "1")
    return json.loads(fresh_process(CLIENT, folder / "deep" / "1", json.dumps(columns)).splitlines()[-1])


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def trained(pipeline, dataset, loss, epochs, learning_rate=2e-2):
    pipeline.model.compile(keras.optimizers.Adam(learning_rate), loss)
    # Kept: to read the strings anew in each epoch takes longer than all else.
    pipeline.model.fit(dataset.cache(), epochs=epochs, shuffle=False, verbose=0)
    return pipeline


# Classification


@pytest.fixture(scope="module")
def classification(make_encoder, tokenizer):
    pipeline = TextClassification(TextClassifier(make_encoder(), ("bad", "fair", "good"), dropout=0.0), tokenizer)
    return trained(
        pipeline,
        text_label_dataset(TEXTS, LABELS, tokenizer, 24, 6, class_names=pipeline.model.class_names),
        crossentropy(),
        60,
        3e-3,
    )


def test_a_classifier_learns_labels_from_strings_and_serves_them(classification, tmp_path):
    answers = classification(TEXTS)
    assert [answer.label for answer in answers] == LABELS
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.label]
    pairs = TEXTS[::-1]
    outputs = served(classification, tmp_path, texts=TEXTS, pairs=pairs)
    assert outputs["serving_default"]["label"] == LABELS
    assert outputs["serving_default"]["labels"] == ["bad", "fair", "good"] * 6
    for signature, expected in (("serving_default", answers), ("pairs", classification(TEXTS, pairs))):
        np.testing.assert_allclose(
            outputs[signature]["probabilities"], [list(a.probabilities.values()) for a in expected], atol=1e-5
        )


def test_batch_mates_and_batch_size_change_no_answer(classification):
    together = [a.probabilities["bad"] for a in classification(TEXTS)]
    # 1e-5: a product of other sizes may sum in another order, and logits are of size 5.
    for size in (1, 4):
        np.testing.assert_allclose(
            [a.probabilities["bad"] for a in classification(TEXTS, batch_size=size)], together, atol=1e-5
        )
    assert classification(TEXTS[1]).probabilities["bad"] == pytest.approx(together[1], abs=1e-5)
    assert classification([]) == []


def test_long_texts_are_cut_with_a_warning_that_tells_how_long(classification):
    long = "bad " * 40
    with pytest.warns(UserWarning, match="1 of 2 texts have more than the 22 tokens.*the longest has 40") as record:
        answers = classification(["good", long])
    assert [warning.filename for warning in record] == [__file__]
    alone = classification("bad " * 22).probabilities  # a product of one row, not of two
    assert answers[1].probabilities == pytest.approx(alone, abs=1e-5)


def test_wrong_texts_and_labels_are_refused(classification, tokenizer):
    with pytest.raises(TypeError, match="`texts` must be a string or a list of strings. Received: 3 of type int"):
        classification(["good", 3])
    with pytest.raises(TypeError, match="`pairs` must be a string or a list of strings. Received: None"):
        classification(["good"], [None])
    for wrong, received in ((None, "None of type NoneType"), (b"abc", "b'abc' of type bytes"), ([["a"]], r"\['a'\]")):
        with pytest.raises(TypeError, match=f"`texts` must be a string or a list of strings. Received: {received}"):
            classification(wrong)
    with pytest.raises(ValueError, match=r"unpaired surrogates. Received: '\\ud800' at position 2"):
        classification("a \ud800")
    for size in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match=f"`batch_size` must be an integer of at least 1. Received: .*={size}"):
            classification(["good"], batch_size=size)
    with pytest.raises(ValueError, match=r"as many texts on each side. Received: \[2, 1\]"):
        classification(["good", "bad"], ["fair"])
    with pytest.raises(ValueError, match="at most the 24 positions.*Received: sequence_length=25"):
        TextClassification(classification.model, tokenizer, sequence_length=25)
    for wrong in (0, 3, "8"):
        with pytest.raises(ValueError, match=f"an integer of at least 4.*Received: sequence_length={wrong!r}"):
            TextClassification(classification.model, tokenizer, sequence_length=wrong)
    other = WordPieceTokenizer({"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3})
    message = f"a tokenizer of 4 tokens and a model of {tokenizer.vocabulary_size}"
    with pytest.raises(ValueError, match=message):
        TextClassification(classification.model, other)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (TextClassification, "TextClassifier"),
        (TextRegression, "TextRegressor"),
        (EntityRecognition, "TokenClassifier"),
        (QuestionAnswering, "SpanClassifier"),
        (SentenceEmbedding, "SentenceEncoder"),
    ],
)
def test_models_and_tokenizers_of_another_type_are_refused(kind, needed, classification, make_encoder, tokenizer):
    for wrong in (make_encoder(), None):
        message = f"`model` must be a `{needed}` for `{kind.__name__}`. Received: .* of type {type(wrong).__name__}"
        with pytest.raises(TypeError, match=message):
            kind(wrong, tokenizer)
    if kind is TextClassification:
        with pytest.raises(TypeError, match="`tokenizer` must be a WordPieceTokenizer, .* Received: None"):
            kind(classification.model, None)
    else:
        with pytest.raises(TypeError, match="of type TextClassifier"):
            kind(classification.model, tokenizer)


def test_a_path_that_exists_raises_and_is_left_alone(classification, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        classification.export(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


# Regression


@pytest.mark.slow
def test_a_regressor_learns_the_likeness_of_pairs_and_serves_it(make_encoder, tokenizer, tmp_path):
    pipeline = TextRegression(TextRegressor(make_encoder(), dropout=0.0), tokenizer)
    texts, pairs, scores = TEXTS[:4], TEXTS[2:], [0.5, -1.0, 0.0, 1.0]
    trained(pipeline, text_label_dataset(texts, scores, tokenizer, 24, 4, pairs=pairs), "mse", 50, 1e-2)
    found = pipeline(texts, pairs)
    np.testing.assert_allclose(found, scores, atol=0.3)
    assert pipeline(texts[0], pairs[0]) == pytest.approx(found[0], abs=1e-5)
    outputs = served(pipeline, tmp_path, texts=texts, pairs=pairs)
    np.testing.assert_allclose(outputs["pairs"]["score"], found, atol=1e-5)
    np.testing.assert_allclose(outputs["serving_default"]["score"], pipeline(texts), atol=1e-5)


# Entities

SENTENCES = [
    ("anna lives in new york .", "B-WHO O O B-WHERE I-WHERE O"),
    ("bob lives in paris .", "B-WHO O O B-WHERE O"),
    ("is anna in rome or london ?", "O B-WHO O B-WHERE O B-WHERE O"),
    ("what a day", "O O O"),
]


@pytest.fixture(scope="module")
def entities(make_encoder, tokenizer):
    labels = ("O", "B-WHO", "I-WHO", "B-WHERE", "I-WHERE")
    pipeline = EntityRecognition(TokenClassifier(make_encoder(), labels, dropout=0.0), tokenizer)
    words, tags = zip(*((text.split(), tags.split()) for text, tags in SENTENCES), strict=True)
    dataset = word_label_dataset(words, tags, tokenizer, 24, 4, class_names=labels)
    return trained(pipeline, dataset, crossentropy(reduction="mean_with_sample_weight"), 40)


@pytest.mark.slow
def test_entities_are_learned_from_words_and_found_in_raw_text(entities, tmp_path):
    text = "Anna lives in New  York.  Café? Bob: PARIS"
    found = entities(text)
    assert [(e.label, e.text) for e in found][:2] == [("WHO", "Anna"), ("WHERE", "New  York")]
    assert ("WHERE", "PARIS") in [(e.label, e.text) for e in found]
    for entity in found:
        assert text[entity.start : entity.end] == entity.text
        assert 0.2 < entity.probability <= 1
    texts = ["", text, "what a day", "bob"]
    outputs = served(entities, tmp_path, texts=texts)["serving_default"]
    expected = [(row, e) for row, text in enumerate(texts) for e in entities(text)]
    assert outputs["row"] == [row for row, _ in expected]
    assert outputs["text"] == [e.text for _, e in expected]
    assert outputs["label"] == [e.label for _, e in expected]
    np.testing.assert_allclose(outputs["probability"], [e.probability for _, e in expected], atol=1e-5)
    for row, piece, start, end in zip(*(outputs[key] for key in ("row", "text", "start", "end")), strict=True):
        assert texts[row].encode()[start:end].decode() == piece


def test_entities_of_a_batch_are_those_of_its_texts(entities):
    texts = ["bob lives in rome", "", "what a day", "anna and bob"]
    for found, text in zip(entities(texts, batch_size=3), texts, strict=True):
        assert [(e.label, e.start, e.end) for e in found] == [(e.label, e.start, e.end) for e in entities(text)]


class FixedLabels(TokenClassifier):
    """A token classifier in which each token's label is decided by a dict from token to label."""

    def __init__(self, encoder, tokenizer, labels, by_token):
        super().__init__(encoder, labels)
        table = [labels.index(by_token.get(tokenizer.id_to_token(i), "O")) for i in range(tokenizer.vocabulary_size)]
        self.table = tf.constant(table)

    def __call__(self, inputs, training=False):
        return 9.0 * tf.one_hot(tf.gather(self.table, inputs["token_ids"]), len(self.class_names))


@pytest.mark.parametrize(
    ("by_token", "expected"),
    [
        ({"new": "B-WHERE", "york": "I-WHERE"}, ["WHERE new york"]),
        ({"new": "I-WHERE", "york": "I-WHERE"}, ["WHERE new york"]),
        ({"new": "B-WHERE", "york": "B-WHERE"}, ["WHERE new", "WHERE york"]),
        ({"new": "B-WHERE", "york": "I-WHO"}, ["WHERE new", "WHO york"]),
        ({"anna": "B-WHO", "in": "I-WHERE"}, ["WHO anna", "WHERE in"]),
        ({"york": "NOUN", "new": "NOUN"}, ["NOUN new", "NOUN york"]),
        ({}, []),
    ],
)
def test_labels_are_joined_to_entities_as_conll_does(make_encoder, tokenizer, by_token, expected):
    labels = ("O", "B-WHO", "I-WHO", "B-WHERE", "I-WHERE", "NOUN")
    pipeline = EntityRecognition(FixedLabels(make_encoder(), tokenizer, labels, by_token), tokenizer)
    texts = ["Anna in New York", "new york"]  # the first's end and the second's begin do not join
    assert [f"{e.label} {e.text.lower()}" for e in pipeline(texts)[0]] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O'Brien lives in London.", ["WHO O'Brien", "WHERE London"]),
        ("in the U.S. or (U.S.)!", ["WHERE U.S.", "WHERE U.S."]),
        ('"Mary-Ann" and J. or Anna\u2019s', ["WHO Mary-Ann", "WHO J.", "WHO Anna"]),
        ("London,\u2003(London) \u00abLondon\u00bb London\u2014London...", ["WHERE London"] * 5),
    ],
)
def test_words_of_running_text_are_found_whole_and_without_the_punctuation_around_them(
    make_encoder, tokenizer, text, expected
):
    # The label is that of a word's first piece: "o" of "O'Brien", "u" of "U.S.".
    by_token = {"o": "B-WHO", "u": "B-WHERE", "m": "B-WHO", "j": "B-WHO", "anna": "B-WHO", "london": "B-WHERE"}
    labels = ("O", "B-WHO", "B-WHERE")
    pipeline = EntityRecognition(FixedLabels(make_encoder(), tokenizer, labels, by_token), tokenizer)
    found = pipeline(text)
    assert [f"{e.label} {e.text}" for e in found] == expected
    assert all(text[e.start : e.end] == e.text for e in found)


@pytest.mark.slow
def test_what_is_taught_of_words_is_found_in_their_text(make_encoder, tokenizer, tmp_path):
    words = [["O'Brien", "lives", "in", "U.S.", "."], ["where", "does", "Mary-Ann", "live", "?"]]
    labels = ("O", "B-WHO", "B-WHERE")
    tags = [["B-WHO", "O", "O", "B-WHERE", "O"], ["O", "O", "B-WHO", "O", "O"]]
    pipeline = EntityRecognition(TokenClassifier(make_encoder(), labels, dropout=0.0), tokenizer)
    dataset = word_label_dataset(words, tags, tokenizer, 24, 2, class_names=labels)
    trained(pipeline, dataset, crossentropy(reduction="mean_with_sample_weight"), 40)
    texts = ["O'Brien lives in U.S..", "where does Mary-Ann live?"]
    assert [[(e.label, e.text) for e in row] for row in pipeline(texts)] == [
        [("WHO", "O'Brien"), ("WHERE", "U.S.")],
        [("WHO", "Mary-Ann")],
    ]
    assert served(pipeline, tmp_path, texts=texts)["serving_default"]["text"] == ["O'Brien", "U.S.", "Mary-Ann"]


# Questions

CONTEXTS = ["anna lives in rome . bob lives in paris .", "bob lives in london and anna in new york !"]
QUESTIONS = [
    ("where does anna live ?", 0, "rome"),
    ("where does bob live ?", 0, "paris"),
    ("where does anna live ?", 1, "new york"),
    ("where does bob live ?", 1, "london"),
    ("who lives in the café ?", 0, None),
]


@pytest.fixture(scope="module")
def answering(make_encoder, tokenizer):
    pipeline = QuestionAnswering(SpanClassifier(make_encoder(), dropout=0.0), tokenizer, sequence_length=20, stride=3)
    questions, numbers, answers = zip(*QUESTIONS, strict=True)
    contexts = [CONTEXTS[number] for number in numbers]
    starts = [0 if a is None else context.index(a) for context, a in zip(contexts, answers, strict=True)]
    dataset = answer_span_dataset(questions, contexts, [a or "" for a in answers], starts, tokenizer, 20, 8, stride=3)
    return trained(pipeline, dataset, {"start": crossentropy(), "end": crossentropy()}, 80)


@pytest.mark.slow
def test_answers_are_learned_and_found_in_long_contexts(answering, tmp_path):
    questions, numbers, answers = zip(*QUESTIONS, strict=True)
    contexts = [CONTEXTS[number] for number in numbers]
    found = answering(questions, contexts)
    assert [answer.text for answer in found][:4] == list(answers[:4])
    for answer, context in zip(found, contexts, strict=True):
        assert context[answer.start : answer.end] == answer.text
        assert 0 <= answer.probability <= 1
    assert found[4].no_answer_probability > 0.5 > found[0].no_answer_probability
    one = answering(questions[0], contexts[0])
    assert (one.text, one.start, one.end) == (found[0].text, found[0].start, found[0].end)
    outputs = served(answering, tmp_path, questions=questions, contexts=contexts)["serving_default"]
    assert outputs["text"] == [answer.text for answer in found]
    np.testing.assert_allclose(outputs["probability"], [answer.probability for answer in found], atol=1e-5)


def test_the_probabilities_of_all_spans_and_of_no_answer_sum_to_1(answering):
    context = "rome or paris"
    pipeline = QuestionAnswering(answering.model, answering.tokenizer, sequence_length=20, max_answer_tokens=2)
    answer = pipeline("where ?", context)
    packed, rows, starts, _ = pipeline.packer.windows(["where ?"], [context], 0)
    assert len(rows) == 1
    logits = answering.model({name: packed[name] for name in pipeline._input_names})
    start, end = (np.asarray(logits[name])[0] for name in ("start", "end"))
    places = np.flatnonzero(np.asarray(starts)[0] >= 0)
    spans = {(i, j): np.exp(start[i] + end[j]) for i in places for j in places if i <= j < i + 2}
    total = sum(spans.values()) + np.exp(start[0] + end[0])
    assert answer.probability == pytest.approx(max(spans.values()) / total, rel=1e-4)
    assert answer.no_answer_probability == pytest.approx(np.exp(start[0] + end[0]) / total, rel=1e-4)


def test_an_empty_context_has_no_answer(answering):
    answer = answering("where ?", "")
    assert (answer.text, answer.start, answer.end, answer.probability) == ("", 0, 0, 0.0)
    assert answer.no_answer_probability == pytest.approx(1)


def test_accents_before_an_answer_do_not_move_it(answering):
    context = "Café café : Anna lives in Rome . Bob lives in Paris ."
    answer = answering("where does anna live ?", context)
    assert context[answer.start : answer.end] == answer.text


def test_wrong_numbers_and_long_questions_are_told(answering, tokenizer):
    with pytest.raises(ValueError, match="`max_answer_tokens` must be an integer of at least 1. Received: .*=0"):
        QuestionAnswering(answering.model, tokenizer, max_answer_tokens=0)
    with pytest.raises(ValueError, match="`stride` must be at most 8.*Received: stride=9"):
        QuestionAnswering(answering.model, tokenizer, sequence_length=20, stride=9)
    with pytest.warns(UserWarning, match="1 of 1 texts have more than the 8 tokens.*has 9") as record:
        answering("who " * 9, "anna")
    assert [warning.filename for warning in record] == [__file__]
    assert QuestionAnswering(answering.model, tokenizer, sequence_length=5).stride == 0


# Vectors


@pytest.mark.slow
def test_vectors_are_served_and_bring_pairs_together(make_encoder, tokenizer, tmp_path):
    pipeline = SentenceEmbedding(SentenceEncoder(make_encoder()), tokenizer)
    texts, pairs = TEXTS[:3], ["very good", "in the night", "fair !"]
    ranker = SentencePairRanker(pipeline.model)
    ranker.compile(keras.optimizers.Adam(2e-2), crossentropy())
    ranker.fit(sentence_pair_dataset(texts, pairs, tokenizer, 24, 3).cache(), epochs=30, shuffle=False, verbose=0)
    vectors = pipeline(texts)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(vectors @ pipeline(pairs).T, axis=1), [0, 1, 2])
    np.testing.assert_allclose(pipeline(texts[1]), vectors[1], atol=1e-5)  # a product of one row, not of three
    assert pipeline([]).shape == (0, 16)
    prompts = ["a good ", "", "she "]
    outputs = served(pipeline, tmp_path, texts=texts, pairs=pairs, prompts=prompts)
    np.testing.assert_allclose(outputs["serving_default"]["vectors"], vectors, atol=1e-5)
    prompted = pipeline([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
    np.testing.assert_allclose(outputs["prompted"]["vectors"], prompted, atol=1e-5)
    cosines = (vectors * pipeline(pairs)).sum(axis=1)
    np.testing.assert_allclose(outputs["similarity"]["similarity"], cosines, atol=1e-5)


@pytest.mark.slow
def test_a_pair_regressor_learns_from_scores(make_encoder, tokenizer):
    pipeline = SentenceEmbedding(SentenceEncoder(make_encoder()), tokenizer)
    regressor = SentencePairRegressor(pipeline.model)
    dataset = sentence_pair_dataset(TEXTS[:3], TEXTS[3:], tokenizer, 24, 3, scores=[1.0, 0.0, 0.5])
    regressor.compile(keras.optimizers.Adam(2e-2), "mse")
    losses = regressor.fit(dataset.cache(), epochs=40, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.2 * losses[0]
