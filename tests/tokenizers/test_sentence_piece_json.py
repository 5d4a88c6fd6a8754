"""The tokenizer.json of SentencePiece models, beside the library `tokenizers`."""

import base64
import json
import random
from pathlib import Path

import pytest
import tensorflow as tf
import tokenizers

from keras_tfm.checkpoints import load_tokenizer
from keras_tfm.tokenizers import AddedToken, SentencePieceTokenizer
from keras_tfm.tokenizers.code_points import Characters
from keras_tfm.tokenizers.sentence_piece_json import is_sentence_piece
from keras_tfm.tokenizers.sentence_piece_proto import read_proto
from keras_tfm.tokenizers.sentence_piece_rules import PunctuationSigner

pytest.importorskip("sentencepiece", reason="needs keras-tfm[sentencepiece]")

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BYTES = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def sequence(name, *parts):
    return {"type": "Sequence", name: list(parts)}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


# normalizer, pre_tokenizer, decoder: as transformers 5 and 4 write them for each family; a charsmap is put in.
BPE_FORMS = {
    "llama": (None, metaspace("first", False), sequence("decoders", *BYTES, STRIP)),
    "legacy llama": (
        sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, REPLACE),
        None,
        sequence("decoders", *BYTES, STRIP),
    ),
    "gemma": (REPLACE, SPLIT, sequence("decoders", *BYTES)),
    "whole words": (None, metaspace("always", False), sequence("decoders", *BYTES, STRIP)),
}
ALWAYS = metaspace("always", True)
PUNCTUATION = {"type": "Punctuation", "behavior": "Isolated"}
UNIGRAM_FORMS = {
    "t5": ("Precompiled", ALWAYS, ALWAYS),
    "xlm-r": ("Precompiled", sequence("pretokenizers", {"type": "WhitespaceSplit"}, ALWAYS), ALWAYS),
    "converted": (
        sequence(
            "normalizers",
            "Precompiled",
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ),
        ALWAYS,
        ALWAYS,
    ),
    "albert": (
        sequence(
            "normalizers",
            "Precompiled",
            {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
            *({"type": name} for name in ("NFKD", "StripAccents", "Lowercase")),
        ),
        sequence("pretokenizers", {"type": "WhitespaceSplit"}, ALWAYS),
        ALWAYS,
    ),
    "deberta": (
        sequence(
            "normalizers",
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
            {"type": "NFC"},
            {"type": "Strip", "strip_left": False, "strip_right": True},
        ),
        sequence("pretokenizers", ALWAYS),
        ALWAYS,
    ),
    "spaces taken away": (
        sequence(
            "normalizers",
            *({"type": name} for name in ("Nmt", "NFD")),
            {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ),
        ALWAYS,
        ALWAYS,
    ),
    "punctuation": ("Precompiled", sequence("pretokenizers", PUNCTUATION, ALWAYS), ALWAYS),
    "nfkc": ({"type": "NFKC"}, metaspace("first", True), metaspace("first", True)),
    "nfc": (
        sequence("normalizers", {"type": "NFC"}, {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}),
        ALWAYS,
        ALWAYS,
    ),
}
FAST = ("llama", "t5")


def added(content, number, **rules):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags, **rules}


def document_of(name: str) -> dict:
    """A tokenizer.json with pieces learned from Shakespeare."""
    text = SHAKESPEARE.read_text(encoding="utf-8")[:40_000]
    is_bpe = name in BPE_FORMS
    normalizer, pre_tokenizer, decoder = {**BPE_FORMS, **UNIGRAM_FORMS}[name]
    kind = {"algorithm": "byte pair"} if is_bpe else {"algorithm": "unigram", "byte_fallback": False}
    proto = read_proto(SentencePieceTokenizer.train(text, 500, **kind).model)
    ids = {piece.text: number for number, piece in enumerate(proto.pieces)}
    if is_bpe:
        scores = {piece.text: piece.score for piece in proto.pieces if piece.kind == 1}
        pairs = [(text[:i], text[i:]) for text in scores for i in range(1, len(text))]
        merges = sorted(
            ([*pair] for pair in pairs if {*pair} <= scores.keys()), key=lambda pair: -scores["".join(pair)]
        )
        model = {"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": True, "fuse_unk": True}
        model |= {"unk_token": "<unk>", "ignore_merges": name == "whole words"}
    else:
        vocab = [[piece.text, piece.score] for piece in proto.pieces]
        model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    charsmap = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(proto.precompiled_charsmap).decode()}
    if isinstance(normalizer, dict) and "Precompiled" in normalizer.get("normalizers", ()):
        normalizer = {**normalizer, "normalizers": [charsmap, *normalizer["normalizers"][1:]]}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            *(added(token, number) for number, token in enumerate(("<unk>", "<s>", "</s>"))),
            added("<extra>", len(ids), lstrip=True),
            added("<word>", len(ids) + 1, special=False, single_word=True),
        ],
        "normalizer": charsmap if normalizer == "Precompiled" else normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    return {}


@pytest.fixture
def form(request, documents):
    name = request.param
    if name not in documents:
        documents[name] = document_of(name)
    return documents[name]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = random.Random(0)
    kinds = [
        lambda: chr(generator.randint(0x20, 0x7E)),
        lambda: generator.choice(" ▁\u3000\t\n\r"),
        lambda: generator.choice(["<s>", "<extra>", "<word>", "``", "  "]),
        # Graphemes: marks, signs that are prepended, jamo, what the charsmap replaces.
        lambda: chr(generator.randint(0x300, 0x36F)),
        lambda: generator.choice("ﬁ①½ﬀ\u1100\u1161\u11a8한\u0600\u06dd\u200d\u093e\ufe0fé"),
        lambda: chr(generator.randint(0xA0, 0xD7FF)),
        lambda: chr(generator.randint(0xE000, 0x10FFFF)),
    ]
    lines = SHAKESPEARE.read_text(encoding="utf-8")[60_000:70_000].splitlines(keepends=True)
    return ["", " ", *lines] + [
        "".join(generator.choice(kinds)() for _ in range(generator.randint(1, 20))) for _ in range(500)
    ]


