"""SentencePiece models in the graph, beside `sentencepiece` itself."""

import copy
import dataclasses
import json
import pickle
import random
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm.checkpoints import load_tokenizer
from keras_tfm.generation import TextGenerator
from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import SentencePieceTokenizer
from keras_tfm.tokenizers.sentence_piece_proto import (
    CONTROL,
    UNKNOWN,
    UNUSED,
    ModelProto,
    Piece,
    read_proto,
    write_proto,
)
from tests.harness import fresh_process

sentencepiece = pytest.importorskip("sentencepiece", reason="needs keras-tfm[sentencepiece]")

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\ttab\nline\r\n",
    "naïve café ﬁ ½ ①",
    "日本語 한국어 Привет שָׁלוֹם हिन्दी",
    "👩‍👩‍👧 🇨🇭 e\u0301 \u1112\u1161\u11ab",
    "<unk> <0x0A> <turn><turn> <turn>a",
    "a▁b\u200b\ufeff\0",
    "\u200b",
    "▁ ▁▁",
    "a ▁ ",
    "aaaaaaaaaaa .......... -------",
]
BPE = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS = {
    # As T5's, Llama's and Gemma's; then what else a model may ask for.
    "unigram": {"algorithm": "unigram", "vocabulary_size": 400, "byte_fallback": False},
    "bpe": {"algorithm": "byte pair", "vocabulary_size": 600, "split_digits": True, **BPE},
    "gemma": {"algorithm": "byte pair", "vocabulary_size": 500, "add_dummy_prefix": False, **BPE},
    "unigram with bytes": {"algorithm": "unigram", "vocabulary_size": 600, "remove_extra_whitespaces": False},
    "words with spaces": {"algorithm": "unigram", "vocabulary_size": 400, "split_by_whitespace": False},
    "spaces after words": {"algorithm": "byte pair", "vocabulary_size": 500, "treat_whitespace_as_suffix": True},
}
COMMON = ("unigram", "bpe")


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    text = SHAKESPEARE.read_text(encoding="utf-8")[:60_000]
    return {
        name: SentencePieceTokenizer.train(text, **options, user_defined_symbols=["<turn>", "▁▁"]).model
        for name, options in KINDS.items()
    }


def pair_of(model: bytes):
    """Ours and theirs of one model."""
    return SentencePieceTokenizer(model), sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="session")
def pairs(models) -> dict[str, tuple]:
    """Ours and theirs of the common models; tracing one takes a second."""
    return {name: pair_of(models[name]) for name in COMMON}


@pytest.fixture(scope="session", params=COMMON)
def pair(request, pairs):
    return pairs[request.param]


@pytest.fixture(scope="session")
def lines() -> list[str]:
    lines = SHAKESPEARE.read_text(encoding="utf-8")[60_000:80_000].splitlines()[:400]
    # Many ways to cut a run are equally good but for the rounding of sums.
    runs = ["a " * number + "-" * 17 + "the" * 9 for number in range(30)]
    return lines + TEXTS + random_texts(300) + runs


def random_texts(number: int) -> list[str]:
    """Of all planes, with many marks, spaces, and characters that normalization changes."""
    generator = random.Random(0)
    kinds = [
        lambda: chr(generator.randint(0x20, 0x7E)),
        lambda: generator.choice(" ▁\u3000\t\n"),
        lambda: chr(generator.randint(0x300, 0x36F)),
        lambda: generator.choice("ﬁ①½ﬀ\u1100\u1161\u11a8한\u0600\u200dé"),
        lambda: chr(generator.randint(0xA0, 0xD7FF)),
        lambda: chr(generator.randint(0xE000, 0x10FFFF)),
    ]
    return ["".join(generator.choice(kinds)() for _ in range(generator.randint(1, 20))) for _ in range(number)]


