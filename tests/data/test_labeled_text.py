"""Texts, words and answers with labels: what goes where, little padding, and errors."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm
from keras_tfm.data import (
    answer_span_dataset,
    answer_spans,
    labels_of_first_tokens,
    text_label_dataset,
    text_labels,
    word_label_dataset,
    word_labels,
)
from keras_tfm.tokenizers import SentencePacker, WordPieceTokenizer

NAMES = ["zero", "one", "two"]


@pytest.fixture(scope="module")
def tokenizer():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij.?", "##k", "##l", "é"]
    return WordPieceTokenizer({token: number for number, token in enumerate(tokens)}, strip_accents=False)


@pytest.fixture(scope="module")
def texts():
    """200 texts of 0 to 60 tokens."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice([*"abcdefghij", "akl"], random.integers(0, 30))) for _ in range(200)]


def check_batch(inputs, expected_rows, width=None):
    """The rows of `expected_rows`, packed inputs, but for padding."""
    for key, rows in inputs.items():
        for row, expected in zip(rows.numpy(), expected_rows[key].numpy(), strict=True):
            shared = min(len(row), len(expected))
            np.testing.assert_array_equal(row[:shared], expected[:shared])
            assert not row[shared:].any()
            assert not expected[shared:].any()
    assert width is None or inputs["token_ids"].shape[1] == width


# ---- texts


def test_texts_in_order_are_packed_as_by_the_packer(tokenizer, texts):
    labels = [NAMES[len(text) % 3] for text in texts]
    dataset = text_label_dataset(texts, labels, tokenizer, 64, 16, class_names=NAMES, shuffle=False)
    assert dataset.cardinality() == 13
    for _ in range(2):
        for number, (inputs, ids) in enumerate(dataset):
            rows = slice(16 * number, 16 * number + 16)
            check_batch(inputs, SentencePacker(tokenizer, 64)(texts[rows]))
            assert ids.numpy().tolist() == [len(text) % 3 for text in texts[rows]]
            lengths = inputs["padding_mask"].numpy().sum(1)
            assert max(lengths) <= inputs["token_ids"].shape[1] < 1.25 * max(lengths) + 8
    assert ids.dtype == tf.int32


def test_each_epoch_shows_all_texts_with_their_labels_in_a_new_order(tokenizer, texts):
    packed = SentencePacker(tokenizer, 64)(texts)["token_ids"].numpy()
    known = {tuple(row[row > 0]): [] for row in packed}
    for number, row in enumerate(packed):
        known[tuple(row[row > 0])].append(number)
    orders = []
    dataset = text_label_dataset(texts, np.arange(200), tokenizer, 64, 16)
    for _ in range(2):
        order = []
        for inputs, ids in dataset:
            for row, number in zip(inputs["token_ids"].numpy(), ids.numpy(), strict=True):
                assert number in known[tuple(row[row > 0])]
                order.append(number)
        assert sorted(order) == list(range(200))
        orders.append(order)
    assert orders[0] != orders[1]
    again = text_label_dataset(texts, np.arange(200), tokenizer, 64, 16)
    assert np.concatenate([ids for _, ids in again]).tolist() == orders[0]
    other = text_label_dataset(texts, np.arange(200), tokenizer, 64, 16, seed=1)
    assert np.concatenate([ids for _, ids in other]).tolist() != orders[0]


def test_length_buckets_leave_little_padding_and_few_shapes(tokenizer, texts):
    def share_of_tokens(dataset):
        masks = [inputs["padding_mask"].numpy() for inputs, _ in dataset]
        return sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks), {mask.shape[1] for mask in masks}

    numbers = np.arange(200)
    share, widths = share_of_tokens(text_label_dataset(texts, numbers, tokenizer, 64, 8))
    plain_share, plain_widths = share_of_tokens(
        text_label_dataset(texts, numbers, tokenizer, 64, 8, length_buckets=False)
    )
    assert share > 0.8
    assert plain_share < 0.5
    assert widths <= {8, 16, 24, 32, 40, 48, 56, 64}
    assert plain_widths == {64}
    spec, _ = text_label_dataset(texts, numbers, tokenizer, 64, 8, length_buckets=False).element_spec
    assert spec["token_ids"].shape[1] == 64


def test_pairs_and_targets(tokenizer, texts):
    scores = np.linspace(0, 1, 200)
    dataset = text_label_dataset(texts, scores, tokenizer, 128, 200, pairs=texts[::-1], shuffle=False)
    ((inputs, targets),) = dataset
    check_batch(inputs, SentencePacker(tokenizer, 128)(texts, texts[::-1]))
    np.testing.assert_allclose(targets, scores.astype(np.float32))
    several = text_label_dataset(texts, np.stack([scores, -scores], 1), tokenizer, 64, 200)
    assert next(iter(several))[1].shape == (200, 2)


