"""Folders with the files of tokenizers as transformers writes them, and as older ones have them: name -> FOLDERS[name].

Each is small and of one family: `write(name, folder)` puts its files and a config.json there.
"""

import base64
import functools
import io
import json
from pathlib import Path
from types import MappingProxyType

import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken

from keras_tfm.tokenizers.sentence_piece_proto import NORMAL, read_proto
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS
from tests.checkpoints import marian_folders

SHAKESPEARE = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
CHATML = (
    "{{ bos_token if bos_token is defined else '' }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{{ eos_token if eos_token is defined else 'no' }}"
    "{{ pad_token if pad_token is defined else 'no' }}"
)
INST = "{% for m in messages %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' + eos_token }}{% endfor %}"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz-.,!", "the", "what", "foo"]
PIECES += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]


@functools.cache
def _byte_pairs() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    trained.train_from_iterator([SHAKESPEARE.read_text(encoding="utf-8")[:30_000]], trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], tuple(map(tuple, model["merges"]))


def _with(*tokens: str) -> dict[str, int]:
    vocabulary, _ = _byte_pairs()
    return vocabulary | {token: len(vocabulary) + number for number, token in enumerate(tokens)}


@functools.cache
def _sentence_piece(kind: str, **options) -> bytes:
    lines, file = SHAKESPEARE.read_text(encoding="utf-8")[:30_000].split("\n"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, vocab_size=400, model_type=kind, minloglevel=2, **options
    )
    return file.getvalue()


def _exactly(**options) -> bytes:
    return _sentence_piece(
        "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, **options
    )


def _put(folder: Path, **files) -> None:
    names = {"config": "tokenizer_config", "added": "added_tokens", "special": "special_tokens_map"}
    for name, content in files.items():
        (folder / f"{names.get(name, name)}.json").write_text(json.dumps(content))


def _put_slowly(folder: Path, vocabulary: dict[str, int]) -> None:
    _put(folder, vocab=vocabulary)
    merges = "\n".join(" ".join(pair) for pair in _byte_pairs()[1])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")


def _byte_level(tokens: list[str], words: str, **model):
    rust = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=_byte_pairs()[0], merges=[*_byte_pairs()[1]], **model))
    pattern = WORD_PATTERNS[words].pre_tokenizer["pretokenizers"][0]["pattern"]["Regex"]
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    rust.decoder = tokenizers.decoders.ByteLevel()
    rust.add_special_tokens(tokens)
    return rust


def gpt2(folder):
    theirs = transformers.GPT2Tokenizer(vocab=_with("<|endoftext|>"), merges=[*_byte_pairs()[1]])
    rules = AddedToken("<x>", lstrip=True, rstrip=True), AddedToken("single", single_word=True)
    theirs.add_tokens(["covid", *rules])
    more = ["<|im_start|>", "<|im_end|>"]
    theirs.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": more})
    theirs.chat_template, theirs.model_max_length, theirs.padding_side = CHATML, 77, "left"
    theirs.save_pretrained(folder)


def gpt2_slow(folder):
    _put_slowly(folder, _with("<|endoftext|>"))
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": True}
    special = {"additional_special_tokens": ["<|user|>"], "bos_token": "<|endoftext|>"}
    _put(folder, config=config, added={"<|user|>": 401, "word": 402}, special=special)


def gpt2_roles(folder):
    _put_slowly(folder, _with("<|endoftext|>"))
    templates = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "TOOLS {{ tools|length }}"}]
    flags = {"add_bos_token": True, "add_eos_token": True, "pad_token": "[NEW]", "chat_template": templates}
    _put(folder, config={"tokenizer_class": "GPT2Tokenizer", **flags})


def roberta(folder):
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    mask = AddedToken("<mask>", lstrip=True)
    transformers.RobertaTokenizer(
        vocab=_with(*names), merges=[*_byte_pairs()[1]], add_prefix_space=True, mask_token=mask
    ).save_pretrained(folder)


def roberta_slow(folder):
    _put_slowly(folder, _with("<s>", "<pad>", "</s>", "<unk>", "<mask>", "madeup0"))
    rules = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    _put(folder, special={"mask_token": {"content": "<mask>", **rules}})


def qwen2(folder):
    theirs = transformers.Qwen2Tokenizer(vocab=_with("<|endoftext|>"), merges=[*_byte_pairs()[1]])
    theirs.add_tokens(["<custom>", "covid é", "e\u0301x"])
    theirs.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    theirs.chat_template = CHATML
    theirs(["a", "b c"], padding=True, truncation=True, max_length=16)  # is saved with it
    theirs.save_pretrained(folder)


