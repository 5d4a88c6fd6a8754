"""Tokenizers from the folders of checkpoints, and into them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keras_tfm.checkpoints.tokenizer_classes import CLASSES
from keras_tfm.checkpoints.tokenizer_settings import LARGEST_VOCABULARY, TokenizerSettings
from keras_tfm.files import read_json_object
from keras_tfm.tokenizers import (
    AddedToken,
    BytePairTokenizer,
    CharacterTokenizer,
    MarianTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from keras_tfm.tokenizers.added_tokens import added_tokens_of, as_added_tokens
from keras_tfm.tokenizers.byte_pair_files import arguments_from_json as byte_pair_arguments
from keras_tfm.tokenizers.byte_pair_files import read_gpt2_files
from keras_tfm.tokenizers.marian import read_arguments as read_marian_arguments
from keras_tfm.tokenizers.post_processor import tokens_around
from keras_tfm.tokenizers.sentence_piece import FILE_NAMES
from keras_tfm.tokenizers.sentence_piece_json import is_sentence_piece
from keras_tfm.tokenizers.sentence_piece_model import meaning_of_proto
from keras_tfm.tokenizers.sentence_piece_proto import read_proto
from keras_tfm.tokenizers.vocabulary import parts_of
from keras_tfm.tokenizers.word_piece_files import arguments_from_json as word_piece_arguments
from keras_tfm.tokenizers.word_piece_files import read_arguments as read_word_piece_arguments

_BERT_ROLES = CLASSES["BertTokenizer"].roles
# Ids are those of the last two only after the class has put its own special tokens among them.
_SENTENCE_PIECE_FILES = (*FILE_NAMES, "sentencepiece.bpe.model", "spm.model")


def tokenizer_in(folder: Path, document: dict[str, Any] | None, vocabulary_size: Any, settings: TokenizerSettings):
    """The tokenizer of a folder, which notes what `save` is to write again.

    Args:
        folder: the folder.
        document: content of its tokenizer.json, or None if there is none.
        vocabulary_size: `vocab_size` of config.json; whatever is no sensible number is passed over.
        settings: what the folder says of it besides.

    Raises:
        FileNotFoundError: if there are no files of a tokenizer.
        ValueError: for a kind that is not implemented.
    """
    kind = _kind(folder, document)
    size = vocabulary_size if isinstance(vocabulary_size, int) and vocabulary_size <= LARGEST_VOCABULARY else 0
    end_of_text = settings.roles.get("eos_token")
    if kind == "WordPiece":
        tokenizer = WordPieceTokenizer(**_word_piece(folder, document, settings))
    elif kind == "Marian":
        tokenizer = _marian(folder, size, settings)
    elif kind == "SentencePiece":
        tokenizer = _sentence_piece(folder, document, size, settings)
    elif kind == "WordLevel":
        tokenizer = CharacterTokenizer.from_json(document)
        end_of_text = end_of_text if end_of_text in tokenizer.special_tokens else tokenizer.end_of_text
        tokenizer = CharacterTokenizer(tokenizer.characters, tokenizer.added_tokens, end_of_text)
    elif kind == "BPE":
        tokenizer = _byte_pair(folder, document, size, settings)
    else:
        raise ValueError(
            f"A tokenizer must be byte-level BPE, WordPiece, SentencePiece or Marian's. Received: {kind} in {folder}."
        )
    return with_notes(tokenizer, settings.roles, settings.kept, settings.chat_templates)


def with_notes(
    tokenizer,
    roles: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
    chat_templates: Mapping[str, str] | str | None = None,
):
    """The tokenizer, on which is noted what `save` writes again.

    Args:
        tokenizer: from a checkpoint.
        roles: role, such as "pad_token" -> token; those that are not in the vocabulary are left out.
        settings: what is to stand in tokenizer_config.json besides; None if it came from no such file.
        chat_templates: source of a chat template, or of several by name.
    """
    # No dict: a tf.Module would track it as a part of itself.
    tokenizer.checkpoint_roles = MappingProxyType({role: one for role, one in roles.items() if _has(tokenizer, one)})
    tokenizer.checkpoint_settings = None if settings is None else MappingProxyType(dict(settings))
    tokenizer.checkpoint_chat_templates = (
        chat_templates if isinstance(chat_templates, str | None) else MappingProxyType(dict(chat_templates))
    )
    return tokenizer


def _word_piece(folder: Path, document: dict[str, Any] | None, settings: TokenizerSettings) -> dict[str, Any]:
    """The arguments of a `WordPieceTokenizer`."""
    if document is None:
        if settings.class_name is not None and CLASSES.get(settings.class_name) != CLASSES["BertTokenizer"]:
            raise ValueError(_unknown_class(settings, folder, "vocab.txt"))
        arguments = read_word_piece_arguments(folder, None, add_special_tokens=True)
        names = [role for role in _BERT_ROLES.values() if role in arguments["vocabulary"]]
        arguments["special_tokens"] = [AddedToken(name) for name in names]
    else:
        arguments = word_piece_arguments(document, add_special_tokens=True)
    return _framed(_with_added(arguments, settings), settings)


def _byte_pair(folder: Path, document: dict[str, Any] | None, size: int, settings: TokenizerSettings):
    """The `BytePairTokenizer` of a folder."""
    if document is not None:
        arguments = byte_pair_arguments(document, add_special_tokens=True)
    else:
        if settings.class_name is None and settings.model_type is None:
            return BytePairTokenizer.from_file(folder)  # GPT-2's own files
        found = read_gpt2_files(folder)
        if found is None:
            return BytePairTokenizer.from_file(folder)  # says what is missing
        if settings.known.words is None:
            raise ValueError(_unknown_class(settings, folder, "vocab.json and merges.txt"))
        vocabulary, merges = found
        arguments = {"vocabulary": vocabulary, "merges": merges, "special_tokens": [], "drops_bytes": True}
        arguments |= {"words": settings.known.words, "normalization": settings.known.normalization}
        for side, role in (("begin", "bos"), ("end", "eos")):
            adds = settings.flag(f"add_{role}_token") and f"{role}_token" in settings.roles
            arguments[f"{side}_tokens"] = [settings.roles[f"{role}_token"]] if adds else []
    if settings.known.words is not None:  # these classes do as their settings say, not as tokenizer.json does
        arguments["add_prefix_space"] = settings.flag("add_prefix_space")
    arguments = _framed(_with_added(arguments, settings), settings)
    arguments["vocabulary_size"] = max(size, len(arguments["vocabulary"]))
    end_of_text = settings.roles.get("eos_token")
    is_special = end_of_text in [token.content for token in arguments["special_tokens"]]
    return BytePairTokenizer(**arguments, end_of_text=end_of_text if is_special else None)


def _sentence_piece(folder: Path, document: dict[str, Any] | None, size: int, settings: TokenizerSettings):
    """What tokenizer.json says, or else a tokenizer.model, in a vocabulary of the model's size."""
    end_of_text = settings.roles.get("eos_token")
    arguments: dict[str, Any]
    proto = None
    if document is None:
        file = next(folder / name for name in _SENTENCE_PIECE_FILES if (folder / name).is_file())
        proto = read_proto(file.read_bytes())
        document = settings.as_json(proto)
        if document is None and file.name not in FILE_NAMES:
            raise ValueError(_unknown_class(settings, folder, file.name))
    if document is not None:
        model: Any = settings.rebuilt(document)
        vocabulary = document["model"].get("vocab")
        if isinstance(vocabulary, list) and all(isinstance(entry, list) and len(entry) == 2 for entry in vocabulary):
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}  # of Unigram, with scores
        _, known, added = parts_of({**document, "model": {"vocab": vocabulary}})
        arguments = {"special_tokens": added_tokens_of(added, known), "vocabulary": known}
        begin, end = tokens_around(model.get("post_processor"), known)
        arguments |= {"begin_tokens": begin, "end_tokens": end}
    else:
        model = proto
        meaning = meaning_of_proto(model, space_after_special=False)
        known = {token: number for number, token in enumerate(meaning.tokens) if token is not None}
        arguments = {"vocabulary": known, "special_tokens": as_added_tokens(meaning.special_tokens)}
        for side, role in (("begin", "bos"), ("end", "eos")):
            adds = settings.flag(f"add_{role}_token") and f"{role}_token" in settings.roles
            arguments[f"{side}_tokens"] = [settings.roles[f"{role}_token"]] if adds else []
    arguments = _framed(_with_added(arguments, settings), settings)
    more = {token: number for token, number in arguments["vocabulary"].items() if token not in known}
    return SentencePieceTokenizer(
        model,
        vocabulary_size=max(size, len(arguments["vocabulary"])),
        end_of_text=end_of_text if end_of_text in arguments["vocabulary"] else None,
        space_after_special=document is None and settings.spaces_after_special,
        special_tokens=arguments["special_tokens"],
        more_tokens=more,
        begin_tokens=arguments["begin_tokens"],
        end_tokens=arguments["end_tokens"],
    )


