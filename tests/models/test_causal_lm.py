"""What every causal language model owes: see `check_model`; and training, saving, errors."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.harness import check_decoding, check_model, float32, fresh_process
from tests.models.tiny import GPT, TINY, VOCABULARY_SIZE, batch, compile_model, make


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in TINY}


@pytest.mark.parametrize("name", TINY)
def test_model_is_causal_and_its_cache_and_padding_change_nothing(models, name):
    check_model(models[name], VOCABULARY_SIZE)


@hypothesis.given(
    name=st.sampled_from(sorted(TINY)),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    padding=st.tuples(st.integers(0, 3), st.sampled_from(["left", "right", "middle"])),
)
@hypothesis.settings(max_examples=15)
def test_any_split_of_a_padded_prompt_gives_the_same_logits(models, name, sizes, padding):
    length = sum(sizes)
    length = min(length + 1, 12)
    token_ids = np.random.default_rng(length).integers(0, VOCABULARY_SIZE, (2, length)).astype("int32")
    mask = np.ones((2, length), bool)
    amount, side = min(padding[0], length - 1), padding[1]
    start = {"left": 0, "right": length - amount, "middle": (length - amount) // 2}[side]
    mask[0, start : start + amount] = False
    pieces, left = [], length
    for size in sizes:
        if size <= left:
            pieces.append(size)
            left -= size
    check_decoding(models[name], token_ids, mask, pieces)


@pytest.mark.parametrize("name", TINY)
def test_a_longer_cache_than_needed_changes_nothing(models, name):
    token_ids = batch(2, 6)[0]
    roomy, _ = models[name].prefill(token_ids, models[name].init_state(2, 30))
    exact, _ = models[name].prefill(token_ids, models[name].init_state(2, 6))
    # As in `check_decoding`: sums over 6 and over 30 slots, of which 24 add 0, are taken in another order.
    np.testing.assert_allclose(float32(roomy), float32(exact), atol=2e-5)


def test_a_row_with_nothing_to_read_keeps_its_place(models):
    model = models["gpt_learned"]
    token_ids = batch(2, 5)[0]
    _, state = model.prefill(token_ids[:, :3], model.init_state(2, 6))
    _, state = model.decode_step(token_ids[:, 3], state, np.array([True, False]))
    logits, _ = model.decode_step(np.stack([token_ids[0, 4], token_ids[1, 3]]), state)
    np.testing.assert_allclose(logits[0], float32(model(token_ids))[0, 4], atol=2e-5)
    np.testing.assert_allclose(logits[1], float32(model(token_ids))[1, 3], atol=2e-5)


def test_decoding_runs_compiled_and_without_retracing(models):
    model = models["llama"]
    token_ids = batch(2, 6)[0]
    full = float32(model(token_ids))
    _, state = model.prefill(token_ids[:, :3], model.init_state(2, 6))
    step = tf.function(model.decode_step, jit_compile=True)
    for t in range(3, 6):
        logits, state = step(tf.constant(token_ids[:, t]), state)
        np.testing.assert_allclose(float32(logits), full[:, t], atol=2e-5)
    assert step.experimental_get_tracing_count() == 1


def test_an_array_and_a_dict_without_a_mask_are_the_same_input(models):
    token_ids = batch()[0]
    for name in ("gpt_learned", "llama"):
        model = models[name]
        expected = float32(model(token_ids))
        everything = np.ones(token_ids.shape, bool)
        np.testing.assert_array_equal(float32(model({"token_ids": token_ids})), expected)
        masked = float32(model({"token_ids": token_ids, "padding_mask": everything}))
        np.testing.assert_allclose(masked, expected, atol=2e-5)  # it may attend by another kernel
        np.testing.assert_allclose(model.predict(token_ids, verbose=0), expected, atol=2e-5)


@pytest.mark.parametrize(
    "name",
    ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_learned", "gpt_alibi", "gpt_relative"))],
)
def test_thirty_steps_memorise_one_batch(name):
    x, y = batch()
    model = compile_model(TINY[name](num_layers=1, **({"dropout": 0.0} if name.startswith("gpt") else {})), 2e-2)
    losses = model.fit(x, y, epochs=30, batch_size=4, verbose=0).history["loss"]
    # Only learned positions can memorise in so few steps; the others have to learn by way of attention.
    assert losses[-1] < (0.1 if name == "gpt_learned" else 0.35) * losses[0]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("gpt_relative", "mixed_float16", marks=pytest.mark.slow),
        pytest.param("llama", "mixed_bfloat16", marks=pytest.mark.slow),
        ("llama", "mixed_float16"),
    ],
)
def test_mixed_precision_trains_to_a_lower_finite_loss(name, dtype):
    x, y = batch()
    model = compile_model(TINY[name](dtype=dtype, num_layers=1))
    assert model(x).dtype == model.compute_dtype
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    losses = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (dtype == "mixed_float16")
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["gpt_alibi", "llama"])
def test_decoding_in_mixed_precision_stays_close_to_the_full_pass(name, dtype):
    model = make(name, dtype=dtype)
    assert model.init_state(1, 4).memories[0].self_attention.key.dtype == model.compute_dtype
    # Logits of size 5 in bfloat16's 8 bits, rounded at another place in each order of computing.
    check_decoding(model, batch(2, 6)[0], atol={"mixed_bfloat16": 0.15, "mixed_float16": 0.02}[dtype])


def test_fit_takes_tf_data_and_dicts_with_a_padding_mask():
    x, y = batch()
    mask = np.ones(x.shape, bool)
    mask[0, 5:] = False
    inputs, weights = {"token_ids": x, "padding_mask": mask}, mask.astype("float32")
    model = compile_model(TINY["gpt_learned"](num_layers=1, dropout=0.0), 0.0)  # a rate of 0: all losses are equal
    losses = model.fit(inputs, y, sample_weight=weights, epochs=2, verbose=0).history["loss"]
    dataset = tf.data.Dataset.from_tensor_slices((inputs, y, weights)).batch(4)
    losses += model.fit(dataset, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)  # arrays are shuffled: sums in another order


def test_padding_content_does_not_reach_the_gradients_of_real_tokens():
    x, y = batch(2, 6)
    mask = np.ones(x.shape, bool)
    mask[:, 4:] = False
    model, gradients = make("gpt_rotary", num_layers=1), []
    for filler in (0, 3):
        with tf.GradientTape() as tape:
            logits = model({"token_ids": np.where(mask, x, filler), "padding_mask": mask})
            losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
            loss = tf.reduce_sum(losses * mask)
        gradients.append([float32(gradient) for gradient in tape.gradient(loss, model.trainable_weights)])
    for first, second in zip(*gradients, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_dropout_acts_in_training_only():
    model, x = make("gpt_learned", dropout=0.5), batch()[0]
    np.testing.assert_array_equal(model(x), model(x, training=False))
    assert np.abs(float32(model(x, training=True)) - float32(model(x))).max() > 1e-2


RELOAD = """
import sys
import keras
import numpy as np
import keras_tfm

