"""Self- and cross-attention: equal to the textbook, causal whatever the options, and the same in pieces."""

import sys

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from keras_tfm import layers
from tests import reference
from tests.gradients import outputs_and_gradients
from tests.harness import float32

T, D = 6, 8
ROTARY = {
    "none": None,
    "half": layers.RotaryEmbedding,
    "interleaved": lambda **kwargs: layers.RotaryEmbedding(interleaved=True, **kwargs),
    "partial": lambda **kwargs: layers.RotaryEmbedding(rotary_dim=2, max_wavelength=50.0, **kwargs),
}


@pytest.fixture(autouse=True, scope="module")
def _small_tiles():
    """Lean attention cuts even these short sequences into tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["keras_tfm.ops.attention"], "QUERY_TILE", 2)
        patch.setattr(sys.modules["keras_tfm.ops.attention"], "KEY_TILE", 2)
        yield


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(layer, *shapes):
    layer.build(*(shapes or ((None, None, D),)))
    rng = np.random.default_rng(3)
    layer.set_weights([0.5 * rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


@pytest.mark.parametrize("rotary", ROTARY)
@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 2), (False, 3)])
def test_self_attention_equals_numpy(rotary, num_key_value_heads, causal, window):
    layer = built(
        layers.MultiHeadSelfAttention(
            4,
            head_dim=4,
            num_key_value_heads=num_key_value_heads,
            rotary=ROTARY[rotary] and ROTARY[rotary](),
            causal=causal,
            window=window,
        )
    )
    x, who = numbers(2, T, D), np.random.default_rng(1).random((2, T, T)) < 0.8
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
    positions = np.where(mask, mask.cumsum(1) - 1, -1)
    y, scores = layer(x, mask=mask, attention_mask=who, return_attention_scores=True)
    expected = reference.self_attention(layer, x, positions, who)
    np.testing.assert_allclose(y, expected[0], atol=2e-5)  # float32 against float64
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)
    seeing = expected[1].sum(-1) > 0
    np.testing.assert_allclose(float32(scores).sum(-1), seeing, atol=1e-6)


def test_one_head_is_the_textbook_self_attention():
    layer, x = built(layers.MultiHeadSelfAttention(1, use_bias=False)), numbers(1, T, D)
    query, key, value = (x[0] @ np.asarray(d.kernel) for d in (layer.query_dense, layer.key_dense, layer.value_dense))
    weights = np.exp(query @ key.T / np.sqrt(D))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(layer(x)[0], weights @ value @ np.asarray(layer.output_dense.kernel), atol=1e-5)


@hypothesis.given(
    rotary=st.sampled_from(sorted(ROTARY)),
    window=st.sampled_from([None, 1, 3]),
    num_key_value_heads=st.sampled_from([4, 2, 1]),
    dropout=st.sampled_from([0.0, 0.5]),
    mask=st.sampled_from([None, "left", "right"]),
    attention_mask=st.sampled_from([None, 3, 4]),
    scores=st.booleans(),
    cached=st.booleans(),
    method=st.sampled_from(["plain", "lean"]),
    parts=st.booleans(),
    dtype=st.sampled_from(["float32", "mixed_bfloat16", "mixed_float16"]),
    t=st.integers(1, T - 1),
)
@hypothesis.settings(max_examples=60)
def test_a_future_token_never_changes_the_past(
    rotary, window, num_key_value_heads, dropout, mask, attention_mask, scores, cached, method, parts, dtype, t
):
    options = {"method": "auto" if scores else method}
    if parts:
        options["query_key_norm"] = keras.layers.RMSNormalization(dtype=dtype)
        options["sink"], options["output_gate"] = layers.AttentionSink(4), layers.OutputGate(dtype=dtype)
        options["logit_cap"] = 4.0
    layer = built(
        layers.MultiHeadSelfAttention(
            4,
            head_dim=4,
            num_key_value_heads=num_key_value_heads,
            rotary=ROTARY[rotary] and ROTARY[rotary](dtype=dtype),
            causal=True,
            window=window,
            dropout=dropout,
            dtype=dtype,
            **options,
        )
    )
    arguments = {"return_attention_scores": scores}
    if mask is not None:
        arguments["mask"] = np.ones((2, T), bool)
        arguments["mask"][0, slice(0, 2) if mask == "left" else slice(-2, None)] = False
    if attention_mask is not None and not cached:
        shape = (2, T, T) if attention_mask == 3 else (2, 4, T, T)
        arguments["attention_mask"] = np.random.default_rng(0).random(shape) < 0.8
    if cached:
        arguments["cache"] = layer.init_cache(2, T + 2)
    x = numbers(2, T, D)
    changed = x.copy()
    changed[:, t:] = numbers(2, T - t, D, seed=9)
    outputs = []
    for sequence in (x, changed):
        y = layer(sequence, **arguments)
        outputs.append(float32(y[0] if cached or scores else y))
    np.testing.assert_array_equal(outputs[0][:, :t], outputs[1][:, :t])
    assert np.abs(outputs[0][:, t:] - outputs[1][:, t:]).max() > 1e-3


@hypothesis.given(
    rotary=st.sampled_from(sorted(ROTARY)),
    causal=st.booleans(),
    side=st.sampled_from(["left", "right", "both"]),
    num_key_value_heads=st.sampled_from([4, 1]),
    window=st.sampled_from([None, 2]),
    method=st.sampled_from(["plain", "lean"]),
)
@hypothesis.settings(max_examples=25)
def test_padding_content_and_side_and_batch_mates_never_matter(
    rotary, causal, side, num_key_value_heads, window, method
):
    rotary = ROTARY[rotary] and ROTARY[rotary]()
    layer = built(
        layers.MultiHeadSelfAttention(
            4,
            4,
            num_key_value_heads=num_key_value_heads,
            rotary=rotary,
            causal=causal,
            window=window,
            method=method,
        )
    )
    row = numbers(1, 4, D)
    alone = float32(layer(row))
    before = {"left": 2, "right": 0, "both": 1}[side]
    x = numbers(3, T, D, seed=4) * 100
    x[1, before : before + 4] = row[0]
    mask = np.ones((3, T), bool)
    mask[1] = False
    mask[1, before : before + 4] = True
    y = float32(layer(x, mask=mask))
    np.testing.assert_allclose(y[1, mask[1]], alone[0], atol=1e-5)


@hypothesis.given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    rotary=st.sampled_from(sorted(ROTARY)),
    window=st.sampled_from([None, 2]),
    side=st.sampled_from([None, "left", "right"]),
    room=st.integers(0, 3),
    method=st.sampled_from(["plain", "lean"]),
)
@hypothesis.settings(max_examples=25)
def test_any_split_into_cached_pieces_equals_one_pass(sizes, rotary, window, side, room, method):
    rotary = ROTARY[rotary] and ROTARY[rotary]()
    layer = built(
        layers.MultiHeadSelfAttention(
            4, 4, num_key_value_heads=2, rotary=rotary, causal=True, window=window, method=method
        )
    )
    length = sum(sizes)
    x, mask = numbers(2, length, D), np.ones((2, length), bool)
    if side and length > 2:
        mask[0, slice(0, 2) if side == "left" else slice(-2, None)] = False
    expected = float32(layer(x, mask=mask))
    cache, start, pieces = layer.init_cache(2, length + room), 0, []
    for size in sizes:
        kept = [np.array(leaf) for leaf in cache]
        y, new_cache = layer(x[:, start : start + size], mask=mask[:, start : start + size], cache=cache)
        for leaf, copy in zip(cache, kept, strict=True):
            np.testing.assert_array_equal(leaf, copy)  # pure: the given cache is as it was
        cache, start = new_cache, start + size
        pieces.append(float32(y))
    assert int(cache.index) == length
    np.testing.assert_allclose(np.concatenate(pieces, 1)[mask], expected[mask], atol=1e-5)


def test_with_a_cache_and_scores_the_answer_is_output_cache_scores():
    layer = built(layers.MultiHeadSelfAttention(2, causal=True))
    y, cache, scores = layer(numbers(1, 3, D), cache=layer.init_cache(1, 5), return_attention_scores=True)
    assert y.shape == (1, 3, D)
    assert isinstance(cache, layers.KVCache)
    assert scores.shape == (1, 2, 3, 5)
    np.testing.assert_array_equal(scores[..., 3:], np.zeros((1, 2, 3, 2)))


def test_dropout_acts_on_attention_weights_in_training_only():
    layer, x = built(layers.MultiHeadSelfAttention(2, dropout=0.5)), numbers(2, T, D)
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    whole = float32(layer(x))
    assert np.abs(float32(layer(x, training=True)) - whole).max() > 1e-3
    mean = np.mean([float32(layer(x, training=True)) for _ in range(100)], axis=0)
    assert np.abs(mean - whole).max() < 0.8  # 100 draws of numbers that spread by up to 2


def test_a_keras_mask_is_used_and_passed_on():
    ids = np.array([[3, 4, 0, 0]])
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5, D, mask_zero=True)(inputs)
    attention = layers.MultiHeadSelfAttention(2)
    y = attention(x)
    model = keras.Model(inputs, [x, y])
    embedded, attended = model(ids)
    np.testing.assert_allclose(attended, attention(float32(embedded), mask=ids != 0), atol=1e-6)
    np.testing.assert_array_equal(keras.src.backend.get_keras_mask(attended), ids != 0)


def test_a_bias_may_be_numbers_or_a_rule():
    layer, x, alibi = built(layers.MultiHeadSelfAttention(4)), numbers(2, T, D), layers.AlibiBias(4)
    bias = alibi(np.tile(np.arange(T), (2, 1)))
    expected, _ = reference.self_attention(layer, x, np.tile(np.arange(T), (2, 1)), bias=np.asarray(bias))
    np.testing.assert_allclose(layer(x, attention_bias=bias), expected, atol=2e-5)
    np.testing.assert_allclose(layer(x, attention_bias=alibi.rule()), expected, atol=2e-5)


@pytest.mark.parametrize("num_key_value_heads", [4, 1])
def test_cross_attention_equals_numpy_and_remember_equals_passing_the_context(num_key_value_heads):
    layer = layers.MultiHeadCrossAttention(4, head_dim=3, num_key_value_heads=num_key_value_heads)
    built(layer, (None, None, D), (None, None, 5))
    x, context = numbers(2, T, D), numbers(2, 4, 5, seed=1)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
    y, scores = layer(x, context=context, context_mask=mask, return_attention_scores=True)
    expected = reference.cross_attention(layer, x, context, mask)
    np.testing.assert_allclose(y, expected[0], atol=2e-5)
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)
    cache = layer.remember(context, mask)
    np.testing.assert_allclose(layer(x, cache=cache), y, atol=1e-5)
    np.testing.assert_allclose(layer(x[:, 2:3], cache=cache), y[:, 2:3], atol=1e-5)  # a product of other sizes
    junk = np.where(mask[..., None], context, 1e3).astype("float32")
    np.testing.assert_allclose(layer(x, context=junk, context_mask=mask), y, atol=1e-6)


def test_cross_attention_to_nothing_adds_only_the_output_bias_with_finite_gradients():
    layer = built(layers.MultiHeadCrossAttention(2), (None, None, D), (None, None, D))
    x = numbers(1, T, D)

    def attend(x):
        return layer(x, context=x, context_mask=np.zeros((1, T), bool))

    y, gradients = outputs_and_gradients(attend, x)
    np.testing.assert_array_equal(y, np.broadcast_to(layer.output_dense.bias, y.shape))
    np.testing.assert_array_equal(gradients[0], np.zeros_like(x))


def test_wrong_head_counts_are_refused():
    with pytest.raises(ValueError, match="must be a multiple of `num_key_value_heads`. Received: num_heads=12, .*=5"):
        layers.MultiHeadSelfAttention(12, num_key_value_heads=5)
    with pytest.raises(ValueError, match="Received: width=8, num_heads=3"):
        layers.MultiHeadSelfAttention(3).build((None, None, 8))
    for layer in (layers.MultiHeadSelfAttention, layers.MultiHeadCrossAttention):
        for name in ("num_heads", "head_dim", "num_key_value_heads"):
            for wrong in (0, -2, 1.5, True):
                with pytest.raises(
                    ValueError, match=f"`{name}` must be an integer of at least 1. Received: {name}={wrong}"
                ):
                    layer(**{"num_heads": 2, name: wrong})
    with pytest.raises(ValueError, match="`window` must be an integer of at least 1. Received: window=0"):
        layers.MultiHeadSelfAttention(2, window=0)
    for wrong in (1.0, -0.1):
        with pytest.raises(
            ValueError, match=f"`dropout` must be at least 0 and less than 1. Received: dropout={wrong}"
        ):
            layers.MultiHeadSelfAttention(2, dropout=wrong)


def test_wrong_inputs_are_refused():
    layer = built(layers.MultiHeadSelfAttention(2))
    x = numbers(2, T, D)
    with pytest.raises(TypeError, match=r"`mask` must be boolean.*dtype=float32, shape=\(2, 6\)"):
        layer(x, mask=np.ones((2, T), "float32"))
    with pytest.raises(ValueError, match=r"`mask` must have the sizes \(2, 6\).*Received: \(2, 5\)"):
        layer(x, mask=np.ones((2, T - 1), bool))
    with pytest.raises(ValueError, match=r"`attention_mask` must have rank 3 or 4. Received: shape=\(2, 6\)"):
        layer(x, attention_mask=np.ones((2, T), bool))
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, T, D\). Received: shape=\(2, 8\)"):
        layer(x[:, 0])
    with pytest.raises(ValueError, match="The cache holds 4 positions and 0 are used; 6 more do not fit"):
        layer(x, cache=layer.init_cache(2, 4))


def test_cross_attention_takes_a_context_or_a_cache():
    layer = built(layers.MultiHeadCrossAttention(2), (None, None, D), (None, None, D))
    x = numbers(2, T, D)
    with pytest.raises(ValueError, match="Received: context=None, cache=None"):
        layer(x)
    with pytest.raises(ValueError, match="Received: context=a tensor, cache=a ContextCache"):
        layer(x, context=x, cache=layer.remember(x))
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, T, D\). Received: shape=\(2, 8\)"):
        layer(x[:, 0], context=x)
    with pytest.raises(ValueError, match=r"`context_mask` must have the sizes \(2, 6\).*Received: \(2, 3\)"):
        layer(x, context=x, context_mask=np.ones((2, 3), bool))
