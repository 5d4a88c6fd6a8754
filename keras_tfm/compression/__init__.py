"""Smaller models: fewer blocks, heads and units with the weights that stay, and weights that are zero.

Keras' own `keras.distillation` teaches them: `docs/compression.md`.
"""

from keras_tfm.compression.hidden_states import with_hidden_states
from keras_tfm.compression.pruning import KeepZeros, Movement, magnitudes, zero_weights
from keras_tfm.compression.smaller import pruned, thinned

__all__ = ["KeepZeros", "Movement", "magnitudes", "pruned", "thinned", "with_hidden_states", "zero_weights"]


def __dir__() -> list[str]:
    return __all__
