"""The tokenizer against the Rust library `tokenizers`, in every place where it can run."""

import copy
import doctest
import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_tfm.tokenizers import BytePairTokenizer, byte_pair

CODE = "    def f(x):\n\t\treturn [x+1,  2.5]  # don't\r\n\n\n        \n"
MIXED = "naïve e\u0301 Straße 日本語テキスト 한국어 Привет, мир! שלום עולם مرحبا १२३ ½ Ⅷ x² 👩‍👩‍👧 🏳️‍🌈 ❤️ \ue000"
SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
SPECIAL = ["<|endoftext|>", "<a>", "<a><b>", "<a  b>", "é!", "xyx", "yxy", " !!", "\0\0"]


def hugging_face_ids(hugging_face, texts):
    return [encoding.ids for encoding in hugging_face.encode_batch(texts)]


# Ids equal the Rust library's


def test_ids_equal_hugging_face_on_every_line(tokenizer, hugging_face, corpus):
    lines = corpus.splitlines(keepends=True) + (CODE + MIXED + "\n" + CODE).splitlines(keepends=True)
    assert tokenizer.encode(lines) == hugging_face_ids(hugging_face, lines)


def test_ids_equal_hugging_face_on_one_long_text(tokenizer, hugging_face, corpus):
    assert tokenizer.encode(corpus) == hugging_face.encode(corpus).ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "I'm we're you've don't he'll she'd it's",
        "I'M 's's 'sx ''s !'s 1's \n's \t're",
        "a  b   c\n\nd \n e\t\tf  ",
        "\n \n  x   ",
        "".join(f"a{space}b{space}{space}c{space}1{space}!" for space in SPACES) + SPACES,
        "\0a\0\0\0b \0",
        "\x7f\x80\x9f\xad\ufffd\ufffe\U0010ffff\ue000",
        "1٣٤½Ⅷ²४\U0001d7d8 12a34",
        "a\u0301e\u0300 ǆ ᾳ \U0001d518\U0001d52b",
        "👩‍👩‍👧👍🏽🇺🇸 🏳️‍🌈",
        "<|endoftext|><|endoftext|> <|endoftext|>",
        "the <|endoftext|>  the<|endoftext|>\n\n<|endoftext",
        "<a><a><b><a  b><a b> !!!<a><<b>",
        "xyxyxy yxyxyx é!é! é !  !!  \0\0\0",
        MIXED,
        CODE,
    ],
)
def test_ids_equal_hugging_face_on_hard_texts(tokenizer, hugging_face, text):
    assert tokenizer.encode(text) == hugging_face.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(
        st.lists(
            st.one_of(
                st.text(max_size=4),
                st.sampled_from(list(SPACES) + SPECIAL),
                st.sampled_from(["the", "'s", "'ll", " ", "  ", "12", "日本", "é", "!?", "'", "Ġ"]),
            ),
            max_size=12,
        ).map("".join),
        min_size=1,
        max_size=8,
    )
)
def test_ids_equal_hugging_face_and_round_trip_on_any_text(tokenizer, hugging_face, texts):
    ids = tokenizer.encode(texts)
    assert ids == hugging_face_ids(hugging_face, texts)
    assert tokenizer.decode(ids) == texts


