"""Losses over a vocabulary that never hold all logits."""

from keras_tfm.losses.chunked_cross_entropy import ChunkedCrossEntropy, HeadWeights, chunked_cross_entropy

__all__ = ["ChunkedCrossEntropy", "HeadWeights", "chunked_cross_entropy"]


def __dir__() -> list[str]:
    return __all__