folder, *names = sys.argv[1:]
for name in names:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    with np.load(f"{folder}/{name}.npz") as arrays:
        arrays = dict(arrays)
    np.testing.assert_allclose(model(arrays["x"]), arrays["logits"], atol=2e-5, err_msg=name)  # other threads sum
    _, state = model.prefill(arrays["x"], model.init_state(len(arrays["x"]), 12))
    if "loss" in arrays:
        loss = model.evaluate(arrays["x"], arrays["y"], verbose=0)
        np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
        assert type(model.optimizer).__name__ == "Adam", model.optimizer
        assert int(model.optimizer.iterations) == int(arrays["iterations"])
print("reloaded", len(names))
"""


@pytest.mark.slow
def test_models_and_their_optimizer_reload_in_a_fresh_process_without_custom_objects(tmp_path):
    x, y = batch()
    names = ("gpt_learned", "llama")  # the layers of the others reload in the layers' tests
    for name in names:
        model, more = make(name), {}
        if name == "gpt_learned":
            compile_model(model, 1e-3).fit(x, y, epochs=2, verbose=0)
            more = {"loss": model.evaluate(x, y, verbose=0), "iterations": int(model.optimizer.iterations)}
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=x, y=y, logits=float32(model(x)), **more)
    assert f"reloaded {len(names)}" in fresh_process(RELOAD, tmp_path, *names)


@pytest.mark.parametrize("name", TINY)
def test_a_model_made_from_its_config_has_the_same_config_and_outputs(models, name):
    model = models[name]
    other = model.__class__.from_config(model.get_config())
    assert other.get_config() == model.get_config()
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other(batch()[0]), model(batch()[0]))


def test_weights_alone_save_and_load(models, tmp_path):
    models["llama"].save_weights(tmp_path / "llama.weights.h5")
    other = TINY["llama"]()
    other.load_weights(tmp_path / "llama.weights.h5")
    np.testing.assert_array_equal(other(batch()[0]), models["llama"](batch()[0]))


def test_summary_names_the_parts(models, capsys):
    models["gpt_learned"].summary()
    shown = capsys.readouterr().out
    for name in ("gpt", "token_ids", "token_positions", "token_embedding", "stack"):
        assert name in shown


@pytest.mark.parametrize("ids", [[[0, 17]], [[-1, 3]], [[99, 0]]])
def test_ids_outside_the_vocabulary_are_refused(models, ids):
    lowest, highest = min(ids[0]), max(ids[0])
    message = rf"in \[0, 17\). Received: ids from {lowest} to {highest}"
    for name in ("gpt_learned", "llama"):
        with pytest.raises(ValueError, match=message):
            models[name](np.array(ids, "int32"))
        with pytest.raises(ValueError, match=message):
            models[name].prefill(np.array(ids, "int32"), models[name].init_state(1, 4))


def test_fit_refuses_ids_outside_the_vocabulary():
    x, y = batch()
    x = x.copy()
    x[0, 0] = VOCABULARY_SIZE
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"17 is not in \[0, 17\)"):
        compile_model(TINY["llama"](num_layers=1)).fit(x, y, verbose=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 2)])
def test_token_ids_of_another_rank_are_refused(models, shape):
    ids = np.zeros(shape, "int32")
    with pytest.raises(ValueError, match=rf"{', '.join(map(str, shape))}"):
        models["gpt_learned"](ids)
    with pytest.raises(ValueError, match=rf"`token_ids` must have shape \(B, T\). Received: shape=\({shape[0]},"):
        models["gpt_learned"].prefill(ids, models["gpt_learned"].init_state(2, 4))


def test_float_padding_masks_are_refused(models):
    x = batch()[0]
    for model in (models["gpt_learned"], models["llama"]):
        with pytest.raises(TypeError, match=r"`padding_mask` must be boolean.*dtype=float32, shape=\(4, 8\)"):
            model.prefill(x, model.init_state(4, 8), np.ones(x.shape, "float32"))
        with pytest.raises(TypeError, match="`padding_mask` must be boolean"):
            model({"token_ids": x, "padding_mask": np.ones(x.shape, "float32")})


def test_padding_masks_of_another_shape_are_refused(models):
    x = batch()[0]
    with pytest.raises(ValueError, match=r"`padding_mask` must have the sizes \(4, 8\).*Received: \(4, 7\)"):
        models["llama"]({"token_ids": x, "padding_mask": np.ones((4, 7), bool)})


def test_sequences_longer_than_the_learned_positions_are_refused(models):
    ids = np.zeros((1, GPT["max_sequence_length"] + 1), "int32")
    with pytest.raises(ValueError, match=r"`max_sequence_length`=12 learned.*Received: 13 tokens"):
        models["gpt_learned"](ids)
    assert models["gpt_learned"].max_sequence_length == 12
    for name in ("gpt_sinusoidal", "gpt_rotary", "gpt_alibi", "gpt_relative", "llama"):
        assert models[name](ids).shape == (1, 13, VOCABULARY_SIZE)
        assert models[name].max_sequence_length is None


def test_a_full_cache_is_refused(models):
    model, x = models["llama"], batch()[0]
    _, state = model.prefill(x, model.init_state(4, 8))
    with pytest.raises(
        ValueError, match="The cache holds 8 positions and 8 are used; 1 more do not fit.*`max_sequence_length`"
    ):
        model.decode_step(x[:, 0], state)
    with pytest.raises(ValueError, match="The cache holds 5 positions and 0 are used; 8 more do not fit"):
        model.prefill(x, model.init_state(4, 5))


def test_a_cache_of_another_depth_is_refused(models):
    model, x = models["llama"], batch()[0]
    state = model.init_state(4, 8)
    shallow = state._replace(memories=state.memories[:1])
    with pytest.raises(ValueError, match="each of the 2 blocks. Received: 1"):
        model.prefill(x, shallow)


@pytest.mark.parametrize("name", ["gpt_learned", "llama_multi_query_tied"])
def test_logits_read_in_pieces_are_those_of_one_pass(models, name, monkeypatch):
    import keras_tfm.models.language_model as module

    monkeypatch.setattr(module, "LONGEST_APPEND", 4)
    for length in (1, 4, 6, 11):
        token_ids = batch(2, length)[0]
        np.testing.assert_allclose(
            float32(models[name].read_logits(token_ids)), float32(models[name](token_ids)), atol=2e-5
        )
