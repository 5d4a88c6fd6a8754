"""The tokenizer and the chat template in a .gguf file."""

from typing import Any

from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.tokenizer import with_notes
from keras_tfm.tokenizers import AddedToken, BytePairTokenizer, SentencePieceTokenizer
from keras_tfm.tokenizers.sentence_piece_proto import BYTE_PAIR, ModelProto, Piece

# What llama.cpp calls a pre-tokenizer -> our pattern of words.
_WORDS = {"gpt-2": "gpt2", "llama-bpe": "llama3", "llama3": "llama3", "qwen2": "qwen2", "smollm": "smollm"}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # types of tokens; llama.cpp has the numbers of SentencePiece
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep", "mask": "mask"}
_PREFIX = "tokenizer.ggml"
_SIDES = {"begin": "bos", "end": "eos"}


def tokenizer_of(header: dict[str, Any]) -> BytePairTokenizer | SentencePieceTokenizer:
    """The tokenizer that the header of a .gguf file holds."""
    kind, words = header.get(f"{_PREFIX}.model"), header.get(f"{_PREFIX}.pre")
    tokens, roles = _tokens(header), _roles(header)
    around = _tokens_around(header, roles)
    if kind == "llama":
        # llama.cpp puts the space before a text after control tokens, too.
        tokenizer = SentencePieceTokenizer(_sentence_piece(header, tokens), space_after_special=True, **around)
        flags = {f"add_{role}_token": bool(around[f"{side}_tokens"]) for side, role in _SIDES.items()}
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, **flags}
        return with_notes(tokenizer, roles, settings, _chat_templates(header))
    if kind != "gpt2" or words not in _WORDS:
        raise ValueError(
            f"The tokenizer of a GGUF file must be SentencePiece ('llama'), or byte-level BPE ('gpt2') cut as one of "
            f"{sorted(_WORDS)}. Received: {kind!r}, cut as {words!r}. The model itself loads; its tokenizer may be had "
            "from the repository that the file was made from."
        )
    merges = _array(header, "merges", str)
    types = _array(header, "token_type", int, [_NORMAL] * len(tokens), len(tokens))
    special_tokens = [
        AddedToken(token, special=kind == _CONTROL)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    end_of_text = roles.get("eos_token")
    tokenizer = BytePairTokenizer(
        {token: i for i, token in enumerate(tokens)},
        [tuple(merge.split(" ")) for merge in merges],
        special_tokens,
        end_of_text=end_of_text if end_of_text in [token.content for token in special_tokens] else None,
        drops_bytes=True,
        **around,
        words=_WORDS[words],
        whole_words=_WORDS[words] == "llama3",
    )
    return with_notes(tokenizer, roles, chat_templates=_chat_templates(header))


def chat_template_of(header: dict[str, Any]) -> ChatTemplate | None:
    """The chat template that the header of a .gguf file holds; None if there is none."""
    templates = _chat_templates(header)
    return None if templates is None else ChatTemplate(templates, _roles(header))


def _chat_templates(header: dict[str, Any]) -> dict[str, str] | None:
    """Name -> source of the chat templates; None if there are none."""
    names = header.get("tokenizer.chat_templates")
    keys = {name: f"tokenizer.chat_template.{name}" for name in (names if isinstance(names, list) else ())}
    sources = {name: header.get(key) for name, key in {"default": "tokenizer.chat_template", **keys}.items()}
    return {name: source for name, source in sources.items() if isinstance(source, str)} or None


def _tokens_around(header: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
    """The tokens before and after each text; a SentencePiece vocabulary has one before, unless the file denies it."""
    around = {}
    for side, role in _SIDES.items():
        default = role == "bos" and header.get(f"{_PREFIX}.model") == "llama"
        adds = bool(header.get(f"{_PREFIX}.add_{role}_token", default)) and f"{role}_token" in roles
        around[f"{side}_tokens"] = [roles[f"{role}_token"]] if adds else []
    return around


def _tokens(header: dict[str, Any]) -> list[str]:
    return _array(header, "tokens", str)


def _array(header: dict[str, Any], name: str, kind: type, default: list | None = None, length: int | None = None):
    """A list of the header, checked."""
    values = header.get(f"{_PREFIX}.{name}", default)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(
            f"`{_PREFIX}.{name}` of a GGUF file must be a list of {kind.__name__}. Received: {str(values)[:60]}."
        )
    if length not in (None, len(values)):
        raise ValueError(
            f"`{_PREFIX}.{name}` of a GGUF file must have one value for each of the {length} tokens. "
            f"Received: {len(values)} values."
        )
    return values


def _roles(header: dict[str, Any]) -> dict[str, str]:
    """Role, such as "eos_token" -> token."""
    roles = {}
    for theirs, ours in _ROLES.items():
        token_id = header.get(key := f"{_PREFIX}.{theirs}_token_id")
        if token_id is None:
            continue
        tokens = _tokens(header)
        if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
            raise ValueError(f"`{key}` of a GGUF file must be from 0 to {len(tokens) - 1}. Received: {token_id!r}.")
        roles[f"{ours}_token"] = tokens[token_id]
    return roles


def _sentence_piece(header: dict[str, Any], tokens: list[str]) -> ModelProto:
    """The SentencePiece model that the file was made from, as far as it keeps it."""
    scores = _array(header, "scores", float, None, len(tokens))
    types = _array(header, "token_type", int, None, len(tokens))
    # llama.cpp writes the signs of spaces as spaces in tokens that users defined, such as Gemma's runs of spaces.
    texts = [
        token.replace(" ", "▁") if kind == _USER_DEFINED else token for token, kind in zip(tokens, types, strict=True)
    ]
    return ModelProto(
        pieces=tuple(map(Piece, texts, scores, types)),
        model_type=BYTE_PAIR,
        byte_fallback=True,
        unk_id=header.get(f"{_PREFIX}.unknown_token_id", 0),
        bos_id=header.get(f"{_PREFIX}.bos_token_id", -1),
        eos_id=header.get(f"{_PREFIX}.eos_token_id", -1),
        pad_id=header.get(f"{_PREFIX}.padding_token_id", -1),
        add_dummy_prefix=header.get(f"{_PREFIX}.add_space_prefix", True),
        remove_extra_whitespaces=header.get(f"{_PREFIX}.remove_extra_whitespaces", False),
    )
