"""Whether tokens, merges and special tokens of byte-level BPE fit together."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS, check_special_tokens
from keras_tfm.tokenizers.word_patterns import WORD_PATTERNS


def check_choices(words: str, normalization: str | None) -> None:
    """Raises ValueError if there is no such pattern of words, or no such normalization."""
    if words not in WORD_PATTERNS:
        raise ValueError(f"`words` must be one of {tuple(WORD_PATTERNS)}. Received: words={words!r}.")
    if normalization not in (None, "nfc"):
        raise ValueError(f"`normalization` must be 'nfc' or None. Received: normalization={normalization!r}.")


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


def check_byte_pair_special_tokens(
    special_tokens: Iterable[str], vocabulary: Mapping[str, int] | None = None
) -> tuple[str, ...]:
    """The special tokens as a tuple; ValueError, TypeError as `check_special_tokens`, or if one is a byte's symbol."""
    special_tokens = check_special_tokens(special_tokens)
    for token in special_tokens:
        if token in BYTE_SYMBOLS:
            raise ValueError(
                f"A special token must not be the symbol of a single byte. Received: {token!r}. "
                'Use a longer one, like "<|endoftext|>".'
            )
    return check_special_tokens(special_tokens, vocabulary)


def check_together(
    merges: Iterable[tuple[str, str]],
    special_tokens: tuple[str, ...],
    plain_tokens: Iterable[str],
    lstrip_tokens: Iterable[str],
) -> None:
    """Raises ValueError if special tokens contradict each other or the merges."""
    for name, tokens in {"plain_tokens": plain_tokens, "lstrip_tokens": lstrip_tokens}.items():
        if unknown := sorted(set(tokens) - set(special_tokens)):
            raise ValueError(f"`{name}` must be special tokens. Received: {unknown[:5]}, which are not.")
    spaced = [token for token in special_tokens if any(map(str.isspace, token))]
    if spaced and lstrip_tokens:
        raise ValueError(
            "No special token may have white space if one takes the white space before it. "
            f"Received: {spaced[:3]} and lstrip_tokens={sorted(lstrip_tokens)}."
        )
    products = {left + right for left, right in merges}
    for token in special_tokens:
        if token in products:
            raise ValueError(f"A special token must not be the product of a merge. Received: {token!r}.")
