"""A run that is killed at any moment and started again ends as one that was not: weights, losses, dropout, order."""

import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.data import PackedTokens, stream
from keras_tfm.training import Checkpointer

NUM_STEPS = 5  # in an epoch


def packed():
    return PackedTokens(np.random.default_rng(0).integers(0, 32, 161).astype("int32"), 1, sequence_length=4)


def small_model(dtype="float32", width=8, steps_per_execution=1, optimizer=None):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Embedding(32, width), keras.layers.Dropout(0.3), keras.layers.Dense(32)]
    model = keras.Sequential([keras.Input([4], dtype="int32"), *layers])
    for layer in layers:
        layer.dtype_policy = dtype
    optimizer = optimizer or keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 20))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False, steps_per_execution=steps_per_execution)
    return model


class Killed(BaseException):
    pass


class Kill(keras.callbacks.Callback):
    """Ends the run once so many steps were trained, `before` or after other callbacks see the end of the step."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed


def run(folder, repeat=False, kill_after=None, every_steps=1, validate=True, data=None, **options):
    """The weights and the losses of each epoch that this process saw to its end."""
    model, windows = small_model(**options), packed()
    data = data() if data else windows.dataset(8, repeat=repeat)
    callbacks = [Checkpointer(folder, data, every_steps=every_steps)]
    history = model.fit(
        data.map(lambda x, y: (x, y)),  # what is put on the data does not matter
        steps_per_epoch=NUM_STEPS if data.cardinality() < 0 else None,
        epochs=3,
        validation_data=windows.dataset(8, shuffle=False) if validate else None,
        shuffle=False,
        verbose=0,
        callbacks=callbacks if kill_after is None else [*callbacks, Kill(kill_after)],
    )
    return [variable.numpy() for variable in model.variables], history.history


def assert_equal(weights, expected):
    for value, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return *run(folder), folder


@pytest.mark.parametrize(
    "kills", [(5, 7), pytest.param((1,), marks=pytest.mark.slow), pytest.param((6, 3, 8), marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_bit_for_bit_as_the_whole_one(kills, whole, tmp_path):
    for steps in kills:  # steps that are skipped count as well
        with pytest.raises(Killed):
            run(tmp_path, kill_after=steps, every_steps=2)
    weights, history = run(tmp_path)
    assert_equal(weights, whole[0])
    for name, values in history.items():
        assert values == whole[1][name][-len(values) :], name  # the epoch that was interrupted, too


def test_endless_data_go_on_where_they_were_as_well(whole, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, repeat=True, kill_after=8)
    assert_equal(run(tmp_path, repeat=True)[0], whole[0])


def test_a_stream_goes_on_where_it_was_as_well(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number}\n" for number in range(90)))

    def endless():
        return stream(
            text,
            lambda texts: tf.strings.unicode_decode(texts, "UTF-8") % 32,
            sequence_length=4,
            batch_size=8,
            shuffle_rows=20,
        )

    expected, _ = run(tmp_path / "whole", data=endless, validate=False)
    with pytest.raises(Killed):
        run(tmp_path / "killed", data=endless, validate=False, kill_after=8)
    assert_equal(run(tmp_path / "killed", data=endless, validate=False)[0], expected)
    text.write_text(text.read_text() + "another end\n")
    with pytest.raises(ValueError, match="must be read on as it was read, with the same files"):
        run(tmp_path / "killed", data=endless, validate=False)


@pytest.mark.slow
def test_several_steps_at_once_and_bfloat16_go_on_as_well(tmp_path):
    options = {"repeat": True, "steps_per_execution": 5, "dtype": "bfloat16", "validate": False}
    expected, _ = run(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_after=2, **options)
    assert_equal(run(tmp_path / "killed", **options)[0], expected)


def test_a_run_that_is_over_gives_its_weights_again_and_can_be_prolonged(whole):
    weights, history = run(whole[2])
    assert_equal(weights, whole[0])
    assert not history
    assert len(list(whole[2].glob("*"))) == 2  # `keep`
    model = small_model()
    data = packed().dataset(8)
    model.fit(data, epochs=4, shuffle=False, verbose=0, callbacks=[Checkpointer(whole[2], data)])
    assert int(model.optimizer.iterations) == 4 * NUM_STEPS


def test_what_was_half_written_is_no_checkpoint(tmp_path):
    (tmp_path / ".checkpoint-00000009.npz.unfinished.x").mkdir()
    (tmp_path / "checkpoint-00000004.npz").touch()
    assert Checkpointer(tmp_path, packed().dataset(8)).newest == tmp_path / "checkpoint-00000004.npz"


def test_sigterm_saves_and_then_ends_the_process_as_it_would_have(whole, tmp_path):
    class Terminate(keras.callbacks.Callback):
        def __init__(self, at):
            super().__init__()
            setattr(self, at, lambda batch, logs=None: signal.raise_signal(signal.SIGTERM))

    def end(number, frame):
        raise Killed

    before = signal.signal(signal.SIGTERM, end)
    try:
        for at in ("on_train_batch_begin", "on_test_batch_begin"):
            model, windows = small_model(), packed()
            data = windows.dataset(8)
            with pytest.raises(Killed):
                model.fit(
                    data,
                    epochs=3,
                    validation_data=windows.dataset(8, shuffle=False),
                    shuffle=False,
                    verbose=0,
                    callbacks=[Checkpointer(tmp_path, data), Terminate(at)],
                )
            assert signal.getsignal(signal.SIGTERM) is end
        assert Checkpointer(tmp_path, data).newest.name == "checkpoint-00000005.npz"
    finally:
        signal.signal(signal.SIGTERM, before)
    weights, history = run(tmp_path)
    assert_equal(weights, whole[0])
    assert history["loss"] == whole[1]["loss"]


def test_seconds_are_counted_too(tmp_path):
    model, data = small_model(), packed().dataset(8)
    with pytest.raises(Killed):
        model.fit(data, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, data, every_seconds=1e-9), Kill(3)])
    assert Checkpointer(tmp_path, data).newest.name >= "checkpoint-00000002.npz"


# ---- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 16}, r"first difference: .*\(32, 16\).* for .*\(32, 8\)"),
        ({"optimizer": "sgd"}, r"must be those of .*checkpoint-0+5.npz"),
    ],
)
def test_another_model_is_refused_before_training(change, message, tmp_path):
    data = packed().dataset(8)
    small_model().fit(data, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, data)])
    model = small_model(**change)
    with pytest.raises(ValueError, match=message):
        model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, data)])
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("options", [{"seed": 1}, {"batch_size": 4}, {"initial_epoch": 1}])
def test_other_data_are_refused_before_training(options, tmp_path):
    data = packed().dataset(8)
    small_model().fit(data, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, data)])
    others = packed().dataset(**{"batch_size": 8, **options})
    with pytest.raises(ValueError, match="`data` must be that of .*first batch is another"):
        small_model().fit(others, epochs=2, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, others)])


@pytest.mark.parametrize("change", [lambda data: data.take(2), lambda data: data.shuffle(9), lambda data: [data]])
def test_data_whose_place_cannot_be_set_are_refused(change, tmp_path):
    with pytest.raises(ValueError, match="`data` must be a dataset of `keras_tfm.data`"):
        Checkpointer(tmp_path, change(packed().dataset(8)))


def test_part_of_an_epoch_is_refused(tmp_path):
    data = packed().dataset(8)
    with pytest.raises(ValueError, match="steps_per_epoch=3, .* and 5 batches"):
        small_model().fit(data, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[Checkpointer(tmp_path, data)])


def test_numbers_out_of_range_are_refused(tmp_path):
    for options in ({"every_steps": 0}, {"every_seconds": 0}, {"keep": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            Checkpointer(tmp_path, packed().dataset(8), **options)


# ---- kill -9

SCRIPT = """
    import sys

    import keras
    import numpy as np

    import keras_tfm as ktfm

    keras.utils.set_random_seed(0)
    tokens = np.random.default_rng(0).integers(0, 64, 2001).astype("int32")
    data = ktfm.data.PackedTokens(tokens, 1, sequence_length=8).dataset(10)  # 25 batches
    model = ktfm.models.build_gpt(
        vocabulary_size=64, hidden_dim=16, num_layers=2, num_heads=2, max_sequence_length=8, dropout=0.2
    )
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    checkpointer = ktfm.training.Checkpointer(sys.argv[1], data, every_steps=1)
    model.fit(data, epochs=20, shuffle=False, verbose=0, callbacks=[checkpointer])
    np.savez(sys.argv[2], *[variable.numpy() for variable in model.variables])
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_no_bit(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")

    def start(name):
        return subprocess.Popen([sys.executable, str(script), str(tmp_path / name), str(tmp_path / f"{name}.npz")])

    assert start("whole").wait(300) == 0
    random = np.random.default_rng()
    for _ in range(2):
        process = start("killed")
        before, deadline = set((tmp_path / "killed").glob("*.npz")), time.time() + 300
        while set((tmp_path / "killed").glob("*.npz")) == before and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start("killed").wait(300) == 0
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "killed.npz") as killed:
        assert_equal([killed[name] for name in killed.files], [whole[name] for name in whole.files])
