"""What every tokenizer owes: one string is one text, bytes add up, arguments are named, a face of its own."""

import copy
import inspect
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import files
from keras_tfm.tokenizers import (
    BytePairTokenizer,
    CharacterTokenizer,
    MarianTokenizer,
    SentencePacker,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from keras_tfm.tokenizers.sentence_piece_proto import CONTROL, UNKNOWN, ModelProto, Piece
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS

SYMBOLS = {symbol: i for i, symbol in enumerate(BYTE_SYMBOLS)}
PIECES = ModelProto(
    (Piece("<s>", 0.0, CONTROL), *map(Piece, "▁ab"), Piece("<unk>", 0.0, UNKNOWN)), add_dummy_prefix=False
)
TOKENIZERS = {
    "byte pair": lambda special=("<s>",), **more: BytePairTokenizer({**SYMBOLS, "<s>": 256}, [], special, **more),
    "word piece": lambda special=("<s>",), **more: WordPieceTokenizer(
        {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "a", "b", "##b"])},
        special_tokens=special,
        **more,
    ),
    "sentence piece": lambda special=("<s>",), **more: SentencePieceTokenizer(
        PIECES,
        special_tokens=special,
        **more,
    ),
    "marian": lambda special=("<s>",), **more: MarianTokenizer(
        PIECES,
        PIECES,
        {piece.text: i for i, piece in enumerate(PIECES.pieces)},
        special_tokens=special,
        end_of_text=None,
        **more,
    ),
    "character": lambda special=("<s>",), **more: CharacterTokenizer(" ab", special, **more),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request) -> Tokenizer:
    return TOKENIZERS[request.param]()


def test_one_string_is_one_text_and_bytes_of_tokens_add_up_to_it(tokenizer):
    ids = tokenizer.encode("a b<s>")
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode(["a b<s>"]) == [ids]
    assert tokenizer.encode(b"a b<s>") == tokenizer(np.str_("a b<s>")).numpy().tolist() == ids
    pieces = [tokenizer.token_bytes(i) for i in ids]
    assert b"".join(pieces).decode().replace(" <s>", "<s>").strip() == "a b<s>"  # WordPiece writes spaces before words
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a b"
    assert tokenizer.decode([[], ids[:1]]) == ["", "a"]


def test_its_constructor_names_all_that_a_copy_is_made_from(tokenizer):
    names = list(inspect.signature(type(tokenizer)).parameters)
    assert list(tokenizer.get_config()) == names
    twin = copy.deepcopy(tokenizer)
    assert twin.get_config() == tokenizer.get_config()
    assert (twin.vocabulary, twin.special_tokens) == (tokenizer.vocabulary, tokenizer.special_tokens)
    assert repr(twin) == f"<{type(twin).__name__}: {twin.vocabulary_size} tokens, 1 of them special>"
    assert repr(CharacterTokenizer("ab", ())) == "<CharacterTokenizer: 3 tokens>"


def test_ids_may_be_any_integers_and_other_things_are_refused(tokenizer):
    last = tokenizer.vocabulary_size - 1
    assert (
        tokenizer.id_to_token(np.int64(last))
        == tokenizer.id_to_token(tf.constant(last))
        == list(tokenizer.vocabulary)[-1]
    )
    for wrong in (1.5, "a", [1], None):
        for look_up in (tokenizer.id_to_token, tokenizer.token_bytes):
            with pytest.raises(ValueError, match="`token_id` must be an integer.*Received: token_id="):
                look_up(wrong)
        with pytest.raises(TypeError, match=r"`token` must be a string\. Received: "):
            tokenizer.token_to_id([wrong])
    with pytest.raises(TypeError, match=r"`token_ids` must be integers of shape .*Received: None of type NoneType"):
        tokenizer.detokenize(None)


@pytest.mark.parametrize("texts", [None, 3, {"a": 1}, {"a"}, iter("a"), ["a", 3]])
def test_texts_of_another_type_are_refused(tokenizer, texts):
    with pytest.raises(TypeError, match="`texts` must be a string, or a list, array or tensor of strings. Received: "):
        tokenizer.encode(texts)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("strings", ["<s>", b"<s>", 3, ["<s>", 3]])
