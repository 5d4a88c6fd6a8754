"""16, 8 and 4 bits: nearly the same perplexity, for weights and caches; a part of the memory; saved, loaded, exported.

With inputs in 8 bits too, one engine for few rows and another for more, and the same texts; calibrations.
"""

import contextlib
import gc
import pathlib
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm import compat
from keras_tfm.generation import runner
from keras_tfm.layers import weights
from keras_tfm.layers.weights import Bfloat16Rows, Int4Groups, Int8Rows, Int8RowsAndInputs, rounded_product
from keras_tfm.ops.int8_products import portable_products
from keras_tfm.samplers import BeamSampler, GreedySampler
from tests.generation.lively import lively_model, slow_greedy
from tests.generation.lively_seq2seq import lively_seq2seq
from tests.generation.recurrent import GatedRecurrence

TEXT = pathlib.Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"


@pytest.fixture(scope="module")
def trained(tiny_tokenizer):
    """(a small GPT after 150 steps on real text, held-out rows)."""
    text = TEXT.read_text(encoding="utf-8")[:120_000]
    ids = np.array(tiny_tokenizer.encode(text), "int32")
    rows = ids[: len(ids) // 65 * 65].reshape(-1, 65)
    model = ktfm.models.build_gpt(
        vocabulary_size=tiny_tokenizer.vocabulary_size,
        max_sequence_length=64,
        num_layers=2,
        num_heads=2,
        hidden_dim=64,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(3e-3), loss)
    train = tf.data.Dataset.from_tensor_slices((rows[:-64, :-1], rows[:-64, 1:])).repeat().batch(16).take(150)
    options = tf.data.Options()
    options.autotune.enabled = False
    model.fit(train.with_options(options), shuffle=False, verbose=0)
    return model, rows[-64:]


@pytest.fixture
def _by_onednn(monkeypatch):
    """Its products write any number of rows, of the smallest model, where there are such products."""
    monkeypatch.setattr(runner, "LEAST_WORK", dict.fromkeys(runner.LEAST_WORK, 0.0))


def perplexity(logits, next_ids):
    losses = keras.ops.sparse_categorical_crossentropy(next_ids, logits, from_logits=True)
    return float(np.exp(np.mean(losses)))


@pytest.mark.slow
def test_8_bit_caches_and_weights_cost_less_than_1_percent_of_perplexity(trained):
    model, rows = trained
    inputs, targets = rows[:, :-1], rows[:, 1:]
    whole = perplexity(model(inputs), targets)
    assert whole < 100  # of 300: it has learned something
    hidden, _ = model.read(inputs, model.init_state(len(inputs), 64, "int8"))
    assert perplexity(model.project(hidden), targets) == pytest.approx(whole, rel=0.01)
    num_bytes = sum(np.asarray(weight).nbytes for weight in model.weights)
    quantized = ktfm.models.CausalLM.from_config(model.get_config())
    quantized.set_weights(model.get_weights())
    quantized.quantize_for_generation()
    assert perplexity(quantized(inputs), targets) == pytest.approx(whole, rel=0.01)
    assert sum(np.asarray(weight).nbytes for weight in quantized.weights) < 0.4 * num_bytes


@pytest.mark.slow
def test_4_bit_weights_cost_less_than_2_percent_of_perplexity(trained):
    model, rows = trained
    quantized = ktfm.models.CausalLM.from_config(model.get_config())
    quantized.set_weights(model.get_weights())
    quantized.quantize_for_generation("int4")
    whole = perplexity(model(rows[:, :-1]), rows[:, 1:])
    assert perplexity(quantized(rows[:, :-1]), rows[:, 1:]) == pytest.approx(whole, rel=0.02)
    kernel = quantized.stack.blocks[0].feed_forward.output_dense
    assert sum(np.asarray(part).nbytes for part in kernel.rounded) * 8 / (256 * 64) == 4.5
    assert isinstance(quantized.token_embedding.embedding.rounded, Int8Rows)


CALIBRATION = np.random.default_rng(1).integers(0, 29, (8, 12)).tolist()


def quantized_model(dtype, calibration=None, **options):
    model = lively_model(num_layers=1, **options)
    model.quantize_for_generation(dtype, calibration)
    return model


def test_rounding_is_at_most_half_a_step():
    matrix = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    matrix[2] = 0
    rows = Int8Rows.of(matrix)
    step = np.abs(matrix).max(1, keepdims=True) / 127
    assert (np.abs(rows.values * rows.scale[:, None] - matrix) <= 0.5 * step + 1e-7).all()
    x = np.random.default_rng(1).normal(size=(2, 3, 7)).astype("float32")
    np.testing.assert_allclose(rows.product(x), x @ (rows.values * rows.scale[:, None]).T, atol=1e-5)


@pytest.mark.parametrize("num_inputs", [7, 32, 80])  # less than a group, one, two and a half
def test_4_bits_move_numbers_by_few_steps_and_on_average_by_less_than_half(num_inputs):
    matrix = np.random.default_rng(0).normal(size=(5, num_inputs)).astype("float32")
    matrix[2] = 0
    groups = Int4Groups.of(matrix)
    floats = np.asarray(groups.floats(num_inputs))
    steps = np.abs(np.repeat(groups.scale.astype("float32"), 32, axis=1)[:, :num_inputs])
    assert (np.abs(floats - matrix) <= 3.01 * steps).all()  # of ten to the greatest, seven are left on the far end
    assert np.mean(np.abs(floats - matrix)) < 0.5 * np.mean(steps)
    assert not floats[2].any()
    assert np.sqrt(np.mean((floats - matrix) ** 2)) < 0.11  # NF4 in groups of 32: 0.09


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [Int8Rows, Int4Groups, Bfloat16Rows])
def test_a_product_with_rounded_numbers_has_the_gradient_of_one_with_their_floats(kind, jit_compile):
    rounded = kind.of(np.random.default_rng(0).normal(size=(5, 40)).astype("float32"))
    floats = np.asarray(rounded.floats(40))
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 3, 40)), "float32")

    @tf.function(jit_compile=jit_compile)
    def product_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = rounded_product(x, rounded)
            loss = tf.reduce_sum(tf.square(y))
        return y, tape.gradient(loss, x)

    y, gradient = product_and_gradient(x)
    # Sums of 40 numbers of size 1, and of 5 of size 100, in another order; or of factors that have 8 bits each.
    loose = 2**-7 if kind is Bfloat16Rows and not jit_compile else 0
    np.testing.assert_allclose(y, x @ floats.T, atol=1e-5 + 20 * loose)
    np.testing.assert_allclose(gradient, 2 * (x @ floats.T) @ floats, rtol=1e-5, atol=1e-4 + 200 * loose)


