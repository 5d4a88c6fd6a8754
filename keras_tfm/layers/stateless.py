"""Layers as functions of their variables' values, and rematerialization (gradient checkpointing), which needs that.

Rematerialized activations are recomputed in the backward pass rather than kept.
"""

from collections.abc import Callable, Iterable

import keras
from keras import ops, tree

from keras_tfm.compat import without_autocast
from keras_tfm.types import Tensor


def values_of(variables: Iterable[keras.Variable]) -> list:
    """The values as they are stored. Keras would cast them as the layer casts that is being called."""
    with without_autocast():
        return [variable.value for variable in variables]


def scope_with(variables: Iterable[keras.Variable], values: Iterable[Tensor]) -> keras.StatelessScope:
    """A scope in which the variables have these values, each in the dtype that it comes in."""
    scope = keras.StatelessScope()
    for variable, value in zip(variables, values, strict=True):
        scope.add_update((variable, value))  # the constructor converts to the dtype of the layer that is being called
    return scope


def rematerialized(layer: keras.layers.Layer, function: Callable, arguments: dict) -> Tensor:
    """`function(**arguments)`, of which only arguments and result are kept for the backward pass.

    The layer's variables, its seeds included, go in and out as tensors, so that the second computation draws the same
    dropout as the first. (`tf.recompute_grad` around a layer with dropout draws anew and trains wrong, silently.)
    Integers have no gradients and are kept as they are: TensorFlow warns of each that it is given.

    Args:
        layer: a built layer.
        function: what to compute; of the layer's variables only.
        arguments: keyword arguments: tensors, nested tensors or None.

    Returns:
        What `function` returns: a tensor.
    """
    trainable, others = layer.trainable_variables, layer.non_trainable_variables
    variables = [*trainable, *others]
    flat = tree.flatten(arguments)
    tensors = [argument for argument in flat if argument is not None]

    # Copies: TensorFlow would take the variables themselves, count their gradients twice and see their later values.
    values = [*[ops.copy(value) for value in values_of(variables)], *tensors]
    has_gradient = [keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)) for value in values]

    @keras.remat
    def run(*floats):
        rest = iter(floats)
        all_values = [next(rest) if has else value for has, value in zip(has_gradient, values, strict=True)]
        state, given = all_values[: len(variables)], iter(all_values[len(variables) :])
        given = tree.pack_sequence_as(arguments, [None if argument is None else next(given) for argument in flat])
        with scope_with(variables, state) as scope:
            result = function(**given)
        return result, *[scope.get_current_value(variable) for variable in others]

    result, *new_values = run(*[value for has, value in zip(has_gradient, values, strict=True) if has])
    for variable, new_value in zip(others, new_values, strict=True):
        variable.assign(new_value)
    return result
