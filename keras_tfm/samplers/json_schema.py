"""JSON schemas compiled to expressions of `automata.py`; keywords that no automaton can guarantee are refused."""

import json
import math
import urllib.parse
from decimal import Decimal
from typing import Any

import numpy as np

from keras_tfm.samplers.automata import (
    EMPTY,
    NOTHING,
    Alternation,
    Automaton,
    Characters,
    Concatenation,
    Difference,
    Graph,
    Intersection,
    Literal,
    Repetition,
    characters_without,
    optional,
)
from keras_tfm.samplers.regular_expressions import expression_of

# Where a schema says nothing about a value, arrays and objects are nested at most so deep in it.
DEEPEST_IMPLICIT = 3
_DEEPEST = 64
_MOST_SCHEMAS = 20_000
# Decimals of so many digits are different floats, so that a bound that is not to be reached is not reached by rounding.
_CERTAIN_DIGITS = 15
_MOST_DIGITS = 40

_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
_KEYWORDS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
}
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_KNOWN = frozenset({"type", "enum", "const", "anyOf", "oneOf", *(key for keys in _KEYWORDS.values() for key in keys)})
_LARGEST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_LEAST = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")

_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
_FORMATS = {
    "date": _DAY,
    "date-time": f"{_DAY}T{_CLOCK}",
    "email": rf"[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@{_LABEL}(\.{_LABEL}){{1,3}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,3}}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "time": _CLOCK,
    "uri": rf"https?://{_LABEL}(\.{_LABEL}){{0,3}}(:[1-9][0-9]{{0,3}})?(/[A-Za-z0-9._~-]*)*(\?[A-Za-z0-9._~=&-]*)?",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}

_INTEGER = "(0|-?[1-9][0-9]*)"
_FRACTION = r"(\.[0-9]+)?"
_NUMBER = rf"-?(0|[1-9][0-9]*){_FRACTION}([eE][+-]?[0-9]{{1,2}})?"
_DECIMAL = rf"-?(0|[1-9][0-9]*){_FRACTION}"

_SPACE = optional(Literal(b" "))
_CHARACTER = Characters(characters_without((0, 0x1F)), in_json=True)
_STRING = Concatenation((Literal(b'"'), Repetition(_CHARACTER), Literal(b'"')))


