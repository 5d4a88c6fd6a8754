"""A loop that does not run ahead of itself."""

from keras import backend, ops


def while_loop(condition, body, state: tuple):
    """`keras.ops.while_loop`, of which TensorFlow has at most two iterations under way at any time.

    By default it begins ten at once wherever it can, and keeps the memory of all: lean attention over 8,192 positions
    then takes 1.2 GB rather than 0.3 GB, and not less time.

    Args:
        condition: state -> bool.
        body: state -> the next state.
        state: tuple of nested tensors.

    Returns:
        The last state.
    """
    if backend.backend() != "tensorflow":
        return ops.while_loop(condition, body, state)
    import tensorflow as tf

    return tf.while_loop(condition, body, state, parallel_iterations=2)
