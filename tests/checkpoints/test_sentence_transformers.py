"""Folders of sentence-transformers, in the dialects before and since version 5.4: lengths, prompts, normalization.

The reference follows what `SentenceTransformer.encode` does: prompt, tokenizer, encoder, pooling, perhaps a norm.
"""

import json
import string

import keras
import numpy as np
import pytest
import torch
import transformers

from keras_tfm import checkpoints
from keras_tfm.models import SentenceEncoder, TextClassifier, TokenClassifier, build_bert
from keras_tfm.pipelines import EntityRecognition, SentenceEmbedding, TextClassification
from tests.checkpoints.test_encoders import TOLERANCE

TEXTS = ["a b c", " ".join(string.ascii_lowercase), "x", "", "the end of it"]
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
OLD = {kind: f"sentence_transformers.models.{kind}" for kind in NEW}
PROMPTS = {"query": "a query ", "document": "", "title": "b "}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with the encoder and its tokenizer, of 32 positions."""
    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase
    (folder / "vocab.txt").write_text("\n".join([*special, *letters, *(f"##{letter}" for letter in letters)]))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=57,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("roberta")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    known = [tiny_tokenizer.id_to_token(i) for i in range(tiny_tokenizer.vocabulary_size)]
    tokens += [token for token in known if token not in tiny_tokenizer.special_tokens]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in tiny_tokenizer.merges))
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(tokens),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=34,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=3,
        initializer_range=0.3,
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    transformers.RobertaTokenizer.from_pretrained(folder, model_max_length=32).save_pretrained(folder)
    return folder


def sentences(source, folder, dialect="new", mode="mean", normalize=True, length=None, **texts):
    """A copy of `source` with the files that sentence-transformers 6.2 ("new") or 2 ("old") writes beside them."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    types, paths = {"new": NEW, "old": OLD}[dialect], ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": types[kind]}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    if dialect == "new":
        pooling = {"embedding_dimension": 12, "pooling_mode": mode, "include_prompt": True}
        encoder = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
        tokens = json.loads((folder / "tokenizer_config.json").read_text())
        if length is not None:
            tokens["model_max_length"] = length
        write(folder / "tokenizer_config.json", tokens)
    else:
        names = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
        pooling = {"word_embedding_dimension": 12, **{name: kind == mode for kind, name in names.items()}}
        encoder = {"max_seq_length": length, "do_lower_case": False}
    files = {"modules.json": modules, "1_Pooling/config.json": pooling, "sentence_bert_config.json": encoder}
    for name, content in {**files, "config_sentence_transformers.json": texts}.items():
        write(folder / name, content)
    return folder


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def encode(folder, texts, mode="mean", normalize=True, length=None, prompt="", kind="BertModel"):
    """What sentence-transformers computes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    texts = [prompt + text for text in texts]
    given = tokenizer(texts, padding=True, truncation=True, max_length=length or 32, return_tensors="pt")
    with torch.no_grad():
        states = model(**given).last_hidden_state.numpy()
    mask = given["attention_mask"].numpy()[..., None]
    vectors = states[:, 0] if mode == "cls" else (states * mask).sum(1) / mask.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors


CASES = [
    ("new", "cls", False, 16),
    pytest.param("old", "mean", True, 9, marks=pytest.mark.slow),
    pytest.param("new", "mean", True, None, marks=pytest.mark.slow),
    pytest.param("old", "cls", False, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dialect", "mode", "normalize", "length"), CASES)
@pytest.mark.filterwarnings("ignore:.* texts have more than")
def test_vectors_and_lengths_survive_reading_and_saving(dialect, mode, normalize, length, bert, tmp_path):
    texts = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    theirs = sentences(bert, tmp_path / "theirs", dialect, mode, normalize, length, **texts)
    opened = checkpoints.open(theirs)
    embed = opened.pipeline()
    assert embed.sequence_length == (length or 32)
    options = {"mode": mode, "normalize": normalize, "length": length}
    for name, prompt in {None: PROMPTS["query"], **PROMPTS}.items():
        expected = encode(bert, TEXTS, prompt=prompt, **options)
        np.testing.assert_allclose(embed(TEXTS, prompt_name=name), expected, atol=TOLERANCE)
    np.testing.assert_allclose(embed(TEXTS, prompt="x y"), encode(bert, TEXTS, prompt="x y", **options), atol=TOLERANCE)

    checkpoints.save(embed.model, tmp_path / "ours", opened.tokenizer())
    again = checkpoints.open(tmp_path / "ours").pipeline()
    np.testing.assert_array_equal(again(TEXTS), embed(TEXTS))
    assert (again.sequence_length, again.model.prompts) == (embed.sequence_length, PROMPTS)
    written = {
        str(path.relative_to(tmp_path / "ours")): json.loads(path.read_text())
        for path in (tmp_path / "ours").rglob("*.json")
    }
    assert written["config_sentence_transformers.json"] == texts
    assert written["sentence_bert_config.json"]["max_seq_length"] == (length or 32)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in written["modules.json"]]
    assert kinds == ["Transformer", "Pooling", "Normalize"][: 2 + normalize]


def test_a_keras_file_keeps_what_the_texts_are_to_be(bert, tmp_path):
    texts = {"prompts": PROMPTS, "default_prompt_name": "title"}
    model = checkpoints.load(sentences(bert, tmp_path / "theirs", normalize=False, length=16, **texts))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for name in ("normalize", "sequence_length", "prompts", "default_prompt"):
        assert getattr(again, name) == getattr(model, name), name
    assert again.default_prompt == "b "


@pytest.mark.parametrize("mode", ["pooling_mode_mean_tokens", None])
def test_the_mean_is_what_a_pooling_without_a_mode_means(mode, bert, tmp_path):
    folder = sentences(bert, tmp_path / "theirs")
    write(folder / "1_Pooling" / "config.json", {} if mode is None else {"pooling_mode": ["mean"]})
    assert type(checkpoints.load(folder).pooling).__name__ == "MeanPooling"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, r"one of \['cls', 'mean'\]. Received: \['max'\]"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"Received: \['cls', 'mean'\]"),
        ("1_Pooling/config.json", {"pooling_mode": 5}, r"Received: \[5\]"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "`include_prompt` .* Received"),
        ("sentence_bert_config.json", {"max_seq_length": "9"}, "positive integer. Received: '9'"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "positive integer. Received: 0"),
        ("config_sentence_transformers.json", {"prompts": [1]}, r"object of strings. Received: \[1\]"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, r"must be one of \[\]. Received: 'x'"),
        ("modules.json", [{"type": NEW["Transformer"], "path": "0_Transformer"},
                          {"type": NEW["Pooling"], "path": "1_Pooling"}], "encoder must be in the folder itself"),
    ],
)  # fmt: skip
def test_settings_that_would_give_other_vectors_are_refused(name, content, message, bert, tmp_path):
    folder = sentences(bert, tmp_path / "theirs")
    write(folder / name, content)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(folder)
    (folder / "config.json").unlink()
    if name == "modules.json":  # and not that a config.json is missing
        with pytest.raises(ValueError, match=message):
            checkpoints.load(folder)


def test_letters_that_only_sentence_transformers_makes_small_are_refused(bert, tmp_path):
    folder = sentences(bert, tmp_path / "theirs", "old")
    write(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert isinstance(checkpoints.load(folder), SentenceEncoder)  # its tokenizer does so anyway
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**tokens, "do_lower_case": False})
    with pytest.raises(ValueError, match="`do_lower_case` .* Received: True and False"):
        checkpoints.load(folder)


def test_arguments_about_texts_are_checked():
    encoder = build_bert(vocabulary_size=29, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=8)
    with pytest.raises(ValueError, match="at most the 16 positions .* Received: sequence_length=17"):
        SentenceEncoder(encoder, sequence_length=17)
    with pytest.raises(TypeError, match="`prompts` must be .* Received: prompts={'a': 5}"):
        SentenceEncoder(encoder, prompts={"a": 5})
    with pytest.raises(ValueError, match=r"one of \['a'\]. Received: default_prompt_name='b'"):
        SentenceEncoder(encoder, prompts={"a": ""}, default_prompt_name="b")


@pytest.mark.filterwarnings("ignore:.* texts have more than")
def test_a_roberta_is_a_sentence_encoder_in_and_out(roberta, tmp_path):
    theirs = sentences(roberta, tmp_path / "theirs", length=20, prompts={"q": "Now, "}, default_prompt_name="q")
    transformers.RobertaModel.from_pretrained(roberta).save_pretrained(theirs)
    opened = checkpoints.open(theirs)
    embed = opened.pipeline()
    texts = ["But soft", "what light " * 20, "", "naïve  <mask>\n"]
    options = {"length": 20, "prompt": "Now, ", "kind": "RobertaModel"}
    expected = encode(theirs, texts, **options)
    np.testing.assert_allclose(embed(texts), expected, atol=TOLERANCE)
    checkpoints.save(embed.model, tmp_path / "ours", opened.tokenizer())
    np.testing.assert_allclose(encode(tmp_path / "ours", texts, **options), expected, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* texts have more than")
def test_a_roberta_classifies_texts_and_pairs_of_any_length(roberta):
    classify = checkpoints.open(roberta).pipeline()
    assert isinstance(classify, TextClassification)
    tokenizer = transformers.AutoTokenizer.from_pretrained(roberta)
    model = transformers.RobertaForSequenceClassification.from_pretrained(roberta).eval()
    words = ["But", "soft", "what", "light", "through", "yonder", "window", "breaks"]
    draw = np.random.default_rng(0)
    texts, pairs = ([" ".join(draw.choice(words, size)) for size in draw.integers(0, 16, 24)] for _ in range(2))
    for columns in ((texts,), (texts, pairs)):
        given = tokenizer(*columns, padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            expected = torch.softmax(model(**given).logits, -1).numpy()
        answers = classify(*columns)
        assert [answer.label for answer in answers] == [f"LABEL_{i}" for i in expected.argmax(1)]
        probabilities = [answer.probability for answer in answers]
        np.testing.assert_allclose(probabilities, expected.max(1), atol=TOLERANCE)


def test_a_tokenizer_that_packs_in_a_way_of_its_own_is_refused(roberta, tiny_tokenizer):
    tokenizer = checkpoints.load_tokenizer(roberta)
    numbers = {"max_sequence_length": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    encoder = build_bert(vocabulary_size=tokenizer.vocabulary_size, num_segments=0, **numbers)
    TextClassification(TextClassifier(encoder, ["a", "b"]), tokenizer)
    EntityRecognition(TokenClassifier(encoder, ["O", "B-X"]), tokenizer)
    other = build_bert(vocabulary_size=tiny_tokenizer.vocabulary_size, **numbers)
    with pytest.raises(TypeError, match="of a RoBERTa with its special tokens, .* of type BytePairTokenizer"):
        SentenceEmbedding(SentenceEncoder(other), tiny_tokenizer)
    document = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    changed = tokenizer.changed(post_processor=document)
    changed.checkpoint_roles = tokenizer.checkpoint_roles
    with pytest.raises(TypeError, match="of a RoBERTa"):
        SentenceEmbedding(SentenceEncoder(encoder), changed)