def test_many_blocks_are_as_one(tokenizer, texts, monkeypatch):
    def rows():
        return np.concatenate([x["token_ids"] for x, _ in text_label_dataset(texts, range(200), tokenizer, 64, 200)])

    whole = rows()
    monkeypatch.setattr(text_labels, "BLOCK", 7)
    np.testing.assert_array_equal(rows(), whole)


def test_texts_that_are_cut_are_counted(tokenizer):
    with pytest.warns(UserWarning, match="1 of 3 texts do not fit `sequence_length=6` and lose their ends"):
        text_label_dataset(["a b c d", "a b c d e", ""], [0, 1, 0], tokenizer, 6, 2)
    with pytest.warns(UserWarning, match="2 of 3 texts do not fit `sequence_length=6`"):
        text_label_dataset(["a", "a b", ""], [0, 1, 0], tokenizer, 6, 2, pairs=["b c d", "b", "a b c d"])


@pytest.mark.slow
def test_a_classifier_is_fitted_and_evaluated(tokenizer, texts):
    texts = [text for text in texts if text]
    labels = ["two" if "a" in text else "zero" for text in texts]
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in ("token_ids", "segment_ids")}
    inputs["padding_mask"] = keras.Input((None,), dtype="bool", name="padding_mask")
    x = keras.layers.Embedding(tokenizer.vocabulary_size, 8)(inputs["token_ids"])
    x = keras.ops.max(keras.ops.where(inputs["padding_mask"][..., None], x, -1.0), axis=1)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    dataset = text_label_dataset(texts, labels, tokenizer, 64, 16, class_names=NAMES)
    model.fit(dataset, epochs=8, shuffle=False, verbose=0)
    in_order = text_label_dataset(texts, labels, tokenizer, 64, 16, class_names=NAMES, shuffle=False)
    assert model.evaluate(in_order, verbose=0)[1] > 0.9
    guesses = model.predict(in_order, verbose=0).argmax(1)
    assert np.mean([NAMES[guess] == label for guess, label in zip(guesses, labels, strict=True)]) > 0.9


# ---- words


def test_words_have_their_label_at_their_first_token(tokenizer):
    words = [["akl", "b", "ck"], [], ["\u200b", "d.e"]]
    labels = [["one", "two", "one"], [], ["two", "one"]]
    dataset = word_label_dataset(words, labels, tokenizer, 12, 4, class_names=NAMES, shuffle=False)
    ((inputs, ids, weights),) = dataset
    tokens = [[tokenizer.id_to_token(i) for i in row if i] for row in inputs["token_ids"].numpy()]
    assert tokens == [
        ["[CLS]", "a", "##k", "##l", "b", "c", "##k", "[SEP]"],
        ["[CLS]", "[SEP]"],
        ["[CLS]", "d", ".", "e", "[SEP]"],
    ]
    assert ids.numpy().tolist() == [[0, 1, 0, 0, 2, 1, 0, 0], [0] * 8, [0, 1, 0, 0, 0, 0, 0, 0]]
    assert weights.numpy().tolist() == [[0, 1, 0, 0, 1, 1, 0, 0], [0] * 8, [0, 1, 0, 0, 0, 0, 0, 0]]
    assert (ids.dtype, weights.dtype) == (tf.int32, tf.float32)


def test_words_that_do_not_fit_are_left_out_with_a_warning(tokenizer):
    with pytest.warns(UserWarning, match="1 of 2 texts do not fit `sequence_length=5`"):
        dataset = word_label_dataset([["a", "b", "c", "d"], ["e", "f", "g"]], [[1] * 4, [2] * 3], tokenizer, 5, 2)
    ((_, ids, weights),) = dataset
    assert sorted(ids.numpy().tolist()) == [[0, 1, 1, 1, 0], [0, 2, 2, 2, 0]]
    assert weights.numpy().tolist() == [[0, 1, 1, 1, 0]] * 2


def test_labels_of_first_tokens_in_a_graph(tokenizer):
    packer = SentencePacker(tokenizer, 10)

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], dtype) for dtype in (tf.string, tf.int32)])
    def align(words, labels):
        return labels_of_first_tokens(packer.words(words)[1], labels)

    ids, weights = align(tf.ragged.constant([["akl", "b"], [], ["c"]]), tf.ragged.constant([[7, 8], [], [9]]))
    assert ids.numpy()[:, 1:6].tolist() == [[7, 0, 0, 8, 0], [0] * 5, [9, 0, 0, 0, 0]]
    np.testing.assert_array_equal(weights > 0, ids > 0)


