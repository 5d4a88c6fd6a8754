"""Texts match their grammar, from the first token to the last."""

import json
import re

import numpy as np
import pytest

from keras_tfm.generation import TextGenerator
from keras_tfm.samplers import (
    BanTokens,
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
    ("sequences", "message"), [((), r"sequences=\[\]"), (((1, 9),), "greatest=9"), (((),), r"sequences=\(\)")]
)
def test_bad_sequences_raise(sequences, message):
    with pytest.raises(ValueError, match=message):
        match_one_of(sequences, 4)


def test_tables_of_equal_tokens_are_shared(tokenizer):
    grammar = match_regex("[0-9]{3}", tokenizer)
    assert grammar.transitions.shape[1] < 32
    assert grammar.kinds.shape == (tokenizer.vocabulary_size,)
    assert np.asarray(grammar.transitions).dtype == np.int32
