"""What the classes of tokenizers in transformers do, whatever the files of a folder say."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keras_tfm.tokenizers.post_processor import post_processor_of

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_END = "<|endoftext|>"
_QUOTES = [{"type": "Replace", "pattern": {"String": two}, "content": '"'} for two in ("``", "''")]
_SPACES = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}
_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_MBART = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
]  # fmt: skip
_MBART50 = [
    *_MBART,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
]  # fmt: skip
Piece = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """What a class of transformers does, whatever a file says.

    Args:
        words: how vocab.json and merges.txt are cut, for `BytePairTokenizer`; None for WordPiece.
        normalization: likewise.
        roles: tokens that have a role unless the folder says otherwise.
        frame: roles of the tokens before and after each text, if the class decides on them, or None.
        legacy: bool, for SentencePiece: the space before a text comes after special tokens too, unless the folder says
            otherwise.
        more: gives further special tokens from the content of tokenizer_config.json, and those without a role there.
        rebuild: makes a tokenizer.json anew with the content of tokenizer_config.json; None where it is read as it is.
        pieces: gives all pieces and their scores, in order of ids, from those of a SentencePiece file and the content
            of tokenizer_config.json; such a file is made a tokenizer.json first. None, if it is read as it is.
        strips: roles of tokens that take the white space before them with them, where the folder has no rules of them.
    """

    words: str | None = None
    normalization: str | None = None
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frame: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    legacy: bool = True
    more: Callable[[Mapping[str, Any], list[str]], Sequence[str]] = lambda config, listed: ()
    rebuild: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    pieces: Callable[[Sequence[Piece], Mapping[str, Any]], Sequence[Piece]] | None = None
    strips: tuple[str, ...] = ()


def _llama(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    prefixes = config.get("add_prefix_space") is not False
    scheme = "never" if not prefixes else "always" if config.get("legacy") else "first"
    written = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    written += [{"type": "Fuse"}, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixes else [])]
    decoder = {"type": "Sequence", "decoders": written}
    return {**document, "normalizer": None, "pre_tokenizer": _signs(scheme, split=False), "decoder": decoder}


def _t5(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return _words(document, _charsmaps(document), unk_id=2)


def _sentinels(config: Mapping[str, Any], listed: list[str]) -> list[str]:
    has_some = any("<extra_id_" in token for token in listed)
    return [] if has_some else [f"<extra_id_{number}>" for number in range(config.get("extra_ids", 100))]


def _albert(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    apart = [] if config.get("keep_accents") else [{"type": "NFKD"}, {"type": "StripAccents"}]
    lower = [{"type": "Lowercase"}] if config.get("do_lower_case", True) else []
    steps = [*_QUOTES, *apart, *lower, *_charsmaps(document)]
    if document.get("post_processor") is None:
        ids = {piece: number for number, (piece, _) in enumerate(document["model"]["vocab"])}
        if "[CLS]" in ids and "[SEP]" in ids:
            frame: Any = post_processor_of(["[CLS]"], ["[SEP]"], ids)
            second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
            document = {**document, "post_processor": {**frame, "pair": [*frame["single"], *second]}}
    return _words(document, steps, unk_id=1, prefixes=config.get("add_prefix_space", True))


def _xlnet(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    lower = [{"type": "Lowercase"}] if config.get("do_lower_case") else []
    steps = [*_QUOTES, {"type": "NFKD"}, {"type": "StripAccents"}, *lower, *_charsmaps(document)]
    return _words(document, steps, unk_id=config.get("unk_id", 0))


def _xlm_roberta(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return _words(document, _charsmaps(document), unk_id=3, prefixes=config.get("add_prefix_space", True))


def _camembert(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    pieces = [piece for piece, _ in document["model"]["vocab"]]
    unknown = _content(config.get("unk_token", "<unk>"))
    unk_id = pieces.index(unknown) if unknown in pieces else 0
    return _words(document, _charsmaps(document), unk_id, prefixes=config.get("add_prefix_space", True))


def _camembert_pieces(pieces: Sequence[Piece], config: Mapping[str, Any]) -> list[Piece]:
    padding, unknown, mask = _named(config, "<pad>", "<unk>", "<mask>")
    first = [("<s>NOTUSED", 0.0), (padding, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0), ("<unk>NOTUSED", -100.0)]
    return [*first, *pieces[1:], (mask, 0.0)]


def _fairseq_pieces(pieces: Sequence[Piece], config: Mapping[str, Any], languages: Iterable[str] = ()) -> list[Piece]:
    *first, mask = _named(config, "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return [*((token, 0.0) for token in first), *pieces[3:], *((token, 0.0) for token in (*languages, mask))]


def _named(config: Mapping[str, Any], *tokens: str) -> list[str]:
    """The tokens, or what tokenizer_config.json has in their roles."""
    roles = {"<s>": "bos_token", "</s>": "eos_token"}
    return [_content(config.get(roles.get(token, f"{token[1:-1]}_token"))) or token for token in tokens]


def _mbart(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return _of_language(_words(document, (), unk_id=3), config, before=False)


def _mbart50(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    steps = [*_charsmaps(document), _ONE_SPACE]
    return _of_language(_remade(document, steps, [_signs("always")], unk_id=3), config, before=True)


def _of_language(document: dict[str, Any], config: Mapping[str, Any], before: bool) -> dict[str, Any]:
    """With the code of the source's language before or after each text."""
    ids = {piece: number for number, (piece, _) in enumerate(document["model"]["vocab"])}
    ids |= {entry["content"]: entry["id"] for entry in document.get("added_tokens") or []}
    language, (end,) = config.get("src_lang") or "en_XX", _named(config, "</s>")
    if language not in ids or end not in ids:
        return document
    begin, ending = ([language], [end]) if before else ([], [end, language])
    frame: Any = post_processor_of(begin, ending, ids)
    single, place = frame["single"], len(begin) + 1  # of a second text
    pair = [*single[:place], {"Sequence": {"id": "B", "type_id": 0}}, *single[place:]]
    return {**document, "post_processor": {**frame, "pair": pair}}


