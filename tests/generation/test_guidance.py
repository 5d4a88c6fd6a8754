"""Classifier-free guidance equals Hugging Face's processor."""

import numpy as np
import pytest
import torch
import transformers

from tests.generation.lively import best, lively_model

pytestmark = pytest.mark.usefixtures("without_xla")

PROMPTS = [[1, 2, 3], [5]]
NEGATIVE = [[4, 4], [7, 8, 9, 10]]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


def by_hugging_face(model, prompt, negative, num_new, scale):
    """Greedy, with their arithmetic over full passes of our model."""
    tokens, others = list(prompt), list(negative)
    for _ in range(num_new):
        scores = torch.tensor(np.asarray(model(np.array([tokens])))[:, -1])
        unconditional = torch.tensor(np.asarray(model(np.array([others]))))
        processor = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, None)
        processor.get_unconditional_logits = lambda ids, logits=unconditional: logits
        token = best(processor(torch.tensor([tokens]), scores)[0].numpy())
        tokens.append(token)
        others.append(token)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("scale", [1.5, pytest.param(3.0, marks=pytest.mark.slow)])
def test_it_leads_as_hugging_face_does(model, scale):
    answer = model.generate(PROMPTS, max_new_tokens=8, negative_token_ids=NEGATIVE, guidance_scale=scale)
    expected = [by_hugging_face(model, *pair, 8, scale) for pair in zip(PROMPTS, NEGATIVE, strict=True)]
    assert answer.token_ids.tolist() == expected
    by_default = model.generate(PROMPTS, max_new_tokens=8, guidance_scale=scale)
    expected = [by_hugging_face(model, prompt, prompt[-1:], 8, scale) for prompt in PROMPTS]
    assert by_default.token_ids.tolist() == expected


def test_a_scale_of_one_changes_nothing(model):
    plain = model.generate(PROMPTS, max_new_tokens=8)
    guided = model.generate(PROMPTS, max_new_tokens=8, negative_token_ids=NEGATIVE, guidance_scale=1.0)
    assert guided.token_ids.tolist() == plain.token_ids.tolist()


def test_one_negative_prompt_is_for_all(model):
    options = {"max_new_tokens": 4, "guidance_scale": 2.0}
    one = model.generate(PROMPTS, negative_token_ids=NEGATIVE[0], **options)
    each = model.generate(PROMPTS, negative_token_ids=[NEGATIVE[0]] * 2, **options)
    assert one.token_ids.tolist() == each.token_ids.tolist()