def expression_of_schema(schema: dict | bool | str) -> Any:
    """An expression that matches the JSON texts which are valid against the schema.

    Args:
        schema: as a dict, a bool or as text.

    Returns:
        An expression for `automaton_of`.

    Raises:
        ValueError: for what is no schema, and for keywords that cannot be guaranteed, with their place in it.
    """
    try:
        # Through text and back, so that what is no JSON is found here, and nobody else's dicts are held.
        root = json.loads(schema if isinstance(schema, str) else json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`schema` must be a JSON schema. Received: {schema!s:.500} ({error}).") from error
    if not isinstance(root, dict | bool):
        raise ValueError(f"`schema` must be a JSON schema: an object or a boolean. Received: {schema!r:.500}.")
    return _Reader(root).texts(root, "#", ())


class _Reader:
    """Reads one schema."""

    def __init__(self, root):
        self._root = root
        self._num_schemas = 0

    def texts(self, schema, path: str, references: tuple):
        """The expression of a schema at a path; `references`: those followed on the way to it."""
        self._num_schemas += 1
        if self._num_schemas > _MOST_SCHEMAS or path.count("/") > 2 * _DEEPEST:
            raise _refused(
                path, f"a schema may have {_MOST_SCHEMAS} parts, references followed, and be {_DEEPEST} deep", "..."
            )
        schema, path, references = self._flat(schema, path, references)
        if schema is False:
            return NOTHING
        _check_keywords(schema, path)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._any_of(name, schema, path, references)
        if "enum" in schema or "const" in schema:
            return self._one_of_values(schema, path, references)
        return Alternation(tuple(self._of_type(kind, schema, path, references) for kind in _types(schema, path)))

    def _flat(self, schema, path, references):
        """(the schema with `$ref` and `allOf` merged into it, its path, references); True becomes {}."""
        if schema is True:
            return {}, path, references
        if schema is False:
            return False, path, references
        if not isinstance(schema, dict):
            raise _refused(path, "a schema must be an object or a boolean", schema)
        rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
        parts = []
        if "$ref" in schema:
            target = schema["$ref"]
            if target in references:
                raise _refused(
                    f"{path}/$ref", "a reference must not lead back to itself: a finite automaton cannot count", target
                )
            references = (*references, target)
            parts.append(self._flat(self._resolved(target, path), str(target), references))
            if set(rest) <= _ANNOTATIONS and "allOf" not in schema:
                return parts[0]
        if "allOf" in schema:
            for i, part in enumerate(_list("allOf", schema, path)):
                parts.append(self._flat(part, f"{path}/allOf/{i}", references))
        for part, _, part_references in parts:
            if part is False:
                return False, path, references
            references = tuple(dict.fromkeys([*references, *part_references]))
            rest = _merged(rest, part, path)
        return rest, path, references

    def _resolved(self, target, path):
        place = self._root
        if not isinstance(target, str) or not target.startswith("#") or target[1:2] not in ("", "/"):
            raise _refused(f"{path}/$ref", "a reference must be to a part of this schema, as '#/$defs/name'", target)
        for name in urllib.parse.unquote(target[1:]).split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            try:
                place = place[int(name)] if isinstance(place, list) else place[name]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise _refused(f"{path}/$ref", "a reference must be to a part of this schema", target) from error
        return place

    def _any_of(self, name, schema, path, references):
        rest = {key: value for key, value in schema.items() if key != name}
        options = [
            self._flat(option, f"{path}/{name}/{i}", references) for i, option in enumerate(_list(name, schema, path))
        ]
        if name == "oneOf":
            for i, (one, *_) in enumerate(options):
                for other, *_ in options[:i]:
                    if not self._are_disjoint(one, other):
                        raise _refused(
                            f"{path}/oneOf",
                            "the options of `oneOf` must exclude each other by `type`, `const`, `enum` or such a "
                            "required property; use `anyOf` where a value may be of several",
                            schema["oneOf"],
                        )
        return Alternation(
            tuple(
                self.texts(False if option is False else _merged(rest, option, where), where, option_references)
                for option, where, option_references in options
            )
        )

    def _are_disjoint(self, one, other) -> bool:
        """Whether no value is valid against both, as far as types and values tell."""
        one, other = (self._flat(schema, "#", ())[0] for schema in (one, other))
        if one is False or other is False:
            return True
        values = [_values(schema) for schema in (one, other)]
        if None not in values:
            return not any(_same(a, b) for a in values[0] for b in values[1])
        types = [schema.get("type", _TYPES) for schema in (one, other)]
        types = [set([kind] if isinstance(kind, str) else kind) for kind in types]
        types = [kinds | {"integer"} if "number" in kinds else kinds for kinds in types]
        if not types[0] & types[1]:
            return True
        if types != [{"object"}, {"object"}]:
            return False
        shared = set(one.get("required", ())) & set(other.get("required", ()))
        parts = [schema.get("properties", {}) for schema in (one, other)]
        return any(
            self._are_disjoint(parts[0][name], parts[1][name]) for name in shared & set(parts[0]) & set(parts[1])
        )

    def _one_of_values(self, schema, path, references):
        values = _values(schema)
        if "type" in schema:
            kinds = _types(schema, path)
            values = [value for value in values if any(_is_of_type(value, kind) for kind in kinds)]
        texts = Alternation(tuple(_text_of(value, path) for value in values))
        rest = {key: value for key, value in schema.items() if key not in ("enum", "const", "type")}
        if set(rest) <= _ANNOTATIONS:
            return texts
        kept = []
        for kind, keywords in _KEYWORDS.items():
            of_kind = [value for value in values if any(_is_of_type(value, k) for k in _kinds(kind))]
            others: Any = Alternation(tuple(_text_of(value, path) for value in of_kind))
            if of_kind and set(rest) & set(keywords):
                others = Intersection(others, self._of_type(kind, rest, path, references))
            kept.append(others)
        kept += [_text_of(value, path) for value in values if value is None or isinstance(value, bool)]
        return Alternation(tuple(kept))

    def _of_type(self, kind, schema, path, references):
        if kind == "null":
            return Literal(b"null")
        if kind == "boolean":
            return Alternation((Literal(b"true"), Literal(b"false")))
        if kind in ("integer", "number"):
            return _number(kind, schema, path)
        if kind == "string":
            return _string(schema, path)
        return self._array(schema, path, references) if kind == "array" else self._object(schema, path, references)

    def _array(self, schema, path, references):
        if schema.get("uniqueItems"):
            raise _refused(f"{path}/uniqueItems", "`uniqueItems` cannot be guaranteed by a finite automaton", True)
        least, most = _counts("minItems", "maxItems", schema, path)
        prefix = [] if "prefixItems" not in schema else _list("prefixItems", schema, path)
        items = schema.get("items", {} if prefix else _UNSPECIFIED)
        first = [self.texts(item, f"{path}/prefixItems/{i}", references) for i, item in enumerate(prefix)]
        item = (
            _any_value(DEEPEST_IMPLICIT - 1)
            if items is _UNSPECIFIED
            else self.texts(items, f"{path}/items", references)
        )
        # State i: i items are written; after the prefix items and the minimum, the last state has a loop.
        num_places = max(len(first), least, 1) if most is None else most
        if num_places > _MOST_SCHEMAS:
            raise _refused(path, f"arrays may have {_MOST_SCHEMAS} items at most", num_places)
        steps = []
        for i in range(num_places):
            part = first[i] if i < len(first) else item
            steps.append((i, part if i == 0 else Concatenation((Literal(b","), _SPACE, part)), i + 1))
        if most is None:
            steps.append((num_places, Concatenation((Literal(b","), _SPACE, item)), num_places))
        ends = tuple(range(max(least, 1), num_places + 1))
        return _bracketed(b"[", Graph(tuple(steps), ends), b"]", may_be_empty=least == 0)

    def _object(self, schema, path, references):
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict):
            raise _refused(f"{path}/properties", "`properties` must be an object", properties)
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refused(f"{path}/required", "`required` must be a list of strings", required)
        least, most = _counts("minProperties", "maxProperties", schema, path)
        additional = schema.get("additionalProperties", {} if "properties" not in schema else False)
        unnamed = schema.get("additionalProperties", {})  # of what is required without being described
        members = []  # (text, whether it must be)
        for name in dict.fromkeys([*properties, *required]):
            where = f"{path}/properties/{_pointer(name)}" if name in properties else f"{path}/additionalProperties"
            part = self._value(properties.get(name, unnamed), where, references)
            key = Concatenation((_text_of(name, path), Literal(b":"), _SPACE, part))
            members.append((key, name in required))
        extra = None
        if additional is not False:
            names = Alternation(tuple(_text_of(name, path) for name in dict.fromkeys([*properties, *required])))
            part = self._value(additional, f"{path}/additionalProperties", references)
            extra = Concatenation((Difference(_STRING, names), Literal(b":"), _SPACE, part))
            if least > max(1, len(required)):
                # Names may come twice, and count once.
                raise _refused(
                    f"{path}/minProperties", "`minProperties` cannot be guaranteed with `additionalProperties`", least
                )
        return _bracketed(b"{", _members(members, extra, least, most), b"}", may_be_empty=least == 0 and not required)

    def _value(self, schema, path, references):
        if schema is True or schema == {}:
            return _any_value(DEEPEST_IMPLICIT - 1)
        return self.texts(schema, path, references)