FORMS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in (*BPE_FORMS, *UNIGRAM_FORMS)]


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_ids_offsets_and_texts_are_those_of_tokenizers(form, texts):
    theirs = tokenizers.Tokenizer.from_str(json.dumps(form))
    theirs.no_truncation()
    ours = SentencePieceTokenizer(form)
    expected = theirs.encode_batch(texts, add_special_tokens=False)
    ids, offsets = ours.encode_with_offsets(texts)
    assert ids == [encoding.ids for encoding in expected]
    if not {"Prepend", "NFKC", "NFC", "NFD", "NFKD"} & {*json.dumps(form["normalizer"]).replace('"', " ").split()}:
        plain = [n for n, text in enumerate(texts) if text.isascii() and "<extra>" not in text]
        assert [offsets[n] for n in plain] == [expected[n].offsets for n in plain]
    generator, size = random.Random(1), theirs.get_vocab_size()
    rows = [*ids, *([generator.randrange(size) for _ in range(n % 7)] for n in range(300)), *([i] for i in range(size))]
    for skip in (False, True):
        assert ours.decode(rows, skip_special_tokens=skip) == theirs.decode_batch(rows, skip_special_tokens=skip)


@pytest.mark.parametrize("form", ["llama"], indirect=True)
def test_folders_with_a_tokenizer_json_alone_are_read_and_written(form, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(form), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert (tokenizer.end_of_text_id, tokenizer.vocabulary_size) == (2, 502)
    assert AddedToken("<extra>", lstrip=True) in tokenizer.added_tokens
    assert tokenizer.encode("\u00e9")[-2:] == [tokenizer.token_to_id("<0xC3>"), tokenizer.token_to_id("<0xA9>")]
    tokenizer.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "tokenizer.json").read_text(encoding="utf-8")) == form
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert theirs.encode("the king").ids == tokenizer.encode("the king")


@pytest.mark.slow
def test_punctuation_is_what_the_library_takes_for_it():
    text = f"a{'a'.join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))}a"
    split = tokenizers.pre_tokenizers.Punctuation(behavior="isolated").pre_tokenize_str
    expected = {piece for piece, _ in split(text) if len(piece) == 1 and piece != "a"}
    codes = PunctuationSigner()(Characters.of(tf.constant([text])), tf.constant([True])).codes.numpy()
    after_signs = {chr(code) for code in codes[1:][codes[:-1] == ord("▁")]}
    assert after_signs - {"a"} == expected
    assert len(expected) > 700


def test_byte_level_files_are_told_apart():
    for pre_tokenizer in (None, {"type": "ByteLevel"}):
        assert not is_sentence_piece({"model": {"type": "BPE"}, "pre_tokenizer": pre_tokenizer})
    assert is_sentence_piece({"model": {"type": "Unigram"}})
    assert is_sentence_piece({"model": {"type": "BPE", "byte_fallback": True}})
    assert is_sentence_piece({"model": {"type": "BPE"}, "pre_tokenizer": metaspace("always", True)})


@pytest.mark.parametrize("form", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "WordLevel"}}, "`model.type` must be 'BPE' or 'Unigram'; .* Received: 'WordLevel'"),
        ({"normalizer": {"type": "BertNormalizer"}}, "`normalizer` must be Precompiled, .*Received: .*BertNorm"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "eA=="}}, "Received: 1 bytes that are none"),
        ({"pre_tokenizer": {"type": "Digits"}}, "`pre_tokenizer` must be null, Metaspace.* Received: .*Digits"),
        ({"pre_tokenizer": SPLIT}, "`pre_tokenizer` must be null, Metaspace.* Received: .*Split"),
        (
            {"pre_tokenizer": sequence("pretokenizers", {**PUNCTUATION, "behavior": "Removed"}, ALWAYS)},
            "`pre_tokenizer.behavior` must be 'Isolated'.* Received: 'Removed'",
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", PUNCTUATION, metaspace("first", True))},
            "`pre_tokenizer` must be null, Metaspace.* Received: .*Punctuation",
        ),
        ({"decoder": {"type": "WordPiece"}}, "`decoder` must be Metaspace, or .* Received: .*WordPiece"),
        ({"decoder": sequence("decoders", *BYTES[:2], STRIP)}, "`decoder` must be Metaspace, or .* Received: .*Strip"),
        ({"added_tokens": [{"id": "3"}]}, "`added_tokens` must be a list of objects with `id` and `content`"),
        ({"added_tokens": [added("<new>", 1)]}, "`ids of tokens` must be different for each.* Received: .*<new>"),
    ],
)
def test_what_is_not_supported_is_refused(form, changes, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer({**form, **changes})


@pytest.mark.parametrize("form", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.1}, "`model.dropout` must be null.* Received: 0.1"),
        ({"merges": [["q", "zzz"]]}, r"`model.merges\[0\]` must be two tokens .* Received: \['q', 'zzz'\]"),
        ({"vocab": [1]}, "`model.vocab` must be an object from tokens to integers"),
        ({"type": "Unigram"}, "`model.vocab` must be a list of pairs of a piece and its score"),
    ],
)
def test_models_that_are_not_supported_are_refused(form, changes, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer({**form, "model": {**form["model"], **changes}})
