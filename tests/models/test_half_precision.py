"""Weights, sums and caches in 16 bits: every family writes what its own forward passes say, however it is run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.generation import TextGenerator
from tests.generation.lively import lively
from tests.models.tiny import TINY, batch, make

DTYPES = ["bfloat16", "float16"]
PROMPT = [1, 2, 3]
# Logits of size 5 with the 8 bits of bfloat16 or the 11 of float16, rounded at other places where keys come from a
# cache or XLA sums in another order: which token is best is certain only where it leads by more.
LEADS = {"bfloat16": 0.15, "float16": 0.02, "float32": 1e-4}


def check_greedy(model, token_ids, dtype):
    """Each token is the best one after those before it, by full eager passes, as far as the precision tells."""
    text = [*PROMPT, *token_ids]
    logits = np.asarray(keras.ops.cast(model(np.array([text])), "float32"))[0, len(PROMPT) - 1 : -1]
    assert np.isfinite(logits).all()
    chosen = np.take_along_axis(logits, np.array(token_ids)[:, None], axis=1)[:, 0]
    assert (logits.max(axis=1) - chosen <= LEADS[dtype]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    # GPTs differ in their positions alone.
    [pytest.param(name, marks=pytest.mark.slow if name in ("gpt_sinusoidal", "gpt_rotary") else ()) for name in TINY],
)
@pytest.mark.usefixtures("without_xla")
def test_greedy_text_is_that_of_forward_passes(name, dtype):
    model = make(name, dtype=dtype)
    assert {weight.dtype for weight in model.weights if weight.dtype.startswith(("float", "bfloat"))} == {dtype}
    text = model.generate(PROMPT, max_new_tokens=6).token_ids[0].tolist()
    check_greedy(model, text, dtype)
    *_, last = model.generate_steps(PROMPT, max_new_tokens=6, tokens_per_piece=2)
    assert last.token_ids[0].tolist() == text


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gpt_learned", pytest.param("llama", marks=pytest.mark.slow)])
def test_xla_writes_it_as_well(name, dtype):
    model = make(name, dtype=dtype)
    check_greedy(model, model.generate(PROMPT, max_new_tokens=6).token_ids[0].tolist(), dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gpt_learned", "llama", "gemma2", "gpt_neox", "bloom"])
def test_remat_gives_the_gradients_of_the_usual_way(name, dtype):
    x, y = batch()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    gradients = []
    for remat in (False, True):
        dropout = {} if name in ("llama", "gemma2") else {"dropout": 0.0}
        model = make(name, dtype=dtype, remat=remat, **dropout)
        with tf.GradientTape() as tape:
            value = loss(y, tf.cast(model(x, training=True), "float32"))
        taken = map(tf.convert_to_tensor, tape.gradient(value, model.trainable_variables))
        gradients.append([tf.cast(gradient, "float32") for gradient in taken])
    for usual, again in zip(*gradients, strict=True):
        # The same operations, but sums of gradients may be taken in another order: a few units of the last place.
        scale = float(tf.reduce_max(tf.abs(usual)))
        np.testing.assert_allclose(usual, again, atol=scale * {"bfloat16": 2**-6, "float16": 2**-9}[dtype] + 1e-6)


_SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16}
_GROUPED = {**_SIZES, "num_key_value_heads": 1, "intermediate_dim": 24}
_BUILDERS = {
    "gpt": lambda **options: ktfm.models.build_gpt(**_SIZES, max_sequence_length=64, **options),
    "llama": lambda **options: ktfm.models.build_llama(**_GROUPED, **options),
    "gemma2": lambda **options: ktfm.models.build_gemma2(
        **{**_GROUPED, "num_layers": 2}, head_dim=8, windows=(4, None), **options
    ),
    "gpt_neox": lambda **options: ktfm.models.build_gpt_neox(**_SIZES, intermediate_dim=24, **options),
    "bloom": lambda **options: ktfm.models.build_bloom(**_SIZES, **options),
}
# Each with both dtypes, with and without 8 bits.
_EXPORTS = [(name, DTYPES[(i + is_int8) % 2], is_int8) for i, name in enumerate(_BUILDERS) for is_int8 in (False, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "is_int8"), _EXPORTS)
@pytest.mark.usefixtures("without_xla")
def test_served_it_writes_the_same_text(name, dtype, is_int8, tiny_tokenizer):
    model = lively(_BUILDERS[name](vocabulary_size=tiny_tokenizer.vocabulary_size, dtype=dtype))
    if is_int8:
        model.quantize_for_generation()
    writer = TextGenerator(model, tiny_tokenizer)
    module = ServedTextGenerator(writer, writer.options(), {"max_new_tokens": 8, "seed": 0})
    served = module.signatures(["serving_default"])["serving_default"](tf.constant(["ROMEO:"]))
    assert served["text"].numpy()[0].decode() == writer("ROMEO:", max_new_tokens=8)


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_it_is_served_from_the_disk(tiny_tokenizer, tmp_path):
    model = lively(_BUILDERS["gpt"](vocabulary_size=tiny_tokenizer.vocabulary_size, dtype="bfloat16"))
    writer = TextGenerator(model, tiny_tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=8)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](tf.constant(["ROMEO:"]))
    assert served["text"].numpy()[0].decode() == writer("ROMEO:", max_new_tokens=8)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
@pytest.mark.usefixtures("without_xla")
def test_parts_of_another_precision_fit_into_a_model(dtype):
    """A rotary embedding and norms that the caller made, in float32, between queries and a cache of 16 bits."""
    attention = ktfm.layers.MultiHeadSelfAttention(
        2,
        causal=True,
        rotary=ktfm.layers.RotaryEmbedding(),
        query_key_norm=keras.layers.RMSNormalization(),
        dtype=dtype,
    )
    block = ktfm.layers.TransformerBlock(attention, ktfm.layers.FeedForward(16, dtype=dtype), dtype=dtype)
    stack = ktfm.layers.TransformerStack([block], dtype=dtype)
    model = lively(ktfm.models.CausalLM(ktfm.layers.TokenEmbedding(17, 8, dtype=dtype), stack, dtype=dtype))
    check_greedy(model, model.generate(PROMPT, max_new_tokens=6).token_ids[0].tolist(), dtype)