@pytest.mark.parametrize("kind", [*COMMON, *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*KINDS][2:])])
def test_ids_and_texts_are_those_of_sentencepiece(models, pairs, lines, kind):
    ours, theirs = pairs.get(kind) or pair_of(models[kind])
    expected = theirs.encode(lines)
    assert ours.encode(lines) == expected
    generator, size = random.Random(1), theirs.vocab_size()
    rows = (
        expected + [[generator.randrange(size) for _ in range(n % 7)] for n in range(300)] + [[i] for i in range(size)]
    )
    assert ours.decode(rows, skip_special_tokens=True) == theirs.decode(rows)
    assert (ours.vocabulary_size, ours.end_of_text_id, ours.begin_of_text_id) == (
        size,
        theirs.eos_id(),
        theirs.bos_id(),
    )


@pytest.mark.parametrize("drops_spaces", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_space_follows_texts_of_which_nothing_else_is_left(models, drops_spaces):
    changes = {"treat_whitespace_as_suffix": True, "remove_extra_whitespaces": drops_spaces}
    proto = dataclasses.replace(read_proto(models["unigram"]), **changes)
    ours, theirs = pair_of(write_proto(proto))
    kinds = ["a", " ", "\u3000", "\u200b", "\xad", "\u00a8", "▁", "▁▁", "<turn>", "\t"]
    generator = random.Random(0)
    texts = ["", *kinds, *("".join(generator.choices(kinds, k=n % 5)) for n in range(300))]
    assert ours.encode(texts) == theirs.encode(texts)
    if not drops_spaces:
        ids, offsets = ours.encode_with_offsets("ab\u200b")
        assert offsets[-1] == (2, 3)
        assert ours.id_to_token(ids[-1]).endswith("▁")


# Special tokens in texts are found here, as by `tokenizers`, and not by sentencepiece. Hypothesis knows them: it tries
# strings of the modules that are loaded.
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: not any(token in text for token in ("<s>", "</s>", "<unk>", "<pad>"))
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(texts=st.lists(_TEXTS, min_size=30, max_size=30))
def test_any_text_has_the_ids_of_sentencepiece(pair, texts):
    ours, theirs = pair
    assert ours.encode(texts) == theirs.encode(texts)
    assert [ours.encode(text) for text in texts[:3]] == theirs.encode(texts[:3])


def test_one_long_text_without_spaces_is_cut_as_in_sentencepiece(pair):
    ours, theirs = pair
    text = "thethehethatherather日本" * 500
    assert ours.encode(text) == theirs.encode(text)


def test_bytes_of_tokens_joined_are_the_text(pair, lines):
    ours, theirs = pair
    for text in lines[:300]:
        joined = b"".join(ours.token_bytes(i) for i in ours.encode(text)).decode("utf-8")
        assert joined.removeprefix(" ") == theirs.decode(theirs.encode(text))
    assert ours.token_bytes(theirs.eos_id()) == b"</s>"
    assert ours.token_bytes(theirs.unk_id()) == " ⁇ ".encode()
    the = theirs.piece_to_id("▁the")
    assert (ours.token_bytes(the), ours.id_to_token(the), ours.token_to_id("▁the")) == (b" the", "▁the", the)


def test_byte_pieces_are_their_byte(models):
    tokenizer = SentencePieceTokenizer(models["bpe"])
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode()]
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xc3", b"\xa9"]
    assert tokenizer.decode([ids, ids[:1], ids[1:] + ids[:1]]) == ["é", "\ufffd", "\ufffd\ufffd"]


def test_control_pieces_are_found_in_texts_and_left_out_on_demand(pair):
    ours, theirs = pair
    king = theirs.encode("the king")
    assert ours.special_tokens == {"<s>": 1, "</s>": 2}
    assert ours.encode("<s>") == [1]
    assert ours.encode("the king</s><s>") == [*king, 2, 1]
    assert ours.decode([1, *king, 2]) == "<s> the king</s>"
    assert ours.decode([1, *king, 2], skip_special_tokens=True) == "the king"
    assert ours.encode("<s>", allow_special=False) == theirs.encode("<s>")


