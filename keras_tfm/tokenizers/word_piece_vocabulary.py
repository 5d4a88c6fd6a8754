"""What a WordPiece tokenizer knows: pieces, special tokens and rules, checked."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from keras_tfm.tokenizers.bert_characters import BertRules
from keras_tfm.tokenizers.byte_alphabet import check_encodable
from keras_tfm.tokenizers.special_tokens import check_special_tokens

PADDING, UNKNOWN, CLASS, SEPARATOR, MASK = BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_CHARACTERS = 100  # longer words are unknown, in BERT and here


class WordPieceVocabulary:
    """Pieces, special tokens and rules of a WordPiece tokenizer.

    Args:
        token_ids: dict from piece to id; the ids are 0, 1, ..., V - 1. "##" stands before pieces that do not begin a
            word.
        rules: BertRules.
        special_tokens: tokens that are found in a text before anything else. Default: those of BERT's five that are in
            `token_ids`.

    Attributes:
        token_ids: read-only dict.
        special_tokens: read-only dict from special token to id.
        tokens: tuple, the token of each id.
        rules: BertRules.

    Raises:
        ValueError, TypeError: if these do not fit together.
    """

    def __init__(self, token_ids: Mapping[str, int], rules: BertRules, special_tokens: Iterable[str] | None = None):
        if not isinstance(token_ids, Mapping):
            raise TypeError(
                "`vocabulary` must be a dict from token to id. "
                f"Received: {str(token_ids)[:60]} of type {type(token_ids).__name__}. Read a file with `from_file`."
            )
        self.token_ids = MappingProxyType(dict(token_ids))
        self.rules = rules
        self._check_ids()
        if special_tokens is None:
            special_tokens = [token for token in BERT_TOKENS if token in self.token_ids]
        self.special_tokens = MappingProxyType(self._special_ids(special_tokens))
        self.tokens = tuple(sorted(self.token_ids, key=self.token_ids.__getitem__))

    def special_id(self, token: str) -> int:
        """The id of one of BERT's special tokens.

        Raises:
            ValueError: if the vocabulary lacks it.
        """
        if token not in self.token_ids:
            raise ValueError(
                f"The vocabulary must hold {token!r} for this. Received: {len(self.tokens)} tokens without it; special "
                f"tokens: {list(self.special_tokens)}. Add it, or train with it among `special_tokens`."
            )
        return self.token_ids[token]

    def _check_ids(self) -> None:
        for token, token_id in self.token_ids.items():
            if not isinstance(token, str) or not isinstance(token_id, int):
                raise TypeError(f"`vocabulary` must map strings to ints. Received: {token!r}: {token_id!r}.")
            check_encodable(token)
        size = len(self.token_ids)
        if wrong := set(range(size)) ^ set(self.token_ids.values()):
            raise ValueError(
                f"The ids of `vocabulary` must be 0, 1, ..., {size - 1}, each once. Received: {size} tokens; "
                f"missing or not in that range: {sorted(wrong)[:5]}."
            )
        if UNKNOWN not in self.token_ids:
            raise ValueError(
                f"`vocabulary` must hold {UNKNOWN!r}, which stands for words that no pieces make. "
                f"Received: {size} tokens without it."
            )

    def _special_ids(self, special_tokens: Iterable[str]) -> dict[str, int]:
        special_tokens = check_special_tokens(special_tokens)
        for token in special_tokens:
            if token not in self.token_ids:
                raise ValueError(
                    f"Each special token must be in `vocabulary`. Received: {token!r}, which is not. Add it with an id."
                )
        return {token: self.token_ids[token] for token in special_tokens}
