"""Added tokens, with all their rules, are found where the Rust library finds them."""

import itertools
import json
import random
import unicodedata

import pytest
import tensorflow as tf
import tokenizers

from keras_tfm.tokenizers import AddedToken, BytePairTokenizer, WordPieceTokenizer
from keras_tfm.tokenizers.added_tokens import WORD_CHARACTER
from keras_tfm.tokenizers.inputs import ChatText
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS
from keras_tfm.tokenizers.word_piece_files import json_of

SYMBOLS = {symbol: number for number, symbol in enumerate(BYTE_SYMBOLS)}
# Prefixes of each other, overlapping, with white space, with marks that NFC moves, and letters that BERT makes plain.
CONTENTS = [
    "<a>",
    "<a><b>",
    "a>",
    "ab",
    "Ab",
    "b a",
    " ",
    "  ",
    "e\u0301",
    "é",
    "qué",
    "中",
    "[X]",
    "_",
    "\n",
    "ÁB",
    "\u0301",
]
OTHERS = ["<", ">", "a", "b", "B", "\t", "\u3000", "!", "7", "\u0338", "\u200d", "É", "Ⅷ", "中中", "ab ", " ab"]
FRAGMENTS = [*CONTENTS, *OTHERS]


def tokens_with_rules(generator, contents):
    rules = ("special", "lstrip", "rstrip", "single_word", "normalized")
    chosen = generator.sample(contents, generator.randint(1, 7))
    return [AddedToken(content, **{rule: generator.random() < 0.4 for rule in rules}) for content in chosen]


def texts_of_fragments(generator, number):
    return ["".join(generator.choices(FRAGMENTS, k=generator.randint(0, 9))) for _ in range(number)]


def compare(ours, theirs, texts):
    for allows in (True, False):
        theirs.encode_special_tokens = not allows
        expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
        actual = ours.encode(texts, add_special_tokens=False, allow_special=allows)
        different = [pair for pair in zip(texts, actual, expected, strict=True) if pair[1] != pair[2]]
        assert not different, (different[0], ours.added_tokens)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, *range(2, 6)))])
def test_random_rules_and_texts_give_byte_pair_the_ids_of_hugging_face(seed, tmp_path):
    generator = random.Random(seed)
    tokens = tokens_with_rules(generator, CONTENTS)
    tokens = [token for token in tokens if token.content not in BYTE_SYMBOLS]
    vocabulary = {**SYMBOLS, **{token.content: 256 + number for number, token in enumerate(tokens)}}
    ours = BytePairTokenizer(vocabulary, [], tokens, normalization=[None, "nfc"][seed % 2])
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    compare(ours, theirs, texts_of_fragments(generator, 400))
    again = BytePairTokenizer.from_file(tmp_path)
    assert sorted(again.added_tokens, key=str) == sorted(ours.added_tokens, key=str)
    ids = [vocabulary[token.content] for token in tokens]
    for skips in (True, False):
        kept = [token for token in tokens if not (skips and token.special)]
        texts = [
            unicodedata.normalize("NFC", one.content) if one.normalized and seed % 2 else one.content for one in kept
        ]
        assert ours.decode(ids, skip_special_tokens=skips) == "".join(texts)


def overlap(offsets):
    """Of a token that takes white space in which another one begins, Hugging Face tells places that overlap."""
    return any(end > start for (_, end), (start, _) in itertools.pairwise(offsets))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_rules_and_texts_give_word_piece_the_ids_and_offsets_of_hugging_face(seed, tmp_path):
    generator = random.Random(seed)
    tokens = [AddedToken("[UNK]"), *tokens_with_rules(generator, [one for one in CONTENTS if one != "\u0301"])]
    pieces = ["[CLS]", "[SEP]", *"abeqBE<>!7é中[]x", *("##" + letter for letter in "abeuéBE")]
    names = dict.fromkeys([*(token.content for token in tokens), *pieces])
    vocabulary = {name: number for number, name in enumerate(names)}
    lowercase, strips = generator.random() < 0.6, generator.choice([None, True, False])
    ours = WordPieceTokenizer(
        vocabulary, lowercase, strips, special_tokens=tokens, begin_tokens=["[CLS]"], end_tokens=["[SEP]"]
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_of(ours)))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = texts_of_fragments(generator, 400)
    compare(ours, theirs, texts)
    theirs.encode_special_tokens = False
    expected = theirs.encode_batch(texts)
    rows = [[one] for one in range(len(vocabulary))]
    assert ours.decode(rows) == theirs.decode_batch(rows, skip_special_tokens=False)
    ids, offsets = ours.encode_with_offsets(texts)
    assert ids == [encoding.ids for encoding in expected]
    different = [
        (text, one, encoding.offsets)
        for text, one, encoding in zip(texts, offsets, expected, strict=True)
        if one != encoding.offsets and not overlap(encoding.offsets[1:-1])
    ]
    assert not different, (different[0], ours.added_tokens)