_UNSPECIFIED = object()


def _members(members, extra, least, most):
    """A graph of the members of an object in order, at least one; then any number of additional ones.

    A state is (members decided on, how many of them are written); counts beyond what matters are one state.
    """
    cap = max(1, least) if most is None else most
    steps, todo, seen = [], [(0, 0)], {(0, 0)}

    def step(source, part, target):
        steps.append((source, part, target))
        if target not in seen:
            seen.add(target)
            todo.append(target)

    while todo:
        index, count = place = todo.pop()
        more = count + 1 if count < cap else (count if most is None else None)
        comma = (Literal(b","), _SPACE) if count else ()
        if index == len(members):
            if extra is not None and more is not None:
                step(place, Concatenation((*comma, extra)), (index, more))
            continue
        text, is_required = members[index]
        if more is not None:
            step(place, Concatenation((*comma, text)), (index + 1, more))
        if not is_required:
            step(place, EMPTY, (index + 1, count))
    ends = tuple(place for place in seen if place[0] == len(members) and place[1] >= max(1, least))
    numbers = {place: number for number, place in enumerate(sorted(seen))}
    return Graph(tuple((numbers[a], part, numbers[b]) for a, part, b in steps), tuple(numbers[end] for end in ends))


def _bracketed(opening, inner, closing, may_be_empty):
    inner = Concatenation((_SPACE, inner, _SPACE))
    return Concatenation((Literal(opening), Alternation((EMPTY, inner)) if may_be_empty else inner, Literal(closing)))


