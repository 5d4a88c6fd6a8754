"""What a byte pair tokenizer knows: tokens, merges and special tokens, checked."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from keras_tfm.tokenizers.byte_alphabet import BYTE_SYMBOLS, symbols_to_bytes
from keras_tfm.tokenizers.special_tokens import check_special_tokens
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS


class BytePairVocabulary:
    """Tokens, merges and special tokens of byte-level BPE.

    Args:
        token_ids: dict from token, in GPT-2's byte alphabet, to id; the ids are 0, 1, ..., V - 1.
        merges: pairs of tokens in order of rank.
        special_tokens: tokens, as plain text, that are found in a text before anything else.
        words: name of the pattern that cuts texts into words; see `WORD_PATTERNS`.
        whole_words: bool, a word that is a token is that token, whatever the merges say.
        end_of_text: the special token at which a text ends. Default: "<|endoftext|>", if that is one.
        drops_bytes: bool, bytes without a token are left out, rather than refused.
        normalization: "nfc" or None, what is done to texts first.
        plain_tokens: special tokens that are ordinary text when decoded (GPT-NeoX's runs of spaces, Qwen's <think>).
        post_processor: what a tokenizer.json does to ids afterwards. It is kept for the file and not done here.
        lstrip_tokens: special tokens that take the white space before them with them.

    Attributes:
        token_ids: read-only dict.
        merges: tuple of pairs.
        special_tokens: read-only dict from special token to id.
        tokens: tuple, the token of each id.
        token_bytes: tuple, the bytes of each id.

    Raises:
        ValueError, TypeError: if the three do not fit together.
    """

    def __init__(
        self,
        token_ids: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        special_tokens: Iterable[str],
        words: str = "gpt2",
        whole_words: bool = False,
        end_of_text: str | None = None,
        drops_bytes: bool = False,
        normalization: str | None = None,
        plain_tokens: Iterable[str] = (),
        post_processor: dict[str, Any] | None = None,
        lstrip_tokens: Iterable[str] = (),
    ):
        if words not in WORD_PATTERNS:
            raise ValueError(f"`words` must be one of {tuple(WORD_PATTERNS)}. Received: words={words!r}.")
        self.words = words
        self.whole_words = whole_words
        self.drops_bytes = drops_bytes
        if normalization not in (None, "nfc"):
            raise ValueError(f"`normalization` must be 'nfc' or None. Received: normalization={normalization!r}.")
        self.normalization = normalization
        self.plain_tokens = frozenset(plain_tokens)
        self.lstrip_tokens = frozenset(lstrip_tokens)
        self.post_processor = post_processor
        self.token_ids = MappingProxyType(dict(token_ids))
        self.merges = tuple(tuple(pair) for pair in merges)
        special_tokens = check_byte_pair_special_tokens(special_tokens)
        self._check_ids()
        self._check_merges()
        self._check_special_tokens(special_tokens)
        self.special_tokens = MappingProxyType({token: self.token_ids[token] for token in special_tokens})
        if end_of_text is not None and end_of_text not in self.special_tokens:
            raise ValueError(
                f"`end_of_text` must be a special token. Received: end_of_text={end_of_text!r} and "
                f"special_tokens={tuple(self.special_tokens)[:5]}."
            )
        self.end_of_text = end_of_text or ("<|endoftext|>" if "<|endoftext|>" in self.special_tokens else None)
        self.tokens = tuple(sorted(self.token_ids, key=self.token_ids.__getitem__))
        self.token_bytes = tuple(
            token.encode() if token in self.special_tokens else symbols_to_bytes(token) for token in self.tokens
        )

    def _check_ids(self) -> None:
        size = len(self.token_ids)
        for token, token_id in self.token_ids.items():
            if not isinstance(token, str) or not isinstance(token_id, int):
                raise TypeError(f"`vocabulary` must map strings to ints. Received: {token!r}: {token_id!r}.")
        if wrong := set(range(size)) ^ set(self.token_ids.values()):
            raise ValueError(
                f"The ids of `vocabulary` must be 0, 1, ..., {size - 1}, each once. Received: {size} tokens; "
                f"missing or not in that range: {sorted(wrong)[:5]}."
            )
        missing = [symbol for symbol in BYTE_SYMBOLS if symbol not in self.token_ids]
        if missing and not self.drops_bytes:
            raise ValueError(
                "`vocabulary` must hold the symbols of all 256 bytes (GPT-2's alphabet), since any byte may occur. "
                f"Received: {size} tokens without {missing[:5]} ({len(missing)} missing in all)."
            )

    def _check_merges(self) -> None:
        ranks: dict[tuple[str, ...], int] = {}
        for rank, pair in enumerate(self.merges):
            if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
                raise ValueError(f"`merges` must be pairs of tokens. Received: {pair!r} at rank {rank}.")
            if unknown := [token for token in (*pair, "".join(pair)) if token not in self.token_ids]:
                raise ValueError(
                    "The parts and the product of each merge must be in `vocabulary`. "
                    f"Received: merge {pair!r} at rank {rank}, without {unknown[0]!r} in the vocabulary."
                )
            if pair in ranks:
                raise ValueError(f"Each merge must occur once. Received: {pair!r} at ranks {ranks[pair]} and {rank}.")
            ranks[pair] = rank

    def _check_special_tokens(self, special_tokens: tuple[str, ...]) -> None:
        for name, tokens in {"plain_tokens": self.plain_tokens, "lstrip_tokens": self.lstrip_tokens}.items():
            if unknown := sorted(tokens - set(special_tokens)):
                raise ValueError(f"`{name}` must be special tokens. Received: {unknown[:5]}, which are not.")
        spaced = [token for token in special_tokens if any(map(str.isspace, token))]
        if spaced and self.lstrip_tokens:
            raise ValueError(
                "No special token may have white space if one takes the white space before it. "
                f"Received: {spaced[:3]} and lstrip_tokens={sorted(self.lstrip_tokens)}."
            )
        products = {left + right for left, right in self.merges}
        for token in special_tokens:
            if token not in self.token_ids:
                raise ValueError(
                    f"Each special token must be in `vocabulary`. Received: {token!r}, which is not. Add it with an id."
                )
            if token in products:
                raise ValueError(f"A special token must not be the product of a merge. Received: {token!r}.")


def check_byte_pair_special_tokens(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """The special tokens as a tuple.

    Raises:
        ValueError, TypeError: if one is empty, no string, twice there, or the symbol of a byte.
    """
    special_tokens = check_special_tokens(special_tokens)
    for token in special_tokens:
        if token in BYTE_SYMBOLS:
            raise ValueError(
                f"A special token must not be the symbol of a single byte. Received: {token!r}. "
                'Use a longer one, like "<|endoftext|>".'
            )
    return special_tokens
