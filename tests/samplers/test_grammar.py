"""Texts match their grammar, from the first token to the last."""

import json
import re

import numpy as np
import pytest

from keras_tfm.generation import TextGenerator
from keras_tfm.samplers import (
    BanTokens,
    Grammar,
    GreedySampler,
    RandomSampler,
    match_json_schema,
    match_one_of,
    match_regex,
)
from keras_tfm.tokenizers import BytePairTokenizer
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model
from tests.generation.scripted import ScriptedModel

PATTERN = r"[0-9]{2}(-[a-f]{1,2}){2}|né"


@pytest.fixture(scope="module")
def tokenizer():
    text = 'the light "a" : 12, {"b": "x"} - 2024-10-01 aa bb cc né 12-aa-bb\n' * 20
    return BytePairTokenizer.train(text, vocabulary_size=270)


@pytest.fixture(scope="module")
def model(tokenizer):
    return lively_model(num_layers=1, vocabulary_size=tokenizer.vocabulary_size)


def texts_of(model, tokenizer, processor, num_texts=12, length=40):
    answer = generate_eagerly(
        model,
        [[1]],
        max_new_tokens=length,
        sampler=RandomSampler((processor,), seed=1),
        num_return_sequences=num_texts,
        stop_token_ids=(tokenizer.end_of_text_id,),
    )
    rows = zip(answer.token_ids, answer.num_tokens, strict=True)
    return [tokenizer.decode(ids[:count]) for ids, count in rows], answer.finish_reasons


def test_texts_match_the_regular_expression(model, tokenizer):
    texts, reasons = texts_of(model, tokenizer, match_regex(PATTERN, tokenizer))
    assert all(re.fullmatch(PATTERN, text) for text in texts)
    assert set(reasons) <= {"complete", "stop_token"}
    assert len(set(texts)) > 3


def test_where_more_may_follow_only_the_end_token_ends_a_text(model, tokenizer):
    texts, reasons = texts_of(model, tokenizer, match_regex("a+", tokenizer), length=6)
    assert all(re.fullmatch("a+", text) for text in texts)
    assert set(reasons) <= {"stop_token", "length"}


def test_texts_are_json_of_the_schema(model, tokenizer):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}},
        "required": ["a", "b"],
    }
    texts, reasons = texts_of(model, tokenizer, match_json_schema(schema, tokenizer), num_texts=6, length=60)
    for text, reason in zip(texts, reasons, strict=True):
        if reason != "length":
            value = json.loads(text)
            assert isinstance(value["a"], int)
            assert value["b"] in ("x", "yy")
    assert "complete" in reasons


def test_texts_are_one_of_the_sequences(model, tokenizer):
    sequences = [tokenizer.encode(text) for text in ("the", "the light", "né")]
    grammar = match_one_of(sequences, tokenizer.vocabulary_size, (tokenizer.end_of_text_id,))
    texts, _ = texts_of(model, tokenizer, grammar)
    assert set(texts) <= {"the", "the light", "né"}


def test_by_hand_on_four_words():
    grammar = match_one_of([(2, 1), (2, 3, 3)], 4)
    answer = generate_eagerly(
        ScriptedModel([[0.0, 9.0, 1.0, 2.0]]), [[0]], max_new_tokens=5, sampler=GreedySampler((grammar,))
    )
    assert answer.token_ids.tolist() == [[2, 1, -1, -1, -1]]
    assert answer.finish_reasons == ("complete",)


def test_an_impossible_constraint_ends_the_row_and_says_so():
    processors = (match_one_of([(2, 1)], 4), BanTokens((1,)))
    answer = generate_eagerly(
        ScriptedModel([[0.0, 9.0, 1.0, 2.0]]), [[0]], max_new_tokens=5, sampler=GreedySampler(processors)
    )
    assert answer.token_ids.tolist() == [[2, -1, -1, -1, -1]]
    assert answer.finish_reasons == ("impossible",)


def test_it_works_in_a_text_generator(model, tokenizer):
    writer = TextGenerator(model, tokenizer, RandomSampler([match_regex("[0-9]{4}", tokenizer)], seed=2))
    assert re.fullmatch("[0-9]{4}", writer("the year ", max_new_tokens=8))