@pytest.mark.slow
def test_spaces_and_tokens_around_texts_and_tokens_from_outside_are_as_asked_for(pairs):
    ours, theirs = pairs["bpe"]
    king = theirs.encode("the king")
    assert ours.encode("<s>the king") != [1, *king]  # the space before a text comes at its beginning only
    ours = ours.changed(
        space_after_special=True, add_begin_of_text=True, more_tokens={"<|im_end|>": 602}, end_of_text="<|im_end|>"
    )
    assert ours.encode(["</s>the king", ""]) == [[1, 2, *king], [1]]
    ids = ours.encode("the king<|im_end|>")
    assert ids == [1, *king, 602]
    assert (ours.end_of_text_id, ours.vocabulary_size) == (602, 603)
    assert ours.decode(ids) == "<s> the king<|im_end|>"
    assert ours.decode([601]) == ""
    assert ours.encode_with_offsets("the king</s>")[1][:: len(king) + 1] == [(0, 0), (8, 12)]
    with pytest.raises(ValueError, match="`more_tokens` must have ids of their own. Received: '<x>' with 5"):
        ours.changed(more_tokens={"<x>": 5})


def test_offsets_are_the_characters_of_each_token(pairs):
    ours, _ = pairs["unigram"]
    text = "  The <turn>é日</s> king"
    ids, offsets = ours.encode_with_offsets(text)
    assert ids == ours.encode(text)
    pieces = [text[start:end] for start, end in offsets]
    assert pieces[ids.index(2)] == "</s>"
    assert "<turn>" in pieces
    assert offsets == sorted(offsets)
    assert "".join(text[start:end] for start, end in dict.fromkeys(offsets)).replace(" ", "") == text.replace(" ", "")
    batch = ours.encode_with_offsets(["", text])
    assert (batch[0][1], batch[1][1]) == (ids, offsets)
    assert ours.encode_with_offsets("ﬁ")[1][-1] == (0, 1)


def test_bytes_that_are_no_utf_8_are_read_as_replacement_characters(pair):
    ours, theirs = pair
    text = b"The \xff\xc3 king"
    assert ours.encode(text) == theirs.encode(text.decode("utf-8", "replace"))


def test_calls_work_on_a_string_on_rows_and_in_datasets(pair):
    ours, theirs = pair
    ids = ours("the king")
    assert (ids.dtype, ids.shape.rank) == (tf.int32, 1)
    rows = ours(["the king", "", "a"])
    assert isinstance(rows, tf.RaggedTensor)
    assert rows.to_list() == theirs.encode(["the king", "", "a"])
    assert ours(tf.zeros([0], tf.string)).to_list() == []
    dataset = tf.data.Dataset.from_tensor_slices(["the king", "a"]).map(ours)
    assert [row.numpy().tolist() for row in dataset] == theirs.encode(["the king", "a"])
    assert ours.detokenize(ids).numpy() == b"the king"
    assert ours.detokenize(rows).numpy().tolist() == [b"the king", b"", b"a"]
    assert ours.detokenize(tf.cast(ids, tf.int64)[None]).numpy().tolist() == [b"the king"]
    assert ours.decode([]) == ""


