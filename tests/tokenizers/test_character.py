"""Characters as tokens: beside the library `tokenizers`, in graphs, with models, and as a user's own tokenizer."""

import copy
import doctest
import pickle

import hypothesis
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st

from keras_tfm.checkpoints import load_tokenizer, save
from keras_tfm.data import language_model_dataset
from keras_tfm.generation import TextGenerator
from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import CharacterTokenizer, Tokenizer, character
from keras_tfm.tokenizers import tokenizer as base

TEXT = "To be, or not to be: naïve 日本 👍 \r\n\t\0"
SPECIAL = ("<|endoftext|>", "<a>", "<a><b>", "x y")
TINY = {"max_sequence_length": 64, "num_layers": 1, "num_heads": 1, "hidden_dim": 8}


@pytest.fixture(scope="module")
def characters() -> CharacterTokenizer:
    return CharacterTokenizer.train([TEXT, "<a>z<|endoftext|>"], special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def theirs(characters, tmp_path_factory) -> tokenizers.Tokenizer:
    folder = tmp_path_factory.mktemp("characters")
    characters.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_special_tokens_come_first_and_then_the_alphabet_in_order(characters):
    alphabet = sorted({*TEXT, "z"})
    assert list(characters.vocabulary) == [*SPECIAL, *alphabet, "\ufffd"]
    assert characters.special_tokens == {token: i for i, token in enumerate(SPECIAL)}
    assert (characters.end_of_text, characters.end_of_text_id) == ("<|endoftext|>", 0)
    assert characters.token_bytes(characters.token_to_id("日")) == "日".encode()
    assert repr(characters) == f"<CharacterTokenizer: {len(alphabet) + 5} tokens, 4 of them special>"


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(
        st.lists(st.one_of(st.text(max_size=4), st.sampled_from([*TEXT, *SPECIAL, "<a", "<b>"])), max_size=9).map(
            "".join
        ),
        min_size=1,
        max_size=5,
    )
)
def test_ids_and_texts_are_those_of_hugging_face(characters, theirs, texts):
    ids = characters.encode(texts)
    assert ids == [encoding.ids for encoding in theirs.encode_batch(texts)]
    for skip in (True, False):
        assert characters.decode(ids, skip_special_tokens=skip) == theirs.decode_batch(ids, skip_special_tokens=skip)


def test_what_is_no_character_of_the_alphabet_is_the_replacement_character(characters):
    unknown = characters.token_to_id("\ufffd")
    assert characters.encode(["Q", b"\xff", "\ufffd", ""]) == [[unknown], [unknown], [unknown], []]
    assert CharacterTokenizer("ab", special_tokens=()).encode("abc<|endoftext|>")[:3] == [0, 1, 2]
    assert CharacterTokenizer("a\ufffdb").encode("aXb") == [1, 2, 3]


def test_copies_and_files_give_the_same_tokenizer(characters, tmp_path):
    characters.save(tmp_path)
    copies = [copy.deepcopy(characters), pickle.loads(pickle.dumps(characters))]
    for twin in (*copies, *map(CharacterTokenizer.from_file, (tmp_path, str(tmp_path / "tokenizer.json")))):
        assert twin.vocabulary == characters.vocabulary
        assert twin.special_tokens == characters.special_tokens
        assert twin.end_of_text == characters.end_of_text
        assert twin.encode(TEXT) == characters.encode(TEXT)


def test_a_checkpoint_holds_it(tmp_path):
    tokenizer = CharacterTokenizer("ab", ["<s>", "</s>"], end_of_text="</s>")
    save(build_gpt(vocabulary_size=tokenizer.vocabulary_size, **TINY), tmp_path / "saved", tokenizer)
    again = load_tokenizer(tmp_path / "saved")
    assert (again.vocabulary, again.end_of_text) == (tokenizer.vocabulary, "</s>")
    assert again.encode("ab<s>c") == tokenizer.encode("ab<s>c") == [2, 3, 0, 4]


def test_data_pipelines_give_equal_ids(characters):
    texts = [TEXT, "", "<a><b>be"]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    assert [ids.numpy().tolist() for ids in dataset.map(characters)] == characters.encode(texts)
    assert next(iter(dataset.batch(3).map(characters))).to_list() == characters.encode(texts)


def test_the_most_frequent_characters_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text("aab", encoding="utf-8")
    sources = [tmp_path / "a.txt", "bdc"]
    assert CharacterTokenizer.train(sources, vocabulary_size=4, special_tokens=()).characters == "abc\ufffd"
    assert CharacterTokenizer.train(sources).characters == "abcd\ufffd"


class Letters(Tokenizer):
    """A tokenizer as a user writes it."""

    def __init__(self, letters):
        super().__init__([*letters, "<end>"], special_tokens=["<end>"], end_of_text="<end>")
        self.letters = letters
        ids = tf.lookup.KeyValueTensorInitializer([*letters], [*range(len(letters))], tf.string, tf.int32)
        self.table = tf.lookup.StaticHashTable(ids, default_value=0)

    def tokenize_rows(self, texts):
        return tf.ragged.map_flat_values(self.table.lookup, tf.strings.unicode_split(texts, "UTF-8"))


ALPHABET = "".join(sorted(set(TEXT)))


@pytest.fixture(scope="module", params=["ours", "own"])
def tokenizer(request) -> Tokenizer:
    return CharacterTokenizer(ALPHABET) if request.param == "ours" else Letters(ALPHABET)


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_gpt(vocabulary_size=tokenizer.vocabulary_size, **TINY)