def _deberta(document: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    lower = [{"type": "Lowercase"}] if config.get("do_lower_case") else []
    steps = [*lower, _SPACES, {"type": "NFC"}, {"type": "Strip", "strip_left": False, "strip_right": True}]
    scheme = "always" if config.get("add_prefix_space", True) else "first"
    alone = [{"type": "Punctuation", "behavior": "Isolated"}] if config.get("split_by_punct") else []
    vocabulary, unknown = document["model"]["vocab"], [_content(config.get("unk_token", "[UNK]")), 0.0]
    unk_id = vocabulary.index(unknown) if unknown in vocabulary else config.get("unk_id", 1)
    return _remade(document, steps, [*alone, _signs(scheme)], unk_id)


def _words(document: dict[str, Any], steps: Iterable[Any], unk_id: int, prefixes: bool = True) -> dict[str, Any]:
    """Of a class that splits at white space."""
    return _remade(document, steps, [{"type": "WhitespaceSplit"}, _signs("always" if prefixes else "never")], unk_id)


def _remade(document: dict[str, Any], steps: Iterable[Any], parts: list[Any], unk_id: int) -> dict[str, Any]:
    return {
        **document,
        "normalizer": {"type": "Sequence", "normalizers": [*steps]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
        "decoder": parts[-1],
        "model": {**document["model"], "unk_id": unk_id, "byte_fallback": False},
    }


def _signs(scheme: str, split: bool = True) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def _charsmaps(document: dict[str, Any]) -> list[Any]:
    """The charsmap of a tokenizer.json, if it has one."""
    normalizer = document.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    return [part for part in parts if part.get("type") == "Precompiled"][:1]


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


_BERT = TokenizerClass(
    roles={f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    frame=(("cls_token",), ("sep_token",)),
)
_ROBERTA = TokenizerClass(
    words="gpt2",
    roles=dict(zip(ROLES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True)),
    frame=(("cls_token",), ("sep_token",)),
)
_BEGIN_AND_END = (("bos_token",), ("eos_token",))
CLASSES = {
    "GPT2Tokenizer": TokenizerClass("gpt2", None, dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END)),
    "Qwen2Tokenizer": TokenizerClass("qwen2", "nfc", dict.fromkeys(("eos_token", "unk_token", "pad_token"), _END)),
    "GPTNeoXTokenizer": TokenizerClass(
        "gpt2", "nfc", {**dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END), "pad_token": "<|padding|>"}
    ),
    "RobertaTokenizer": _ROBERTA,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "GemmaTokenizer": TokenizerClass(
        roles={f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}, legacy=False
    ),
    "LlamaTokenizer": TokenizerClass(
        roles=dict(zip(ROLES[:3], ("<s>", "</s>", "<unk>"), strict=True)), legacy=False, rebuild=_llama
    ),
    "MarianTokenizer": TokenizerClass(roles={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "T5Tokenizer": TokenizerClass(
        roles={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        frame=((), ("eos_token",)),
        more=_sentinels,
        rebuild=_t5,
        pieces=lambda pieces, config: [*pieces, *((token, 0.0) for token in _sentinels(config, [])[::-1])],
    ),
    "AlbertTokenizer": TokenizerClass(
        roles=dict(zip(ROLES, ("[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"), strict=True)),
        rebuild=_albert,
        pieces=lambda pieces, config: pieces,
    ),
    "XLNetTokenizer": TokenizerClass(
        roles=dict(zip(ROLES, ("<s>", "</s>", "<unk>", "<sep>", "<pad>", "<cls>", "<mask>"), strict=True)),
        frame=((), ("sep_token", "cls_token")),
        more=lambda config, listed: () if listed else ("<eop>", "<eod>"),
        rebuild=_xlnet,
        strips=("mask_token",),
        pieces=lambda pieces, config: pieces,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        roles=_ROBERTA.roles, frame=_BEGIN_AND_END, rebuild=_xlm_roberta, pieces=_fairseq_pieces
    ),
    "CamembertTokenizer": TokenizerClass(
        roles=_ROBERTA.roles,
        frame=_BEGIN_AND_END,
        more=lambda config, listed: () if listed else ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        rebuild=_camembert,
        pieces=_camembert_pieces,
        strips=("mask_token",),
    ),
    "MBartTokenizer": TokenizerClass(
        roles=_ROBERTA.roles,
        more=lambda config, listed: [code for code in _MBART if code not in listed],
        rebuild=_mbart,
        pieces=functools.partial(_fairseq_pieces, languages=_MBART),
        strips=("mask_token",),
    ),
    "MBart50Tokenizer": TokenizerClass(
        roles={role: token for role, token in _ROBERTA.roles.items() if role != "bos_token"},
        more=lambda config, listed: [code for code in _MBART50 if code not in listed],
        rebuild=_mbart50,
        pieces=functools.partial(_fairseq_pieces, languages=_MBART50),
        strips=("mask_token",),
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        roles=dict(zip(ROLES, ("[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"), strict=True)),
        frame=(("cls_token",), ("sep_token",)),
        more=lambda config, listed: [_content(config.get("mask_token")) or "[MASK]"],  # which is in no file of pieces
        rebuild=_deberta,
        pieces=lambda pieces, config: pieces,
    ),
}
# `model_type` -> the class that transformers takes where the folder names none.
BY_MODEL_TYPE = {
    "albert": "AlbertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "mbart": "MBartTokenizer",
    "marian": "MarianTokenizer",
    "mt5": "T5Tokenizer",
    "opt": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizer",
}
NO_CLASS = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
