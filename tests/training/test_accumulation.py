"""A batch that is taken in parts trains as the whole batch does, whatever divides its loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.models import build_gpt
from keras_tfm.training import accumulate_gradients
from tests.harness import fresh_process

NUM_ROWS, LENGTH, SIZE = 19, 5, 23  # the last batch of 8 has 3 rows


def rows():
    random = np.random.default_rng(0)
    x = random.integers(0, SIZE, [NUM_ROWS, LENGTH]).astype("int32")
    y = random.integers(0, SIZE, [NUM_ROWS, LENGTH]).astype("int32")
    weights = random.choice([0.0, 0.3, 2.0], [NUM_ROWS, LENGTH]).astype("float32")
    return x, y, weights


def two_outputs(dtype=None):
    """A user's own functional model: a prediction for each token and one for the row."""
    inputs = keras.Input([LENGTH], dtype="int32")
    hidden = keras.layers.Embedding(SIZE, 8, embeddings_regularizer="l2", dtype=dtype)(inputs)
    hidden = keras.layers.Dense(8, activation="tanh", dtype=dtype)(hidden)
    tokens = keras.layers.Dense(SIZE, name="tokens", dtype=dtype)(hidden)
    row = keras.layers.Dense(1, name="row", dtype=dtype)(keras.layers.GlobalAveragePooling1D(dtype=dtype)(hidden))
    return keras.Model(inputs, {"tokens": tokens, "row": row})


def trained(build, compile_options, data, accumulate_steps, strategy=None, epochs=1):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(1)
        model = build()
        # Rates are large and Adam is not used: its steps hardly depend on a gradient's size.
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.5)
        model.compile(**{"optimizer": optimizer, "jit_compile": False, **compile_options})
    if accumulate_steps > 1:
        accumulate_gradients(model, accumulate_steps)
    history = model.fit(data, epochs=epochs, verbose=0, shuffle=False).history
    return [weight.numpy() for weight in model.weights], history, model


def assert_like_whole_batches(build, data, accumulate_steps=3, strategy=None, **compile_options):
    weights, history, _ = trained(build, compile_options, data, accumulate_steps, strategy)
    expected, losses, _ = trained(build, compile_options, data, 1, strategy)
    for value, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-6)
    assert history.keys() == losses.keys()
    for name in losses.keys() - {"tokens_loss", "row_loss"}:  # of which Keras' means count each call alike
        values = losses[name]
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


def cross_entropy(reduction="sum_over_batch_size"):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "reduction",
    ["mean_with_sample_weight", *(pytest.param(name, marks=slow) for name in ("sum_over_batch_size", "sum"))],
)
def test_two_outputs_with_losses_that_divide_by_different_things(reduction):
    x, y, weights = rows()
    labels = {"tokens": y, "row": x[:, :1].astype("float32")}
    sample_weights = {"tokens": weights, "row": np.linspace(0, 3, NUM_ROWS).astype("float32")}
    data = tf.data.Dataset.from_tensor_slices((x, labels, sample_weights)).batch(8)
    assert_like_whole_batches(
        two_outputs,
        data,
        loss={"tokens": cross_entropy(reduction), "row": keras.losses.MeanSquaredError()},
        loss_weights={"tokens": 1.0, "row": 0.01},
        metrics={"tokens": ["accuracy"]},
        weighted_metrics={"tokens": [keras.metrics.SparseCategoricalAccuracy(name="weighted")]},
    )


@slow
@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum"])
def test_a_loss_without_sample_weights(reduction):
    x, y, _ = rows()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    assert_like_whole_batches(gpt, data, loss=cross_entropy(reduction))


def gpt():
    return build_gpt(vocabulary_size=SIZE, hidden_dim=8, num_layers=1, num_heads=2, max_sequence_length=LENGTH)


@pytest.mark.parametrize("loss", ["chunked", pytest.param("compiled", marks=slow)])
def test_a_gpt_with_its_own_step_and_under_xla(loss):
    x, y, weights = rows()
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8, drop_remainder=loss == "compiled")
    compiled = {"loss": cross_entropy("mean_with_sample_weight"), "jit_compile": True}
    assert_like_whole_batches(gpt, data, 4, **(compiled if loss == "compiled" else {"loss": "chunked"}))


@slow
def test_loss_scaling_of_halves():
    x, y, weights = rows()
    labels = {"tokens": y, "row": x[:, :1].astype("float32") / SIZE}
    data = tf.data.Dataset.from_tensor_slices((x, labels, {"tokens": weights, "row": weights[:, 0]})).batch(8)

    def halves(accumulate_steps):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5, clipnorm=0.5), initial_scale=64)
        losses = {"tokens": cross_entropy("mean_with_sample_weight"), "row": "mse"}
        options = {"optimizer": optimizer, "loss": losses}
        return trained(lambda: two_outputs("mixed_float16"), options, data, accumulate_steps)

    weights, _, model = halves(3)
    expected, _, _ = halves(1)
    assert int(model.optimizer.inner_optimizer.iterations) == 3  # nothing was infinite
    for value, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=5e-3)  # float16 has 11 bits, and these run to 1


TWO_DEVICES = """
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from tests.training.test_accumulation import assert_like_whole_batches, cross_entropy, gpt, rows

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
data = tf.data.Dataset.from_tensor_slices(rows()).take(16).batch(8)
assert_like_whole_batches(gpt, data, 2, strategy, loss=cross_entropy("mean_with_sample_weight"))
"""


@slow
def test_under_a_strategy_with_two_devices():
    fresh_process(TWO_DEVICES)


def test_one_part_undoes_it():
    model = gpt()
    accumulate_gradients(model, 2)
    accumulate_gradients(model, 1)
    assert "train_step" not in vars(model)


def test_weights_without_a_gradient_are_left_alone():
    x, y, _ = rows()
    model = gpt()
    model.unused = keras.layers.Dense(1)
    model.unused.build([None, 1])
    model.compile(keras.optimizers.SGD(0.5, weight_decay=0.1), cross_entropy(), jit_compile=False)
    accumulate_gradients(model, 2)
    before = model.unused.kernel.numpy()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(model.unused.kernel.numpy(), before)


# ---- errors


def test_what_cannot_be_equal_is_refused():
    x, y, _ = rows()
    inputs = keras.Input([LENGTH], dtype="int32")
    masked = keras.Model(inputs, keras.layers.Dense(SIZE)(keras.layers.Embedding(SIZE, 4, mask_zero=True)(inputs)))
    for model, options, message in (
        (masked, {"jit_compile": False}, "Outputs must carry no Keras mask"),
        (gpt(), {"run_eagerly": True}, "`run_eagerly` must be False"),
        (keras.Sequential([keras.layers.Embedding(SIZE, SIZE)]), {"jit_compile": False}, "model must be built"),
    ):
        model.compile("sgd", cross_entropy(), metrics=["accuracy"], **options)
        accumulate_gradients(model, 2)
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="`accumulate_steps` must be an integer of at least 1"):
        accumulate_gradients(model, 0)
