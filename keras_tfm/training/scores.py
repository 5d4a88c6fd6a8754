"""How good are entities, and answers?"""

import collections
import re
import string
from collections.abc import Iterator, Sequence


def entity_scores(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities: one counts if its first and its last word and its kind are right.

    Args:
        expected: for each text the labels of its words, as "O", "B-PLACE" and "I-PLACE". An "I-PLACE" after something
            else begins an entity; a label without "B-" or "I-" is an entity of one word, as in `EntityRecognition`.
        found: alike.

    Returns:
        dict of "precision", "recall" and "f1", 0 to 1.

    Raises:
        ValueError: if the texts do not have the same number of words. TypeError: for labels that are no strings.

    Example:
        >>> entity_scores([["B-PLACE", "I-PLACE", "O"]], [["B-PLACE", "O", "O"]])
        {'precision': 0.0, 'recall': 0.0, 'f1': 0.0}

    Reference:
        Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419/
    """
    sizes = [list(map(len, rows)) for rows in (expected, found)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"Each text must have as many labels on both sides. Received: {sizes[0]} and {sizes[1]}.")
    right, given = (
        {(row, *entity) for row, labels in enumerate(rows) for entity in _entities(labels)}
        for rows in (expected, found)
    )
    common = len(right & given)
    return {
        "precision": common / len(given) if given else 0.0,
        "recall": common / len(right) if right else 0.0,
        "f1": 2 * common / (len(right) + len(given)) if right or given else 0.0,
    }


def _entities(labels: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(kind, first word, word after the last)."""
    start, kind = 0, None
    for i, label in enumerate([*labels, "O"]):
        if not isinstance(label, str):
            raise TypeError(f"Labels must be names. Received: {label!r} of type {type(label).__name__}.")
        name = label[2:] if label[:2] in ("B-", "I-") else label
        if kind is not None and not (label.startswith("I-") and name == kind):
            yield kind, start, i
            kind = None
        if kind is None and name != "O":
            start, kind = i, name


def answer_scores(expected: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match and F1: of answers without case, punctuation and articles, by their words.

    Args:
        expected: for each question the right answer; "" for none.
        found: alike.

    Returns:
        dict of "exact_match" and "f1", 0 to 1, means over questions.

    Raises:
        ValueError: for no answers, or another number of them on the two sides.

    Example:
        >>> answer_scores(["the Globe"], ["Globe theatre"])
        {'exact_match': 0.0, 'f1': 0.6666666666666666}

    Reference:
        Rajpurkar et al. 2016, "SQuAD", section 6.1, https://arxiv.org/abs/1606.05250
    """
    if not expected or len(expected) != len(found):
        raise ValueError(f"There must be as many answers on both sides. Received: {len(expected)} and {len(found)}.")
    pairs = [(_normalized(one).split(), _normalized(other).split()) for one, other in zip(expected, found, strict=True)]
    return {
        "exact_match": sum(one == other for one, other in pairs) / len(pairs),
        "f1": sum(_f1(one, other) for one, other in pairs) / len(pairs),
    }


def _normalized(answer: str) -> str:
    bare = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare)


def _f1(expected: list[str], found: list[str]) -> float:
    if not expected or not found:
        return float(expected == found)
    common = sum((collections.Counter(expected) & collections.Counter(found)).values())
    return 2 * common / (len(expected) + len(found))