def test_copies_and_files_give_the_same_tokenizer(models, tmp_path):
    options = {"vocabulary_size": 610, "end_of_text": "<turn>", "add_begin_of_text": True}
    tokenizer = SentencePieceTokenizer(models["bpe"], **options)
    assert tokenizer.end_of_text_id == tokenizer.token_to_id("<turn>")
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again.get_config() == tokenizer.get_config()
        assert (again.vocabulary_size, again.end_of_text_id) == (610, tokenizer.end_of_text_id)
    the = tokenizer.token_to_id("▁the")
    assert tokenizer.decode([[605, the, 609], [604]]) == ["the", ""]
    assert (tokenizer.token_bytes(609), tokenizer.id_to_token(609)) == (b"", "")
    tokenizer.save(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == models["bpe"]
    for path in (tmp_path / "new", tmp_path / "new" / "tokenizer.model"):
        assert SentencePieceTokenizer.from_file(path).model == models["bpe"]


def test_what_is_written_of_a_model_is_read_again_by_sentencepiece(models):
    for name in COMMON:
        proto = read_proto(models[name])
        again = write_proto(proto)
        assert read_proto(again) == proto
        theirs = [sentencepiece.SentencePieceProcessor(model_proto=model) for model in (models[name], again)]
        assert theirs[0].encode(TEXTS) == theirs[1].encode(TEXTS)


@pytest.mark.slow
def test_an_exported_writer_loads_with_tensorflow_alone(models, tmp_path, without_xla):
    tokenizer = SentencePieceTokenizer(models["bpe"])
    numbers = {"max_sequence_length": 32, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
    writer = TextGenerator(build_gpt(vocabulary_size=tokenizer.vocabulary_size, **numbers), tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=4)
    texts = ["the king<turn>", "日本 ﬁ", *random_texts(20)]
    for kind in ("gemma", "unigram"):
        module = tf.Module()
        module.tokenizer = SentencePieceTokenizer(models[kind])
        module.encode = tf.function(module.tokenizer.tokenize_prompts, [tf.TensorSpec([None], tf.string)])
        tf.saved_model.save(module, str(tmp_path / kind))
    script = """
import json, sys, tensorflow as tf
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than all else here
served = tf.saved_model.load(folder + "/1")
ids = served.signatures["tokenize"](texts=tf.constant(texts))
answer = served.signatures["serving_default"](prompts=tf.constant(["the king"]))
models = [tf.saved_model.load(f"{folder}/{kind}") for kind in ("gemma", "unigram")]
others = [model.encode(tf.constant(texts)).to_list() for model in models]
print(json.dumps([ids["token_ids"].numpy().tolist(), answer["text"].numpy()[0].decode(), *others]))
assert not {"keras_tfm", "sentencepiece", "tokenizers", "tensorflow_text"} & set(sys.modules)
"""
    ids, text, gemma, unigram = json.loads(fresh_process(script, tmp_path, json.dumps(texts)).splitlines()[-1])
    expected = tokenizer.encode(texts)
    assert [row[: len(own)] for row, own in zip(ids, expected, strict=True)] == expected
    assert text == writer("the king", max_new_tokens=4)
    for kind, rows in {"gemma": gemma, "unigram": unigram}.items():
        assert rows == sentencepiece.SentencePieceProcessor(model_proto=models[kind]).encode(texts)


def test_checkpoints_with_a_model_file_are_read(models, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 640}))
    (tmp_path / "tokenizer.model").write_bytes(models["bpe"])
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "<turn>"}))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=models["bpe"])
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode("the king") == theirs.encode("the king")
    assert (tokenizer.vocabulary_size, tokenizer.end_of_text_id) == (640, theirs.piece_to_id("<turn>"))
    assert tokenizer.space_after_special  # as transformers has it where no class is named
    config.write_text(json.dumps({"eos_token": "</s>", "legacy": False}))
    assert not load_tokenizer(tmp_path).space_after_special


def test_wrong_models_and_arguments_are_refused(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="or spiece.model or tokenizer.json. Received: '.*nowhere'"):
        SentencePieceTokenizer.from_file(tmp_path / "nowhere")
    for wrong in (b"no model", b"", models["bpe"][:1000]):
        with pytest.raises(ValueError, match=f"must be a SentencePiece model. Received: {len(wrong):,} bytes"):
            SentencePieceTokenizer(wrong)
    with pytest.raises(TypeError, match="must be bytes, or a dict .* Received: tokenizer.model of type str"):
        SentencePieceTokenizer("tokenizer.model")
    with pytest.raises(ValueError, match="at least the number of pieces, 400. Received: 399"):
        SentencePieceTokenizer(models["unigram"], vocabulary_size=399)
    with pytest.raises(ValueError, match="must be a piece of the SentencePiece model. Received: '<eos>'"):
        SentencePieceTokenizer(models["unigram"], end_of_text="<eos>")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": 4}, "a Unigram .1. or a BPE model .2.. Received: .* of type 4"),
        ({"escape_whitespaces": False}, "write spaces as '▁' .* Received: .* escape_whitespaces=False"),
        ({"denormalizer_charsmap": b"123"}, "a denormalizer of 3 bytes"),
        ({"precompiled_charsmap": b"123"}, "`precompiled_charsmap` must be one of SentencePiece. Received: 3 bytes"),
        ({"pieces": (Piece("a"), Piece("a"))}, "must differ and not be empty. Received: 2 pieces"),
        ({"pieces": (Piece("<unk>", 0.0, UNKNOWN), Piece("a"), Piece("aa", 0.0, UNUSED))}, "Received: 'aa'"),
    ],
)
def test_what_is_not_supported_is_refused(changes, message):
    proto = {"pieces": (Piece("<unk>", 0.0, UNKNOWN), Piece("a"), Piece("</s>", 0.0, CONTROL)), "model_type": 2}
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer(write_proto(ModelProto(**{**proto, **changes})))


