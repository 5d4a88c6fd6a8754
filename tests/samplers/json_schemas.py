"""JSON schemas of many kinds, and random walks through the texts that a grammar allows."""

import numpy as np

SCHEMAS = {
    "all_of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "null"}, "a": {"minimum": 7}}},
        ]
    },
    "any_of": {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    "any_value": True,
    "arrays": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "bounded_decimals": {"type": "number", "minimum": -2.25, "maximum": 10.5},
    "bounded_integers": {"type": "integer", "minimum": -13, "exclusiveMaximum": 250},
    "counted_members": {
        "type": "object",
        "properties": {name: {"const": 1} for name in "abcd"},
        "required": ["b"],
        "minProperties": 2,
        "maxProperties": 3,
    },
    "dates": {"type": "string", "format": "date"},
    "discriminated": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}, "v": {"type": of}}, "required": ["kind", "v"]}
            for kind, of in (("one", "null"), ("two", "boolean"))
        ]
    },
    "enum": {"enum": ['a"b\\', "é\n日本", 1.5, None, True, {"k": [1, {}]}, []]},
    "enum_with_bounds": {"enum": [1, 5, 20, "x", "longer"], "maximum": 10, "maxLength": 3},
    "extra_members": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "additionalProperties": {"type": "integer"},
    },
    "ipv4": {"format": "ipv4"},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": 0},
    "names": {"properties": {'we"ird (k)\\': {"type": "null"}, "é/~": {"type": "null"}}, "required": ['we"ird (k)\\']},
    "nested": {
        "type": "object",
        "properties": {"p": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 2}},
        "required": ["p"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    },
    "numbers": {"type": "number"},
    "objects": {"type": "object"},
    "open_decimals": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.125},
    "pattern_and_length": {"type": "string", "pattern": "b", "minLength": 2, "maxLength": 4},
    "pattern_digits": {"type": "string", "pattern": r"^\d{2,3}\W\S$"},
    "pattern_dots": {"type": "string", "pattern": "^.{1,3}$"},
    "pattern_negated": {"type": "string", "pattern": "^[^x]{1,3}$"},
    "pattern_quote": {"type": "string", "pattern": '^a"b\\\\$|^\\n?$'},
    "pattern_unanchored": {"type": "string", "pattern": "[a-c]{2}"},
    "required_unnamed": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]},
    "strings": {"type": "string", "minLength": 1, "maxLength": 3},
    "times": {"type": "string", "format": "time"},
    "tuples": {"type": "array", "prefixItems": [{"type": "null"}, {"const": "x"}], "items": False, "minItems": 2},
    "types": {"type": ["integer", "null", "string"], "maxLength": 2, "minimum": 0},
    "uuid": {"format": "uuid"},
}


def random_walk(grammar, token_bytes, random, most_tokens=200) -> bytes | None:
    """A text that the grammar's tables allow, None where it has not ended after so many tokens.

    Each kind of token is as likely as the others, so that rare ones come.
    """
    state, text = 0, b""
    examples = {}
    for token_id in random.permutation(len(token_bytes)):
        examples.setdefault(int(grammar.kinds[token_id]), token_bytes[token_id])
    for step in range(most_tokens):
        kinds = np.flatnonzero(grammar.transitions[state] >= 0)
        if not len(kinds):
            return text
        if step > 40 and grammar.end_kind in kinds:
            return text
        kind = int(random.choice(kinds))
        if kind == grammar.end_kind:
            return text
        text += examples[kind]
        state = grammar.transitions[state, kind]
    return None
