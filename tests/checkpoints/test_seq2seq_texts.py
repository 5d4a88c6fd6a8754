"""Encoder-decoders with their tokenizers write the texts of transformers, from its folders and from ours."""

import json

import pytest
import torch
import transformers

from keras_tfm.checkpoints import open as open_checkpoint
from keras_tfm.checkpoints import save
from keras_tfm.samplers import BeamSampler, GreedySampler
from keras_tfm.tokenizers.sentence_piece_proto import NORMAL, read_proto
from keras_tfm_cli import main as command
from tests.checkpoints import marian_folders
from tests.checkpoints.seq2seq_families import shaken
from tests.checkpoints.tokenizer_folders import roberta
from tests.harness import fresh_process

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # which nobody uses

TEXTS = ["In the beginning God created the heaven", " Let  there be light", "día <mask> x", ""]
LENGTH = 7
_SIZES = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
_SIZES |= {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "d_model": 16, "max_position_embeddings": 64}


def bart(folder):
    roberta(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    forced = {"forced_bos_token_id": ids["bos_token_id"], "forced_eos_token_id": ids["eos_token_id"]}
    return tokenizer, transformers.BartForConditionalGeneration, {**ids, "start": ids["eos_token_id"]}, forced


def _pieces():
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    found = [(one.text, one.score) for one in read_proto(marian_folders.model("source")).pieces if one.kind == NORMAL]
    return special + found


def mbart(folder):
    """A source ends with its language, and a target is started by its own."""
    tokenizer = transformers.MBartTokenizer(vocab=_pieces(), src_lang="en_XX", tgt_lang="es_XX")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "start": tokenizer.convert_tokens_to_ids("es_XX")}
    return tokenizer, transformers.MBartForConditionalGeneration, ids, {"forced_eos_token_id": 2}


def mbart50(folder):
    """A source begins with its language, and a target is forced to begin with its own."""
    tokenizer = transformers.MBart50Tokenizer(vocab=_pieces(), src_lang="en_XX", tgt_lang="es_XX")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "start": 2}
    forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids("es_XX"), "forced_eos_token_id": 2}
    return tokenizer, transformers.MBartForConditionalGeneration, ids, forced


def marian(folder, **options):
    marian_folders.write(folder, **options)
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    pad = tokenizer.pad_token_id
    ids = {"pad_token_id": pad, "eos_token_id": 0, "bos_token_id": 0, "start": pad}
    return tokenizer, transformers.MarianMTModel, ids, {"bad_words_ids": [[pad]], "forced_eos_token_id": 0}


def marian_two_vocabularies(folder):
    tokenizer, kind, ids, forced = marian(folder, separate=True)
    pad = tokenizer.target_encoder["<pad>"]
    ids |= {"decoder_vocab_size": len(tokenizer.target_encoder), "share_encoder_decoder_embeddings": False}
    return tokenizer, kind, {**ids, "start": pad}, {**forced, "bad_words_ids": [[pad]]}


FOLDERS = {one.__name__: one for one in (bart, mbart, mbart50, marian, marian_two_vocabularies)}
WAYS = {
    "greedy": (GreedySampler(), {"num_beams": 1}),
    "beams": (BeamSampler(num_beams=3), {"num_beams": 3}),
}


def their_texts(model, tokenizer, options):
    rows = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        ids = model.generate(
            rows["input_ids"], attention_mask=rows["attention_mask"], max_new_tokens=LENGTH, do_sample=False, **options
        )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def lively(model, tokenizer):
    """Gives the model weights with which it writes different texts."""
    for seed in range(30):
        texts = their_texts(shaken(model, 0.8, seed), tokenizer, {"num_beams": 1})
        if len(set(texts)) > 2:
            return
    raise AssertionError(f"no weights write different texts: {texts}")


def made(name, folder):
    """A model that writes different texts and its tokenizer, in a folder that transformers writes and reads."""
    folder.mkdir()
    tokenizer, kind, ids, forced = FOLDERS[name](folder)
    numbers = {key: value for key, value in ids.items() if key != "start"}
    config = kind.config_class(vocab_size=len(tokenizer), decoder_start_token_id=ids["start"], **_SIZES, **numbers)
    model = kind(config)
    model.generation_config.update(decoder_start_token_id=ids["start"], **forced)
    lively(model, tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return kind.from_pretrained(folder), type(tokenizer).from_pretrained(folder)


@pytest.mark.usefixtures("without_xla")
@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_texts_are_those_of_transformers_from_its_folder_and_from_ours(name, tmp_path):
    folder, saved = tmp_path / "folder", tmp_path / "saved"
    model, tokenizer = made(name, folder)
    writer = open_checkpoint(folder).text_to_text()
    assert writer.encode(TEXTS) == tokenizer(TEXTS)["input_ids"]
    texts = {way: their_texts(model, tokenizer, options) for way, (_, options) in WAYS.items()}
    for way, (sampler, _) in WAYS.items():
        assert writer(TEXTS, LENGTH, sampler=sampler) == texts[way]
    save(writer.model, saved, writer.source_tokenizer)
    again = open_checkpoint(saved).text_to_text("greedy")
    assert again(TEXTS, LENGTH) == texts["greedy"]
    theirs = type(model).from_pretrained(saved), transformers.AutoTokenizer.from_pretrained(saved)
    assert theirs[1](TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert their_texts(*theirs, WAYS["beams"][1]) == texts["beams"]
    start = model.config.decoder_start_token_id
    assert json.loads((saved / "config.json").read_text())["decoder_start_token_id"] == start


SERVE = """
import json, sys
import tensorflow as tf
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than all else here
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
texts = served(tf.constant(json.loads(sys.argv[2])))["text"].numpy()
print(json.dumps([[text.decode() for text in texts], [name for name in sys.modules if name == "keras_tfm"]]))
"""


@pytest.mark.usefixtures("without_xla")
@pytest.mark.slow
def test_a_folder_of_marian_becomes_a_saved_model_of_tensorflow_alone_on_the_command_line(tmp_path, capsys):
    theirs = made("marian", tmp_path / "folder")
    expected = their_texts(*theirs, WAYS["beams"][1])
    options = ["--num-beams", "3", "--max-new-tokens", str(LENGTH)]
    assert command(["generate", str(tmp_path / "folder"), TEXTS[0], *options]) == 0
    assert capsys.readouterr().out == expected[0] + "\n"
    assert command(["export", str(tmp_path / "folder"), str(tmp_path / "served"), *options]) == 0
    answer = fresh_process(SERVE, tmp_path / "served", json.dumps(TEXTS)).splitlines()[-1]
    assert json.loads(answer) == [expected, []]
