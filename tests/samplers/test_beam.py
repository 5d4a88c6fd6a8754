"""Beam search equals Hugging Face's: sequences, scores, order."""

import numpy as np
import pytest
import torch

from keras_tfm.samplers import BanTokens, BeamSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.scripted import ScriptedModel
from tests.huggingface import gpt2_pair

PROMPTS = [[1, 2, 3], [7, 8, 9]]


@pytest.fixture(scope="module")
def pair():
    theirs, ours = gpt2_pair(max_sequence_length=40)
    theirs.generation_config.eos_token_id = None
    return theirs, ours


def theirs_and_ours(pair, num_beams, length, stops=(), num_return_sequences=1, processors=(), **options):
    """((texts, scores), Generation) of both libraries."""
    theirs, ours = pair
    length_penalty, early_stopping = options.get("length_penalty", 1.0), options.get("early_stopping", False)
    answer = theirs.generate(
        torch.tensor(PROMPTS),
        attention_mask=torch.ones(2, 3, dtype=torch.long),
        num_beams=num_beams,
        max_new_tokens=length,
        do_sample=False,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        num_return_sequences=num_return_sequences,
        eos_token_id=list(stops) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        suppress_tokens=[token for processor in processors for token in processor.token_ids] or None,
    )
    texts = []
    for row in answer.sequences[:, 3:].tolist():
        ends = [i for i, token in enumerate(row) if token in stops]
        texts.append(row[: ends[0]] if ends else row)
    generation = generate_eagerly(
        ours,
        PROMPTS,
        max_new_tokens=length,
        sampler=BeamSampler(tuple(processors), num_beams=num_beams, **options),
        stop_token_ids=tuple(stops),
        num_return_sequences=num_return_sequences,
    )
    return (texts, answer.sequences_scores.numpy()), generation


@pytest.mark.parametrize(
    ("num_beams", "length", "stops", "options"),
    [
        (3, 8, (5,), {"length_penalty": 1.0}),
        (4, 12, (5,), {"length_penalty": 0.0, "early_stopping": True}),
        (4, 12, (5, 3), {"length_penalty": 1.5, "early_stopping": True}),
        (2, 12, (7,), {"length_penalty": 2.0, "early_stopping": "never"}),
        (5, 10, (3,), {"length_penalty": -0.5}),
        (4, 6, (), {}),
    ],
)
def test_texts_scores_and_order_equal_hugging_face(pair, num_beams, length, stops, options):
    (texts, scores), ours = theirs_and_ours(pair, num_beams, length, stops, min(num_beams, 3), **options)
    assert [row[:count].tolist() for row, count in zip(ours.token_ids, ours.num_tokens, strict=True)] == texts
    # 1e-4: sums of up to 12 float32 logarithms of another library, times a power of the length.
    np.testing.assert_allclose(ours.scores, scores, atol=1e-4)


def test_processors_see_log_probabilities_as_in_hugging_face(pair):
    (texts, scores), ours = theirs_and_ours(pair, 3, 6, (5,), 3, processors=[BanTokens((1, 2, 11))])
    assert [row[:count].tolist() for row, count in zip(ours.token_ids, ours.num_tokens, strict=True)] == texts
    np.testing.assert_allclose(ours.scores, scores, atol=1e-4)


def test_one_beam_is_greedy(pair):
    greedy = generate_eagerly(pair[1], PROMPTS, max_new_tokens=8)
    beam = generate_eagerly(pair[1], PROMPTS, max_new_tokens=8, sampler=BeamSampler(num_beams=1))
    assert beam.token_ids.tolist() == greedy.token_ids.tolist()


def test_the_score_is_the_log_probability_of_the_text():
    script = np.log([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    sampler = BeamSampler(num_beams=2, length_penalty=0.0)
    answer = generate_eagerly(ScriptedModel(script), [[0]], max_new_tokens=2, sampler=sampler, num_return_sequences=2)
    assert answer.token_ids.tolist() == [[0, 0], [0, 1]]
    np.testing.assert_allclose(np.exp(answer.scores), [0.3, 0.24], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": 2.5}, r"num_beams=2\.5"),
        ({"early_stopping": "always"}, "early_stopping='always'"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        BeamSampler(**arguments)


def test_more_texts_than_beams_raise(pair):
    with pytest.raises(ValueError, match="num_return_sequences=3, num_beams=2"):
        pair[1].generate(PROMPTS, max_new_tokens=2, sampler=BeamSampler(num_beams=2), num_return_sequences=3)


def test_nan_logits_raise(pair):
    with pytest.raises(ValueError, match="NaN, or an id outside, for row 0"):
        generate_eagerly(ScriptedModel(np.full((1, 5), np.nan)), [[0]], max_new_tokens=3, sampler="beam")
