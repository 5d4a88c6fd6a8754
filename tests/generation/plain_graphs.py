"""The generate loop as a plain graph: XLA takes seconds to compile what a tiny model does in milliseconds."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf

from keras_tfm.generation import compiled


@contextlib.contextmanager
def plain_graphs() -> Iterator[None]:
    """What a model's `generate` traces in this context is not compiled by XLA, then or later."""

    def trace(function, *specs, jit_compile=False):
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()

    with mock.patch.object(compiled, "_trace", trace):
        yield