def _marian(folder: Path, size: int, settings: TokenizerSettings):
    """Vocabularies and two SentencePiece models, in vocabularies of the model's sizes."""
    arguments = read_marian_arguments(folder)
    targets = arguments.pop("target_vocabulary", None)
    if settings.flag("separate_vocabs") != (targets is not None):
        if targets is None:
            raise FileNotFoundError(f"The folder must hold target_vocab.json, as it says. Received: {folder}.")
        targets = None
    found = _with_added({**arguments, "special_tokens": []}, settings)
    return MarianTokenizer(
        **found,
        vocabulary_size=max(size, len(found["vocabulary"])),
        target_vocabulary=targets,
        target_vocabulary_size=None if targets is None else max(settings.target_vocabulary_size, len(targets)),
        end_of_text=settings.roles.get("eos_token"),
        unknown=settings.roles.get("unk_token", "<unk>"),
    )


def _unknown_class(settings: TokenizerSettings, folder: Path, files: str) -> str:
    name = settings.class_name or f"that of model_type {settings.model_type!r}"
    return (
        f"A tokenizer in {files} must be of a class that is known here, which says how texts are cut: one of "
        f"{sorted(CLASSES)}. Received: {name} in {folder}. Save it with transformers' `AutoTokenizer`, which writes "
        "tokenizer.json."
    )


