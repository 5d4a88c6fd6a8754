"""Functions that are traced once and then called, where TensorFlow makes a graph."""

from keras import backend


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