# ---- answers


def test_answers_are_where_their_tokens_are(tokenizer):
    questions = ["a?"] * 6
    contexts = ["é b akl c. é d", "é b akl c. é d", "é b akl c. é d", "é b akl c. é d", "b", ""]
    answers = ["akl c", " akl ", "é", "k", "", ""]
    starts = [4, 3, 11, 5, -1, 0]
    ((inputs, labels),) = answer_span_dataset(questions, contexts, answers, starts, tokenizer, 24, 6, shuffle=False)
    rows = inputs["token_ids"].numpy()
    found = [
        [tokenizer.id_to_token(i) for i in row[start : end + 1]]
        for row, start, end in zip(rows, labels["start"], labels["end"], strict=True)
    ]
    expected = [["a", "##k", "##l", "c"], ["a", "##k", "##l"], ["é"], ["##k"], ["[CLS]"], ["[CLS]"]]
    assert found == expected
    assert labels["start"].numpy().tolist() == [6, 6, 11, 7, 0, 0]
    assert labels["start"].dtype == labels["end"].dtype == tf.int32


def test_windows_without_the_whole_answer_point_to_cls(tokenizer):
    context = "a b c d e f g h i j"
    dataset = answer_span_dataset(["a?"], [context], ["e f"], [8], tokenizer, 11, 9, stride=2, shuffle=False)
    ((inputs, labels),) = dataset
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in inputs["token_ids"].numpy()]
    assert texts == ["a? a b c d e f", "a? e f g h i j"]
    assert labels["start"].numpy().tolist() == [8, 4]
    assert labels["end"].numpy().tolist() == [9, 5]
    dataset = answer_span_dataset(["a?"], [context], ["d e"], [6], tokenizer, 11, 9, stride=2, shuffle=False)
    assert next(iter(dataset))[1]["end"].numpy().tolist() == [8, 0]


def test_an_answer_that_no_window_shows_whole_is_told(tokenizer):
    with pytest.warns(UserWarning, match="1 of 2 answers are whole in no row. .* `stride` .* they are 1 and 11"):
        answer_span_dataset(
            ["a?"] * 2, ["a b c d e f g h i j"] * 2, ["e f g h", "a"], [8, 0], tokenizer, 11, 2, stride=1
        )


def test_every_answer_of_random_contexts_is_found_again(tokenizer):
    random = np.random.default_rng(1)
    contexts, answers, starts = [], [], []
    for _ in range(60):
        words = random.choice([*"abcdefghij", "akl", "é", "."], random.integers(1, 60)).tolist()
        first = random.integers(len(words))
        answer = " ".join(words[first : first + random.integers(1, 4)])
        contexts.append(" ".join(words))
        answers.append(answer)
        starts.append(len("".join(f"{word} " for word in words[:first])))
    dataset = answer_span_dataset(["b?"] * 60, contexts, answers, starts, tokenizer, 32, 4, stride=9, shuffle=False)
    found = []
    for inputs, labels in dataset:
        for row, start, end in zip(inputs["token_ids"].numpy(), labels["start"], labels["end"], strict=True):
            if start:
                found.append(tokenizer.encode(tokenizer.decode(row[start : end + 1])))
    expected = [tokenizer.encode(answer) for answer in answers]
    assert all(answer in found for answer in expected)
    assert all(answer in expected for answer in found)


def test_long_questions_are_cut_with_a_warning(tokenizer):
    message = "1 of 2 questions, of which 3 tokens are read, do not fit `sequence_length=10`"
    with pytest.warns(UserWarning, match=message) as record:
        dataset = answer_span_dataset(
            ["a b c", "a b c d"], ["e", "f"], ["e", "f"], [0, 0], tokenizer, 10, 2, shuffle=False
        )
    assert [warning.filename for warning in record] == [__file__]
    ((inputs, labels),) = dataset
    assert tokenizer.decode(inputs["token_ids"][1], skip_special_tokens=True) == "a b c f"
    assert labels["start"].numpy().tolist() == [5, 5]


def test_the_shortest_documented_row_holds_a_question_and_an_answer(tokenizer):
    dataset = answer_span_dataset(["a"], ["b c"], ["c"], [2], tokenizer, 5, 2, shuffle=False)
    ((inputs, labels),) = dataset
    assert tokenizer.decode(inputs["token_ids"], skip_special_tokens=True) == ["a b", "a c"]
    assert labels["start"].numpy().tolist() == [0, 3]
    for wrong in (4, None):
        with pytest.raises(ValueError, match=f"Received: sequence_length={wrong}"):
            answer_span_dataset(["a"], ["b c"], ["c"], [2], tokenizer, wrong, 2)
    with pytest.raises(ValueError, match="`sequence_length` must be an integer.*Received: sequence_length=None"):
        word_label_dataset([["a"]], [[0]], tokenizer, None, 2)


