"""How well do models without attention predict the same tokens? The floor that a language model must beat."""

import numpy as np


def unigram_loss(train: np.ndarray, validation: np.ndarray, vocabulary_size: int) -> float:
    """Mean loss in nats per token of a model that knows only how frequent each token is (add-one smoothing)."""
    return float(-np.log(_frequencies(train, vocabulary_size)[validation]).mean())


def bigram_loss(train: np.ndarray, validation: np.ndarray, vocabulary_size: int) -> float:
    """Mean loss in nats per token of a model that knows the previous token.

    p(b | a) = (count(a b) + k p(b)) / (count(a) + k), with the k of {10, 30, ..., 1000} that suits the validation
    tokens best: a favour to the baseline.

    Reference: MacKay and Peto 1995, "A Hierarchical Dirichlet Language Model"
    """
    unigram = _frequencies(train, vocabulary_size)
    pairs, counts = np.unique(train[:-1].astype("int64") * vocabulary_size + train[1:], return_counts=True)
    wanted = validation[:-1].astype("int64") * vocabulary_size + validation[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    pair_count = np.where(pairs[place] == wanted, counts[place], 0)
    first_count = np.bincount(train[:-1], minlength=vocabulary_size)[validation[:-1]]
    losses = [
        -np.log((pair_count + k * unigram[validation[1:]]) / (first_count + k)).mean() for k in (10, 30, 100, 300, 1000)
    ]
    return float(min(losses))


def _frequencies(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    counts = np.bincount(tokens, minlength=vocabulary_size) + 1
    return counts / counts.sum()