def test_tokens_that_are_no_sequence_of_strings_are_refused_by_name(kind, strings):
    with pytest.raises(TypeError, match="`special_tokens` must be .*strings. Received: "):
        TOKENIZERS[kind](strings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin_tokens": "<s>"}, "`begin_tokens` must be a sequence of strings. Received: '<s>'. Put it in a list."),
        ({"end_tokens": "<s>"}, "`end_tokens` must be a sequence of strings. Received: '<s>'"),
        ({"end_of_text": ["<s>"]}, r"`end_of_text` must be a string or None. Received: end_of_text=\['<s>'\]"),
    ],
)
def test_other_strings_of_byte_pair_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        TOKENIZERS["byte pair"](**arguments)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "error", "message"),
    [
        (list(SYMBOLS), [], TypeError, r"`vocabulary` must be a dict .* Received: \['Ā'"),
        (SYMBOLS, "ab", TypeError, "`merges` must be a sequence of pairs of tokens. Received: 'ab'"),
        (SYMBOLS, None, TypeError, "`merges` must be a sequence of pairs of tokens. Received: 'None'"),
        (SYMBOLS, ["ab"], ValueError, "`merges` must be pairs of tokens. Received: 'ab' at rank 0"),
        ({**SYMBOLS, "\ud800": 256}, [], ValueError, r"unpaired surrogates. Received: '\\ud800'"),
    ],
)
def test_vocabularies_that_are_none_are_refused_by_name(vocabulary, merges, error, message):
    with pytest.raises(error, match=message):
        BytePairTokenizer(vocabulary, merges)


@pytest.mark.parametrize("size", [300.0, "300", None])
def test_sizes_are_integers(size):
    for kind in (BytePairTokenizer, WordPieceTokenizer):
        with pytest.raises(ValueError, match="`vocabulary_size` must be an integer.*Received: vocabulary_size="):
            kind.train("the cat", size)


def test_sizes_may_be_of_any_kind_of_integer():
    assert BytePairTokenizer.train("the cat, the cat", np.int64(257)).vocabulary_size == 257
    packer = SentencePacker(TOKENIZERS["word piece"](), np.array(8))
    assert packer.windows(["a"], ["b b b b b b"], np.int32(1))[1].numpy().tolist() == [0, 0]


def test_one_question_is_about_one_context():
    packer = SentencePacker(TOKENIZERS["word piece"](), 12)
    expected = packer.windows(["a"], ["b b b"])
    for questions, contexts in (("a", "b b b"), ("a", ["b b b"]), (b"a", tf.constant("b b b"))):
        tf.nest.map_structure(np.testing.assert_array_equal, packer.windows(questions, contexts), expected)
    with pytest.raises(ValueError, match="`questions` and `contexts` must be equally many. Received: 2 and 1"):
        packer.windows(["a", "b"], "b b b")
    with pytest.raises(TypeError, match="`contexts` must be a string, .* Received: 3 of type int"):
        packer.windows("a", 3)
    with pytest.raises(TypeError, match="`pairs` must be a string, .* Received: 3 of type int"):
        packer("a", 3)


def test_special_tokens_that_no_expression_can_find_are_refused_when_made():
    tokens = ["<s>", "<" + "a" * 10**6 + ">"]
    with pytest.raises(ValueError, match=r"`special_tokens` must be shorter.* Received: 2 of 1,000,005 .* 1,000,002\."):
        CharacterTokenizer("ab", tokens)


def test_json_files_have_a_limit(tmp_path, monkeypatch):
    TOKENIZERS["byte pair"]().save(tmp_path)
    size = (tmp_path / "tokenizer.json").stat().st_size
    assert BytePairTokenizer.from_file(tmp_path).special_tokens == {"<s>": 256}
    monkeypatch.setattr(files, "_LARGEST_JSON", size - 1)
    with pytest.raises(ValueError, match=f"tokenizer.json must have at most {size - 1:,} bytes. Received: {size:,}"):
        BytePairTokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(["a"]))
    with pytest.raises(ValueError, match=r"vocab.json must hold a JSON object. Received: \['a'\]"):
        BytePairTokenizer.from_file(tmp_path)
