"""SentencePiece models in the graph, beside `sentencepiece` itself."""

import copy
import io
import json
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from keras_tfm.checkpoints import load_tokenizer
from keras_tfm.generation import TextGenerator
from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import SentencePieceTokenizer
from tests.harness import fresh_process

REASON = "needs keras-tfm[sentencepiece]: tensorflow-text is not built for every platform and TensorFlow"
pytest.importorskip("tensorflow_text", reason=REASON, exc_type=ImportError)
sentencepiece = pytest.importorskip("sentencepiece", reason=REASON)

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
UNICODE = [
    "",
    " ",
    "  two  spaces ",
    "\ttab\nline\r\n",
    "naïve café ﬁ ½ ①",
    "日本語 한국어 Привет שָׁלוֹם हिन्दी",
    "👩‍👩‍👧 🇨🇭 e\u0301",
    "<s> </s> <unk> <0x0A> <turn>",
    "a▁b\u200b\ufeff\0",
]


def without_leading_spaces(texts: list[str]) -> list[str]:
    """Of several spaces at the start, tensorflow-text 2.21 takes away others than sentencepiece 0.2.3."""
    return [text.lstrip(" ") for text in texts]


def train(**options) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SHAKESPEARE.read_text(encoding="utf-8")[:60_000].splitlines()),
        model_writer=file,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return file.getvalue()


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """As T5's and as Llama's and Gemma's: a Unigram model, and BPE with all bytes and nothing normalized."""
    return {
        "unigram": train(model_type="unigram", vocab_size=400),
        "bpe": train(
            model_type="bpe",
            vocab_size=600,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            user_defined_symbols=["<turn>"],
        ),
    }


@pytest.fixture(scope="session", params=["unigram", "bpe"])
def pair(request, models):
    """Ours and theirs of one model."""
    model = models[request.param]
    return SentencePieceTokenizer(model), sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="session")
def lines() -> list[str]:
    return SHAKESPEARE.read_text(encoding="utf-8")[60_000:80_000].splitlines()[:400] + UNICODE


def test_ids_and_texts_are_those_of_sentencepiece(pair, lines):
    ours, theirs = pair
    expected = theirs.encode(lines)
    assert ours.encode(lines) == expected
    assert without_leading_spaces(ours.decode(expected)) == without_leading_spaces(theirs.decode(expected))
    assert [ours.encode(text) for text in UNICODE] == theirs.encode(UNICODE)
    assert ours.vocabulary_size == theirs.vocab_size()
    assert ours.end_of_text_id == theirs.eos_id()
    assert ours.begin_of_text_id == theirs.bos_id()


def test_each_id_decodes_as_in_sentencepiece(pair):
    ours, theirs = pair
    rows = [[i] for i in range(theirs.vocab_size())] + [[i, theirs.eos_id(), i] for i in range(theirs.vocab_size())]
    assert without_leading_spaces(ours.decode(rows)) == without_leading_spaces(theirs.decode(rows))


def test_bytes_of_tokens_joined_are_the_text(pair, lines):
    ours, theirs = pair
    for text in lines:
        joined = b"".join(ours.token_bytes(i) for i in ours.encode(text)).decode("utf-8")
        assert joined.removeprefix(" ") == theirs.decode(theirs.encode(text))
    assert ours.token_bytes(theirs.eos_id()) == b""
    assert ours.token_bytes(theirs.unk_id()) == " ⁇ ".encode()
    the = theirs.piece_to_id("▁the")
    assert (ours.token_bytes(the), ours.id_to_token(the), ours.token_to_id("▁the")) == (b" the", "▁the", the)


def test_byte_pieces_are_their_byte(models):
    tokenizer = SentencePieceTokenizer(models["bpe"])
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode()]
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xc3", b"\xa9"]
    assert tokenizer.decode([ids, ids[:1]]) == ["é", "\ufffd"]


def test_bytes_that_are_no_utf_8_are_read_as_in_sentencepiece(pair):
    ours, theirs = pair
    text = b"The \xff\xc3 king"
    assert ours.encode(text) == theirs.encode(text)


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


def test_a_new_seed_leaves_the_model_in_place(pair):
    ours, theirs = pair
    tf.random.set_seed(1)  # empties the cache of eager kernels, one of which would own the model
    assert ours.decode(ours.encode("the king")) == "the king"
    tf.random.set_seed(2)
    assert ours.encode(["the king"]) == theirs.encode(["the king"])


def test_the_begin_of_text_is_added_if_asked_for(pair):
    _, theirs = pair
    ours = SentencePieceTokenizer(theirs.serialized_model_proto(), add_begin_of_text=True)
    expected = theirs.encode(["the king", ""], add_bos=True)
    assert ours.encode(["the king", ""]) == expected
    assert ours.decode(expected) == ["the king", ""]


