"""Every text that a JSON grammar lets end is JSON of its schema, by Python's `json` and by `jsonschema`."""

import datetime
import json

import jsonschema
import numpy as np
import pytest

from keras_tfm.samplers import match_json_schema
from keras_tfm.samplers.automata import automaton_of
from keras_tfm.samplers.json_schema import expression_of_schema
from keras_tfm.tokenizers import BytePairTokenizer
from tests.samplers.json_schemas import SCHEMAS, random_walk

CHECKER = jsonschema.FormatChecker()
# Draft 3 knew times without a zone; this is RFC 3339's.
CHECKER.checks("time")(lambda text: bool(datetime.datetime.fromisoformat(f"1970-01-01T{text}").tzinfo))


@pytest.fixture(scope="module")
def tokenizer():
    text = 'the light "a": 12, {"b": "x"} - 2024-10-01 aa bb né 12-aa-bb null true \\n "kind": "one"\n' * 20
    return BytePairTokenizer.train(text, vocabulary_size=290)


def check_walks(schema, tokenizer, count):
    grammar = match_json_schema(schema, tokenizer)
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
    token_bytes = [tokenizer.token_bytes(i) for i in range(tokenizer.vocabulary_size)]
    random = np.random.default_rng(0)
    texts = [random_walk(grammar, token_bytes, random) for _ in range(count)]
    ended = [text.decode() for text in texts if text is not None]
    for text in ended:
        validator.validate(json.loads(text))
    assert len(ended) > 0.8 * count
    return set(ended)


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_walks_are_json_of_the_schema(name, tokenizer):
    texts = check_walks(SCHEMAS[name], tokenizer, 40)
    assert len(texts) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_many_random_walks_are_json_of_the_schema(name, tokenizer):
    check_walks(SCHEMAS[name], tokenizer, 600)


def random_bounds(random):
    numbers = [round(float(random.normal() * 10.0 ** random.integers(-2, 4)), int(random.integers(0, 4))) for _ in "ab"]
    low, high = sorted(int(number) if random.integers(2) else number for number in numbers)
    names = [str(random.choice(["minimum", "exclusiveMinimum"])), str(random.choice(["maximum", "exclusiveMaximum"]))]
    bounds = dict(zip(names, (low, high), strict=True))
    if random.integers(3) == 0:
        bounds.popitem()
    return bounds


def test_bounds_are_kept_by_all_and_only_those_numbers():
    random = np.random.default_rng(0)
    for _ in range(40):
        bounds = random_bounds(random)
        for kind in ("integer", "number"):
            schema = {"type": kind, **bounds}
            automaton, validator = automaton_of(expression_of_schema(schema)), jsonschema.Draft202012Validator(schema)
            near = [float(bound) for bound in bounds.values()]
            candidates = [
                near[0],
                near[-1],
                *(random.choice(near, 30) + random.normal(size=30) * 10.0 ** random.integers(-3, 3, 30).astype(float)),
            ]
            for candidate in candidates:
                text = (
                    str(round(candidate)) if kind == "integer" else format(round(candidate, 4), "f").rstrip("0") + "0"
                )
                text = text if float(text) else text.removeprefix("-")  # -0 is not written where there are bounds
                assert automaton.reads(text.encode()) == validator.is_valid(json.loads(text)), (schema, text)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#"}, "#/\\$ref .* lead back to itself"),
        (
            {"properties": {"next": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
            "#/\\$defs/a/items/\\$ref",
        ),
        ({"$ref": "https://example.com/a.json"}, "a part of this schema"),
        ({"$ref": "#/$defs/none"}, "a part of this schema"),
        ({"properties": {"a/b": {"not": {"type": "null"}}}}, "At #/properties/a~1b/not of `schema`: `not` cannot be"),
        ({"if": {}, "then": {}}, "`if` cannot be guaranteed"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
        ({"type": "array", "contains": {}}, "`contains` cannot be guaranteed"),
        ({"type": "object", "patternProperties": {}}, "`patternProperties` cannot be guaranteed"),
        ({"type": "string", "maxlength": 3}, "`maxlength` cannot be guaranteed"),
        ({"type": "string", "format": "ipv6"}, "#/format .* one of .* Received: 'ipv6'"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern of .*look-around"),
        ({"type": "number", "multipleOf": 0.01}, "#/multipleOf"),
        ({"type": "number", "exclusiveMaximum": 0.12345678901234567}, "may have 15 digits"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf .* exclude each other"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "#/allOf .* `pattern` must not differ"),
        (
            {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
            "must not close",
        ),
        ({"type": "object", "additionalProperties": True, "minProperties": 2}, "#/minProperties"),
        ({"type": "text"}, "#/type .* one or several of"),
        ({"type": "string", "maxLength": -1}, "#/maxLength"),
        ({"enum": ["\ud800"]}, "JSON in UTF-8"),
        ({"enum": []}, "no text that it allows"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no text that it allows"),
        (False, "no text that it allows"),
        ({"type": "string", "maxLength": 10**9}, "a grammar may have"),
        ({"type": "array", "maxItems": 10**6}, "arrays may have"),
        ({"enum": ["".join(map(str, range(i, i + 9))) for i in range(5000)]}, "a grammar may have"),
        (5, "an object or a boolean. Received: 5"),
        ("{", "`schema` must be a JSON schema. Received: {"),
        ({"type": {1, 2}}, "`schema` must be a JSON schema. Received"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_with_its_place(schema, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        match_json_schema(schema, tokenizer)


def test_schemas_that_refer_twice_to_each_of_many_are_refused(tokenizer):
    """2^40 properties in 40 lines."""
    parts = {
        f"p{i}": {"properties": {"a": {"$ref": f"#/$defs/p{i + 1}"}, "b": {"$ref": f"#/$defs/p{i + 1}"}}}
        for i in range(40)
    }
    schema = {"$ref": "#/$defs/p0", "$defs": {**parts, "p40": {"type": "null"}}}
    with pytest.raises(ValueError, match="a schema may have 20000 parts"):
        match_json_schema(schema, tokenizer)


def test_a_property_that_comes_by_its_name_does_not_come_by_the_others_rule(tokenizer):
    automaton = automaton_of(expression_of_schema(SCHEMAS["extra_members"]))
    assert automaton.reads(b'{"a":true,"b":1}')
    assert not automaton.reads(b'{"a":1}')