def qwen2_slow(folder):
    _put_slowly(folder, _with())
    tokens = {str(400 + i): {"content": f"<|{name}|>", "special": True} for i, name in enumerate(_QWEN)}
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    config = {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 32768, "chat_template": CHATML, **roles}
    _put(folder, config={**config, "added_tokens_decoder": tokens})


_QWEN = ("endoftext", "im_start", "im_end")


def llama3(folder):
    rust = _byte_level(["<|begin|>", "<|im_start|>", "<|im_end|>"], "llama3", ignore_merges=True)
    template = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 400)]
    )
    rust.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(), template])
    roles = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "clean_up_tokenization_spaces": True}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, **roles)
    theirs.chat_template = CHATML
    theirs.save_pretrained(folder)


def bloom(folder):
    rust = _byte_level(["<unk>", "<s>", "</s>", "<pad>"], "bloom")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=rust, padding_side="left", **roles).save_pretrained(folder)


def neox(folder):
    theirs = transformers.GPTNeoXTokenizer(vocab=_with("<|endoftext|>", "<|padding|>"), merges=[*_byte_pairs()[1]])
    theirs.add_tokens([AddedToken("  ", normalized=True), "   "])
    theirs.save_pretrained(folder)


def bert(folder):
    theirs = transformers.BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)})
    theirs.add_tokens(["covid", "foo-bar", AddedToken("Éx", single_word=True)])
    theirs.model_max_length = 64
    theirs.save_pretrained(folder)


def bert_slow(folder):
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    _put(folder, config={"do_lower_case": True}, added={"covid": len(PIECES)})


_LLAMA2 = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "chat_template": INST,
    "legacy": False,
    "model_max_length": 4096,
    "padding_side": "left",
}


def llama2(folder, **changes):
    (folder / "tokenizer.model").write_bytes(_exactly())
    _put(folder, config={**_LLAMA2, **changes})


def llama2_legacy(folder):
    llama2(folder, legacy=True, add_eos_token=True)


def llama2_chatml(folder):
    names = {"1": "<s>", "400": "<|im_start|>", "401": "<|im_end|>"}
    tokens = {token_id: {"content": name, "special": True} for token_id, name in names.items()}
    tokens["402"] = {"content": "word", "special": False, "normalized": True, "lstrip": True}
    llama2(folder, eos_token="<|im_end|>", chat_template=CHATML, added_tokens_decoder=tokens)


def llama2_added(folder):
    llama2(folder)
    _put(folder, added={"<pad>": 400}, special={"pad_token": "<pad>"})


def gemma(folder):
    turns = ["<start_of_turn>", "<end_of_turn>", "\n\n"]
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"}
    model = _exactly(add_dummy_prefix=False, user_defined_symbols=",".join(turns), control_symbols="<mask>", **ids)
    (folder / "tokenizer.model").write_bytes(model)
    turn = "<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
    template = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}"
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "bos_token": "<bos>"}
    _put(folder, config={**config, "chat_template": template})


def t5(folder):
    (folder / "spiece.model").write_bytes(_sentence_piece("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    _put(folder, config={"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "extra_special_tokens": ["<extra_id_0>"]})


