"""Statistics of logits chunk by chunk are those of the whole logits: values and all gradients, wherever chunks end."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import backend, ops

from keras_tfm.ops import logit_statistics, token_log_probs
from tests.gradients import outputs_and_gradients


def arrays_of(rng, num_rows, vocabulary_size, has_bias, width=5):
    shapes = [(num_rows, width), (vocabulary_size, width)] + [(vocabulary_size,)] * has_bias
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def whole(hidden, table, ids, bias=None, logit_cap=None):
    """The same from all logits at once."""
    logits = ops.matmul(hidden, ops.transpose(table))
    if bias is not None:
        logits = logits + bias
    if logit_cap is not None:
        logits = logit_cap * ops.tanh(logits / logit_cap)
    chosen = ops.sum(ops.one_hot(ids, table.shape[0], dtype=logits.dtype) * logits, axis=-1)
    return chosen, ops.logsumexp(logits, axis=-1), ops.mean(logits, axis=-1)


def check(arrays, ids, logit_cap, chunk_size, **how):
    def stacked(function, **options):
        return lambda *x: ops.stack(function(*x[:2], ids, *x[2:], logit_cap=logit_cap, **options))

    chunked = outputs_and_gradients(stacked(logit_statistics, chunk_size=chunk_size), *arrays, **how)
    plain = outputs_and_gradients(stacked(whole), *arrays)
    np.testing.assert_allclose(chunked[0], plain[0], atol=1e-5)  # sums of up to 40 numbers of size 1 to 10
    for one, other in zip(chunked[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_any_chunk_size_gives_values_and_gradients_of_the_whole(seed, num_rows, vocabulary_size, chunk_size, has_bias):
    rng = np.random.default_rng(seed)
    arrays = arrays_of(rng, num_rows, vocabulary_size, has_bias)
    ids = rng.integers(0, vocabulary_size, num_rows).astype("int32")
    check(arrays, ids, rng.choice([None, 2.0]), chunk_size)


@pytest.mark.parametrize("compiled", ["graph", "jit"])
@pytest.mark.parametrize("chunk_size", [4, 5])  # the last chunk is whole, and it overlaps
def test_compiled_for_an_unknown_number_of_rows(compiled, chunk_size):
    rng = np.random.default_rng(0)
    unknown = [(0, 0)] if (backend.backend(), compiled) == ("tensorflow", "graph") else []
    check(
        arrays_of(rng, 3, 12, True), np.array([0, 11, 9], "int32"), 3.0, chunk_size, compiled=compiled, unknown=unknown
    )


def test_half_precision_sums_in_float32():
    rng = np.random.default_rng(0)
    hidden, table = arrays_of(rng, 4, 3000, False)
    found = token_log_probs(ops.cast(hidden, "bfloat16"), table, np.arange(4), chunk_size=500)
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(hidden, "bfloat16"), "float32"))
    table = ops.convert_to_numpy(ops.cast(ops.cast(table, "bfloat16"), "float32"))
    chosen, log_sum, _ = whole(rounded, table, np.arange(4))
    assert backend.standardize_dtype(found.dtype) == "float32"
    # Logits of size 8 rounded to 8 bits are 0.03 off at most; a sum of 3,000 in bfloat16 would be off by more than 1.
    np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(chosen - log_sum), atol=0.04)


def test_shapes_follow_the_ids():
    found = token_log_probs(np.ones((2, 3, 4), "float32"), np.zeros((10, 4), "float32"), np.zeros((2, 3), "int32"))
    np.testing.assert_allclose(ops.convert_to_numpy(found), np.full((2, 3), -np.log(10.0)), rtol=1e-6)
