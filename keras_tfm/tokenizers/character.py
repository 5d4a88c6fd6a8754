"""The tokenizer of single characters."""

import collections
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.files import local_path, read_json, replace_file
from keras_tfm.tokenizers.added_tokens import AddedToken, added_tokens_of, as_added_tokens, json_of_added_tokens
from keras_tfm.tokenizers.inputs import TrainingTexts
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import check_encodable, id_table, parts_of, tokens_of

_UNKNOWN = "\ufffd"
_EACH_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}


class CharacterTokenizer(Tokenizer):
    """Each character (Unicode code point) is a token: a small vocabulary, for first models and other alphabets.

    It runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel that loads with `import tensorflow` alone.
    A character that is not in the alphabet becomes U+FFFD, "�", as bytes that are no UTF-8 do. Letters with marks that
    are written as several code points are several tokens; nothing is normalized.

    Args:
        characters: str, the alphabet. U+FFFD is added to it if need be.
        special_tokens: tokens that are cut out of a text before anything else; where several begin, the longest counts.
            They get the first ids, in order; the characters follow, in order.
        end_of_text: the special token at which a text ends. Default: "<|endoftext|>", if that is one.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,).

    Returns:
        int32 (T,) for one string, RaggedTensor of int32 (B, tokens) for several. No special token is added.

    Raises:
        ValueError: if a character is twice in the alphabet or a special token; at a call, if a `str` holds unpaired
            surrogates or the rank is not 0 or 1.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = CharacterTokenizer.train("the cat")
        >>> tokenizer
        <CharacterTokenizer: 8 tokens, 1 of them special>
        >>> tokenizer.encode("the bat")
        [6, 5, 4, 1, 7, 2, 6]
        >>> tokenizer.decode([6, 5, 4, 1, 7, 2, 6])
        'the �at'
    """

    def __init__(
        self,
        characters: str,
        special_tokens: Iterable[str | AddedToken] = ("<|endoftext|>",),
        end_of_text: str | None = None,
    ):
        if not isinstance(characters, str):
            raise TypeError(f"`characters` must be a string. Received: {str(characters)[:60]!r}.")
        check_encodable(characters)
        special_tokens = as_added_tokens(special_tokens)
        contents = [token.content for token in special_tokens]
        characters += "" if _UNKNOWN in characters else _UNKNOWN
        repeated = [one for one, count in collections.Counter([*contents, *characters]).items() if count > 1]
        if repeated:
            raise ValueError(
                "`characters` must differ from each other, and none be a special token. Received twice: "
                f"{repeated[:5]}."
            )
        if end_of_text is None and "<|endoftext|>" in contents:
            end_of_text = "<|endoftext|>"
        super().__init__([*contents, *characters], special_tokens=special_tokens, end_of_text=end_of_text)
        self.characters = characters
        self._ids = id_table(self.vocabulary, default=self.vocabulary[_UNKNOWN])

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int | None = None,
        special_tokens: Iterable[str | AddedToken] = ("<|endoftext|>",),
    ) -> "CharacterTokenizer":
        """The alphabet of texts, in order of code points.

        Args:
            texts_or_files: a text, a file, or an iterable of these. A `str` is text, a `pathlib.Path` is a file.
            vocabulary_size: int, at most so many tokens: the special tokens, U+FFFD, and the most frequent characters.
                Default: all characters.
            special_tokens: get the first ids, in order. They may occur in the text, and no character is learned from
                them.

        Returns:
            a CharacterTokenizer.

        Raises:
            ValueError: if there is no text, or `vocabulary_size` leaves no room for a character.
        """
        special_tokens = as_added_tokens(special_tokens)
        contents = [token.content for token in special_tokens]
        texts = TrainingTexts(texts_or_files, contents)
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(text)
        for no_letter in (_UNKNOWN, *contents):
            counts.pop(no_letter, None)
        if not counts:
            raise ValueError(
                f"There must be text to train on. Received: {texts.num_texts} texts with no characters but special "
                "tokens."
            )
        frequent = sorted(counts, key=lambda character: (-counts[character], character))
        if vocabulary_size is not None:
            room = as_integer("vocabulary_size", vocabulary_size) - len(special_tokens) - 1
            if room < 1:
                raise ValueError(
                    f"`vocabulary_size` must be at least {len(special_tokens) + 2}: {len(special_tokens)} special "
                    f"tokens, U+FFFD and a character. Received: vocabulary_size={vocabulary_size}."
                )
            frequent = frequent[:room]
        return cls("".join(sorted(frequent)), special_tokens)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "CharacterTokenizer":
        """Reads what `save` wrote.

        Args:
            path: a tokenizer.json, or a folder that holds one.

        Returns:
            a CharacterTokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds another kind of tokenizer.
        """
        path = local_path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(
                f"`path` must be a tokenizer.json, or a folder with one. Received: {str(path)!r}, "
                + ("without it." if path.is_dir() else "which does not exist.")
            )
        return cls.from_json(read_json(file))

    @classmethod
    def from_json(cls, document: Any) -> "CharacterTokenizer":
        """Reads the content of a tokenizer.json, as `json.load` gives it; ValueError as `from_file`."""
        model, vocabulary, added_tokens = parts_of(document)
        special_tokens = added_tokens_of(added_tokens, vocabulary)
        tokens, contents = tokens_of(vocabulary), tuple(token.content for token in special_tokens)
        characters = tokens[len(contents) :]
        is_ours = model.get("type") == "WordLevel" and document.get("pre_tokenizer") == _EACH_CHARACTER
        if not is_ours or tokens[: len(contents)] != contents or any(len(one) != 1 for one in characters):
            raise ValueError(
                "Only a tokenizer.json of single characters, as `save` writes it, is supported. "
                f"Received: a model of type {model.get('type')!r} with tokens {tokens[:5]}."
            )
        return cls("".join(characters), special_tokens)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, which the library `tokenizers` loads as well, into a folder, made if need be.

        It has no place for an `end_of_text` other than the default.
        """
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": json_of_added_tokens(self.added_tokens, self.vocabulary),
            "normalizer": None,
            "pre_tokenizer": _EACH_CHARACTER,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": dict(self.vocabulary), "unk_token": _UNKNOWN},
        }
        folder = local_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False, indent=1))

    def tokenize_rows(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return tf.ragged.map_flat_values(self._ids.lookup, tf.strings.unicode_split(texts, "UTF-8"))
