"""The post-processor of a tokenizer.json: which tokens are put around each text."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

NO_POST_PROCESSOR: Mapping[str, Any] = MappingProxyType({"type": "Sequence", "processors": []})
"""One that does nothing, to be told from none, for which writers may have one of their own."""


def tokens_around(
    post_processor: Mapping[str, Any] | None, token_ids: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """The tokens that are put before and after a single text.

    Args:
        post_processor: that part of a tokenizer.json, or None.
        token_ids: dict from token to id.

    Raises:
        ValueError: if it does anything else, or its tokens have other ids in the vocabulary.
    """
    begin: list[str] = []
    end: list[str] = []
    for part in _parts(post_processor):
        kind = part.get("type")
        if kind in ("BertProcessing", "RobertaProcessing"):
            before, after = [tuple(part.get("cls") or ())], [tuple(part.get("sep") or ())]
        elif kind == "TemplateProcessing":
            before, after = _template(part)
        elif kind == "ByteLevel":  # of offsets, which are not told here
            continue
        else:
            raise ValueError(
                "`post_processor` of a tokenizer.json must be a TemplateProcessing, RobertaProcessing, BertProcessing, "
                f"ByteLevel or a Sequence of them. Received: {kind!r}."
            )
        for token in (*before, *after):
            if len(token) != 2 or token_ids.get(token[0]) != token[1]:
                raise ValueError(
                    "The tokens of `post_processor` of a tokenizer.json must be in its vocabulary, with their ids. "
                    f"Received: {token}."
                )
        # Each part puts its tokens around what the parts before it have made.
        begin, end = [token for token, _ in before] + begin, end + [token for token, _ in after]
    return begin, end


def post_processor_of(begin: Iterable[str], end: Iterable[str], token_ids: Mapping[str, int]) -> dict[str, Any] | None:
    """The post-processor that puts these tokens around each text, and around each of two; None if there are none."""
    if not (tokens := [*begin, *end]):
        return None

    def around(sequence: str, segment: int) -> list[dict[str, Any]]:
        special = ([{"SpecialToken": {"id": token, "type_id": segment}} for token in part] for part in (begin, end))
        before, after = special
        return [*before, {"Sequence": {"id": sequence, "type_id": segment}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [token_ids[token]], "tokens": [token]} for token in tokens},
    }


def trimmings(post_processor: Mapping[str, Any] | None) -> list[bool]:
    """The parts that take the spaces at the ends of byte-level tokens out of the places that are told of them.

    Returns:
        for each such part, whether it believes that one space at the beginning of a text is none of the text.
    """
    kinds = ("ByteLevel", "RobertaProcessing")
    parts = [part for part in _parts(post_processor) if part.get("type") in kinds and part.get("trim_offsets", True)]
    return [bool(part.get("add_prefix_space", True)) for part in parts]


def _parts(processor: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if processor is None or processor.get("type") != "Sequence":
        return [] if processor is None else [processor]
    parts = processor.get("processors")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"`post_processor.processors` must be a list of objects. Received: {str(parts)[:60]}.")
    return parts


def _template(part: Mapping[str, Any]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(token, id) of what stands before and after the one text of a template."""
    single: Any = part.get("single")
    special = part.get("special_tokens") or {}
    is_template = isinstance(single, list) and all(isinstance(one, dict) and len(one) == 1 for one in single)
    sides: list[list[tuple[str, int]]] = [[]]
    for one in single if is_template else ():
        if "Sequence" in one:
            sides.append([])
            continue
        name = (one.get("SpecialToken") or {}).get("id")
        known = special.get(name) or {}
        sides[-1] += zip(known.get("tokens") or [name], known.get("ids") or [None], strict=False)
    if len(sides) != 2:
        raise ValueError(
            "`post_processor.single` of a tokenizer.json must be special tokens around one text. "
            f"Received: {str(single)[:120]}."
        )
    return sides[0], sides[1]
