"""What a tokenizer.json means that the library `tokenizers` has of a SentencePiece model: Llama 2, Gemma, T5, XLM-R."""

import base64
import binascii
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from keras_tfm.tokenizers.added_tokens import AddedToken
from keras_tfm.tokenizers.sentence_piece_graph import CuttingRules, JoiningRules, PairModel, Step, UnigramModel
from keras_tfm.tokenizers.sentence_piece_model import BYTE_PIECES, Meaning
from keras_tfm.tokenizers.sentence_piece_proto import CONTROL, USER_DEFINED, ModelProto
from keras_tfm.tokenizers.sentence_piece_rules import (
    WORD_SIGN,
    CharacterReplacer,
    PunctuationSigner,
    Replacements,
    UnicodeNormalizer,
    character_replacer,
    escape_spaces,
    join_spaces,
    prepend_sign,
    read_charsmap,
    sign_words,
    strip,
)

_ANY_SPACES = r"\s{2,}|[\n\r\t]"  # DeBERTa's


def is_sentence_piece(document: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json has the form of a SentencePiece model: Unigram, or BPE that is not on bytes."""
    model = document.get("model")
    if not isinstance(model, Mapping):
        return False
    if model.get("type") == "Unigram":
        return True
    parts = _flat(document.get("pre_tokenizer"), "pretokenizers") + _flat(document.get("normalizer"), "normalizers")
    signs = any(part.get("type") == "Metaspace" or part.get("content") == WORD_SIGN for part in parts)
    return model.get("type", "BPE") == "BPE" and (bool(model.get("byte_fallback")) or signs)


def document_of(proto: ModelProto, pieces: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The tokenizer.json of a Unigram model, with the spaces that are usual.

    Args:
        proto: ModelProto.
        pieces: all pieces with their scores, in order of ids.
    """
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": ids[piece.text], "content": piece.text, "special": piece.kind == CONTROL, **rules}
        for piece in proto.pieces
        if piece.kind in (CONTROL, USER_DEFINED)
    ]
    charsmap = base64.b64encode(proto.precompiled_charsmap).decode()
    signs = {"type": "Metaspace", "replacement": WORD_SIGN, "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": signs,
        "post_processor": None,
        "decoder": signs,
        "model": {"type": "Unigram", "unk_id": proto.unk_id, "vocab": [[*piece] for piece in pieces]},
    }


