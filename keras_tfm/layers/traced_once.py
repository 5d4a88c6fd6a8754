"""Layers that are alike and traced once: it makes deep models quick to compile for writing text."""

import functools
from collections.abc import Callable

from keras_tfm.layers.stateless import scope_with, values_of
from keras_tfm.ops.graph import graph_function, is_tracing
from keras_tfm.structure import Structure


def traced_once(layers: list, call: Callable) -> list[Callable]:
    """`call` for each of the layers, as functions of tensors.

    While TensorFlow traces, layers of the same `Structure` share one graph, which takes their weights as arguments:
    a GPT-2 of 12 blocks is traced in a quarter of the time. A layer that differs in anything but its weights, or that
    holds a layer of somebody else's, is traced by itself. Not for training: XLA compiles gradients of such a graph in
    many times the time and memory.

    Args:
        layers: built layers, called for inference.
        call: (layer, *tensors) -> nested tensors; what else it reads must be the same for all layers.

    Returns:
        A function of `*tensors` for each layer.
    """
    if not is_tracing():
        return [functools.partial(call, layer) for layer in layers]
    graphs = {}
    functions = []
    for layer in layers:
        structure = Structure(layer)
        if structure not in graphs:
            graphs[structure] = graph_function(functools.partial(_call_with, layer, structure.variables, call))
        functions.append(functools.partial(graphs[structure], values_of(structure.variables)))
    return functions


def _call_with(layer, variables, call, values, *tensors):
    """The layer's answer if these were its variables' values."""
    with scope_with(variables, values):
        return call(layer, *tensors)