def test_ids_beyond_the_pieces_decode_to_nothing(models):
    tokenizer = SentencePieceTokenizer(models["unigram"], vocabulary_size=410)
    ids = tokenizer.encode("the king")
    assert tokenizer.vocabulary_size == 410
    assert tokenizer.decode([[405, *ids, 409], [400]]) == ["the king", ""]
    assert (tokenizer.token_bytes(409), tokenizer.id_to_token(409)) == (b"", "")


def test_copies_and_files_give_the_same_tokenizer(models, tmp_path):
    tokenizer = SentencePieceTokenizer(models["bpe"], 610, end_of_text="<turn>", add_begin_of_text=True)
    assert tokenizer.end_of_text_id == tokenizer.token_to_id("<turn>")
    again = copy.deepcopy(tokenizer)
    assert again.encode("the king") == tokenizer.encode("the king")
    assert (again.vocabulary_size, again.end_of_text_id) == (610, tokenizer.end_of_text_id)
    tokenizer.save(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == models["bpe"]
    for path in (tmp_path / "new", tmp_path / "new" / "tokenizer.model"):
        assert SentencePieceTokenizer.from_file(path).encode("a") == tokenizer.encode("a")[1:]


@pytest.mark.slow
def test_an_exported_writer_holds_the_model(models, tmp_path, without_xla):
    tokenizer = SentencePieceTokenizer(models["bpe"])
    numbers = {"max_sequence_length": 32, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
    writer = TextGenerator(build_gpt(vocabulary_size=tokenizer.vocabulary_size, **numbers), tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=4)
    script = """
import json, sys, tensorflow as tf, tensorflow_text
served = tf.saved_model.load(sys.argv[1])
ids = served.signatures["tokenize"](texts=tf.constant(["the king", "日本"]))
answer = served.signatures["serving_default"](prompts=tf.constant(["the king"]))
print(json.dumps([{name: value.numpy().tolist() for name, value in ids.items()}, answer["text"].numpy()[0].decode()]))
assert "keras_tfm" not in sys.modules
"""
    ids, text = json.loads(fresh_process(script, tmp_path / "1").splitlines()[-1])
    assert tokenizer.encode("the king") in [row[: len(tokenizer.encode("the king"))] for row in ids["token_ids"]]
    assert text == writer("the king", max_new_tokens=4)


def test_checkpoints_with_a_model_file_are_read(models, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 640}))
    (tmp_path / "tokenizer.model").write_bytes(models["bpe"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<turn>"}))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=models["bpe"])
    for kind in (None, {"type": "BPE", "byte_fallback": True}, {"type": "Unigram"}):
        if kind is not None:
            (tmp_path / "tokenizer.json").write_text(json.dumps({"model": kind}))
        tokenizer = load_tokenizer(tmp_path)
        assert isinstance(tokenizer, SentencePieceTokenizer)
        assert tokenizer.encode("the king") == theirs.encode("the king")
        assert (tokenizer.vocabulary_size, tokenizer.end_of_text_id) == (640, theirs.piece_to_id("<turn>"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    with pytest.raises(ValueError, match=r"must be a piece of the SentencePiece model. Received: '<\|im_end\|>'"):
        load_tokenizer(tmp_path)


def test_wrong_models_and_arguments_are_refused(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.model or spiece.model. Received: '.*nowhere'"):
        SentencePieceTokenizer.from_file(tmp_path / "nowhere")
    for wrong in (b"no model", b""):
        with pytest.raises(ValueError, match=f"must be a SentencePiece model. Received: {len(wrong)} bytes"):
            SentencePieceTokenizer(wrong)
    with pytest.raises(TypeError, match="must be bytes; .* Received: tokenizer.model of type str"):
        SentencePieceTokenizer("tokenizer.model")
    with pytest.raises(ValueError, match="at least the number of pieces, 400. Received: 399"):
        SentencePieceTokenizer(models["unigram"], vocabulary_size=399)
    with pytest.raises(ValueError, match="must be a piece of the SentencePiece model. Received: '<eos>'"):
        SentencePieceTokenizer(models["unigram"], end_of_text="<eos>")


def test_a_model_without_begin_and_end_has_none():
    model = train(model_type="unigram", vocab_size=300, bos_id=-1, eos_id=-1)
    tokenizer = SentencePieceTokenizer(model)
    assert (tokenizer.end_of_text_id, tokenizer.begin_of_text_id, tokenizer.special_tokens) == (None, None, {})
    with pytest.raises(ValueError, match="must be False for a model without .* Received: True"):
        SentencePieceTokenizer(model, add_begin_of_text=True)


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


@pytest.mark.parametrize("package", ["tensorflow_text", "sentencepiece"])
def test_a_missing_package_is_named_with_what_to_install(models, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'need the package {package}. .*pip install "\.\[sentencepiece\]"'):
        SentencePieceTokenizer(models["unigram"])
