"""Whether tokens, merges and special tokens of byte-level BPE fit together."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from keras_tfm.tokenizers.added_tokens import AddedToken, as_added_tokens
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, symbols_to_bytes
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS


def check_choices(words: str, normalization: str | None, add_prefix_space: bool) -> None:
    """Raises ValueError if there is no such pattern of words or normalization, or the two do not go together."""
    if words not in WORD_PATTERNS:
        raise ValueError(f"`words` must be one of {tuple(WORD_PATTERNS)}. Received: words={words!r}.")
    if normalization not in (None, "nfc"):
        raise ValueError(f"`normalization` must be 'nfc' or None. Received: normalization={normalization!r}.")
    if add_prefix_space and words != "gpt2":
        raise ValueError(
            "`add_prefix_space` must be False for words other than 'gpt2', of which each would get a space. Received: "
            f"words={words!r}."
        )


def check_symbols(vocabulary: Mapping[str, int], drops_bytes: bool) -> None:
    """Raises ValueError if a byte has no token, unless such bytes are to be left out."""
    missing = [symbol for symbol in BYTE_SYMBOLS if symbol not in vocabulary]
    if missing and not drops_bytes:
        raise ValueError(
            "`vocabulary` must hold the symbols of all 256 bytes (GPT-2's alphabet), since any byte may occur. "
            f"Received: {len(vocabulary)} tokens without {missing[:5]} ({len(missing)} missing in all)."
        )


def ranks_of(merges: Iterable[tuple[str, str]], vocabulary: Mapping[str, int]) -> Mapping[tuple[str, str], int]:
    """Read-only dict from merge to rank.

    Raises:
        TypeError: if `merges` are no sequence of pairs.
        ValueError: if one is no pair, is there twice, or has parts or a product that are not in the vocabulary.
    """
    if isinstance(merges, str | bytes | Mapping) or not isinstance(merges, Iterable):
        raise TypeError(f"`merges` must be a sequence of pairs of tokens. Received: {str(merges)[:60]!r}.")
    ranks: dict[tuple[str, str], int] = {}
    for rank, pair in enumerate(merges):
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2
            or not all(isinstance(part, str) and part for part in pair)
        ):
            raise ValueError(f"`merges` must be pairs of tokens. Received: {pair!r} at rank {rank}.")
        left, right = pair
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise ValueError(
                    "The parts and the product of each merge must be in `vocabulary`. "
                    f"Received: merge {pair!r} at rank {rank}, without {token!r} in the vocabulary."
                )
        if (left, right) in ranks:
            raise ValueError(
                f"Each merge must occur once. Received: {pair!r} at ranks {ranks[left, right]} and {rank}."
            )
        ranks[left, right] = rank
    return MappingProxyType(ranks)


def as_byte_pair_special_tokens(
    special_tokens: Iterable[str | AddedToken], vocabulary: Mapping[str, int] | None = None
) -> tuple[AddedToken, ...]:
    """The special tokens, which are written as text, and not in the byte alphabet as all others are.

    Raises:
        ValueError, TypeError: as `as_added_tokens`, or if one is the symbol of a byte.
    """
    tokens = as_added_tokens(special_tokens)
    for token in tokens:
        if token.content in BYTE_SYMBOLS:
            raise ValueError(
                f"A special token must not be the symbol of a single byte. Received: {token.content!r}. "
                'Use a longer one, like "<|endoftext|>".'
            )
    return as_added_tokens(tokens, vocabulary)


def check_products(merges: Iterable[tuple[str, str]], special_tokens: Iterable[str]) -> None:
    """Raises ValueError if a merge makes a special token that stands for other bytes then."""
    products = {left + right for left, right in merges}
    for token in special_tokens:
        if token in products and symbols_to_bytes(token) != token.encode():
            raise ValueError(
                "A special token must not be the product of a merge that stands for other bytes. "
                f"Received: {token!r}, which merges make of {symbols_to_bytes(token)!r}."
            )
