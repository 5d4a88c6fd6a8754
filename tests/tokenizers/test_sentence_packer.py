"""Packing against Hugging Face: truncation, segments, words and windows."""

import numpy as np
import pytest
import tensorflow as tf
import transformers

from keras_tfm.tokenizers import SentencePacker, WordPieceTokenizer


@pytest.fixture(scope="module")
def bert_fast(uncased, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert_fast")
    uncased.save(folder)
    return transformers.BertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts(corpus):
    lines = corpus.splitlines()
    return ["", *(" ".join(lines[start : start + 1 + start % 4]) for start in range(0, 200, 2)), "", "naïve 日本"]


def check_inputs(inputs, encoding):
    np.testing.assert_array_equal(inputs["token_ids"], encoding["input_ids"])
    np.testing.assert_array_equal(inputs["segment_ids"], encoding["token_type_ids"])
    np.testing.assert_array_equal(inputs["padding_mask"], np.array(encoding["attention_mask"], bool))
    assert [inputs[key].dtype for key in ("token_ids", "segment_ids", "padding_mask")] == [tf.int32, tf.int32, tf.bool]


@pytest.mark.parametrize("sequence_length", [4, 5, 8, 9, 16, 33, 100])
def test_texts_and_pairs_are_cut_and_padded_as_in_hugging_face(uncased, bert_fast, texts, sequence_length):
    packer = SentencePacker(uncased, sequence_length)
    options = {"truncation": True, "max_length": sequence_length, "padding": "max_length"}
    check_inputs(packer(texts), bert_fast(texts, **options))
    check_inputs(packer(texts, texts[::-1]), bert_fast(texts, texts[::-1], **options))


def test_without_a_length_rows_are_as_long_as_the_longest(uncased, bert_fast, texts):
    packer = SentencePacker(uncased)
    check_inputs(packer(texts), bert_fast(texts, padding=True))
    check_inputs(packer(texts, texts[1:] + texts[:1]), bert_fast(texts, texts[1:] + texts[:1], padding=True))


def test_one_text_gives_one_row(uncased, texts):
    packer = SentencePacker(uncased, 12)
    for single, several in ((packer(texts[1]), packer(texts[1:2])), (packer("a", "b"), packer(["a"], ["b"]))):
        for key, row in single.items():
            np.testing.assert_array_equal(row[None], several[key])


def test_offsets_tell_the_text_of_each_token(uncased, bert_fast, texts):
    inputs, starts, ends = SentencePacker(uncased, 20).with_offsets(texts, texts[::-1])
    for row, (first, second) in enumerate(zip(texts, texts[::-1], strict=True)):
        encoding = bert_fast([first], [second], truncation=True, max_length=20, return_offsets_mapping=True)
        for place, (start, end) in enumerate(encoding["offset_mapping"][0]):
            sequence = encoding.sequence_ids(0)[place]
            if sequence is None:
                assert starts[row, place] == ends[row, place] == -1
            else:
                text = (first, second)[sequence]
                assert text.encode()[starts[row, place] : ends[row, place]].decode() == text[start:end]
                assert inputs["segment_ids"][row, place] == sequence
    assert starts.dtype == ends.dtype == tf.int32
    np.testing.assert_array_equal(starts >= 0, ~np.isin(inputs["token_ids"], [0, 2, 3]))  # [PAD], [CLS], [SEP]


def test_words_are_tokenized_one_by_one_and_numbered(uncased, bert_fast, texts):
    words = [text.split() for text in texts] + [["\u200b", "Juliet's", "", "don't"]]
    encoding = bert_fast(words, is_split_into_words=True, truncation=True, max_length=14, padding="max_length")
    inputs, word_ids = SentencePacker(uncased, 14).words(words)
    check_inputs(inputs, encoding)
    expected = [[-1 if number is None else number for number in encoding.word_ids(row)] for row in range(len(words))]
    np.testing.assert_array_equal(word_ids, expected)
    again, _ = SentencePacker(uncased, 14).words(tf.ragged.constant(words, ragged_rank=1))
    np.testing.assert_array_equal(again["token_ids"], inputs["token_ids"])


@pytest.mark.parametrize("stride", [0, 3, 12])
def test_windows_over_a_long_context_are_those_of_hugging_face(uncased, bert_fast, texts, stride):
    questions = [text[:25] for text in texts]
    contexts = [" ".join(texts[row : row + row % 7]) for row in range(len(texts))]  # of no token to hundreds
    encoding = bert_fast(
        questions,
        contexts,
        truncation="only_second",
        max_length=30,
        stride=stride,
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    inputs, rows, starts, ends = SentencePacker(uncased, 30).windows(questions, contexts, stride)
    check_inputs(inputs, encoding)
    np.testing.assert_array_equal(rows, encoding["overflow_to_sample_mapping"])
    is_context = np.array([[part == 1 for part in encoding.sequence_ids(row)] for row in range(len(rows))])
    np.testing.assert_array_equal(starts >= 0, is_context)
    np.testing.assert_array_equal(ends >= 0, is_context)
    if all(context.isascii() for context in contexts):
        offsets = np.array(encoding["offset_mapping"])
        np.testing.assert_array_equal(np.stack([starts, ends], -1)[is_context], offsets[is_context])
    assert max(np.bincount(rows)) > 5


def test_a_long_question_leaves_half_of_the_row_to_the_context(uncased):
    inputs, rows, starts, _ = SentencePacker(uncased, 14).windows(["the " * 50], ["the king " * 6])
    assert rows.numpy().tolist() == [0, 0]
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(starts >= 0, tf.int32), 1), [6, 6])
    assert inputs["token_ids"].shape == (2, 14)