def meaning_of_json(document: Mapping[str, Any]) -> Meaning:
    """What a tokenizer.json means.

    Args:
        document: its content, as `json.load` gives it.

    Raises:
        ValueError: if it asks for what is not supported; `truncation`, `padding` and `post_processor` say how ids are
            packed, not which they are, and are not read.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("model"), Mapping):
        raise ValueError(f"A tokenizer.json must hold an object with a `model`. Received: {str(document)[:60]}.")
    model = document["model"]
    kind = model.get("type", "BPE")
    if kind not in ("BPE", "Unigram"):
        _refuse("model.type", kind, "'BPE' or 'Unigram'")
    ids = _vocabulary(model)
    added = _added_tokens(document)
    tokens = _tokens({**ids, **{content: number for content, number in added}})
    byte_ids = [ids.get(piece, -1) for piece in BYTE_PIECES] if model.get("byte_fallback") else None
    steps, cuts_at_signs = _steps(document)
    special_tokens = [_added_token(entry) for entry in document.get("added_tokens") or []]
    if any(token.normalized for token in special_tokens) and not _leaves_tokens_alone(document):
        found = [token.content for token in special_tokens if token.normalized]
        _refuse("`normalized` of added tokens", found[:3], "False where a normalizer changes more than spaces")
    unknown_id = model.get("unk_id") if kind == "Unigram" else ids.get(model.get("unk_token"))
    ignores_merges = kind == "BPE" and bool(model.get("ignore_merges"))
    cutting = CuttingRules(
        model=_pair_model(model, ids) if kind == "BPE" else _unigram_model(model, ids),
        steps=steps,
        cuts_at_signs=cuts_at_signs,
        cuts_where_no_piece_goes_on=not ignores_merges,
        whole_words=ids if ignores_merges else {},
        byte_ids=byte_ids,
        unknown_id=unknown_id,
        joins_unknown=kind == "Unigram" or bool(model.get("fuse_unk")),
    )
    return Meaning(tokens, special_tokens, None, None, cutting, _joining(document, tokens))


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if model.get("type") != "Unigram":
        if not isinstance(vocabulary, Mapping) or not all(isinstance(number, int) for number in vocabulary.values()):
            _refuse("model.vocab", str(vocabulary)[:60], "an object from tokens to integers")
        return dict(vocabulary)
    if not isinstance(vocabulary, Sequence) or not all(
        isinstance(entry, Sequence)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        for entry in vocabulary
    ):
        _refuse("model.vocab", str(vocabulary)[:60], "a list of pairs of a piece and its score")
    return {entry[0]: number for number, entry in enumerate(vocabulary)}


def _added_tokens(document: Mapping[str, Any]) -> list[tuple[str, int]]:
    entries = document.get("added_tokens") or []
    if not isinstance(entries, Sequence) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("content"), str) and isinstance(entry.get("id"), int)
        for entry in entries
    ):
        _refuse("added_tokens", str(entries)[:60], "a list of objects with `id` and `content`")
    return [(entry["content"], entry["id"]) for entry in entries]


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    rules = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(entry["content"], **{rule: bool(entry.get(rule)) for rule in rules})


def _tokens(ids: Mapping[str, int]) -> list[str | None]:
    """The token of each id; None for those between that none has."""
    tokens: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    for token, number in ids.items():
        if number < 0 or tokens[number] is not None:
            _refuse("ids of tokens", f"{number} for {token!r} and {tokens[number]!r}", "different for each")
        tokens[number] = token
    return tokens


def _pair_model(model: Mapping[str, Any], ids: Mapping[str, int]) -> PairModel:
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            _refuse(f"model.{field}", model[field], "null")
    merges = model.get("merges")
    if not isinstance(merges, Sequence) or not all(isinstance(merge, str | Sequence) for merge in merges):
        _refuse("model.merges", str(merges)[:60], "a list of pairs")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    ranks = {}
    for rank, pair in enumerate(pairs):
        if len(pair) != 2 or not all(part in ids for part in (*pair, "".join(pair))):
            _refuse(f"model.merges[{rank}]", pair, "two tokens of the vocabulary whose product is one, too")
        ranks[tuple(pair)] = rank  # of equal ones the last counts
    if bad := [pair for pair in ranks if not BYTE_PIECES.keys().isdisjoint(pair)]:
        _refuse("model.merges", bad[:3], "no merges of byte pieces")
    return PairModel(
        symbols={token: number for token, number in ids.items() if len(token) == 1},
        merges=[(ids[left], ids[right], ids[left + right]) for left, right in ranks],
        ranks=list(ranks.values()),
        products=["".join(pair) for pair in ranks],
    )


def _unigram_model(model: Mapping[str, Any], ids: Mapping[str, int]) -> UnigramModel:
    scores = {piece: float(score) for piece, score in model["vocab"] if piece}
    least = min((score for _, score in model["vocab"]), default=0.0)
    return UnigramModel(scores, {piece: ids[piece] for piece in scores}, least, tf.float64)


def _steps(document: Mapping[str, Any]) -> tuple[list[Step], bool]:
    """What is done to characters, and whether each word sign begins a word."""
    steps = [step for part in _flat(document.get("normalizer"), "normalizers") if (step := _normalizer(part))]
    parts = _flat(document.get("pre_tokenizer"), "pretokenizers")
    names = [part.get("type") for part in parts]
    if names == ["Split"] and escape_spaces in steps:
        expected = {"pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        if {key: parts[0].get(key) for key in expected} == expected:
            return steps, False  # there are no spaces left at which this would split
    if names == ["WhitespaceSplit", "Metaspace"] and _scheme(parts[1]) == "always" and parts[1].get("split", True):
        return [*steps, sign_words], True
    if names == ["Punctuation", "Metaspace"] and _scheme(parts[1]) == "always" and parts[1].get("split", True):
        if parts[0].get("behavior") != "Isolated":
            _refuse("pre_tokenizer.behavior", parts[0].get("behavior"), "'Isolated'")
        return [*steps, escape_spaces, PunctuationSigner()], True
    if names == ["Metaspace"]:
        scheme = _scheme(parts[0])
        steps.append(escape_spaces)
        if scheme != "never":
            steps.append(functools.partial(prepend_sign, always=scheme == "always", unless_present=True))
        return steps, bool(parts[0].get("split", True))
    if names:
        _refuse(
            "pre_tokenizer",
            str(document["pre_tokenizer"])[:200],
            "null, Metaspace, or WhitespaceSplit or Punctuation and a Metaspace that is always put before words",
        )
    return steps, False


def _scheme(metaspace: Mapping[str, Any]) -> str:
    """Where a Metaspace puts its sign: "first", "never" or "always"."""
    sign = metaspace.get("replacement", WORD_SIGN)
    if sign != WORD_SIGN:
        _refuse("pre_tokenizer.replacement", sign, repr(WORD_SIGN))
    scheme = metaspace.get("prepend_scheme") or ("always" if metaspace.get("add_prefix_space", True) else "never")
    if scheme not in ("first", "never", "always"):
        _refuse("pre_tokenizer.prepend_scheme", scheme, "'first', 'never' or 'always'")
    return scheme


def _normalizer(part: Mapping[str, Any]) -> Step | None:
    """A part of the normalizer; None if it does nothing."""
    kind = part.get("type")
    if kind == "Precompiled":
        try:
            charsmap = base64.b64decode(part.get("precompiled_charsmap") or "", validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise ValueError(f"`precompiled_charsmap` must be in base 64. Received: {error}.") from error
        return CharacterReplacer(read_charsmap(charsmap), by_grapheme=True) if charsmap else None
    if kind == "Replace":
        return _replacing(part)
    if kind == "Prepend" and part.get("prepend") == WORD_SIGN:
        return functools.partial(prepend_sign, always=True)
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return UnicodeNormalizer(kind)
    if kind in ("StripAccents", "Lowercase", "Nmt"):
        return character_replacer(kind)
    if kind == "Strip":
        left, right = bool(part.get("strip_left", True)), bool(part.get("strip_right", True))
        return functools.partial(strip, left=left, right=right) if left or right else None
    known = "Precompiled, NFC, NFD, NFKC, NFKD, StripAccents, Lowercase, Nmt, Replace, Prepend or Strip"
    return _refuse("normalizer", str(part)[:100], known)


def _replacing(part: Mapping[str, Any]) -> Step:
    pattern, content = part.get("pattern"), part.get("content")
    pattern = pattern if isinstance(pattern, Mapping) else {}
    string, expression = pattern.get("String"), pattern.get("Regex")
    if isinstance(content, str):
        if string == " " and content == WORD_SIGN:
            return escape_spaces
        if expression in (" {2,}", _ANY_SPACES) and len(content) == 1:
            return functools.partial(join_spaces, code=ord(content), of_any_kind=expression == _ANY_SPACES)
        if expression == r"\A +| +\z" and not content:
            return functools.partial(strip, left=True, right=True, spaces_alone=True)
        if isinstance(expression, str) and expression in (r"\n", "\n"):
            string = "\n"
        if isinstance(string, str) and string:
            return CharacterReplacer(Replacements.of({string: content}))
    return _refuse("normalizer", str(part)[:100], f"a Replace of a string, or of ' {{2,}}' or {_ANY_SPACES!r}")


def _leaves_tokens_alone(document: Mapping[str, Any]) -> bool:
    """Whether the normalizer changes no more than spaces, so that tokens are found in the text as it is."""
    return all(
        part.get("type") == "Replace" and part.get("pattern") == {"String": " "}
        for part in _flat(document.get("normalizer"), "normalizers")
    )


def _joining(document: Mapping[str, Any], tokens: Sequence[str | None]) -> JoiningRules:
    parts = _flat(document.get("decoder"), "decoders")
    names = [part.get("type") for part in parts]
    has_bytes = strips = drops_first = False
    if names == ["Metaspace"]:
        drops_first = _scheme(parts[0]) != "never"
    else:
        rest = dict(zip(names, parts, strict=True))
        replace, stripped = rest.pop("Replace", None), rest.pop("Strip", None)
        has_bytes, fuses = rest.pop("ByteFallback", None) is not None, rest.pop("Fuse", None) is not None
        expected = {"pattern": {"String": WORD_SIGN}, "content": " "}
        is_known = not rest and len(names) == len(set(names)) and (not parts or replace is not None)
        is_known &= replace is None or {key: replace.get(key) for key in expected} == expected
        strips = stripped is not None
        if stripped is not None:
            is_known &= fuses and names.index("Fuse") < names.index("Strip")
            is_known &= (stripped.get("content"), stripped.get("start"), stripped.get("stop")) == (" ", 1, 0)
        if not is_known:
            _refuse("decoder", str(document["decoder"])[:200], "Metaspace, or Replace, ByteFallback, Fuse and Strip")
    texts, first_texts, closes, is_byte = [], [], [], []
    for token in tokens:
        is_byte.append(has_bytes and token in BYTE_PIECES)
        text = bytes([BYTE_PIECES[token or ""]]) if is_byte[-1] else (token or "").replace(WORD_SIGN, " ").encode()
        texts.append(text)
        first_texts.append(
            (token or "").replace(WORD_SIGN, "").encode()
            if drops_first
            else text[1:]
            if strips and text.startswith(b" ")
            else text
        )
        closes.append(token is not None and (drops_first or bool(text)))
    return JoiningRules(texts, first_texts, closes, is_byte, replaces_runs=True)


def _flat(part: Any, name: str) -> list[Mapping[str, Any]]:
    """The parts of a Sequence, or the part itself; none if there is none."""
    if part is None:
        return []
    if not isinstance(part, Mapping):
        _refuse(name, str(part)[:60], "an object")
    if part.get("type") != "Sequence":
        return [part]
    parts = part.get(name)
    if not isinstance(parts, Sequence):
        _refuse(name, str(parts)[:60], "a list of objects")
    return [inner for outer in parts for inner in _flat(outer, name)]


def _refuse(field: str, received: Any, expected: str) -> NoReturn:
    raise ValueError(
        f"Of a tokenizer.json that is no byte-level BPE, `{field}` must be {expected}; more is not supported. "
        f"Received: {received!r}."
    )
