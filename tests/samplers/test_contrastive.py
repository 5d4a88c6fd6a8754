"""Contrastive search equals the paper's formula, computed with full passes."""

import numpy as np
import pytest

from keras_tfm.samplers import ContrastiveSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import best, lively_model

PROMPTS = [[1, 2, 3], [5], [7, 8] * 9]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


def by_the_formula(model, prompt, num_new, top_k, alpha):
    """Su et al. 2022, equation 5, with full passes over every candidate."""
    tokens = list(prompt)
    for _ in range(num_new):
        logits = np.asarray(model(np.array([tokens])))[0, -1].astype("float64")
        probabilities = np.exp(logits) / np.exp(logits).sum()
        candidates, scores = [], []
        for candidate in np.argsort(-probabilities, kind="stable")[:top_k]:
            hidden = np.asarray(model._read(np.array([[*tokens, candidate]])))[0].astype("float64")
            hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
            candidates.append(int(candidate))
            scores.append((1 - alpha) * probabilities[candidate] - alpha * max(hidden[:-1] @ hidden[-1]))
        tokens.append(candidates[best(scores)])
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("top_k", "alpha"), [(4, 0.6), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 0.2), (2, 1.0)))]
)
def test_it_follows_the_formula(model, top_k, alpha):
    sampler = ContrastiveSampler(top_k=top_k, alpha=alpha)
    answer = generate_eagerly(model, PROMPTS, max_new_tokens=8, sampler=sampler)
    assert answer.token_ids.tolist() == [by_the_formula(model, prompt, 8, top_k, alpha) for prompt in PROMPTS]


@pytest.mark.parametrize(("top_k", "alpha"), [(4, 0.0), (1, 0.9)])
def test_without_a_penalty_or_a_choice_it_is_greedy(model, top_k, alpha):
    greedy = generate_eagerly(model, PROMPTS, max_new_tokens=6)
    answer = generate_eagerly(model, PROMPTS, max_new_tokens=6, sampler=ContrastiveSampler(top_k=top_k, alpha=alpha))
    assert answer.token_ids.tolist() == greedy.token_ids.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"), [({"top_k": 0}, "top_k=0"), ({"alpha": 1.5}, r"alpha=1\.5"), ({"alpha": -1}, "alpha=-1")]
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveSampler(**arguments)


def test_several_texts_raise(model):
    with pytest.raises(ValueError, match="num_return_sequences=2"):
        model.generate(PROMPTS, sampler=ContrastiveSampler(), num_return_sequences=2)


def test_more_candidates_than_tokens_raise(model):
    with pytest.raises(ValueError, match="`top_k` must be at most .* top_k=99"):
        model.generate(PROMPTS, sampler=ContrastiveSampler(top_k=99))
