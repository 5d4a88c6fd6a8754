"""How byte pair tokenizers cut texts into words: the regular expressions of the families, in RE2.

RE2 has no look-ahead. What `\\s+(?!\\S)` does is to leave the last white space before a word out of its run; here a
separator is put before it first.
"""

import dataclasses
from typing import Any, Literal

# RE2's `\s` is ASCII only. This is Unicode's White_Space, as the Rust library understands `\s`; line ends apart.
_BLANK = r"\t\v\f \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
SPACE = rf"\r\n{_BLANK}"

# RE2 as built into TensorFlow 2.21 knows Unicode 15, tokenizers 0.23 knows Unicode 16: these characters are new there.
# A test compares every code point, so that a change on either side is noticed.
LETTER = (
    r"\p{L}\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}"
    r"\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7}"
    r"\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}"
    r"\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2EBF0}-\x{2EE5D}"
)
_NUMBER = (
    r"\p{N}\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{16130}-\x{16139}\x{16D70}-\x{16D79}"
    r"\x{1CCF0}-\x{1CCF9}\x{1E5F1}-\x{1E5FA}"
)
# What `Digits` splits off goes by the Rust compiler's tables, which know Unicode 17.
_NEWEST_NUMBER = r"\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}"


@dataclasses.dataclass(frozen=True)
class Step:
    """A place for separators.

    Args:
        pattern: in RE2.
        place: "after" each match; "around" each match; "between" the two groups of the pattern.
    """

    pattern: str
    place: Literal["after", "around", "between"]


@dataclasses.dataclass(frozen=True)
class WordPattern:
    """The steps, and the `pre_tokenizer` of a tokenizer.json that says the same."""

    steps: tuple[Step, ...]
    pre_tokenizer: dict[str, Any]


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(expression: str) -> dict[str, Any]:
    """The pre-tokenizer of those who bring an expression of their own."""
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


# 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
_GPT2 = (
    Step(f"([{SPACE}])([{SPACE}][^{SPACE}])", "between"),
    Step(f"'s|'t|'re|'ve|'m|'ll|'d| ?[{LETTER}]+| ?[{_NUMBER}]+| ?[^{SPACE}{LETTER}{_NUMBER}]+|[{SPACE}]+", "after"),
)


def _gpt4(numbers: str) -> tuple[Step, ...]:
    """The expression of GPT-4, which Llama 3 and Qwen took over; a run of white space ends with its last line end."""
    words = (
        f"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n{LETTER}{_NUMBER}]?[{LETTER}]+|{numbers}"
        f"| ?[^{SPACE}{LETTER}{_NUMBER}]+[\\r\\n]*|[{SPACE}]*[\\r\\n]+|[{SPACE}]+"
    )
    return Step(f"([{SPACE}])([{_BLANK}][^{SPACE}])", "between"), Step(words, "after")


_GPT4_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM_STOPS = ".,!?…。，、।۔،"  # noqa: RUF001 (they are meant)

WORD_PATTERNS = {
    "gpt2": WordPattern(_GPT2, _byte_level(use_regex=True)),
    "llama3": WordPattern(_gpt4(f"[{_NUMBER}]{{1,3}}"), _split(_GPT4_EXPRESSION.replace("NUMBERS", r"\p{N}{1,3}"))),
    "qwen2": WordPattern(_gpt4(f"[{_NUMBER}]"), _split(_GPT4_EXPRESSION.replace("NUMBERS", r"\p{N}"))),
    "smollm": WordPattern(
        (Step(f"[{_NUMBER}{_NEWEST_NUMBER}]", "around"), *_GPT2),
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)]},
    ),
    "bloom": WordPattern((Step(f" ?[^(|){SPACE}{_BLOOM_STOPS}]+", "around"),), _split(rf" ?[^(\s|[{_BLOOM_STOPS}])]+")),
}


def pattern_of(pre_tokenizer: dict[str, Any] | None, add_prefix_space: bool = False) -> str | None:
    """The name of the pattern that a tokenizer.json asks for, with a space before texts or without; None if none."""
    for name in WORD_PATTERNS:
        if _essence(pre_tokenizer_of(name, add_prefix_space)) == _essence(pre_tokenizer):
            return name
    return None


def pre_tokenizer_of(name: str, add_prefix_space: bool) -> dict[str, Any]:
    """The part of a tokenizer.json that asks for a pattern."""
    pre_tokenizer = WORD_PATTERNS[name].pre_tokenizer
    if not add_prefix_space:
        return pre_tokenizer
    parts = [
        {**part, "add_prefix_space": True} if part["type"] == "ByteLevel" else part
        for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    ]
    return parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}


def _essence(pre_tokenizer: Any) -> Any:
    """The pre-tokenizer without what does not change the words."""
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        parts = pre_tokenizer.get("pretokenizers")
        return list(map(_essence_of_one, parts)) if isinstance(parts, list) else None
    return _essence_of_one(pre_tokenizer)


def _essence_of_one(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "ByteLevel":
        return "ByteLevel", part.get("add_prefix_space", True), part.get("use_regex", True)
    return {key: value for key, value in part.items() if value is not None}
