"""What a SentencePiece model, as tokenizer.model has it, means: rules to cut texts and to join pieces."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from keras_tfm.tokenizers.added_tokens import AddedToken
from keras_tfm.tokenizers.sentence_piece_graph import (
    CuttingRules,
    JoiningRules,
    PairModel,
    Step,
    UnigramModel,
)
from keras_tfm.tokenizers.sentence_piece_proto import (
    BYTE,
    BYTE_PAIR,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    ModelProto,
)
from keras_tfm.tokenizers.sentence_piece_rules import (
    WORD_SIGN,
    CharacterReplacer,
    SuffixSigner,
    drop_extra_spaces,
    escape_spaces,
    prepend_sign,
    read_charsmap,
)

BYTE_PIECES = {f"<0x{byte:02X}>": byte for byte in range(256)}


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a file says.

    Args:
        tokens: the token of each id; None for an id that no token has.
        special_tokens: those that are found in texts before anything else.
        begin_of_text, end_of_text: the tokens with which a text begins and ends, or None.
        cutting, joining: what is done in the graph.
    """

    tokens: Sequence[str | None]
    special_tokens: Sequence[str | AddedToken]
    begin_of_text: str | None
    end_of_text: str | None
    cutting: CuttingRules
    joining: JoiningRules


def meaning_of_proto(proto: ModelProto, space_after_special: bool) -> Meaning:
    """What a tokenizer.model means.

    Args:
        proto: ModelProto.
        space_after_special: bool, the space that the model puts before a text also comes after special tokens.

    Raises:
        ValueError: if it asks for what is not supported.
    """
    pieces = proto.pieces
    _check(proto)
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    is_pairs = proto.model_type == BYTE_PAIR
    user_defined = {piece.text: ids[piece.text] for piece in pieces if piece.kind == USER_DEFINED}
    unknown_id = next((number for number, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
    byte_ids = [ids.get(f"<0x{byte:02X}>", -1) for byte in range(256)] if proto.byte_fallback else None
    cutting = CuttingRules(
        model=_pair_model(proto, ids) if is_pairs else _unigram_model(proto, ids),
        steps=_steps(proto, user_defined, space_after_special),
        whole_words=user_defined if is_pairs else {},
        fixed_words=is_pairs,
        byte_ids=byte_ids,
        unknown_id=unknown_id,
    )
    return Meaning(
        tokens=[piece.text for piece in pieces],
        special_tokens=[piece.text for piece in pieces if piece.kind == CONTROL],
        begin_of_text=_named(proto, proto.bos_id),
        end_of_text=_named(proto, proto.eos_id),
        cutting=cutting,
        joining=_joining(proto),
    )


def _check(proto: ModelProto) -> None:
    if proto.model_type not in (UNIGRAM, BYTE_PAIR):
        raise ValueError(
            f"`model` must be a Unigram (1) or a BPE model (2). Received: a SentencePiece model of type "
            f"{proto.model_type}."
        )
    if not proto.escape_whitespaces or proto.denormalizer_charsmap:
        raise ValueError(
            "`model` must write spaces as '▁' and texts as they are decoded. Received: a SentencePiece model with "
            f"escape_whitespaces={proto.escape_whitespaces} and a denormalizer of "
            f"{len(proto.denormalizer_charsmap):,} bytes, which are not supported."
        )
    texts = [piece.text for piece in proto.pieces]
    if len(set(texts)) < len(texts) or "" in texts:
        twice = [text for number, text in enumerate(texts) if text in texts[:number]] if len(texts) < 2**15 else []
        raise ValueError(
            f"The pieces of `model` must differ and not be empty. Received: {len(texts):,} pieces, of which "
            f"{len(set(texts)):,} are different: {twice[:3]}."
        )
    wrong = [piece.text for piece in proto.pieces if piece.kind == BYTE and piece.text not in BYTE_PIECES]
    if wrong:
        raise ValueError(f"Byte pieces of `model` must be written as '<0x0A>'. Received: {wrong[:3]}.")


def _named(proto: ModelProto, number: int) -> str | None:
    return proto.pieces[number].text if 0 <= number < len(proto.pieces) else None


def _pair_model(proto: ModelProto, ids: Mapping[str, int]) -> PairModel:
    """All that pieces may be merged from: of two pieces next to each other that are one, that of the best score."""
    scores = {piece.text: piece.score for piece in proto.pieces if piece.kind == NORMAL}
    letters = sorted(set("".join(scores)) - scores.keys())  # those that are only parts of pieces
    numbers = {text: ids[text] for text in scores} | {letter: len(ids) + i for i, letter in enumerate(letters)}
    merges, products = [], []
    for text in scores:
        for place in range(1, len(text)):
            if (left := numbers.get(text[:place])) is not None and (right := numbers.get(text[place:])) is not None:
                merges.append((left, right, numbers[text]))
                products.append(text)
    for text in (piece.text for piece in proto.pieces if piece.kind == UNUSED):
        if any(text[:place] in numbers and text[place:] in numbers for place in range(1, len(text))):
            raise ValueError(
                "Pieces of `model` that are not used must not be merged from others, which is not supported. "
                f"Received: {text!r}."
            )
    _, ranks = np.unique([-scores[text] for text in products], return_inverse=True)
    symbols = {text: number for text, number in numbers.items() if len(text) == 1}
    return PairModel(symbols, merges, ranks.tolist(), products)


def _unigram_model(proto: ModelProto, ids: Mapping[str, int]) -> UnigramModel:
    scores = {piece.text: piece.score for piece in proto.pieces if piece.kind == NORMAL}
    least = min(scores.values(), default=0.0)
    for piece in proto.pieces:
        if piece.kind == USER_DEFINED:  # a bonus, so that it is always taken
            scores[piece.text] = float(np.float32(0.1 * (len(piece.text.encode()) - 1)))
    return UnigramModel(scores, {text: ids[text] for text in scores}, least)


def _steps(proto: ModelProto, user_defined: Mapping[str, int], space_after_special: bool) -> list[Step]:
    replace = []
    if proto.precompiled_charsmap:
        replacements = read_charsmap(proto.precompiled_charsmap)
        spaces = np.flatnonzero(replacements.codes == ord(" "))
        if proto.remove_extra_whitespaces and (np.diff(spaces) == 1).any():
            raise ValueError(
                "The charsmap of `model` must not make several spaces in a row where extra ones are removed, which is "
                "not supported. Received: one that does."
            )
        replace = [CharacterReplacer(replacements, kept=list(user_defined))]
    prefix = functools.partial(prepend_sign, always=space_after_special)
    if not proto.add_dummy_prefix:
        return [*replace, *[drop_extra_spaces] * proto.remove_extra_whitespaces, escape_spaces]
    if proto.treat_whitespace_as_suffix:
        signed = SuffixSigner(replace[0] if replace else None, drops_spaces=proto.remove_extra_whitespaces)
        return [signed, escape_spaces]
    if proto.remove_extra_whitespaces:
        return [*replace, drop_extra_spaces, prefix, escape_spaces]
    # Before all else: texts of which nothing is left get it too.
    return [prefix, *replace, escape_spaces]


def _joining(proto: ModelProto) -> JoiningRules:
    texts, first_texts, closes = [], [], []
    takes_sign = proto.add_dummy_prefix or proto.remove_extra_whitespaces
    for piece in proto.pieces:
        first = text = piece.text.encode()
        if piece.kind == UNKNOWN:
            first = text = proto.unk_surface.encode()
        elif piece.kind == BYTE:
            first = text = bytes([BYTE_PIECES[piece.text]])
        elif piece.kind != CONTROL:
            text = first = piece.text.replace(WORD_SIGN, " ").encode()
            if takes_sign and piece.text.startswith(WORD_SIGN):
                first = text[1:]
        texts.append(text)
        first_texts.append(first)
        # Where extra spaces are removed, each piece at the start may lose one.
        closes.append(bool(first) or (first != text and not proto.remove_extra_whitespaces))
    is_byte = [piece.kind == BYTE for piece in proto.pieces]
    return JoiningRules(texts, first_texts, closes, is_byte, replaces_runs=False)
