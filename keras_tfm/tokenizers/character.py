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
from keras_tfm.tokenizers.inputs import TrainingTexts
from keras_tfm.tokenizers.tokenizer import Tokenizer
from keras_tfm.tokenizers.vocabulary import check_encodable, check_special_tokens, id_table, parts_of, tokens_of
from keras_tfm.tokenizers.word_splitter import SEPARATOR, replace_invalid_utf8, special_token_pattern

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
        special_tokens: Iterable[str] = ("<|endoftext|>",),
        end_of_text: str | None = None,
    ):
        if not isinstance(characters, str):
            raise TypeError(f"`characters` must be a string. Received: {str(characters)[:60]!r}.")
        check_encodable(characters)
        special_tokens = check_special_tokens(special_tokens)
        characters += "" if _UNKNOWN in characters else _UNKNOWN
        repeated = [one for one, count in collections.Counter([*special_tokens, *characters]).items() if count > 1]
        if repeated:
            raise ValueError(
                "`characters` must differ from each other, and none be a special token. Received twice: "
                f"{repeated[:5]}."
            )
        if end_of_text is None and "<|endoftext|>" in special_tokens:
            end_of_text = "<|endoftext|>"
        super().__init__([*special_tokens, *characters], special_tokens=special_tokens, end_of_text=end_of_text)
        self.characters = characters
        self._special = special_token_pattern(special_tokens)
        self._ids = id_table(self.vocabulary, default=self.vocabulary[_UNKNOWN])

    @classmethod
    def train(
        cls,
        texts_or_files: str | Path | Iterable[str | Path],
        vocabulary_size: int | None = None,
        special_tokens: Iterable[str] = ("<|endoftext|>",),
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
        special_tokens = check_special_tokens(special_tokens)
        texts = TrainingTexts(texts_or_files, special_tokens)
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(text)
        for no_letter in (_UNKNOWN, *special_tokens):
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
        special_tokens = tuple(added["content"] for added in added_tokens)
        tokens = tokens_of(vocabulary)
        characters = tokens[len(special_tokens) :]
        is_ours = model.get("type") == "WordLevel" and document.get("pre_tokenizer") == _EACH_CHARACTER
        if not is_ours or tokens[: len(special_tokens)] != special_tokens or any(len(one) != 1 for one in characters):
            raise ValueError(
                "Only a tokenizer.json of single characters, as `save` writes it, is supported. "
                f"Received: a model of type {model.get('type')!r} with tokens {tokens[:5]}."
            )
        return cls("".join(characters), special_tokens)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, which the library `tokenizers` loads as well, into a folder, made if need be.

        It has no place for an `end_of_text` other than the default.
        """
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": token_id, "content": token, **flags} for token, token_id in self.special_tokens.items()
            ],
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
        texts = replace_invalid_utf8(texts)
        if not self._special:
            return tf.ragged.map_flat_values(self._ids.lookup, tf.strings.unicode_split(texts, "UTF-8"))
        marked = tf.strings.regex_replace(texts, self._special, SEPARATOR + rb"\0" + SEPARATOR)
        pieces = tf.strings.split(marked, SEPARATOR)  # (B, pieces), of which special tokens are each one
        is_special = tf.strings.regex_full_match(pieces.values, self._special)
        characters = tf.strings.unicode_split(tf.where(is_special, "", pieces.values), "UTF-8")
        special = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(pieces.values, is_special), tf.cast(is_special, tf.int64), validate=False
        )
        tokens = tf.concat([characters, special], axis=1)  # a piece has either
        return tf.ragged.map_flat_values(self._ids.lookup, pieces.with_values(tokens).merge_dims(1, 2))