# ---- examples and errors


@pytest.mark.parametrize("module", [text_labels, word_labels, answer_spans])
def test_the_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module, extraglobs={"keras_tfm": keras_tfm})
    assert result.failed == 0
    assert result.attempted > 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ["one", "three"]}, ValueError, r"one of `class_names`, \['zero', .* Received: 'three', label 1"),
        ({"labels": ["one", "two"], "class_names": None}, ValueError, "`class_names` must be given .* Received: 'one'"),
        ({"labels": [0, 3]}, ValueError, "must be 0 to 2, .* Received: 3, label 1"),
        ({"labels": [0, -1], "class_names": None}, ValueError, "must be at least 0. Received: -1, label 1"),
        ({"labels": [0.5, 1.0]}, TypeError, "must be names or integers.* Received: .*dtype=float64"),
        (
            {"labels": [0.5, np.nan], "class_names": None},
            ValueError,
            "finite floats.* Received: .* 1 of them not finite",
        ),
        ({"texts": "ab"}, TypeError, "`texts` must be a list or an array. Received: 'ab' of type str"),
        ({"labels": 1}, TypeError, "`labels` must be a list or an array. Received: 1 of type int"),
        ({"labels": [0]}, ValueError, "equally many, one or more. Received: 2 texts, 1 labels"),
        ({"texts": [], "labels": []}, ValueError, "equally many, one or more. Received: 0 texts, 0 labels"),
        ({"pairs": ["a"]}, ValueError, "Received: 2 texts, 1 pairs, 2 labels"),
        ({"class_names": ["a", "a"]}, ValueError, r"different names in a list. Received: \['a', 'a'\]"),
        ({"tokenizer": None}, TypeError, "must be a WordPieceTokenizer, .* Received: None"),
        ({"sequence_length": 3}, ValueError, "at least 4.* Received: sequence_length=3"),
        ({"sequence_length": None}, ValueError, "must be an integer.*Received: sequence_length=None"),
        ({"sequence_length": "8"}, ValueError, "an integer of at least 4.* Received: sequence_length='8'"),
        ({"batch_size": 0}, ValueError, "at least 1. Received: batch_size=0"),
        ({"seed": -1}, ValueError, "at least 0. Received: seed=-1"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message, tokenizer):
    arguments = {"texts": ["a", "b"], "labels": [0, 1], "tokenizer": tokenizer, "sequence_length": 8, "batch_size": 2}
    with pytest.raises(error, match=message):
        text_label_dataset(**(arguments | {"class_names": NAMES} | options))


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        ([["a", "b"]], [[0]], r"as many labels. Received: 2 words and 1 labels in row 0: \['a', 'b'\]"),
        (["ab"], [[0, 1]], "as many labels. Received: 2 words and 2 labels in row 0: ab"),
        ([["a"], ["b"]], [[0]], "equally many, one or more. Received: 2 words, 1 labels"),
        ([["a", "b"], ["c"]], [[0, 1], [5]], "must be 0 to 2, .* Received: 5, label 2"),
    ],
)
def test_labels_that_do_not_fit_words_are_refused(words, labels, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        word_label_dataset(words, labels, tokenizer, 8, 2, class_names=NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_starts": [0, 1]}, r"Received: 'b', but at 1 stands ' ', in row 1\. It stands at 2\."),
        ({"answers": ["a", "z"]}, r"Received: 'z', but at 2 stands 'b', in row 1\. The context does not hold it\."),
        (
            {"answer_starts": [-1, 2]},
            r"`answer_starts\[0\]` must be an integer of at least 0. Received: answer_starts\[0\]=-1",
        ),
        ({"answer_starts": [0, "2"]}, r"`answer_starts\[1\]` must be an integer.*Received: answer_starts\[1\]='2'"),
        ({"answers": ["a"]}, "Received: 2 questions, 2 contexts, 1 answers, 2 answer_starts"),
        ({"stride": 7}, "`stride` must be at most 6 with `sequence_length=16`. Received: stride=7"),
    ],
)
def test_answers_that_do_not_stand_in_their_context_are_refused(options, message, tokenizer):
    arguments = {"questions": ["a?", "b?"], "contexts": ["a b", "a b"], "answers": ["a", "b"], "answer_starts": [0, 2]}
    with pytest.raises((ValueError, TypeError), match=message):
        answer_span_dataset(**(arguments | options), tokenizer=tokenizer, sequence_length=16, batch_size=2)
