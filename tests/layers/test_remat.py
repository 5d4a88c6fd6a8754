"""Rematerialized blocks compute what others do, draw the same dropout, and keep less."""

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests.gradients import gradients_allowed, outputs_and_gradients
from tests.harness import float32

T, D = 6, 8
X = np.random.default_rng(0).normal(size=(2, T, D)).astype("float32")


def make_stack(remat, parallel=False, cross=False):
    keras.utils.set_random_seed(5)

    def block():
        attention = layers.MultiHeadSelfAttention(2, causal=True, dropout=0.3)
        if parallel:
            return layers.ParallelTransformerBlock(attention, layers.FeedForward(12), dropout=0.3)
        return layers.TransformerBlock(
            attention,
            layers.FeedForward(12),
            cross_attention=layers.MultiHeadCrossAttention(2, dropout=0.2) if cross else None,
            dropout=0.3,
            stochastic_depth=0.2,
        )

    bias = layers.RelativePositionBias(2, bidirectional=False)
    stack = layers.TransformerStack([block() for _ in range(2)], bias, remat=remat)
    stack.build(X.shape, *((X.shape,) if cross else ()))
    return stack


def kinds_and_ways():
    """(kind of block, how it is run): XLA takes its time, and compiles one kind unless all tests are run."""
    # On JAX a layer with seeds cannot be compiled but through `stateless_call`, as `fit` does below.
    for compiled in [None, "graph", "jit"] if keras.backend.backend() == "tensorflow" else [None]:
        for kind in ("sequential", "parallel", "cross"):
            is_slow = compiled == "jit" or kind == "cross"
            yield pytest.param(kind, compiled, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize(("kind", "compiled"), list(kinds_and_ways()))
def test_outputs_and_gradients_are_those_without_remat_dropout_included(kind, compiled):
    results = []
    for remat in (False, True):
        stack = make_stack(remat, parallel=kind == "parallel", cross=kind == "cross")
        arguments = {"context": X[:, :3]} if kind == "cross" else {}
        draws = [outputs_and_gradients(lambda x: stack(x, training=True, **arguments), X, compiled=compiled)]  # noqa: B023
        draws.append(outputs_and_gradients(lambda x: stack(x, training=True, **arguments), X))  # noqa: B023
        results.append(draws)
    for plain, remat in zip(*results, strict=True):
        np.testing.assert_allclose(remat[0], plain[0], atol=1e-5)
        np.testing.assert_allclose(remat[1][0], plain[1][0], atol=1e-4)
    assert np.abs(results[1][0][0] - results[1][1][0]).max() > 1e-3  # the seeds went on


@pytest.mark.parametrize(
    "jit_compile",
    [False] if keras.backend.backend() == "torch" else [False, pytest.param(True, marks=pytest.mark.slow)],
)
def test_fit_has_the_same_losses_with_and_without_remat(jit_compile):
    losses = []
    for remat in (False, True):
        stack = make_stack(remat)
        inputs = keras.Input((T, D))
        model = keras.Model(inputs, stack(inputs))
        model.compile(keras.optimizers.SGD(1e-2), "mse", jit_compile=jit_compile)
        keras.utils.set_random_seed(7)
        with gradients_allowed():
            history = model.fit(X, np.roll(X, 1, axis=1), epochs=5, verbose=0, shuffle=False)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert len(set(losses[0])) == 5  # it learns, and drops other features in each step


def test_remat_changes_nothing_outside_training():
    stack, plain = make_stack(True), make_stack(False)
    np.testing.assert_array_equal(float32(stack(X)), float32(plain(X)))
    cache = stack.init_cache(2, T)
    y, _ = stack(X, cache=cache)
    np.testing.assert_allclose(float32(y), float32(stack(X)), atol=1e-5)


def test_variables_of_parts_in_another_precision_are_not_rounded():
    answers = []
    for remat in (False, True):
        keras.utils.set_random_seed(5)
        block = layers.TransformerBlock(
            layers.MultiHeadSelfAttention(2, dtype="mixed_bfloat16"),
            layers.FeedForward(64, dtype="float32"),
            dtype="mixed_bfloat16",
            remat=remat,
        )
        answers.append(float32(block(10 * X, training=True)))
    # Equal to the last bit on every processor: both call the same kernels with the same sizes, op by op.
    np.testing.assert_array_equal(*answers)


def test_integers_are_not_given_to_be_differentiated(monkeypatch):
    # TensorFlow warns of each, in every trace.
    seen = []

    def remat(function):
        def run(*values):
            seen.extend(keras.backend.standardize_dtype(value.dtype) for value in values)
            return function(*values)

        return run

    monkeypatch.setattr(keras, "remat", remat)
    make_stack(remat=True)(X, mask=np.ones((2, T), bool), training=True)
    assert set(seen) == {"float32"}
