"""Functions that are traced once and then called, where TensorFlow makes a graph."""

from keras import backend

from keras_tfm import compat


def is_tracing() -> bool:
    """Whether TensorFlow is making a graph of what is computed now."""
    if backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.inside_function()


def graph_function(function):
    """`function` of nested tensors, of which TensorFlow makes one graph for all calls with the same shapes."""
    import tensorflow as tf

    return tf.function(function, autograph=False)


def is_compiled_by_xla() -> bool:
    """Whether XLA compiles what is computed now: on TensorFlow, in a function with `jit_compile=True`."""
    if backend.backend() != "tensorflow":
        return backend.backend() == "jax"
    return compat.in_xla_context()