@pytest.mark.slow
def test_a_saved_model_gives_text_back(uncased, tmp_path):
    class Server(tf.Module):
        def __init__(self):
            super().__init__()
            self.packer = SentencePacker(uncased, 16)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 2)
        def last_words(self, questions, contexts):
            """The text from the third-last token of each window to its last."""
            _, rows, starts, ends = self.packer.windows(questions, contexts, 2)
            places = tf.argmax(ends, axis=1)
            start, end = tf.gather(starts, places - 2, batch_dims=1), tf.gather(ends, places, batch_dims=1)
            return rows, tf.strings.substr(tf.gather(contexts, rows), start, end - start)

    tf.saved_model.save(Server(), str(tmp_path / "model"))
    served = tf.saved_model.load(str(tmp_path / "model"))
    rows, found = served.last_words(tf.constant(["Who?", "When?"]), tf.constant(["The  Kíng is  é!", "the king " * 12]))
    assert rows.numpy().tolist() == [0, 1, 1, 1]
    assert found.numpy()[0].decode() == "is  é!"
    assert found.numpy()[1:].tolist() == [b"the king the", b"king the king", b"king the king"]


def test_data_pipelines_may_pack(uncased, texts):
    packer = SentencePacker(uncased, 12)
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    one_by_one = next(iter(dataset.map(packer).batch(len(texts))))
    for key, rows in packer(texts).items():
        np.testing.assert_array_equal(one_by_one[key], rows)
    assert one_by_one["token_ids"].shape[1] == 12


def test_bad_arguments_are_refused(uncased):
    packer = SentencePacker(uncased, 13)
    with pytest.raises(TypeError, match="must be a WordPieceTokenizer, .* Received: bert of type str"):
        SentencePacker("bert")
    for length in (3, 8.5, True):
        with pytest.raises(ValueError, match=f"an integer of at least 4.* Received: sequence_length={length}"):
            SentencePacker(uncased, length)
    with pytest.raises(ValueError, match=r"must hold '\[CLS\]' for this"):
        SentencePacker(WordPieceTokenizer({"[UNK]": 0}), 8)
    with pytest.raises(ValueError, match=r"equally many. Received: shapes \(2,\) and \(3,\)"):
        packer(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"equally many. Received: shapes \(\) and \(1,\)"):
        packer("a", ["a"])
    for words in ("a b", ["a", "b"], [[["a"]]], [[1, 2]], tf.constant([["a"]])):
        with pytest.raises(TypeError, match="`words` must be a RaggedTensor of strings .* Received: "):
            packer.words(words)
    with pytest.raises(ValueError, match="given to the packer for `windows`. Received: sequence_length=None"):
        SentencePacker(uncased).windows(["a"], ["b"])
    for stride, rule in (
        (-1, "an integer of at least 0"),
        (1.5, "an integer"),
        (5, "at most 4 with `sequence_length=13`"),
    ):
        with pytest.raises(ValueError, match=f"`stride` must be {rule}.* Received: stride={stride}"):
            packer.windows(["a"], ["b"], stride)