def _any_value(depth):
    """Any JSON value, with arrays and objects nested `depth` deep at most."""
    scalars = (Literal(b"null"), Literal(b"true"), Literal(b"false"), expression_of(_NUMBER), _STRING)
    if depth == 0:
        return Alternation(scalars)
    inner = _any_value(depth - 1)
    comma = Concatenation((Literal(b","), _SPACE))
    member = Concatenation((_STRING, Literal(b":"), _SPACE, inner))
    array, members = (Graph(((0, part, 1), (1, comma, 0)), (1,)) for part in (inner, member))
    return Alternation((*scalars, _bracketed(b"[", array, b"]", True), _bracketed(b"{", members, b"}", True)))


def _string(schema, path):
    least, most = _counts("minLength", "maxLength", schema, path)
    parts = []
    if least or most is not None:
        parts.append(Repetition(_CHARACTER, least, most))
    if "pattern" in schema:
        parts.append(_pattern(schema["pattern"], path))
    if "format" in schema:
        if schema["format"] not in _FORMATS:
            raise _refused(f"{path}/format", f"`format` must be one of {sorted(_FORMATS)}", schema["format"])
        parts.append(expression_of(f"^{_FORMATS[schema['format']]}$", json=True))
    inner: Any = parts[0] if parts else Repetition(_CHARACTER)
    for part in parts[1:]:
        inner = Intersection(inner, part)
    return Concatenation((Literal(b'"'), inner, Literal(b'"')))


def _pattern(pattern, path):
    if not isinstance(pattern, str):
        raise _refused(f"{path}/pattern", "`pattern` must be a string", pattern)
    try:
        return expression_of(pattern, json=True)
    except ValueError as error:
        raise _refused(
            f"{path}/pattern", f"`pattern` must be a regular expression that can be followed ({error})", pattern
        ) from error


def _number(kind, schema, path):
    bounds = {}
    for name in _KEYWORDS["number"][:4]:
        if name in schema:
            if not _is_number(schema[name]):
                raise _refused(f"{path}/{name}", f"`{name}` must be a number", schema[name])
            bounds[name] = Decimal(repr(schema[name] or 0))  # -0.0 is 0
            most = _CERTAIN_DIGITS if name.startswith("exclusive") and kind == "number" else _MOST_DIGITS
            if len(format(bounds[name], "f").strip("-").replace(".", "")) > most:
                raise _refused(f"{path}/{name}", f"`{name}` may have {most} digits", schema[name])
    multiple = schema.get("multipleOf")
    if multiple is not None:
        if not _is_number(multiple) or multiple != int(multiple) or multiple < 1:
            raise _refused(
                f"{path}/multipleOf", "`multipleOf` can be guaranteed of an integer of at least 1 only", multiple
            )
        kind = "integer"
    if kind == "integer":
        patterns = [_INTEGER]
        if "minimum" in bounds:
            patterns.append(_integers_from(math.ceil(bounds["minimum"])))
        if "exclusiveMinimum" in bounds:
            patterns.append(_integers_from(math.floor(bounds["exclusiveMinimum"]) + 1))
        if "maximum" in bounds:
            patterns.append(_integers_to(math.floor(bounds["maximum"])))
        if "exclusiveMaximum" in bounds:
            patterns.append(_integers_to(math.ceil(bounds["exclusiveMaximum"]) - 1))
    else:
        patterns = [_DECIMAL if bounds else _NUMBER]
        for name, bound in bounds.items():
            decimals = _decimals_from if name.lower().endswith("minimum") else _decimals_to
            patterns.append(decimals(bound, is_open=name.startswith("exclusive")))
        if any(name.startswith("exclusive") for name in bounds):
            patterns.append(rf"-?[0-9](\.?[0-9]){{0,{_CERTAIN_DIGITS - 1}}}")
    parts = [expression_of(pattern) for pattern in patterns]
    if multiple is not None:
        parts.append(Concatenation((optional(Literal(b"-")), _multiples(int(multiple), path))))
    result = parts[0]
    for part in parts[1:]:
        result = Intersection(result, part)
    return result


def _multiples(number, path):
    """An automaton that accepts the decimal digits of multiples of a number; its states are remainders."""
    if number > 1000:
        raise _refused(f"{path}/multipleOf", "`multipleOf` may be at most 1000", number)
    classes = np.zeros(256, "uint8")
    classes[list(b"0123456789")] = np.arange(1, 11)
    remainders = np.arange(number)[:, None]
    table = np.concatenate([np.full((number, 1), -1), (10 * remainders + np.arange(10)) % number], axis=1)
    return Automaton(classes, table.astype("int32"), np.arange(number) == 0)