@pytest.mark.parametrize("engine", ["eager", "graph", "xla"])
def test_products_of_bfloat16_have_rounded_inputs_outside_of_xla(engine):
    rng = np.random.default_rng(0)
    rows = Bfloat16Rows.of(rng.normal(size=(5, 40)).astype("float32"))
    x = tf.constant(rng.normal(size=(2, 3, 40)), "float32")
    product = rows.product if engine == "eager" else tf.function(rows.product, jit_compile=engine == "xla")
    inputs = x if engine == "xla" else tf.cast(tf.cast(x, "bfloat16"), "float32")
    expected = inputs.numpy() @ rows.values.astype("float32").T
    # 8 bits of the result, which TensorFlow cuts off without oneDNN; or sums of 40 numbers of size 1 in another order.
    np.testing.assert_allclose(product(x), expected, **({"atol": 1e-5} if engine == "xla" else {"rtol": 2**-7}))


@pytest.mark.parametrize("num_rows", [1, 3, 8, 9])
def test_large_matrices_are_read_row_by_row_for_few_rows_with_the_same_numbers(num_rows, monkeypatch):
    rows = Int8Rows.of(np.random.default_rng(0).normal(size=(5, 7)).astype("float32"))
    x = np.random.default_rng(1).normal(size=(num_rows, 1, 7)).astype("float32")
    expected = np.asarray(rows.product(x))
    monkeypatch.setattr(weights, "_LARGE", 1)
    # 1e-5: sums of seven products of size 3, in another order.
    np.testing.assert_allclose(rows.product(x), expected, rtol=0, atol=1e-5)
    signature = [tf.TensorSpec([None, 1, 7], tf.float32)]
    for jit_compile in (False, True):
        product = tf.function(rows.product, input_signature=signature, jit_compile=jit_compile)
        np.testing.assert_allclose(product(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_leaves_the_others_alone(worst):
    rows = Int8Rows.of(np.random.default_rng(0).normal(size=(5, 7)).astype("float32"))
    x = np.random.default_rng(1).normal(size=(2, 1, 7)).astype("float32")
    expected = np.asarray(rows.product(x[1:]))
    x[0, 0, 0] = worst
    for product in (rows.product, tf.function(rows.product, jit_compile=True)):
        np.testing.assert_allclose(np.asarray(product(tf.constant(x)))[1:], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "w8a8", "int4", "bfloat16"])
def test_it_saves_and_reloads(dtype, tmp_path):
    quantized = quantized_model(dtype)
    quantized.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(again(ids), quantized(ids))
    assert again.weight_dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "large"), [("int8", weights._LARGE), ("int8", 1), ("int4", 1), ("bfloat16", 1)])