def test_language_model_data_take_it(tokenizer):
    texts = ["To be", "or not"]
    dataset = language_model_dataset(texts, tokenizer, sequence_length=12, batch_size=1, shuffle=False)
    [(token_ids, next_ids)] = dataset
    end = tokenizer.end_of_text_id
    row = [*tokenizer.encode(texts[0]), end, *tokenizer.encode(texts[1]), end]
    assert [*token_ids[0].numpy(), next_ids[0, -1].numpy()] == row


@pytest.mark.usefixtures("without_xla")
def test_a_text_generator_writes_streams_and_stops_with_it(tokenizer, model):
    writer = TextGenerator(model, tokenizer, stop_token_ids=())
    options = {"max_new_tokens": 12, "negative_prompts": None}
    generation = writer.generate(["To be", "not"], **options)
    texts = [tokenizer.decode(ids[:n]) for ids, n in zip(generation.token_ids, generation.num_tokens, strict=True)]
    assert list(generation.texts) == texts
    assert "".join(writer.stream("To be", **options)) == texts[0]
    stop = texts[0][3:5]
    assert writer("To be", stop_strings=[stop], **options) == texts[0][: texts[0].index(stop)]
    session = writer.session("To be")
    session("", max_new_tokens=2)
    assert session.text == "To be" + texts[0][:2]


@pytest.mark.slow
def test_a_saved_model_serves_it(tokenizer, model, tmp_path):
    writer = TextGenerator(model, tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=8)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    answer = served["serving_default"](prompts=tf.constant(["To be"]))
    assert answer["text"].numpy()[0].decode() == writer("To be", max_new_tokens=8)


@pytest.mark.parametrize("kind", ["ours", "own"])
def test_a_saved_module_tokenizes_and_back_in_the_graph(kind, tmp_path):
    tokenizer = CharacterTokenizer(ALPHABET) if kind == "ours" else Letters(ALPHABET)
    module = tf.Module()
    module.tokenizer = tokenizer
    spec = tf.TensorSpec([None], tf.string)
    module.there = tf.function(lambda texts: tokenizer(texts), input_signature=[spec])
    module.back = tf.function(lambda texts: tokenizer.detokenize(tokenizer(texts)), input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    assert served.there([TEXT, ""]).to_list() == tokenizer.encode([TEXT, ""])
    assert served.back([TEXT, ""]).numpy().tolist() == [TEXT.encode(), b""]


def test_a_tokenizer_of_ones_own_is_copied_and_shown(tokenizer):
    twin = pickle.loads(pickle.dumps(tokenizer))
    assert twin.encode(TEXT) == tokenizer.encode(TEXT)
    assert repr(Letters("ab")) == "<Letters: 3 tokens, 1 of them special>"


def test_what_is_missing_in_a_tokenizer_of_ones_own_is_named():
    class Empty(Tokenizer):
        def __init__(self, letters):
            super().__init__(letters)

    class Dense(Empty):
        def tokenize_rows(self, texts):
            return tf.zeros([2, 2])

    with pytest.raises(NotImplementedError, match="`Empty` must define `tokenize_rows`"):
        Empty("ab")("a")
    with pytest.raises(TypeError, match=r"of `Dense` must give a RaggedTensor of integers .*\. Received: .*\(2, 2\)"):
        Dense("ab")("a")
    with pytest.raises(TypeError, match=r"an attribute for each argument .*Received: none for \['letters'\]"):
        copy.deepcopy(Empty("ab"))
    with pytest.raises(ValueError, match="must differ from each other, .* Received: 2 tokens, 1 different"):
        Tokenizer(["a", "a"])
    with pytest.raises(ValueError, match="one for each. Received: 1 tokens, 1 different ones, and 2 `token_bytes`"):
        Tokenizer(["a"], [b"a", b"b"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "b"],), TypeError, "`characters` must be a string. Received: "),
        (("aba",), ValueError, r"differ from each other, .*twice: \['a'\]"),
        (("ab", ["b"]), ValueError, r"none be a special token. Received twice: \['b'\]"),
        (("ab", "<end>"), TypeError, "`special_tokens` must be a sequence of strings. Received: '<end>'"),
        (("ab", ["<end>"], "<eos>"), ValueError, "`end_of_text` must be a special token. Received: .*'<eos>'"),
        (("a\ud800",), ValueError, "unpaired surrogates"),
    ],
)
def test_alphabets_that_are_none_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CharacterTokenizer(*arguments)


def test_what_cannot_be_trained_or_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be text to train on. Received: 1 texts"):
        CharacterTokenizer.train("<|endoftext|>")
    with pytest.raises(ValueError, match="at least 3: 1 special tokens, .* Received: vocabulary_size=2"):
        CharacterTokenizer.train("abc", 2)
    with pytest.raises(ValueError, match="`vocabulary_size` must be an integer.*Received: vocabulary_size=4.0"):
        CharacterTokenizer.train("abc", 4.0)
    with pytest.raises(FileNotFoundError, match=r"with one\. Received: .*, without it"):
        CharacterTokenizer.from_file(tmp_path)
    with pytest.raises(ValueError, match=r"of single characters, .* Received: a model of type 'BPE'"):
        CharacterTokenizer.from_json({"model": {"type": "BPE", "vocab": {"a": 0}}})


@pytest.mark.parametrize("module", [base, character])
def test_the_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module, extraglobs={"tf": tf})
    assert result.failed == 0
    assert result.attempted >= 4
