"""What a folder says of its tokenizer beside the vocabulary: its class, added tokens, roles and chat templates."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras_tfm.checkpoints.tokenizer_classes import BY_MODEL_TYPE, CLASSES, NO_CLASS, ROLES, TokenizerClass
from keras_tfm.tokenizers import AddedToken
from keras_tfm.tokenizers.added_tokens import added_token
from keras_tfm.tokenizers.sentence_piece_json import document_of
from keras_tfm.tokenizers.sentence_piece_proto import UNIGRAM, ModelProto

# Of tokenizer_config.json: where files were on another machine, code that is not copied, and what is written anew.
_NOT_KEPT = ("chat_template", "auto_map", "name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file")
LARGEST_VOCABULARY = 2**20


class TokenizerSettings:
    """What the JSON files of a folder say of its tokenizer.

    Args:
        json: gives the content of a file by its name, None if there is no such file.

    Attributes:
        class_name: of transformers, without "Fast"; None if there is none to be known.
        model_type: that of config.json, or None.
        target_vocabulary_size: `decoder_vocab_size` of config.json; 0 if it says nothing sensible.
        roles: role, such as "eos_token" -> token.
        added: pairs of an `AddedToken` and its id, or None where the folder leaves it open, in the order in which they
            get ids.
        overrides: bool, whether the rules of `added` count more than those of tokenizer.json.
        kept: what `save` writes again into tokenizer_config.json.

    Raises:
        ValueError: if an entry is not of the type that it must be.
    """

    def __init__(self, json: Callable[[str], dict[str, Any] | None]):
        config = dict(json("tokenizer_config.json") or {})
        model = json("config.json") or {}
        self._config = config
        self.model_type = model.get("model_type")
        size = model.get("decoder_vocab_size")
        self.target_vocabulary_size = size if isinstance(size, int) and size <= LARGEST_VOCABULARY else 0
        self.class_name = _class_name(config.get("tokenizer_class") or model.get("tokenizer_class"), self.model_type)
        decoder = config.get("added_tokens_decoder")
        if not isinstance(decoder, dict | None):
            raise ValueError(
                f"`added_tokens_decoder` of tokenizer_config.json must be an object. Received: {str(decoder)[:60]}."
            )
        roles = {**config} if decoder is not None else {**config, **(json("special_tokens_map.json") or {})}
        tokens, named = _roles(roles, self.known.strips), {**self.known.roles}
        listed = _listed(roles)
        named.update({role: token.content for role, token in tokens.items()})
        # None, as in `"pad_token": null`, takes a default away.
        self.roles = {role: token for role, token in named.items() if roles.get(role, token) is not None}
        by_content: dict[str, tuple[AddedToken, int | None]] = {}
        if decoder is not None:
            for token_id, entry in sorted(decoder.items(), key=lambda item: _as_id(item[0])):
                token = _token(f"added_tokens_decoder[{token_id}]", entry, special=False)
                by_content[token.content] = token, _as_id(token_id)
        else:
            # As transformers reads it: `additional_special_tokens` of special_tokens_map.json come too late for this.
            early = roles if "extra_special_tokens" in roles else config
            special = {*self.roles.values(), *(token.content for token in _listed(early))}
            added = json("added_tokens.json") or {}
            for content, token_id in sorted(added.items(), key=lambda item: _as_id(item[1])):
                is_special = content in special
                token = AddedToken(content, special=is_special, normalized=not is_special)
                by_content[content] = token, _as_id(token_id)
        more = self.known.more(config, [token.content for token in listed])
        for token in (*tokens.values(), *listed, *map(AddedToken, more)):
            by_content.setdefault(token.content, (token, None))
        self.added = list(by_content.values())
        self.overrides = decoder is not None and self.class_name in CLASSES
        self.kept = {key: value for key, value in config.items() if key not in _NOT_KEPT} | self.roles

    @property
    def known(self) -> TokenizerClass:
        """What is known of the class; of others, nothing."""
        return CLASSES.get(self.class_name or "", TokenizerClass())

    def flag(self, name: str, default: bool = False) -> bool:
        """An entry of tokenizer_config.json that is true or false; `default` if it is not there."""
        value = self._config.get(name)
        if not isinstance(value, bool | None):
            raise ValueError(f"`{name}` of tokenizer_config.json must be true or false. Received: {value!r}.")
        return default if value is None else value

    @property
    def spaces_after_special(self) -> bool:
        """Whether the space before a text comes after special tokens too, in a tokenizer.model."""
        legacy = self._config.get("legacy")
        return self.class_name == "T5Tokenizer" or (self.known.legacy if legacy is None else bool(legacy))

    def rebuilt(self, document: dict[str, Any]) -> dict[str, Any]:
        """A tokenizer.json of a SentencePiece model, as the class of the tokenizer makes it anew in transformers."""
        return document if self.known.rebuild is None else self.known.rebuild(document, self._config)

    def as_json(self, proto: ModelProto) -> dict[str, Any] | None:
        """The tokenizer.json that the class of the tokenizer makes of a SentencePiece file; None if it makes none."""
        if self.known.pieces is None or proto.model_type != UNIGRAM:
            return None
        return document_of(proto, self.known.pieces([(one.text, one.score) for one in proto.pieces], self._config))

    @property
    def chat_templates(self) -> dict[str, str] | str | None:
        """The chat template of tokenizer_config.json, or several by name; None if there is none."""
        templates = self._config.get("chat_template")
        if isinstance(templates, list):
            templates = {one.get("name"): one.get("template") for one in templates if isinstance(one, dict)}
            if not all(isinstance(text, str) for item in templates.items() for text in item):
                raise ValueError(
                    "`chat_template` of tokenizer_config.json must be text, or a list with `name` and `template`."
                )
        return templates if isinstance(templates, str | dict) else None


def _class_name(named: Any, model_type: Any) -> str | None:
    registered = BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    name = named.removesuffix("Fast") if isinstance(named, str) else None
    if name is None or (model_type == "qwen2" and name != registered):  # of which many folders name a wrong one
        return registered
    # Of Mistral's models transformers takes the files as they are.
    return None if name in NO_CLASS or model_type == "mistral" else name


def _roles(config: Mapping[str, Any], strips: Iterable[str]) -> dict[str, AddedToken]:
    """Role -> token, of those that are named; other roles than the usual ones are told by their names.

    Args:
        config: content of tokenizer_config.json or special_tokens_map.json.
        strips: roles of tokens that take the white space before them with them unless they have rules there.
    """
    others = [key for key, value in config.items() if key.endswith("_token") and isinstance(value, str)]
    extra = config.get("extra_special_tokens")
    given = {**config, **(extra if isinstance(extra, dict) else {})}
    names = dict.fromkeys([*ROLES, *others, *(extra if isinstance(extra, dict) else ())])
    tokens = {role: _token(role, given[role], special=True) for role in names if given.get(role) is not None}
    stripping = {role: tokens[role] for role in strips if isinstance(given.get(role), str)}
    return tokens | {role: dataclasses.replace(token, lstrip=True) for role, token in stripping.items()}


def _listed(config: Mapping[str, Any]) -> list[AddedToken]:
    """Special tokens without a role."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if isinstance(listed, dict):
        return []
    if not isinstance(listed, list):
        raise ValueError(
            f"`extra_special_tokens` of tokenizer_config.json must be a list or an object. Received: {listed!r}."
        )
    return [_token("extra_special_tokens", entry, special=True) for entry in listed]


def _token(name: str, entry: Any, special: bool) -> AddedToken:
    """A token that is written as its text, or as an object with `content` and rules."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(content, str):
        raise ValueError(
            f"`{name}` of tokenizer_config.json must be a string, or an object with `content`. Received: {entry!r}."
        )
    if not isinstance(entry, dict):
        return AddedToken(content)
    special = special or bool(entry.get("special"))
    return added_token(content, {"normalized": not special, **entry, "special": special})


def _as_id(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Ids of added tokens must be integers. Received: {value!r}.") from error
