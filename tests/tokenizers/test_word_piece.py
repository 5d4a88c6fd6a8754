"""WordPiece against the Rust library `tokenizers`, in every place where it can run."""

import copy
import doctest
import itertools
import pathlib
import pickle
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st

from keras_tfm.tokenizers import WordPieceTokenizer, sentence_packer, word_piece

CODE = "    def f(x):\n\t\treturn [x+1,  2.5]  # don't\r\n\n\n        \n"
MIXED = "naïve e\u0301 Straße 日本語テキスト 한국어 Привет, мир! שלום עולם مرحبا १२३ ½ Ⅷ x² 👩‍👩‍👧 🏳️‍🌈 ❤️ \ue000"
SCRIPTS = (
    f"{MIXED} the The ROMEO running [SEP] [MASK] don't x² 3.14 http://t.co/ä @anonymous #fb :-) <3 Ünïcödé "
    "İstanbul ǅ ﬁ Ελλάδα ΣΑΣ Ἀθῆναι Київ ё Й и\u0306 Հայերեն ქართული বাংলা தமிழ் ไทย ລາວ བོད ខ្មែរ "
    "አማርኛ فارسی اُردُو עִבְרִית हिन्दी क्षि ひらがな がき か\u3099き カタカナ ｶﾅ 漢字漢 豈更 简体字 각 \u1100\u1161\u11a8"
    " Việt Việt\u0323 ḍ\u0307 👍🏽 👨‍👩‍👧‍👦 ❤️‍🔥 «¿?» …—\u2013 \u201cx\u201d\u2018x\u2019 5€ £3"
    " \U0001d504 \U0001f1ff ﷺ \ufeff \u200b \u00ad"
)
SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x x", "qué"]
HARD = [
    "",
    " ",
    " \t\n ",
    "The the THE ThE",
    "I'm we're don't -- re-run",
    "\u0301 \u0301a a\u0301\u0302b \u200da\u200db\x00c\ufffd",
    "İ ǅ ﬁ ΣΑΣ ẞ K Å",
    "a≠b a\u0338 \u1fef ; · \u2000",
    "豈更 \U0002f800x 漢字かなカナ",
    "각 한국어 \u1100\u1161\u11a8",
    "##ing ## #a a##b",
    "x" * 100 + " " + "x" * 101 + " " + "e\u0301" * 100,
    "the " + "e" * 101,
    "[MASK]the[SEP] [mask] [CLS][[PAD]]",
    "x xx x  x qué QUÉ que\u0301 aquéa",
    "\U0001d15e \U000111c9 \x7f\x80\xad\u061c",
    "".join(f"a{space}b{space}{space}c{space}1{space}!" for space in SPACES) + SPACES,
    MIXED,
    CODE,
]


DATA = pathlib.Path(__file__).parents[2] / "examples" / "data"


def check_equal(tokenizer, bert, texts):
    """Ids and offsets are the Rust library's."""
    expected = bert.encode_batch(texts, add_special_tokens=False)
    ids, offsets = tokenizer.encode_with_offsets(texts)
    for text, encoding, row, places in zip(texts, expected, ids, offsets, strict=True):
        assert row == encoding.ids, (text, encoding.tokens)
        assert places == encoding.offsets, (text, encoding.tokens)
    assert tokenizer.encode(texts) == ids


# Ids and offsets equal the Rust library's