def test_it_writes_as_a_full_pass_says_and_is_served(dtype, large, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_LARGE", large)
    quantized = quantized_model(dtype)
    expected = slow_greedy(quantized, [1, 2, 3], 6)
    assert quantized.generate([1, 2, 3], max_new_tokens=6).token_ids[0].tolist() == expected
    model = quantized_model(dtype, vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer = ktfm.generation.TextGenerator(model, tiny_tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=8)
    served = tf.saved_model.load(str(tmp_path / "1"))
    text = served.signatures["serving_default"](tf.constant(["ROMEO:"]))["text"].numpy()[0].decode()
    assert text == writer("ROMEO:", max_new_tokens=8)


@pytest.mark.parametrize("engine", ["eager", "xla", "portable", "onednn"])
def test_inputs_are_rounded_row_by_row_whoever_multiplies(engine):
    rng = np.random.default_rng(0)
    matrix = Int8RowsAndInputs.of(rng.normal(size=(5, 40)).astype("float32"))
    x = rng.normal(size=(3, 2, 40)).astype("float32") * np.array([1, 100, 1e-3], "float32")[:, None, None]
    step = np.abs(x).max(-1, keepdims=True) / 127
    expected = (np.round(x / step) * step) @ (matrix.values * matrix.scale[:, None]).T
    signature = [tf.TensorSpec([None, None, 40], tf.float32)]
    product = matrix.product
    if engine != "eager":
        function = tf.function(product, input_signature=signature, jit_compile=engine == "xla", autograph=False)
        with portable_products() if engine == "portable" else contextlib.nullcontext():
            product = function.get_concrete_function()
        operations = {operation.type for operation in product.graph.get_operations()}
        assert ("_QuantizedMatMul" in operations) == (engine == "onednn" and compat.has_int8_product())
    # Sums of 40 numbers in another order, by row.
    np.testing.assert_allclose(product(tf.constant(x)) / step, expected / step, rtol=0, atol=1e-3)


@pytest.mark.parametrize("engine", ["eager", "xla", "portable", "onednn"])
def test_inputs_are_spread_before_they_are_rounded(engine):
    rng = np.random.default_rng(0)
    floats, spread = rng.normal(size=(5, 40)).astype("float32"), rng.uniform(0.1, 10, 40).astype("float32")
    matrix = Int8RowsAndInputs.of(floats, spread)
    weight_step = np.abs(floats / spread).max(1) / 127
    held = np.round(floats / spread / weight_step[:, None]) * weight_step[:, None]
    x = rng.normal(size=(3, 2, 40)).astype("float32")
    step = np.abs(x * spread).max(-1, keepdims=True) / 127
    function = tf.function(matrix.product, jit_compile=engine == "xla", autograph=False)
    with portable_products() if engine == "portable" else contextlib.nullcontext():
        y = (matrix.product if engine == "eager" else function)(tf.constant(x))
    # Sums of 40 numbers of size 100 in another order.
    np.testing.assert_allclose(y, (np.round(x * spread / step) * step) @ held.T, rtol=0, atol=1e-3)
    np.testing.assert_allclose(matrix.floats(40), held * spread, rtol=1e-6)
    np.testing.assert_allclose(matrix.transposed_product(y, 40), y @ (held * spread), rtol=1e-4, atol=1e-2)


@pytest.mark.skipif(not compat.has_int8_product(), reason="TensorFlow has no products of 8 bits here")
@pytest.mark.parametrize("spread", [None, np.full(32, 2.0, "float32")])
def test_a_graph_that_keeps_weights_spreads_inputs_only_where_that_changes_them(spread):
    dense = weights.Projection(5)
    dense.build((None, None, 32))
    dense.to_w8a8(spread)
    x = np.random.default_rng(0).normal(size=(1, 2, 32)).astype("float32")
    expected = np.asarray(dense(x))
    product = tf.function(dense, autograph=False).get_concrete_function(tf.TensorSpec([None, None, 32]))
    # What is captured: values and scale, and a spread.
    assert len(product.captured_inputs) == (2 if spread is None else 3) + 1  # and the bias
    np.testing.assert_allclose(product(tf.constant(x)), expected, rtol=0, atol=1e-5)


def with_outliers():
    """A model in floats that reads a channel of 50 times the others' size in each block, and weighs it accordingly."""
    model = lively_model(num_layers=2)
    factors = np.where(np.arange(32) == 3, 50.0, 1.0)
    for block in model.stack.blocks:
        attention, forward = block.self_attention, block.feed_forward
        for norm in (block.attention_wrap.norm_before, block.feed_forward_wrap.norm_before):
            norm.scale.assign(norm.scale * factors)
        for dense in (attention.query_dense, attention.key_dense, attention.value_dense):
            dense.kernel.assign(dense.kernel / factors[:, None])
        for dense in (forward.gate_dense, forward.intermediate_dense):
            dense.kernel.assign(dense.kernel / factors[:, None])
    return model


def test_a_calibration_moves_outliers_into_the_weights(tmp_path):
    ids = np.random.default_rng(2).integers(0, 29, (4, 12))
    floats = np.asarray(with_outliers()(ids))
    errors = []
    for calibration in (None, [row[: 4 + i] for i, row in enumerate(CALIBRATION)]):
        model = with_outliers()
        model.quantize_for_generation("w8a8", calibration)
        errors.append(np.sqrt(np.square(np.asarray(model(ids)) - floats).mean()))
    assert errors[1] < 0.4 * errors[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(ids), model(ids))


def test_an_encoder_decoder_is_calibrated_by_sources_and_targets():
    model = lively_seq2seq()
    rng = np.random.default_rng(3)
    inputs = {
        "encoder_token_ids": rng.integers(0, 29, (4, 7)),
        "encoder_padding_mask": np.arange(7) < np.array([[7], [3], [1], [5]]),
        "decoder_token_ids": rng.integers(0, 29, (4, 5)),
    }
    model.quantize_for_generation("w8a8", inputs)
    for stack in (model.encoder, model.decoder):
        spreads = [np.asarray(dense.rounded.spread) for dense in weights.projections_within(stack)]
        assert any((spread != 1).any() for spread in spreads)


def test_calibrations_that_cannot_be_are_refused():
    model = lively_model(num_layers=1)
    with pytest.raises(ValueError, match="`calibration` must be given with \"w8a8\".*Received: dtype='int8'"):
        model.quantize_for_generation("int8", CALIBRATION)
    with pytest.raises(ValueError, match=r"`calibration` must hold inputs.*Received: calibration=\[\]"):
        model.quantize_for_generation("w8a8", [])
    model.quantize_for_generation("w8a8")
    with pytest.raises(ValueError, match="while weights are floats.*weights in w8a8"):
        model.quantize_for_generation("w8a8", CALIBRATION)


@pytest.mark.skipif(not compat.has_int8_product(), reason="TensorFlow has no products of 8 bits here")
@pytest.mark.usefixtures("_by_onednn")
@pytest.mark.parametrize("sampler", [GreedySampler(), pytest.param(BeamSampler(num_beams=3), marks=pytest.mark.slow)])
def test_onednn_writes_what_full_passes_say(sampler):
    model = lively_model(num_layers=2)  # whose blocks differ: each keeps its own weights
    model.quantize_for_generation("w8a8")
    prompts = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10]]
    written = model.generate(prompts, max_new_tokens=6, sampler=sampler)
    (loop,) = model.generation_runner._compiled.values()
    assert not loop.is_by_xla
    if isinstance(sampler, GreedySampler):
        assert written.token_ids.tolist() == [slow_greedy(model, prompt, 6) for prompt in prompts]
        streamed = list(model.generate_steps(prompts, max_new_tokens=6))
        assert streamed[-1].token_ids.tolist() == written.token_ids.tolist()
    with portable_products():  # floats, which round their inputs as well
        model.generation_runner._compiled.clear()
        again = model.generate(prompts, max_new_tokens=6, sampler=sampler)
    assert again.token_ids.tolist() == written.token_ids.tolist()


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("has_product", [True, False])
@pytest.mark.parametrize(("dtype", "product"), [("w8a8", "has_int8_product"), ("bfloat16", "has_bfloat16_product")])
def test_more_work_is_left_to_onednn_where_the_processor_can(dtype, product, has_product, monkeypatch):
    monkeypatch.setattr(compat, product, lambda: has_product)
    model = quantized_model(dtype)
    monkeypatch.setattr(runner, "LEAST_WORK", {dtype: 4 * model.mean_matrix_size()})
    for num_rows in (2, 3):  # three fill the bucket of four
        model.generate([[1, 2, 3]] * num_rows, max_new_tokens=2)
    loops = [loop.is_by_xla for loop in model.generation_runner._compiled.values()]
    assert loops == ([True, False] if has_product else [True])


