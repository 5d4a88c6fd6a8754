"""Constrained beam search: every phrase is there, and with enough beams the likeliest such text is found."""

import itertools

import numpy as np
import pytest

from keras_tfm.samplers import ConstrainedBeamSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import lively_model

PROMPTS = [[1, 2, 3], [5]]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1, vocabulary_size=7)


def holds(text, phrase):
    return any(tuple(text[i : i + len(phrase)]) == phrase for i in range(len(text)))


@pytest.mark.parametrize("phrases", [((3,),), ((3, 0),), ((0, 0, 4), (6,)), ((2, 5), (5, 2))])
def test_every_phrase_is_in_every_text(model, phrases):
    sampler = ConstrainedBeamSampler(num_beams=4, phrases=phrases)
    answer = generate_eagerly(
        model, PROMPTS, max_new_tokens=9, sampler=sampler, num_return_sequences=2, stop_token_ids=(1,)
    )
    assert answer.scores.min() > -1e6
    for ids, count in zip(answer.token_ids.tolist(), answer.num_tokens, strict=True):
        assert all(holds(ids[:count], phrase) for phrase in phrases)


def test_with_enough_beams_it_finds_the_likeliest_text(model):
    phrase, length, prompt = (3, 0), 4, [1, 2, 3]
    texts = np.array([text for text in itertools.product(range(7), repeat=length) if holds(text, phrase)])
    rows = np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1)
    logits = np.asarray(model(rows), "float64")[:, len(prompt) - 1 : -1]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scores = np.take_along_axis(logs, texts[..., None], axis=-1)[..., 0].sum(1)
    sampler = ConstrainedBeamSampler(num_beams=60, phrases=(phrase,), length_penalty=0.0)
    answer = generate_eagerly(model, [prompt], max_new_tokens=length, sampler=sampler)
    assert answer.token_ids[0].tolist() == texts[scores.argmax()].tolist()
    # 1e-4: float32 beside float64.
    np.testing.assert_allclose(answer.scores[0], scores.max(), atol=1e-4)


def test_a_phrase_that_overlaps_itself_is_found(model):
    """After 0 0 0 the phrase 0 0 4 still needs its 4 only."""
    sampler = ConstrainedBeamSampler(num_beams=8, phrases=((0, 0, 4), (0, 0, 0)), length_penalty=0.0)
    answer = generate_eagerly(model, [[1]], max_new_tokens=4, sampler=sampler)
    assert answer.token_ids.tolist() == [[0, 0, 0, 4]]


def test_a_phrase_that_does_not_fit_shows_in_the_score(model):
    sampler = ConstrainedBeamSampler(num_beams=2, phrases=((3, 0, 3, 0),))
    answer = generate_eagerly(model, [[1]], max_new_tokens=3, sampler=sampler)
    assert answer.scores[0] < -1e7
    assert answer.finish_reasons == ("length",)


def test_no_phrases_raise():
    with pytest.raises(ValueError, match=r"phrases=\(\)"):
        ConstrainedBeamSampler()