@pytest.fixture(scope="module")
def mixed_lines(corpus, example_lines):
    """25,000 lines in random order: plays, source, tweets, definitions, and words of many scripts side by side."""
    random = np.random.default_rng(0)
    lines = corpus.splitlines(keepends=True)[:5000]
    lines += [line for line in example_lines if line.startswith(("    ", "def ", "class ", "import "))][:3000]
    for name in ("sentiment_tweets", "wordnet_topics"):
        lines += [line.rpartition("\t")[2] for line in (DATA / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
    lines += (CODE + MIXED).splitlines(keepends=True)
    between = ["", " ", " ", " ", "  ", "-", ", ", "\u200d", "\u00a0", "\u3000", "\u0301 ", "\ufe0f"]
    while len(lines) < 25_000:
        words, gaps = random.choice(SCRIPTS.split(), random.integers(1, 20)), random.choice(between, 20)
        lines.append("".join(itertools.chain.from_iterable(zip(words, gaps, strict=False))))
    return [lines[i] for i in random.permutation(len(lines))]


@pytest.mark.parametrize("count", [5_000, pytest.param(25_000, marks=pytest.mark.slow)])
def test_mixed_lines_give_hugging_face_ids_and_offsets(word_piece, bert, mixed_lines, count):
    assert len(mixed_lines) == 25_000
    lines = mixed_lines[:count]
    assert sum(not line.isascii() for line in lines) > count * 0.16
    assert len({line for line in lines if not line.isascii()}) > count * 0.16
    check_equal(word_piece, bert, lines)


def test_one_long_text_gives_hugging_face_ids_and_offsets(word_piece, bert, corpus):
    check_equal(word_piece, bert, [corpus])


def test_hard_texts_give_hugging_face_ids_and_offsets(word_piece, bert):
    check_equal(word_piece, bert, HARD)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.lists(
        st.lists(
            st.one_of(
                st.text(max_size=4),
                st.text(st.characters(categories=["Mn", "Mc", "Cf", "Cc", "Zs", "Lo"]), max_size=4),
                st.sampled_from(list(SPACES) + SPECIAL),
                st.sampled_from(["the", "The", "ing", " ", "12", "日本", "é", "e\u0301", "!?", "'", "##"]),
            ),
            max_size=12,
        ).map("".join),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_gives_hugging_face_ids_and_offsets(word_piece, bert, texts):
    check_equal(word_piece, bert, texts)


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "step"),
    [
        (True, True, 13),
        pytest.param(True, True, 1, marks=pytest.mark.slow),
        pytest.param(False, False, 1, marks=pytest.mark.slow),
    ],
)
def test_every_code_point_becomes_what_it_becomes_in_hugging_face(lowercase, strip_accents, step):
    # A vocabulary of all characters, so that each other replacement, class or offset would show. In a sample: all that
    # have marks, cases and punctuation of the most used scripts, and some of each of the others.
    points = [*range(0x21, 0x3400), *range(0x3400, 0xD800, step), *range(0xE000, 0x32400, step)]
    points += range(0xE0000, 0xE0200, step)
    pieces = [prefix + chr(point) for point in points for prefix in ("", "##") if not chr(point).isspace()]
    vocabulary = {token: number for number, token in enumerate(["[UNK]", *pieces])}
    tokenizer = WordPieceTokenizer(vocabulary, lowercase, strip_accents, split_on_cjk=lowercase)
    normalizer = tokenizers.normalizers.BertNormalizer(True, lowercase, strip_accents, lowercase)
    bert = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizer, tokenizers.pre_tokenizers.BertPreTokenizer()
    others = range(0x32400, 0x110000, 61 * step)  # without assigned characters; each is like its neighbours
    texts = [
        "".join(f"a{chr(point)}b {chr(point)}" for point in points[i : i + 200]) for i in range(0, len(points), 200)
    ]
    texts += ["".join(f"a{chr(point)}b " for point in others), "\ufffe\uffff\U0010ffff\U000fffff\U000f0000a\U0010fffdb"]
    check_equal(tokenizer, bert, texts)


@pytest.mark.parametrize("size", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("letters", ["a", "the ", " ", "e\u0301", "[SEP]", "語", "."])
def test_a_megabyte_of_the_same_is_no_problem(uncased, letters, size):
    count = size // len(letters.encode())
    ids, offsets = uncased.encode_with_offsets(letters * count)
    if letters in ("a", "e\u0301"):
        assert ids == [uncased.unk_token_id]
        assert offsets == [(0, count if letters == "a" else 2 * count - 1)]
    else:
        assert ids == uncased.encode(letters) * count


def test_a_word_is_cut_into_the_longest_pieces_from_the_left():
    pieces = ["[UNK]", "a", "ab", "##b", "##c", "##bc", "##cd", "abcdx"]
    tokenizer = WordPieceTokenizer({piece: number for number, piece in enumerate(pieces)})
    tokens = {
        word: [tokenizer.id_to_token(i) for i in tokenizer.encode(word)] for word in ("abc", "abcd", "abcdy", "b")
    }
    assert tokens == {"abc": ["ab", "##c"], "abcd": ["ab", "##cd"], "abcdy": ["[UNK]"], "b": ["[UNK]"]}


# Offsets


def test_byte_offsets_cut_the_text_of_tokens_out_in_the_graph(uncased):
    texts = tf.constant(["Où est l\u2019hôtel?", "", "한국어 e\u0301t the [MASK]!"])
    ids, starts, ends = uncased.tokenize_with_offsets(texts)
    pieces = tf.strings.substr(tf.repeat(texts, ids.row_lengths()), starts.values, ends.values - starts.values)
    _, offsets = uncased.encode_with_offsets(texts)
    expected = [
        text.decode()[start:end].encode()
        for text, row in zip(texts.numpy(), offsets, strict=True)
        for start, end in row
    ]
    assert pieces.numpy().tolist() == expected
    assert starts.dtype == ends.dtype == tf.int32
    one = uncased.tokenize_with_offsets(texts[0])
    assert [rows.numpy().tolist() for rows in one] == [rows[0].numpy().tolist() for rows in (ids, starts, ends)]


def test_offsets_of_text_that_is_no_utf8_count_replacement_characters(uncased):
    text = b"a\xff\xc3b the"
    assert uncased.encode_with_offsets(text) == uncased.encode_with_offsets(text.decode("utf-8", "replace"))


# Decoding


def test_decode_equals_hugging_face(word_piece, bert, corpus):
    ids = word_piece.encode([*corpus.splitlines()[:2000], *HARD])
    assert word_piece.decode(ids) == bert.decode_batch(ids, skip_special_tokens=False)
    assert word_piece.decode(ids, skip_special_tokens=True) == bert.decode_batch(ids, skip_special_tokens=True)
    later = [[word_piece.vocabulary_size - 1, 9], [9, 0, word_piece.vocabulary_size - 1]]
    assert word_piece.decode(later) == bert.decode_batch(later, skip_special_tokens=False)


@pytest.mark.parametrize(
    "rows", [lambda a, b: [a, b], lambda a, b: (np.array(a), b), lambda a, b: tf.ragged.constant([a, b])]
)
def test_decode_takes_rows_of_any_kind(uncased, rows):
    texts = ["to be, or", "not!"]
    assert uncased.decode(rows(*uncased.encode(texts))) == texts
    assert uncased.decode(uncased(texts[0])) == texts[0]


def test_decode_of_nothing_is_empty(uncased):
    assert uncased.decode([]) == ""
    assert uncased.decode([[], []]) == ["", ""]
    assert uncased.decode([uncased.cls_token_id], skip_special_tokens=True) == ""


# Faces


def test_one_string_gives_a_vector_and_several_a_ragged_tensor(uncased):
    one, several = uncased("To be"), uncased(["To be", ""])
    assert one.dtype == several.dtype == tf.int32
    assert several.to_list() == [one.numpy().tolist(), []]
    assert uncased.encode([]) == []
    assert uncased.encode_with_offsets("") == ([], [])


@pytest.mark.parametrize("text", [b"a\xff\xc3b", b"\xed\xa0\x80", b"\xf0\x9f\x92 \xc0\x80\xf5", b"\xef\xbb\xbf\x80\0"])
def test_invalid_utf8_is_replaced_as_python_does(uncased, text):
    assert uncased.encode([text, "é"]) == uncased.encode([text.decode("utf-8", "replace"), "é"])


def test_tokens_and_ids_belong_together(uncased):
    assert uncased.special_tokens == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    special = (uncased.pad_token_id, uncased.unk_token_id, uncased.cls_token_id, uncased.sep_token_id)
    assert (*special, uncased.mask_token_id) == (0, 1, 2, 3, 4)
    assert uncased.vocabulary_size == 2000
    for token_id in range(uncased.vocabulary_size):
        token = uncased.id_to_token(token_id)
        assert uncased.token_to_id(token) == token_id
        assert uncased.begins_word[token_id] == (not token.startswith("##"))


def test_copies_and_pickles_give_equal_ids(uncased):
    for twin in (copy.deepcopy(uncased), pickle.loads(pickle.dumps(uncased))):
        assert twin.encode_with_offsets(HARD) == uncased.encode_with_offsets(HARD)


# In graphs


def test_data_pipelines_give_equal_ids(uncased):
    texts = ["To be, or not to be", "", MIXED]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    single = [ids.numpy().tolist() for ids in dataset.map(uncased, num_parallel_calls=2)]
    batches = [ids.to_list() for ids in dataset.batch(2).map(uncased)]
    assert single == batches[0] + batches[1] == uncased.encode(texts)


@pytest.mark.slow
def test_a_saved_model_needs_tensorflow_only(uncased, tmp_path):
    class Server(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = uncased

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, texts):
            ids, starts, _ = self.tokenizer.tokenize_with_offsets(texts)
            return {"ids": ids.values, "starts": starts.values, "texts": self.tokenizer.detokenize(ids)}

    tf.saved_model.save(Server(), str(tmp_path / "model"))
    script = (
        "import sys, tensorflow as tf\n"
        f"served = tf.saved_model.load({str(tmp_path / 'model')!r}).serve(tf.constant({HARD!r}))\n"
        "assert not {'keras_tfm', 'tokenizers', 'tensorflow_text'} & set(sys.modules)\n"
        "print(*(served[name].numpy().tolist() for name in ('ids', 'starts', 'texts')))"
    )
    ids, starts, _ = uncased.tokenize_with_offsets(HARD)
    expected = [ids.values.numpy().tolist(), starts.values.numpy().tolist()]
    expected.append([text.encode() for text in uncased.decode(ids)])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == " ".join(map(str, expected))


# Errors


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("a\ud800", ValueError, r"unpaired surrogates\. Received: '\\ud800' at position 1"),
        (3, TypeError, "`texts` must be a string.*3 of type int"),
        ([["a", "b"]], ValueError, r"rank, 0 or 1\. Received: shape=\(1, 2\)"),
    ],
)
def test_other_than_texts_is_refused(uncased, texts, error, message):
    for encode in (uncased, uncased.encode_with_offsets):
        with pytest.raises(error, match=message):
            encode(texts)