def _with_added(arguments: dict[str, Any], settings: TokenizerSettings) -> dict[str, Any]:
    """The arguments with the tokens that other files than tokenizer.json add."""
    token_ids = dict(arguments["vocabulary"])
    tokens = {token.content: token for token in arguments["special_tokens"]}
    defaults = [
        AddedToken(token, lstrip=role in settings.known.strips)
        for role, token in settings.known.roles.items()
        if token in token_ids
    ]
    for token, token_id in (*settings.added, *((token, None) for token in defaults)):
        given = token_ids.setdefault(token.content, len(token_ids))
        if token_id not in (None, given):
            raise ValueError(
                f"The added token {token.content!r} must have the id {given}, which it has in the vocabulary or is the "
                f"next one. Received: {token_id}."
            )
        if settings.overrides or token.content not in tokens:
            tokens[token.content] = token
    return {**arguments, "vocabulary": token_ids, "special_tokens": list(tokens.values())}


def _framed(arguments: dict[str, Any], settings: TokenizerSettings) -> dict[str, Any]:
    """The arguments with the tokens around texts that the class decides on, whatever the file says."""
    if settings.known.frame is None:
        return arguments
    begin, end = ([settings.roles[role] for role in side] for side in settings.known.frame)
    if any(token not in arguments["vocabulary"] for token in (*begin, *end)):
        return arguments
    post_processor = arguments.get("post_processor")
    if post_processor is not None and tokens_around(post_processor, arguments["vocabulary"]) != (begin, end):
        post_processor = None
    if settings.known.words is not None:  # it makes its own, and does not listen to that of tokenizer.json
        ids = {side: [token, arguments["vocabulary"][token]] for side, (token,) in (("cls", begin), ("sep", end))}
        post_processor = {"type": "RobertaProcessing", **ids, "trim_offsets": settings.flag("trim_offsets", True)}
        post_processor["add_prefix_space"] = arguments["add_prefix_space"]
    return {**arguments, "begin_tokens": begin, "end_tokens": end, "post_processor": post_processor}


def _kind(folder: Path, document: dict[str, Any] | None) -> str:
    if document is not None:
        model = document.get("model")
        kind = str(model.get("type", "BPE")) if isinstance(model, dict) else "unknown"
        return "SentencePiece" if is_sentence_piece(document) else kind
    if (folder / "vocab.txt").is_file():
        return "WordPiece"
    if (folder / "source.spm").is_file():
        return "Marian"
    if any((folder / name).is_file() for name in _SENTENCE_PIECE_FILES):
        return "SentencePiece"
    return "BPE"  # `from_file` says what is missing


def _has(tokenizer, token: str) -> bool:
    try:
        tokenizer.token_to_id(token)
    except ValueError:
        return False
    return True


def write_tokenizer_config(folder: Path, tokenizer, chat_template=None, longest: int | None = None) -> None:
    """tokenizer_config.json: what the folder said that it came from, the roles of tokens, and the chat templates.

    Args:
        folder: where the tokenizer has been saved.
        tokenizer: the tokenizer.
        chat_template: `ChatTemplate`. Default: those of the folder that the tokenizer came from.
        longest: int, the longest input of the model, for a tokenizer that does not say it; None if there is no limit.
    """
    path = folder / "tokenizer_config.json"
    config = read_json_object(path) if path.is_file() else {}  # of WordPiece, which writes its rules there
    settings = getattr(tokenizer, "checkpoint_settings", None)
    if settings is not None:
        config = {**config, **settings}
        if "tokenizer_class" not in settings:
            config.pop("tokenizer_class", None)  # it goes by the type of the model, as before
    elif isinstance(tokenizer, SentencePieceTokenizer):  # the model's type in config.json tells the class
        # That of T5 adds 100 of them unless it is told how many there are.
        config["extra_ids"] = sum(token.startswith("<extra_id_") for token in tokenizer.special_tokens)
    else:
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    if isinstance(tokenizer, WordPieceTokenizer):
        for role, token in _BERT_ROLES.items():
            if token in tokenizer.special_tokens:
                config.setdefault(role, token)
    if longest is not None:
        config.setdefault("model_max_length", longest)
    config.update(getattr(tokenizer, "checkpoint_roles", {}))
    if getattr(tokenizer, "end_of_text_id", None) is not None:
        config["eos_token"] = tokenizer.id_to_token(tokenizer.end_of_text_id)
    templates = getattr(tokenizer, "checkpoint_chat_templates", None)
    if chat_template is not None:
        templates = chat_template.sources
    if isinstance(templates, Mapping) and [*templates] == ["default"]:
        templates = templates["default"]
    if templates is not None:
        config["chat_template"] = templates if isinstance(templates, str) else _by_name(templates.items())
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _by_name(templates: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "template": source} for name, source in templates]