def test_a_pattern_that_cannot_be_read_raises(tokenizer):
    with pytest.raises(ValueError, match=r"Received: '\(a'"):
        match_regex("(a", tokenizer)


def test_a_schema_that_is_none_raises(tokenizer):
    with pytest.raises(ValueError, match="JSON schema. Received: {"):
        match_json_schema("{", tokenizer)


@pytest.mark.parametrize(
    ("sequences", "message"), [((), r"sequences=\(\)"), (((1, 9),), "greatest=9"), (((),), r"sequences=\(\)")]
)
def test_bad_sequences_raise(sequences, message):
    with pytest.raises(ValueError, match=message):
        match_one_of(sequences, 4)


def test_tables_of_equal_tokens_are_shared(tokenizer):
    grammar = match_regex("[0-9]{3}", tokenizer)
    assert grammar.transitions.shape[1] < 32
    assert grammar.kinds.shape == (tokenizer.vocabulary_size,)
    assert np.asarray(grammar.transitions).dtype == np.int32


class Words:
    """A tokenizer of these tokens alone."""

    def __init__(self, pieces, special=()):
        self.pieces = pieces
        self.vocabulary_size = len(pieces)
        self.special_tokens = {pieces[i].decode(): i for i in special}

    def token_bytes(self, token_id):
        return self.pieces[token_id]


def allowed_at(grammar, token_ids):
    state = 0
    for token_id in token_ids:
        state = grammar.transitions[state, grammar.kinds[token_id]]
    return [i for i, kind in enumerate(grammar.kinds) if grammar.transitions[state, kind] >= 0]


def test_special_tokens_are_not_spelled():
    words = Words([b"<end>", b'"', b"a", b"<", b"", b"<end"], special=(0,))
    grammar = match_regex('"[^"]*"', words, stop_token_ids=())
    assert allowed_at(grammar, [1]) == [1, 2, 3, 5]


def test_no_token_leads_where_no_token_leads_out():
    """No token has a "c", so that "ab" is a way to "abd" only if a token has "bd"."""
    assert allowed_at(match_regex("abc|abd|ae", Words([b"a", b"b", b"d", b"e"])), [0]) == [1, 3]
    assert allowed_at(match_regex("abc|ae", Words([b"a", b"b", b"d", b"e"])), [0]) == [3]
    with pytest.raises(ValueError, match="no sequence of tokens"):
        match_regex("abc", Words([b"a", b"b"]))


def test_a_writers_stop_tokens_end_a_text_only_where_it_may_end(model, tokenizer):
    stop = tokenizer.encode("aa")[0]
    answer = generate_eagerly(
        model,
        [[1]],
        max_new_tokens=12,
        sampler=RandomSampler((match_regex("a{3,5}b?", tokenizer),), seed=1),
        num_return_sequences=8,
        stop_token_ids=(tokenizer.end_of_text_id, stop),
    )
    texts = [tokenizer.decode(ids[:n]) for ids, n in zip(answer.token_ids, answer.num_tokens, strict=True)]
    assert all(re.fullmatch("a{3,5}b?", text) for text in texts)
    assert set(answer.finish_reasons) <= {"stop_token", "complete"}


def test_own_tables_have_no_end_tokens():
    grammar = Grammar(np.arange(3, dtype="int32"), np.zeros((1, 3), "int32"))
    assert grammar.ending_at((1,)) is grammar


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|b)*a(a|b){20}",
        *(
            pytest.param(pattern, marks=pytest.mark.slow)
            for pattern in ("(.{100}){100}", "a{1000000000}", "((a{50}){50}){50}", "(?:){1000000000}")
        ),
    ],
)
def test_what_would_be_too_large_is_refused_before_it_is_built(pattern, tokenizer):
    with pytest.raises(ValueError, match="a grammar may have [0-9]+ (states|parts)"):
        match_regex(pattern, tokenizer)


def test_tables_that_would_be_too_large_are_refused_before_they_are_made(tokenizer):
    sequences = [[i % 100, i] for i in range(40_000)]
    with pytest.raises(ValueError, match="may have 33554432 entries"):
        match_one_of(sequences, 2**20)