@pytest.mark.parametrize("size", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("letters", ["a", "etaoin", " ", "e\u0301", "<|endoftext|>"])
def test_ids_equal_hugging_face_on_a_word_of_a_megabyte(tokenizer, hugging_face, letters, size):
    word = letters * (size // len(letters.encode()))
    assert tokenizer.encode(word) == hugging_face.encode(word).ids


def test_ids_equal_hugging_face_on_a_megabyte_of_words_without_spaces(tokenizer, hugging_face, corpus):
    letters = "".join(filter(str.isalpha, corpus))
    random = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, 10**6 - len(letters), dtype=np.uint8)
    word = letters + random.tobytes().decode()
    assert tokenizer.encode(word) == hugging_face.encode(word).ids


# Faces


def test_one_string_gives_a_vector_and_several_a_ragged_tensor(tokenizer):
    one, several = tokenizer("To be"), tokenizer(["To be", ""])
    assert one.dtype == several.dtype == tf.int32
    assert one.shape.rank == 1
    assert several.to_list() == [one.numpy().tolist(), []]


@pytest.mark.parametrize(
    "texts",
    [
        ["To be", "é"],
        ("To be", "é"),
        [b"To be", "é".encode()],
        np.array(["To be", "é"]),
        np.array(["To be", "é"], object),
        tf.constant(["To be", "é"]),
    ],
)
def test_strings_may_come_in_any_container(tokenizer, texts):
    assert tokenizer.encode(texts) == [tokenizer.encode("To be"), tokenizer.encode("é")]


def test_no_texts_give_no_ids(tokenizer):
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", ""]) == [[], []]


@pytest.mark.parametrize("text", [b"a\xff\xc3b", b"\xed\xa0\x80", b"\xf0\x9f\x92 \xc0\x80\xf5", b"\xef\xbb\xbf\x80\0"])
def test_invalid_utf8_is_replaced_as_python_does(tokenizer, text):
    assert tokenizer.encode([text, "é"]) == tokenizer.encode([text.decode("utf-8", "replace"), "é"])


@pytest.mark.parametrize(
    "rows",
    [
        lambda a, b: [a, b],
        lambda a, b: (np.array(a), b),
        lambda a, b: tf.ragged.constant([a, b]),
        lambda a, b: [tf.constant(a), tf.constant(b, tf.int64)],
    ],
)
def test_decode_takes_rows_of_any_kind(tokenizer, rows):
    texts = ["To be, or", "not"]
    assert tokenizer.decode(rows(*tokenizer.encode(texts))) == texts


@pytest.mark.parametrize(
    "container", [list, tuple, np.array, tf.constant, np.uint8, lambda ids: list(map(tf.constant, ids))]
)
def test_decode_takes_one_row_of_any_kind(tokenizer, container):
    assert tokenizer.decode(container([251, 40])) == tokenizer.decode([251, 40])


def test_decode_of_nothing_is_empty(tokenizer):
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([[]]) == [""]
    assert tokenizer.decode(np.zeros((0, 3), int)) == []


def test_decode_takes_a_dense_batch(tokenizer):
    ids = tokenizer("To be, or not")
    assert tokenizer.decode(tf.stack([ids, ids])) == ["To be, or not"] * 2


def test_part_of_a_character_decodes_to_the_replacement_character(tokenizer):
    euro = [tokenizer.token_to_id(symbol) for symbol in "âĤ¬"]
    assert b"".join(map(tokenizer.token_bytes, euro)) == "€".encode()
    assert tokenizer.decode(euro) == "€"
    assert tokenizer.decode(euro[:2]) == "\ufffd"
    assert tokenizer.detokenize(euro[:2]).numpy() == "€".encode()[:2]


def test_special_tokens_can_be_left_out(tokenizer):
    ids = tokenizer(["a<|endoftext|>b", "<a><b>"])
    assert tokenizer.decode(ids) == ["a<|endoftext|>b", "<a><b>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ["ab", ""]
    assert tokenizer.detokenize(ids, skip_special_tokens=True).numpy().tolist() == [b"ab", b""]


def test_tokens_ids_and_bytes_belong_together(tokenizer):
    assert tokenizer.special_tokens == {token: number for number, token in enumerate(SPECIAL)}
    assert tokenizer.end_of_text_id == 0
    assert tokenizer.vocabulary_size == 1500
    ids = range(tokenizer.vocabulary_size)
    assert [tokenizer.token_to_id(tokenizer.id_to_token(i)) for i in ids] == list(ids)
    assert [tokenizer.token_bytes(i) for i in ids] == tokenizer.detokenize(np.c_[ids]).numpy().tolist()
    assert tokenizer.token_bytes(tokenizer.token_to_id("Ġthe")) == b" the"
    assert tokenizer.token_bytes(tokenizer.token_to_id("é!")) == "é!".encode()


def test_without_special_tokens_there_is_no_end_of_text(tokenizer):
    plain = BytePairTokenizer.train("the cat the hat", 258, special_tokens=())
    assert plain.special_tokens == {}
    assert plain.end_of_text_id is None
    assert plain.decode(plain.encode("<|endoftext|>")) == "<|endoftext|>"


def test_copies_and_pickles_give_equal_ids(tokenizer):
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin.encode(MIXED) == tokenizer.encode(MIXED)


# In graphs


def test_data_pipelines_give_equal_ids(tokenizer):
    texts = ["To be, or not to be", "", MIXED]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    single = [ids.numpy().tolist() for ids in dataset.map(tokenizer, num_parallel_calls=2)]
    batches = [ids.to_list() for ids in dataset.batch(2).map(tokenizer)]
    assert single == tokenizer.encode(texts)
    assert batches[0] + batches[1] == tokenizer.encode(texts)


def test_ids_in_a_function_of_unknown_length_are_decoded_there(tokenizer):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.string)])
    def there_and_back(texts, text):
        ids = tokenizer(texts)
        dense = tokenizer.detokenize(ids.to_tensor(tokenizer.end_of_text_id), skip_special_tokens=True)
        return tokenizer.detokenize(ids), dense, tokenizer.detokenize(tokenizer(text))

    for texts in ([MIXED, "", "b"], []):
        several, dense, one = there_and_back(tf.constant(texts, tf.string), CODE)
        assert several.numpy().tolist() == dense.numpy().tolist() == [text.encode() for text in texts]
        assert one.numpy().decode() == CODE


def test_a_tokenizer_can_be_made_while_a_function_is_traced(tokenizer):
    made = []

    @tf.function
    def encode(text):
        if not made:
            made.append(copy.deepcopy(tokenizer))
        return made[0](text)

    assert encode("To be").numpy().tolist() == made[0].encode("To be") == tokenizer.encode("To be")