@pytest.mark.slow
def test_a_model_without_begin_and_end_has_none():
    proto = ModelProto((Piece("<unk>", 0.0, UNKNOWN), Piece("▁", -1.0), Piece("a", -2.0)), bos_id=-1, eos_id=-1)
    tokenizer = SentencePieceTokenizer(write_proto(proto))
    assert (tokenizer.end_of_text_id, tokenizer.begin_of_text_id, tokenizer.special_tokens) == (None, None, {})
    assert tokenizer.encode("a bb a") == [1, 2, 1, 0, 1, 2]
    with pytest.raises(ValueError, match="must be False for a model without .* Received: True"):
        SentencePieceTokenizer(write_proto(proto), add_begin_of_text=True)


@pytest.mark.slow
def test_merges_of_equal_score_are_taken_from_the_left():
    pieces = [Piece("<unk>", 0.0, UNKNOWN), *(Piece(letter, -9.0) for letter in "▁abc")]
    pieces += [Piece("ab", -1.0), Piece("bc", -1.0), Piece("abc", -1.0), Piece("aa", -2.0), Piece("xa", -2.0)]
    proto = write_proto(ModelProto(tuple(pieces), model_type=2, add_dummy_prefix=False))
    ours, theirs = pair_of(proto)
    texts = ["abc", "bcab", "abcbc", "aaaab", "xab", "xxaa", "x"]
    assert ours.encode(texts) == theirs.encode(texts)


def test_wrong_texts_and_ids_are_refused(models):
    tokenizer = SentencePieceTokenizer(models["unigram"])
    with pytest.raises(ValueError, match="must be 0 to 399 with this vocabulary. Received: 400"):
        tokenizer.decode([3, 400])
    with pytest.raises(ValueError, match="must be 0 to 399 with this vocabulary. Received: -1"):
        tokenizer.token_bytes(-1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="400"):
        tokenizer.detokenize([3, 400])
    with pytest.raises(ValueError, match="must be integers of shape .* Received: dtype=float32"):
        tokenizer.detokenize([0.5])
    with pytest.raises(TypeError, match="must be a string, or a list, array or tensor of strings. Received: 3"):
        tokenizer(3)


def test_training_says_what_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match=r"`algorithm` must be one of \['unigram', 'byte pair'\]. Received: .*'bpe'"):
        SentencePieceTokenizer.train("a b c", 300, algorithm="bpe")
    with pytest.raises(ValueError, match="`vocabulary_size` must suit the text.* Received: vocabulary_size=10"):
        SentencePieceTokenizer.train("a b c", 10)
    with pytest.warns(UserWarning, match="too few pieces for `vocabulary_size=900`; the tokenizer has 2.. tokens"):
        tokenizer = SentencePieceTokenizer.train("the cat, the hat", 900, special_tokens=["<end>"])
    assert tokenizer.token_to_id("<end>") == 3
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r'need the package sentencepiece. .*pip install "\.\[sentencepiece\]"'):
        SentencePieceTokenizer.train("a b c", 300)
