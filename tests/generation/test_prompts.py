"""One string is one text, one row of ids one prompt; anything else is refused by the caller's name for it."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.generation.prompts import prompts_of, texts_of


@pytest.mark.parametrize(
    "texts", ["abc", np.str_("abc"), ["abc"], ("abc",), np.array(["abc"]), tf.constant(["abc"]), iter(["abc"])]
)
def test_one_string_is_one_text(texts):
    assert texts_of("prompts", texts) == ["abc"]


@pytest.mark.parametrize("texts", [[], (), np.array([], str)])
def test_no_texts_are_no_texts(texts):
    assert texts_of("prompts", texts) == []


@pytest.mark.parametrize(
    "texts", [b"abc", [b"abc"], None, 5, ["abc", 5], [["abc"]], {"abc": 1}, np.array("abc"), tf.constant("abc"), [None]]
)
def test_what_is_no_text_is_refused_by_name(texts):
    with pytest.raises(TypeError, match="`stop_strings` must be a str, or a list of str. Received: .* of type"):
        texts_of("stop_strings", texts)


@pytest.mark.parametrize(
    "token_ids",
    [
        "abc",
        b"abc",
        None,
        5,
        2.5,
        ["abc"],
        [[0.5]],
        [[[1]]],
        [[1], 5],
        [[1], [2, [3]]],
        [None],
        [True],
        {"token_ids": [1]},
    ],
)
def test_what_is_no_prompt_is_refused_by_name(token_ids):
    with pytest.raises(ValueError, match="`token_ids` must be integers of shape .* Received: "):
        prompts_of(token_ids, 9)


@pytest.mark.parametrize("token_ids", [[[1, 9]], [[-1]], np.array([[2**40]])])
def test_ids_outside_of_the_vocabulary_are_refused_by_name(token_ids):
    with pytest.raises(ValueError, match=re.escape("`negative_token_ids` must be in [0, 9). Received: ids from ")):
        prompts_of(token_ids, 9, "negative_token_ids")


@pytest.mark.parametrize("token_ids", [[1, 2], [[1, 2]], ((1, 2),), np.array([1, 2], "uint8"), tf.constant([[1, 2]])])
def test_one_row_is_one_prompt(token_ids):
    assert prompts_of(token_ids, 9).to_list() == [[1, 2]]


@pytest.mark.parametrize(
    ("token_ids", "rows"), [([], []), ([[]], [[]]), ([[], [1]], [[], [1]]), (np.zeros((2, 0)), [[], []])]
)
def test_empty_prompts_are_prompts(token_ids, rows):
    assert prompts_of(token_ids, 9).to_list() == rows
