"""Outputs and gradients of a function of arrays, on whichever backend Keras runs."""

import contextlib

import keras
import numpy as np
from keras import ops


def outputs_and_gradients(function, *arrays, compiled: str | None = None, unknown=()):
    """The output of `function` and the gradients of a fixed weighted sum of it.

    Args:
        function: tensors -> one tensor.
        *arrays: float arrays.
        compiled: None (eager), "graph" or "jit"; the latter two mean something on TensorFlow and JAX.
        unknown: (array, axis) pairs whose size is unknown while TensorFlow traces.

    Returns:
        The pair (output, list of gradients), float32 or float64 NumPy.
    """
    backend = keras.backend.backend()
    run = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend]
    output, gradients = run(function, arrays, compiled, unknown)
    return _numpy(output), [_numpy(gradient) for gradient in gradients]


def gradients_allowed():
    """A context in which `fit` may train, on torch too, where the tests run without gradients."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.enable_grad()


def _numpy(x):
    x = ops.convert_to_numpy(ops.cast(x, "float64" if "float64" in str(x.dtype) else "float32"))
    return np.asarray(x)


def _loss(y):
    y = ops.cast(y, "float64" if "float64" in str(y.dtype) else "float32")
    y = ops.reshape(y, (-1,))
    return ops.sum(y * ops.cos(ops.cumsum(ops.ones_like(y))))  # sizes may be unknown


def _tensorflow(function, arrays, compiled, unknown):
    import tensorflow as tf

    specs = []
    for i, array in enumerate(arrays):
        shape = [None if (i, axis) in unknown else size for axis, size in enumerate(array.shape)]
        specs.append(tf.TensorSpec(shape, array.dtype))

    def gradients_of(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
            loss = _loss(y)
        return y, tape.gradient(loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    if compiled:
        gradients_of = tf.function(gradients_of, input_signature=specs, jit_compile=compiled == "jit", autograph=False)
    return gradients_of(*(tf.constant(array) for array in arrays))


def _jax(function, arrays, compiled, unknown):
    import jax

    def loss(tensors):
        y = function(*tensors)
        return _loss(y), y

    run = jax.value_and_grad(loss, has_aux=True)
    (_, y), gradients = (jax.jit(run) if compiled else run)([ops.convert_to_tensor(array) for array in arrays])
    return y, gradients


def _torch(function, arrays, compiled, unknown):
    import torch

    with torch.enable_grad():  # the tests run without
        tensors = [ops.convert_to_tensor(array).requires_grad_() for array in arrays]
        y = function(*tensors)
        _loss(y).backward()
    return y.detach(), [ops.zeros_like(x) if x.grad is None else x.grad for x in tensors]