def t5_sentinels(folder):
    (folder / "spiece.model").write_bytes(_sentence_piece("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    _put(folder, config={"tokenizer_class": "T5Tokenizer", "extra_ids": 7})


def albert(folder):
    ids = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    (folder / "spiece.model").write_bytes(_sentence_piece("unigram", control_symbols="[MASK]", **ids))
    _put(folder, config={"tokenizer_class": "AlbertTokenizer"})


def _unigram(name: str, first: list[str], last: list[str] = (), converted: bool = False, **options):
    """A folder that a class of transformers saved; `converted`, with what older versions had in tokenizer.json."""

    def put(folder):
        proto = read_proto(_sentence_piece("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
        pieces = [(piece.text, piece.score) for piece in proto.pieces if piece.kind == NORMAL]
        vocab = [*((token, 0.0) for token in first), *pieces, *((token, 0.0) for token in last)]
        if name != "DebertaV2Tokenizer":
            options["_spm_precompiled_charsmap"] = proto.precompiled_charsmap
        getattr(transformers, name)(vocab=vocab, **options).save_pretrained(folder)
        if converted:
            path = folder / "tokenizer.json"
            document = json.loads(path.read_text(encoding="utf-8"))
            spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
            strip = {"type": "Strip", "strip_left": False, "strip_right": True}
            document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"], strip, spaces]}
            document["pre_tokenizer"] = document["decoder"]
            path.write_text(json.dumps(document), encoding="utf-8")

    return put


def _file_alone(name: str, file: str, ids: dict[str, str | int] = MappingProxyType({}), **config):
    """A folder of a class whose SentencePiece file, with these ids, is all that it has, as older ones are."""

    def put(folder):
        (folder / file).write_bytes(_sentence_piece("unigram", **ids))
        _put(folder, config={"tokenizer_class": name, **config})

    return put


def mbart_converted(folder):
    """What older versions had in tokenizer.json, to which transformers does not listen."""
    _file_alone("MBartTokenizer", "sentencepiece.bpe.model", src_lang="fr_XX")(folder)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "sentencepiece.bpe.model").unlink()
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    charsmap = base64.b64encode(read_proto(_sentence_piece("unigram")).precompiled_charsmap).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    signs = document["decoder"]
    path.write_text(json.dumps({**document, "normalizer": normalizer, "pre_tokenizer": signs}), encoding="utf-8")


_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
_XLNET = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
_CAMEMBERT = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
_DEBERTA = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
_DEBERTA_IDS = {f"{role}_id": number for number, role in enumerate(("pad", "bos", "eos", "unk"))}
_DEBERTA_IDS |= dict(zip(("pad_piece", "bos_piece", "eos_piece", "unk_piece"), _DEBERTA, strict=True))


def _as_json(name):
    """A folder as transformers 5 saves it: tokenizer.json alone."""

    def write_json(folder):
        source = folder.with_name(f"{folder.name}_source")
        source.mkdir()
        write(name, source)
        theirs = transformers.AutoTokenizer.from_pretrained(source)
        theirs.add_tokens(["covid"])
        theirs.save_pretrained(folder)

    return write_json


# Name -> (model_type, what writes it). Every family of models that write text is there, and encoders.
FOLDERS = {
    "gpt2": ("gpt2", gpt2),
    "gpt2_slow": ("gpt2", gpt2_slow),
    "gpt2_roles": ("gpt2", gpt2_roles),
    "roberta": ("roberta", roberta),
    "roberta_slow": ("roberta", roberta_slow),
    "qwen2": ("qwen2", qwen2),
    "qwen2_slow": ("qwen2", qwen2_slow),
    "qwen3": ("qwen3", qwen2),
    "llama3": ("llama", llama3),
    "bloom": ("bloom", bloom),
    "neox": ("gpt_neox", neox),
    "bert": ("bert", bert),
    "bert_slow": ("bert", bert_slow),
    "llama2": ("llama", llama2),
    "llama2_legacy": ("llama", llama2_legacy),
    "llama2_chatml": ("llama", llama2_chatml),
    "llama2_added": ("llama", llama2_added),
    "llama2_json": ("llama", _as_json("llama2")),
    "llama2_chatml_json": ("llama", _as_json("llama2_chatml")),
    "mistral_json": ("mistral", _as_json("llama2")),
    "gemma2": ("gemma2", gemma),
    "gemma2_json": ("gemma2", _as_json("gemma2")),
    "t5": ("t5", t5),
    "marian": ("marian", marian_folders.write),
    "t5_sentinels": ("t5", t5_sentinels),
    "mt5": ("mt5", _unigram("T5Tokenizer", ["<pad>", "</s>", "<unk>"], converted=True, extra_ids=0)),
    "albert": ("albert", albert),
    "xlnet": ("xlnet", _unigram("XLNetTokenizer", _XLNET)),
    "xlm_roberta": ("xlm-roberta", _unigram("XLMRobertaTokenizer", _FAIRSEQ, ["<mask>"], converted=True)),
    "camembert": ("camembert", _unigram("CamembertTokenizer", _CAMEMBERT, ["<mask>"])),
    "deberta": ("deberta-v2", _unigram("DebertaV2Tokenizer", _DEBERTA, ["[MASK]"], do_lower_case=True)),
    "camembert_file": ("camembert", _file_alone("CamembertTokenizer", "sentencepiece.bpe.model")),
    "mbart_file": ("mbart", _file_alone("MBartTokenizer", "sentencepiece.bpe.model", tgt_lang="es_XX")),
    "mbart_converted": ("mbart", mbart_converted),
    "mbart50_file": ("mbart", _file_alone("MBart50Tokenizer", "sentencepiece.bpe.model", src_lang="de_DE")),
    "deberta_file": ("deberta-v2", _file_alone("DebertaV2Tokenizer", "spm.model", _DEBERTA_IDS, split_by_punct=True)),
}


def write(name: str, folder: Path) -> None:
    """Puts the files of a folder there."""
    model_type, put = FOLDERS[name]
    put(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