def _integers_from(least: int) -> str:
    """A pattern of the integers >= `least`."""
    if least > 0:
        return _natural_from(str(least))
    return _either("0|[1-9][0-9]*", f"-{_natural_to(str(-least))}" if least < 0 else "")


def _integers_to(most: int) -> str:
    if most < 0:
        return f"-{_natural_from(str(-most))}"
    return _either("-[1-9][0-9]*", _natural_to(str(most)))


def _natural_from(digits: str) -> str:
    """A pattern of the natural numbers >= `digits`, without leading zeros."""
    size = len(digits)
    options = [digits, f"[1-9][0-9]{{{size},}}"]
    for i, digit in enumerate(digits):
        if digit < "9":
            options.append(f"{digits[:i]}[{int(digit) + 1}-9][0-9]{{{size - i - 1}}}")
    return _either(*options)


def _natural_to(digits: str) -> str:
    size = len(digits)
    options = [digits, "0"]
    if size > 1:
        options.append(f"[1-9][0-9]{{0,{size - 2}}}")
    for i, digit in enumerate(digits):
        lowest = 1 if i == 0 and size > 1 else 0
        if int(digit) > lowest:
            options.append(f"{digits[:i]}[{lowest}-{int(digit) - 1}][0-9]{{{size - i - 1}}}")
    return _either(*options)


def _decimals_from(bound: Decimal, is_open: bool) -> str:
    """A pattern of the decimals >= the bound; > where `is_open`."""
    if bound < 0:
        return _either(rf"[0-9]+{_FRACTION}", "-" + _unsigned_to(-bound, is_open))
    return _unsigned_from(bound, is_open)


def _decimals_to(bound: Decimal, is_open: bool) -> str:
    if bound < 0:
        return "-" + _unsigned_from(-bound, is_open)
    below = "-" + _unsigned_from(Decimal(0), is_open)
    return below if bound == 0 and is_open else _either(below, _unsigned_to(bound, is_open))


def _unsigned_from(bound: Decimal, is_open: bool) -> str:
    """A pattern of the unsigned decimals >= (open: >) the bound."""
    whole, fraction = _split(bound)
    options = [rf"{_natural_from(str(int(whole) + 1))}{_FRACTION}"]
    for i, digit in enumerate(fraction):
        if digit < "9":
            options.append(rf"{whole}\.{fraction[:i]}[{int(digit) + 1}-9][0-9]*")
    point = rf"{whole}\.{fraction}"
    options.append(rf"{point}[0-9]*[1-9][0-9]*" if is_open else rf"{point}[0-9]+")
    if not is_open:
        options.append(point if fraction else whole)
    return _either(*options)


def _unsigned_to(bound: Decimal, is_open: bool) -> str:
    """A pattern of the unsigned decimals <= (open: <) the bound."""
    whole, fraction = _split(bound)
    options = []
    if whole != "0":
        options.append(rf"{_natural_to(str(int(whole) - 1))}{_FRACTION}")
    if fraction:
        options.append(whole)
    for i, digit in enumerate(fraction):
        if i:
            options.append(rf"{whole}\.{fraction[:i]}")
        if digit > "0":
            options.append(rf"{whole}\.{fraction[:i]}[0-{int(digit) - 1}][0-9]*")
    if not is_open:
        options.append(rf"{whole}\.{fraction}0*" if fraction else rf"{whole}(\.0+)?")
    return _either(*options)


def _split(bound: Decimal) -> tuple[str, str]:
    """The digits before and after the point, without zeros at the end."""
    whole, _, fraction = format(bound, "f").partition(".")
    return whole, fraction.rstrip("0")


def _either(*patterns: str) -> str:
    return f"({'|'.join(pattern for pattern in patterns if pattern)})"


