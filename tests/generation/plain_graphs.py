"""The generate loop as a plain graph: XLA takes seconds to compile what a tiny model does in milliseconds.

Nor does TensorFlow optimise graphs here, which takes a third of the rest. It does in the servers of
`tests/export/test_saved_model.py`, and in `fit` and `predict` elsewhere.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import keras
import tensorflow as tf

from keras_tfm.generation import compiled

_UNOPTIMIZED = "disable_meta_optimizer"


@contextlib.contextmanager
def plain_graphs() -> Iterator[None]:
    """What a model's `generate` traces in this context is not compiled by XLA, then or later."""

    def trace(function, *specs, jit_compile=False):
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()

    before = tf.config.optimizer.get_experimental_options().get(_UNOPTIMIZED, False)
    tf.config.optimizer.set_experimental_options({_UNOPTIMIZED: True})
    try:
        with mock.patch.object(compiled, "_trace", trace):
            yield
    finally:
        tf.config.optimizer.set_experimental_options({_UNOPTIMIZED: before})


@contextlib.contextmanager
def plain_graphs_in_fit_too() -> Iterator[None]:
    """As `plain_graphs`; and XLA compiles no training, whatever an example asks for: it would take longer than that."""
    original = keras.Model.compile

    def compile(self, *arguments, **options):
        return original(self, *arguments, **{**options, "jit_compile": False})

    with plain_graphs(), mock.patch.object(keras.Model, "compile", compile):
        yield
