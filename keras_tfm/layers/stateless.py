"""A layer's variables as arguments: their values out, other values in; never in the dtype of the layer around them."""

import keras

from keras_tfm.compat import without_autocast


def values_of(variables) -> list:
    """The values as they are stored. Keras would cast them as the layer casts that is being called."""
    with without_autocast():
        return [variable.value for variable in variables]


def scope_with(variables, values) -> keras.StatelessScope:
    """A scope in which the variables have these values, each in the dtype that it comes in."""
    scope = keras.StatelessScope()
    for variable, value in zip(variables, values, strict=True):
        scope.add_update((variable, value))  # the constructor converts to the dtype of the layer that is being called
    return scope