@pytest.mark.usefixtures("without_xla", "_by_onednn")
@pytest.mark.parametrize("dtype", ["int8", "int4", None])
def test_models_whose_inputs_are_floats_are_left_to_xla(dtype):
    model = lively_model(num_layers=1) if dtype is None else quantized_model(dtype)
    model.generate([[1, 2, 3]] * 2, max_new_tokens=2)
    assert [loop.is_by_xla for loop in model.generation_runner._compiled.values()] == [True]


def test_the_work_of_a_step_goes_by_the_matrices_of_the_blocks():
    model = ktfm.models.build_gpt(vocabulary_size=100, max_sequence_length=16, num_layers=3, num_heads=2, hidden_dim=32)
    assert model.mean_matrix_size() == (4 * 32 * 32 + 2 * 32 * 128) / 6


@pytest.mark.usefixtures("without_xla")
def test_a_model_whose_blocks_have_no_projections_is_left_to_xla():
    stack = ktfm.layers.TransformerStack([GatedRecurrence()])
    model = ktfm.models.CausalLM(ktfm.layers.TokenEmbedding(vocabulary_size=20, hidden_dim=8), stack)
    model.quantize_for_generation("w8a8")
    assert model.generate([[1, 2, 3]] * 64, max_new_tokens=2).token_ids.shape == (64, 2)
    assert [loop.is_by_xla for loop in model.generation_runner._compiled.values()] == [True]