def _text_of(value, path):
    """The JSON of a value, with spaces where other values may have them."""
    if isinstance(value, list):
        inner = [_text_of(item, path) for item in value]
        inner = [part for item in inner for part in (Literal(b","), _SPACE, item)][2:]
        return _bracketed(b"[", Concatenation(tuple(inner)), b"]", False) if inner else Literal(b"[]")
    if isinstance(value, dict):
        inner = [
            Concatenation((_text_of(key, path), Literal(b":"), _SPACE, _text_of(item, path)))
            for key, item in value.items()
        ]
        inner = [part for item in inner for part in (Literal(b","), _SPACE, item)][2:]
        return _bracketed(b"{", Concatenation(tuple(inner)), b"}", False) if inner else Literal(b"{}")
    try:
        return Literal(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:  # half a surrogate pair, or no number
        raise _refused(path, f"values and names must be JSON in UTF-8 ({error})", value) from error


def _merged(one: dict, other: dict, path: str) -> dict:
    """A schema of the values that are valid against both."""
    result = dict(one)
    closed = [
        (a, b)
        for a, b in ((one, other), (other, one))
        if a.get("additionalProperties", True) is not True
        and set(b.get("properties", ())) - set(a.get("properties", ()))
    ]
    if closed:
        raise _refused(
            f"{path}/allOf", "`additionalProperties` must not close an object that another part opens", closed[0][0]
        )
    for name, value in other.items():
        if name not in result or result[name] == value or name in _ANNOTATIONS:
            result.setdefault(name, value)
        elif name in _LARGEST or name in _LEAST:
            result[name] = max(result[name], value) if name in _LARGEST else min(result[name], value)
        elif name == "required":
            result[name] = list(dict.fromkeys([*result[name], *value]))
        elif name == "properties":
            result[name] = {
                key: {"allOf": [part[key] for part in (result[name], value) if key in part]}
                for key in dict.fromkeys([*result[name], *value])
            }
        elif name == "items":
            result[name] = {"allOf": [result[name], value]}
        elif name == "type":
            result[name] = sorted(_with_integers(result[name]) & _with_integers(value))
            if {"integer", "number"} <= set(result[name]):
                result[name].remove("integer")
        elif name == "enum":
            result[name] = [a for a in result[name] if any(_same(a, b) for b in value)]
        else:
            raise _refused(f"{path}/allOf", f"`{name}` must not differ between parts that must all hold", value)
    return result


def _with_integers(types) -> set:
    types = {types} if isinstance(types, str) else set(types)
    return types | {"integer"} if "number" in types else types


def _check_keywords(schema, path) -> None:
    unknown = [name for name in schema if name not in _KNOWN | _ANNOTATIONS]
    if unknown:
        where = f"{path}/{_pointer(unknown[0])}"
        raise _refused(
            where, f"`{unknown[0]}` cannot be guaranteed; take it out if texts need not obey it", schema[unknown[0]]
        )


def _types(schema, path) -> list[str]:
    """The types that a value may have: those of `type`, or those that the keywords apply to."""
    types = schema.get("type")
    if types is None:
        types = [kind for kind, keywords in _KEYWORDS.items() if set(keywords) & set(schema)] or ["any"]
        return list(_TYPES) if types == ["any"] else types
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not all(kind in _TYPES for kind in types):
        raise _refused(f"{path}/type", f"`type` must be one or several of {list(_TYPES)}", schema["type"])
    return [kind for kind in types if kind != "integer" or "number" not in types]


def _kinds(kind):
    return ("integer", "number") if kind == "number" else (kind,)


def _values(schema):
    """The values of `enum` and `const`, None without."""
    if not isinstance(schema, dict) or not {"enum", "const"} & set(schema):
        return None
    values = schema.get("enum", [schema.get("const")])
    values = values if isinstance(values, list) else [values]
    return [value for value in values if "const" not in schema or _same(value, schema["const"])]


def _same(one, other) -> bool:
    """Whether two JSON values are equal; in Python True is 1, too."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


def _is_of_type(value, kind) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        return _is_number(value) and (kind == "number" or value == int(value))
    return isinstance(value, {"string": str, "array": list, "object": dict}[kind])


def _is_number(value) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def _counts(least_name, most_name, schema, path) -> tuple[int, int | None]:
    for name in (least_name, most_name):
        value = schema.get(name, 0)
        if not _is_number(value) or value < 0 or value != int(value):
            raise _refused(f"{path}/{name}", f"`{name}` must be an integer of at least 0", value)
    most = schema.get(most_name)
    return int(schema.get(least_name, 0)), None if most is None else int(most)


def _list(name, schema, path) -> list:
    if not isinstance(schema[name], list) or not schema[name]:
        raise _refused(f"{path}/{name}", f"`{name}` must be a list of schemas", schema[name])
    return schema[name]


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refused(path: str, statement: str, received: Any) -> ValueError:
    return ValueError(f"At {path} of `schema`: {statement}. Received: {received!r:.200}.")
