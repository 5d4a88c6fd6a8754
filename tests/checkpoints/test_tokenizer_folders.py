"""Every kind of folder gives the ids and chats that transformers gives, and so does the folder that is saved of it."""

import json
import random
import shutil

import pytest
import transformers

import keras_tfm as ktfm
from keras_tfm.checkpoints import load_chat_template, load_tokenizer, save
from keras_tfm.checkpoints.tokenizer import write_tokenizer_config
from tests.checkpoints.tokenizer_folders import FOLDERS, write

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # which nobody uses

FAST = ("qwen2_slow", "gpt2_slow", "bert_slow", "llama2_chatml")
TEXTS = [
    "",
    "Hello world",
    "What light, covid or <x> single singles",
    "to  the two   spaces",
    "I'LL can't 12345",
    "naïve café e\u0301x COVID é <custom><|im_start|>",
    "<mask> a <mask>  b<s></s>",
    "<|endoftext|>x<|user|> word words [PAD][NEW]",
    "foo-bar FOO-BAR éx Éx-",
    "madeup0 <|begin|>",
    "日本語 한국어\n\n",
]
MESSAGES = [
    {"role": "user", "content": "Who <|im_end|> are you?"},
    {"role": "assistant", "content": "covid <x> I\n\nam"},
]
KEPT = ("model_max_length", "padding_side", "special_tokens_map", "clean_up_tokenization_spaces", "chat_template")


def random_texts(number):
    generator = random.Random(0)
    parts = [part for text in TEXTS for part in text.split(" ")] + [" ", "  ", "\t", "\n"]
    # Not with a space first: of such texts transformers takes one away where SentencePiece does not.
    return ["x" + "".join(generator.choices(parts, k=6)) for _ in range(number)]


def ids_of(theirs, texts, **options):
    return [theirs(text, **options)["input_ids"] for text in texts]


def check_equal(theirs, again, texts):
    """Two tokenizers of transformers are the same."""
    assert type(again) is type(theirs)
    assert len(again) == len(theirs)
    for adds in (True, False):
        assert ids_of(again, texts, add_special_tokens=adds) == ids_of(theirs, texts, add_special_tokens=adds)
    assert again("What light", "covid")["input_ids"] == theirs("What light", "covid")["input_ids"]
    assert {name: getattr(again, name) for name in KEPT} == {name: getattr(theirs, name) for name in KEPT}
    if theirs.chat_template:
        for tools in (None, [{"type": "function"}]):
            expected = theirs.apply_chat_template(MESSAGES, tools=tools)["input_ids"]
            assert again.apply_chat_template(MESSAGES, tools=tools)["input_ids"] == expected


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in FAST else pytest.mark.slow) for one in FOLDERS])
def test_ids_and_chats_are_those_of_transformers_before_and_after_saving(name, tmp_path):
    folder, saved, texts = tmp_path / "folder", tmp_path / "saved", TEXTS + random_texts(60)
    folder.mkdir()
    write(name, folder)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert ours.vocabulary_size == len(theirs)
    assert ours.encode(texts) == ids_of(theirs, texts)
    assert ours.encode(texts, add_special_tokens=False) == ids_of(theirs, texts, add_special_tokens=False)
    if not name.startswith("t5"):  # whose vocabulary has "</s>" as a piece of text, for the library `tokenizers`
        options = {"add_special_tokens": False, "split_special_tokens": True}
        assert ours.encode(texts, False, allow_special=False) == ids_of(theirs, texts, **options)
    if theirs.chat_template:
        template = load_chat_template(folder)
        for tools in (None, [{"type": "function"}]):
            expected = theirs.apply_chat_template(MESSAGES, tools=tools)["input_ids"]
            assert template.encode(MESSAGES, ours, False, tools=tools) == expected
            assert ours.encode(template(MESSAGES, False, tools=tools)) == expected
    ours.save(saved)
    write_tokenizer_config(saved, ours)
    shutil.copy(folder / "config.json", saved)
    check_equal(theirs, transformers.AutoTokenizer.from_pretrained(saved), texts)
    assert load_tokenizer(saved).encode(texts) == ours.encode(texts)


@pytest.mark.parametrize("said", [True, False])
def test_save_keeps_what_the_folder_said_and_tells_how_much_the_model_reads(said, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write("gpt2", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if not said:
        config.pop("model_max_length")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    sizes = {"max_sequence_length": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
    model = ktfm.models.build_gpt(vocabulary_size=tokenizer.vocabulary_size + 2, **sizes)
    save(model, tmp_path / "saved", tokenizer)
    (tmp_path / "saved" / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "eos_token_id": [1, 2]}))
    checkpoint = ktfm.checkpoints.open(tmp_path / "saved")
    save(checkpoint.model(), tmp_path / "again", checkpoint.tokenizer())
    written = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert written == {"temperature": 0.5, "eos_token_id": [1, 2]}
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for name in ("saved", "again"):
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert again.model_max_length == (77 if said else 8)
        assert again.chat_template == theirs.chat_template
        assert len(again) == len(theirs)  # rows to spare are no tokens
        again.add_tokens(["<new>"])
        assert again("<new>")["input_ids"] == [tokenizer.vocabulary_size]


def test_rows_of_the_model_to_spare_are_no_tokens(tmp_path):
    write("qwen2_slow", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 512}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocabulary_size == 512
    assert tokenizer.decode([450, tokenizer.vocabulary["a"]]) == "a"
    assert max(tokenizer.vocabulary.values()) == 402


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_class": "CodeGenTokenizer"}, "class that is known here.*Received: CodeGenTokenizer in"),
        ({"added_tokens_decoder": {"500": {"content": "<x>"}}}, "'<x>' must have the id 401.*Received: 500"),
        ({"added_tokens_decoder": {"a": {"content": "<x>"}}}, "must be integers. Received: 'a'"),
        ({"added_tokens_decoder": []}, "`added_tokens_decoder` of tokenizer_config.json must be an object"),
        ({"added_tokens_decoder": {"401": {"content": "<x>", "lstrip": 1}}}, "`lstrip` of the added token '<x>'"),
        ({"add_bos_token": "yes"}, "`add_bos_token` of tokenizer_config.json must be true or false. Received: 'yes'"),
        ({"extra_special_tokens": "<x>"}, "`extra_special_tokens` .* must be a list or an object. Received: '<x>'"),
        ({"chat_template": [{"name": "default"}]}, "`chat_template` of tokenizer_config.json must be text, or a list"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(files, message, tmp_path):
    write("gpt2_roles", tmp_path)
    config = {"tokenizer_class": "GPT2Tokenizer", **files}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="Received: that of model_type 'llama'"):
        load_tokenizer(tmp_path)