def test_threads_give_equal_ids(tokenizer, corpus):
    texts = [corpus[start : start + 1000] for start in range(0, 16_000, 1000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == tokenizer.encode(texts)


@pytest.mark.parametrize("process", ["this", pytest.param("fresh", marks=pytest.mark.slow)])
def test_a_saved_model_needs_tensorflow_only(tokenizer, tmp_path, process):
    class Server(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = tokenizer

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, texts):
            ids = self.tokenizer(texts)
            return {"ids": ids.flat_values, "lengths": ids.row_lengths(), "texts": self.tokenizer.detokenize(ids)}

    texts = [MIXED, "", CODE, "<a><b><|endoftext|>\0"]
    tf.saved_model.save(Server(), str(tmp_path / "model"))
    ids = tokenizer.encode(texts)
    expected = [list(itertools.chain(*ids)), [len(row) for row in ids], [text.encode() for text in texts]]
    if process == "this":
        served = tf.saved_model.load(str(tmp_path / "model")).serve(tf.constant(texts))
        assert [served[name].numpy().tolist() for name in ("ids", "lengths", "texts")] == expected
        return
    script = (
        "import sys, tensorflow as tf\n"
        f"served = tf.saved_model.load({str(tmp_path / 'model')!r}).serve(tf.constant({texts!r}))\n"
        "assert not {'keras_tfm', 'tokenizers', 'tensorflow_text'} & set(sys.modules)\n"
        "print(served['ids'].numpy().tolist(), served['lengths'].numpy().tolist(), served['texts'].numpy().tolist())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == " ".join(map(str, expected))


# Errors


@pytest.mark.parametrize("texts", ["a\ud800", ["fine", "a\ud800"], np.array(["a\ud800"])])
def test_unpaired_surrogates_are_refused(tokenizer, texts):
    with pytest.raises(ValueError, match=r"unpaired surrogates\. Received: '\\ud800' at position 1"):
        tokenizer(texts)


@pytest.mark.parametrize(
    ("texts", "received"),
    [
        (3, "3 of type int"),
        (None, "None of type NoneType"),
        (["a", 1], r"\['a', 1\]"),
        (tf.constant([1]), "dtype=int32"),
    ],
)
def test_other_than_strings_is_refused(tokenizer, texts, received):
    with pytest.raises(TypeError, match=f"`texts` must be a string.*{received}"):
        tokenizer(texts)


def test_ragged_texts_are_refused(tokenizer):
    with pytest.raises(TypeError, match=r"dense tensor\. Received: RaggedTensor of shape \(2, None\)"):
        tokenizer(tf.ragged.constant([["a"], []]))


def test_texts_of_another_rank_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"rank, 0 or 1\. Received: shape=\(1, 2\)"):
        tokenizer([["a", "b"]])
    with pytest.raises(ValueError, match=r"rank, 0 or 1\. Received: shape=<unknown>"):
        tf.function(tokenizer.__call__, input_signature=[tf.TensorSpec(None, tf.string)]).get_concrete_function()


@pytest.mark.parametrize("ids", [[1, 1500], [[1], [-7]], tf.constant([[3, 1501]])])
def test_decode_refuses_ids_outside_the_vocabulary(tokenizer, ids):
    with pytest.raises(ValueError, match=r"must be 0 to 1499 with this vocabulary\. Received: (1500|-7|1501)\."):
        tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [[1500], [[-1]]])
def test_detokenize_refuses_ids_outside_the_vocabulary_at_run_time(tokenizer, ids):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"= (1500|-1) is not in \[0, 1500\)"):
        tf.function(tokenizer.detokenize)(tf.constant(ids))


@pytest.mark.parametrize(
    "ids", [5, "abc", [1.5], ["a"], [True], [[[1]], [[2, 3]]], [[[1], [2, 3]]], np.zeros((1, 1, 1), int)]
)
def test_decode_refuses_other_than_rows_of_integers(tokenizer, ids):
    with pytest.raises(
        ValueError, match=r"`token_ids` must be integers of shape \(T,\) or \(B, T\).*Received: .*shape="
    ):
        tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [tf.constant(1), tf.constant([0.5]), tf.zeros((1, 1, 1), tf.int32)])
def test_detokenize_refuses_other_than_integers_of_rank_1_or_2(tokenizer, ids):
    with pytest.raises(ValueError, match=r"shape \(T,\) or \(B, T\)\. Received: dtype=.*shape="):
        tokenizer.detokenize(ids)


def test_unknown_tokens_and_ids_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"in the vocabulary\. Received: ' the'"):
        tokenizer.token_to_id(" the")
    for look_up in (tokenizer.id_to_token, tokenizer.token_bytes):
        with pytest.raises(ValueError, match="Received: -1"):
            look_up(-1)


def test_the_example_of_the_docstring_runs():
    assert doctest.testmod(byte_pair).failed == 0
    assert doctest.testmod(byte_pair).attempted > 3