def test_texts_of_a_batch_do_not_touch_each_other():
    tokens = {**SYMBOLS, "<a>": 256, "word": 257}
    rules = [AddedToken("<a>", lstrip=True, rstrip=True), AddedToken("word", single_word=True)]
    tokenizer = BytePairTokenizer(tokens, [], rules)
    texts = ["x", "word", "x", " <a> ", " y", "", "word", "", "<a>", "word", "<a>word<a>x"]
    assert tokenizer.encode(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("word") == [257]
    assert tokenizer.encode([]) == []


def test_tokens_around_a_text_are_put_there_once_and_not_around_chats():
    tokenizer = BytePairTokenizer(
        {**SYMBOLS, "<s>": 256, "</s>": 257}, [], ["<s>", "</s>"], begin_tokens=["<s>"], end_tokens=["</s>"]
    )
    a, b = tokenizer.encode("a", add_special_tokens=False), [tokenizer.vocabulary["b"]]
    assert tokenizer.encode("a") == [256, *a, 257]
    assert tokenizer.encode("<s>a") == [256, 256, *a, 257]
    assert tokenizer.encode(ChatText("<s>a")) == [256, *a]
    assert tokenizer.encode(ChatText("<s>a") + "b") == [256, *a, *b]
    assert tokenizer.encode(["a", ChatText("<s>b"), ""]) == [[256, *a, 257], [256, *b], [256, 257]]
    prompts = ["a", "<s>a", "<s>", "", ChatText("a")]
    assert tokenizer.tokenize_prompts(prompts).to_list() == [[256, *a], [256, *a], [256], [256], a]
    assert tokenizer.tokenize_prompts([]).to_list() == []
    with pytest.raises(ValueError, match=r"`begin_tokens` must be tokens of the vocabulary. Received: \['<x>'\]"):
        tokenizer.changed(begin_tokens=["<x>"])


@pytest.mark.slow
def test_a_saved_model_finds_them_and_takes_the_same_choices(tmp_path):
    tokens = {**SYMBOLS, "<a>": 256, "Éa": 257}
    rules = [AddedToken("<a>", lstrip=True, single_word=True), AddedToken("Éa", special=False, normalized=True)]
    tokenizer = BytePairTokenizer(tokens, [], rules, begin_tokens=["<a>"])
    module = tf.Module()
    module.tokenizer = tokenizer
    module.served = tf.function(
        lambda texts: (tokenizer(texts), tokenizer(texts, allow_special=False, add_special_tokens=False)),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    texts = ["x <a> Éa<a>", "<a><a>"]
    one, other = tf.saved_model.load(str(tmp_path)).served(tf.constant(texts))
    assert one.to_list() == tokenizer.encode(texts)
    assert other.to_list() == tokenizer.encode(texts, allow_special=False, add_special_tokens=False)
    assert one.to_list() != other.to_list()


@pytest.mark.slow
def test_every_character_touches_a_single_word_as_in_hugging_face():
    codes = itertools.chain(range(1, 0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE1000))
    characters = [chr(code) for code in codes]
    words = tokenizers.pre_tokenizers.Whitespace().pre_tokenize_str("\n".join(f"a{c}" for c in characters))
    long = {start for word, (start, _) in words if len(word) == 2}
    theirs = [3 * number in long for number in range(len(characters))]
    ours = tf.strings.regex_full_match(tf.constant(characters), f"[{WORD_CHARACTER}]").numpy().tolist()
    different = [hex(ord(c)) for c, one, two in zip(characters, ours, theirs, strict=True) if one != two]
    assert not different, (len(different), different[:50])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([AddedToken("")], "not be empty"),
        ([AddedToken("<a>"), "<a>"], "differ from each other"),
        (["<x>"], "in `vocabulary`. Received: '<x>'"),
    ],
)
def test_tokens_that_cannot_be_found_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer({**SYMBOLS, "<a>": 256}, [], tokens)
