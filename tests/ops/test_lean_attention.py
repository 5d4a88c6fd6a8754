"""Lean attention is plain attention: outputs and all gradients, under every mask, bias and option."""

import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import backend, ops

from keras_tfm.layers import AlibiBias, RelativePositionBias
from keras_tfm.layers.position_bias import RelativeRule
from keras_tfm.ops import AttentionDropout, Visibility, scaled_dot_product_attention
from tests import reference
from tests.gradients import outputs_and_gradients

LEAN = sys.modules["keras_tfm.ops.attention"]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Tiles so small that short sequences have many of them, whole and cut off ones."""
    monkeypatch.setattr(LEAN, "QUERY_TILE", 4)
    monkeypatch.setattr(LEAN, "KEY_TILE", 3)


def positions_of(kind, length, rng):
    """int32 (2, length): two rows, one of them perhaps padded."""
    positions = np.tile(np.arange(length, dtype="int32"), (2, 1))
    padding = rng.integers(0, length)
    if kind == "left":
        positions[1] -= padding
    elif kind == "right":
        positions[1, length - padding :] = -1
    elif kind == "scattered":
        real = rng.random(length) < 0.6
        positions[1] = np.where(real, real.cumsum() - 1, -1)
    return np.maximum(positions, -1)


def both(arrays, options, compiled=None, unknown=()):
    """The pairs (output, gradients) of the lean and of the plain method; options: float arrays -> keyword arguments."""
    results = []
    for method in ("lean", "plain"):

        def attend(query, key, value, *learned, method=method):
            return scaled_dot_product_attention(query, key, value, **options(*learned), method=method)

        how = {"compiled": compiled, "unknown": unknown} if method == "lean" else {}
        results.append(outputs_and_gradients(attend, *arrays, **how))
    return results


def check(arrays, options, atol=1e-5, **how):
    (lean, lean_gradients), (plain, plain_gradients) = both(arrays, options, **how)
    np.testing.assert_allclose(lean, plain, atol=atol)
    for i, (one, other) in enumerate(zip(lean_gradients, plain_gradients, strict=True)):
        np.testing.assert_allclose(one, other, atol=atol, err_msg=f"gradient {i}")


def tensors(rng, num_heads, num_shared, num_queries, num_keys, head_dim=5):
    shapes = (num_heads, num_queries), (num_shared, num_keys), (num_shared, num_keys)
    return [rng.normal(size=(2, *shape, head_dim)).astype("float32") for shape in shapes]


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=60 if backend.backend() == "tensorflow" else 12)  # JAX compiles each shape anew
def test_lean_equals_plain_on_random_shapes_masks_and_options(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    num_shared = draw(st.sampled_from([1, 2, 3]))
    num_heads = num_shared * draw(st.sampled_from([1, 2]))
    num_queries, num_keys = draw(st.integers(1, 11)), draw(st.integers(1, 11))
    query_positions = positions_of(draw(st.sampled_from(["none", "left", "right", "scattered"])), num_queries, rng)
    key_positions = positions_of(draw(st.sampled_from(["none", "left", "right", "scattered"])), num_keys, rng)
    documents = (None, None)
    if draw(st.booleans()):
        documents = [np.sort(rng.integers(0, 3, (2, size))).astype("int32") for size in (num_queries, num_keys)]
    mask = None
    if kind := draw(st.sampled_from([None, 1, num_heads])):
        mask = rng.random((2, kind, num_queries, num_keys)) < 0.7
    visible = Visibility(
        query_positions,
        key_positions,
        causal=draw(st.booleans()),
        window=draw(st.sampled_from([None, 1, 3])),
        mask=mask,
        query_documents=documents[0],
        key_documents=documents[1],
    )
    arrays = tensors(rng, num_heads, num_shared, num_queries, num_keys)
    bias = draw(st.sampled_from(["none", "matrix", "alibi", "relative"]))
    if bias == "matrix":
        shape = (draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, num_heads])), num_queries, num_keys)
        arrays.append(rng.normal(size=shape).astype("float32"))
    elif bias == "relative":
        arrays.append(rng.normal(size=(6, num_heads)).astype("float32"))
    with_sink = draw(st.booleans())
    if with_sink:
        arrays.append(rng.normal(size=(num_heads,)).astype("float32"))
    rate = draw(st.sampled_from([0.0, 0.4]))
    settings = {
        "visible": visible,
        "logit_cap": draw(st.sampled_from([None, 2.0])),
        "dropout": AttentionDropout(rate, ops.convert_to_tensor([3, 4], "int32")) if rate else None,
    }

    def options(*learned):
        chosen = dict(settings)
        if with_sink:
            chosen["sink"] = learned[-1]
        if bias == "matrix":
            chosen["bias"] = learned[0]
        elif bias == "alibi":
            chosen["bias"] = AlibiBias(num_heads).rule()
        elif bias == "relative":
            layer = RelativePositionBias(num_heads, num_buckets=8, max_distance=6)
            layer.build()
            lookup = ops.convert_to_tensor(np.abs(np.arange(-6, 7)) // 2 + 1, "int32")
            chosen["bias"] = RelativeRule(learned[0], ops.minimum(lookup, 5))
        return chosen

    check(arrays, options)


ALL = "causal, grouped, padded, matrix mask, learned bias, sink, cap, dropout"


def everything(num_queries=10, num_keys=10):
    """Arrays and options that use every option at once."""
    rng = np.random.default_rng(0)
    arrays = tensors(rng, 4, 2, num_queries, num_keys)
    arrays += [rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(4,)).astype("float32")]
    query_positions, key_positions = positions_of("left", num_queries, rng), positions_of("right", num_keys, rng)
    mask = rng.random((2, 1, num_queries, num_keys)) < 0.8

    def options(table, sink):
        return {
            "visible": Visibility(
                ops.convert_to_tensor(query_positions), ops.convert_to_tensor(key_positions), True, 7, mask
            ),
            "bias": RelativeRule(table, ops.convert_to_tensor(np.minimum(np.abs(np.arange(-6, 7)), 4), "int32")),
            "sink": sink,
            "logit_cap": 3.0,
            "dropout": AttentionDropout(0.3, ops.convert_to_tensor([1, 2], "int32")),
        }

    return arrays, options


@pytest.mark.parametrize("compiled", [None, "graph", "jit"])
@pytest.mark.parametrize("lengths", [(10, 10), (3, 11), (12, 3), (1, 1)])
def test_lean_equals_plain_eagerly_in_a_graph_and_compiled(compiled, lengths):
    arrays, options = everything(*lengths)
    check(arrays, options, compiled=compiled)


@pytest.mark.skipif(backend.backend() != "tensorflow", reason="only TensorFlow traces unknown sizes")
@pytest.mark.parametrize("compiled", ["graph", "jit"])
def test_lean_equals_plain_where_batch_and_lengths_are_unknown(compiled):
    rng = np.random.default_rng(0)
    arrays = tensors(rng, 4, 2, 10, 7)

    def options():
        return {}

    def attend(query, key, value, method="auto"):
        count = [ops.cumsum(ops.ones_like(x[:, 0, :, 0], dtype="int32"), axis=1) - 1 for x in (query, key)]
        visible = Visibility(*count, causal=True)
        return scaled_dot_product_attention(query, key, value, visible, AlibiBias(4).rule(), method=method)

    unknown = [(i, axis) for i in range(3) for axis in (0, 2)]
    lean = outputs_and_gradients(attend, *arrays, compiled=compiled, unknown=unknown)
    plain = outputs_and_gradients(lambda *xs: attend(*xs, method="plain"), *arrays)
    np.testing.assert_allclose(lean[0], plain[0], atol=1e-5)
    for one, other in zip(lean[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("method", ["plain", "lean"])
def test_gradients_equal_finite_differences_of_the_float64_reference(method):
    rng = np.random.default_rng(1)
    arrays = [x[:1].astype("float64") for x in tensors(rng, 2, 1, 5, 4, head_dim=3)]
    arrays.append(rng.normal(size=(1, 2, 5, 4)))
    visible = rng.random((1, 1, 5, 4)) < 0.7
    everywhere = np.broadcast_to(visible, (1, 2, 5, 4))

    def loss(query, key, value, bias):
        y = reference.attention(query, key, value, everywhere, bias)[0].ravel()
        return np.sum(y * np.cos(np.arange(1, 1 + y.size)))

    def attend(query, key, value, bias):
        return scaled_dot_product_attention(query, key, value, ops.convert_to_tensor(visible), bias, method=method)

    _, gradients = outputs_and_gradients(attend, *(x.astype("float32") for x in arrays))
    step = 1e-5
    for x, gradient in zip(arrays, gradients, strict=True):
        slopes = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            kept = x[place]
            ends = []
            for sign in (1, -1):
                x[place] = kept + sign * step
                ends.append(loss(*arrays))
            x[place] = kept
            slopes[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, slopes, atol=1e-5)  # float32 sums against float64


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 4e-2), ("float16", 5e-3)])
def test_low_precision_is_close_to_float32(dtype, atol):
    # bfloat16 has 8 bits and float16 11: some units of the last place of numbers of size 1 to 4.
    arrays, options = everything()
    cast = [ops.cast(ops.convert_to_tensor(x), dtype) for x in arrays[:3]]
    learned = [ops.convert_to_tensor(x) for x in arrays[3:]]
    low = scaled_dot_product_attention(*cast, **options(*learned), method="lean")
    assert backend.standardize_dtype(low.dtype) == dtype
    exact = scaled_dot_product_attention(*(ops.cast(x, "float32") for x in cast), **options(*learned), method="plain")
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(low, "float32")), ops.convert_to_numpy(exact), atol=atol)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_query_that_sees_nothing_gets_exactly_zero_and_finite_gradients(dtype):
    rng = np.random.default_rng(0)
    arrays = tensors(rng, 2, 1, 6, 7)
    positions = np.array([[-1, 0, 1, 2, 3, 4], [-1, -1, -1, -1, -1, -1]], "int32")
    keys = np.array([[1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6]], "int32")  # nothing at or before position 0

    def attend(*xs):
        xs = [ops.cast(x, dtype) for x in xs]
        visible = Visibility(ops.convert_to_tensor(positions), ops.convert_to_tensor(keys), causal=True)
        return scaled_dot_product_attention(*xs, visible, method="lean")

    y, gradients = outputs_and_gradients(attend, *arrays)
    blind = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    for x in (y, gradients[0]):
        assert (x.transpose(0, 2, 1, 3)[blind] == 0).all()
        assert np.isfinite(x).all()
    assert (np.abs(y).max(axis=(1, 3))[~blind] > 0).all()
    for x in gradients[1:]:
        assert np.isfinite(x).all()
        assert (x[1] == 0).all()


def test_tiles_that_nobody_sees_are_skipped():
    from keras_tfm.ops.tiles import TiledVisibility

    positions = np.arange(12, dtype="int32")[None]
    causal = TiledVisibility(Visibility(positions, positions, causal=True), 3, 3)
    np.testing.assert_array_equal(causal.end, [1, 2, 3, 4])
    np.testing.assert_array_equal(causal.first, [0, 0, 0, 0])
    window = TiledVisibility(Visibility(positions, positions, causal=True, window=2), 3, 3)
    np.testing.assert_array_equal(window.first, [0, 0, 1, 2])
    around = TiledVisibility(Visibility(positions, positions, window=2), 3, 3)
    np.testing.assert_array_equal(around.end, [2, 3, 4, 4])
    documents = np.repeat([0, 1], 6)[None].astype("int32")
    packed = TiledVisibility(Visibility(positions, positions, query_documents=documents, key_documents=documents), 3, 3)
    np.testing.assert_array_equal(packed.first, [0, 0, 2, 2])
    np.testing.assert_array_equal(packed.end, [2, 2, 4, 4])
    padded = TiledVisibility(Visibility(np.where(positions < 6, -1, positions - 6), positions), 3, 3)
    np.testing.assert_array_equal(padded.end, [0, 0, 4, 4])


def test_dropout_drops_the_asked_share_of_weights_independently():
    weights = ops.ones((2, 3, 64, 64))
    kept = ops.convert_to_numpy(AttentionDropout(0.25, ops.convert_to_tensor([5, 6], "int32"))(weights)) > 0
    assert abs(kept.mean() - 0.75) < 0.01
    for axis in range(4):  # no head, row or column fares better than chance: 5 deviations
        others = tuple(i for i in range(4) if i != axis)
        deviation = np.sqrt(0.25 * 0.75 * kept.shape[axis] / kept.size)
        assert np.abs(kept.mean(axis=others) - 0.75).max() < 5 * deviation
    for axis in (1, 2, 3):  # neighbours do not agree more often than independent draws
        left, right = np.take(kept, range(kept.shape[axis] - 1), axis), np.take(kept, range(1, kept.shape[axis]), axis)
        assert abs((left == right).mean() - (0.75**2 + 0.25**2)) < 0.02
    other = ops.convert_to_numpy(AttentionDropout(0.25, ops.convert_to_tensor([5, 7], "int32"))(weights)) > 0
    assert abs((kept == other).mean() - (0.75**2 + 0.25**2)) < 0.02


def test_unknown_methods_and_scores_of_the_lean_one_are_refused():
    arrays, options = everything()
    arguments = [ops.convert_to_tensor(x) for x in arrays]
    with pytest.raises(ValueError, match="`method` must be one of .*Received: method='flash'"):
        scaled_dot_product_attention(*arguments[:3], **options(*arguments[3:]), method="flash")
    with pytest.raises(ValueError, match="needs the plain method.*Received: method='lean'"):
        scaled_dot_product_attention(
            *arguments[:3], **options(*arguments[3:]), method="lean", return_attention_scores=True
        )