@pytest.mark.parametrize("least_work", [float("inf"), pytest.param(0.0, marks=pytest.mark.slow)])
def test_bfloat16_writes_what_is_best_or_nearly_so_in_floats(least_work, monkeypatch):
    monkeypatch.setattr(runner, "LEAST_WORK", {"bfloat16": least_work})
    model, floats = lively_model(num_layers=1), lively_model(num_layers=1)
    model.quantize_for_generation("bfloat16")
    texts = model.generate([[1, 2, 3]], max_new_tokens=6).token_ids
    for text in texts.tolist():
        logits = np.asarray(floats(np.array([[1, 2, 3, *text]]))[0, 2:-1])
        # Logits of size 4, which bfloat16 moves by 0.02 (root mean square).
        assert (logits[np.arange(6), text] > logits.max(-1) - 0.1).all()


@pytest.mark.skipif(not compat.has_int8_product(), reason="TensorFlow has no products of 8 bits here")
@pytest.mark.usefixtures("_by_onednn")
def test_weights_that_a_graph_has_kept_are_not_loaded_over(tmp_path):
    model = quantized_model("w8a8")
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")  # not called in a graph yet
    model.generate([[1, 2, 3]], max_new_tokens=2)
    with pytest.raises(ValueError, match="must be loaded before it is first called"):
        model.load_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="must be loaded before it is first called"):
        model.set_weights(model.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("portable", [True, False])
def test_inputs_in_8_bits_are_served_as_written(portable, tiny_tokenizer, tmp_path):
    model = quantized_model("w8a8", CALIBRATION, vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer = ktfm.generation.TextGenerator(model, tiny_tokenizer)
    writer.export(tmp_path / "1", max_new_tokens=8, portable=portable)
    held = (tmp_path / "1" / "saved_model.pb").read_bytes()
    assert (b"_QuantizedMatMul" in held) == (compat.has_int8_product() and not portable)
    prompts = ["ROMEO:", "It is", "But", ""]
    texts = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](tf.constant(prompts))["text"]
    assert [text.decode() for text in texts.numpy()] == writer(prompts, max_new_tokens=8)
    with pytest.raises(ValueError, match="`portable` must be True where XLA compiles"):
        writer.export(tmp_path / "2", jit_compile=True, portable=False)


def test_what_was_compiled_before_is_forgotten():
    model = lively_model(num_layers=1)
    before = model.generation_runner.version()
    model.quantize_for_generation()
    assert model.generation_runner.version() != before


def test_another_dtype_raises():
    model = lively_model(num_layers=1)
    with pytest.raises(ValueError, match="`weight_dtype` must be.*Received: 'int2'"):
        ktfm.models.CausalLM.from_config({**model.get_config(), "weight_dtype": "int2"})
    with pytest.raises(ValueError, match="`dtype` must be.*Received: dtype='int2'"):
        model.quantize_for_generation("int2")
    model.quantize_for_generation("int4")
    model.quantize_for_generation("int4")
    with pytest.raises(ValueError, match="rounded once only.*dtype='int8', and weights in int4"):
        model.quantize_for_generation()


@pytest.mark.parametrize("dtype", ["int8", "w8a8", "int4", "bfloat16"])
def test_floats_are_gone_once_they_are_rounded(dtype):
    model = lively_model(num_layers=1)
    floats = [weakref.ref(model.token_embedding.embedding.embeddings)]
    floats += [weakref.ref(block.feed_forward.output_dense.kernel) for block in model.stack.blocks]
    model.quantize_for_generation(dtype)
    gc.collect()
    assert [reference() for reference in floats] == [None] * 2