def test_ids_outside_the_vocabulary_are_refused(uncased):
    for ids in ([1, 2000], [[1], [-7]]):
        with pytest.raises(ValueError, match=r"must be 0 to 1999 with this vocabulary\. Received: (2000|-7)\."):
            uncased.decode(ids)
    with pytest.raises(ValueError, match="Received: -1"):
        uncased.id_to_token(-1)
    with pytest.raises(ValueError, match=r"in the vocabulary\. Received: 'zzzz'"):
        uncased.token_to_id("zzzz")
    with pytest.raises(ValueError, match=r"shape \(T,\) or \(B, T\)\. Received: dtype=float32, shape=\(1,\)"):
        uncased.detokenize(tf.constant([0.5]))


def test_a_special_token_that_is_missing_is_named():
    tokenizer = WordPieceTokenizer({"[UNK]": 0, "a": 1})
    assert tokenizer.special_tokens == {"[UNK]": 0}
    assert tokenizer.encode("a b") == [1, 0]
    for name in ("pad", "cls", "sep", "mask"):
        with pytest.raises(
            ValueError, match=rf"must hold '\[{name.upper()}\]' for this\. Received: 2 tokens without it"
        ):
            getattr(tokenizer, f"{name}_token_id")


@pytest.mark.parametrize("module", [word_piece, sentence_packer])
def test_the_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted >= 3


def test_no_special_tokens_at_all_is_possible():
    tokenizer = WordPieceTokenizer({"[UNK]": 0, "a": 1}, special_tokens=[])
    assert tokenizer.encode("[UNK] a") == [0, 0, 0, 1]
    assert tokenizer.special_tokens == {}
