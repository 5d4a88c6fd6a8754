"""Several processes train as one process with the whole batch does, and end together."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow import trainer

from keras_tfm.training import Workers, workers
from keras_tfm.training.workers import _from_config, _Strategy
from tests.training import workers_script

SCRIPT = Path(workers_script.__file__)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(folder, task, count=2):
    """Processes that print to files in the folder."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    processes = []
    for index in range(count):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        with open(folder / f"{task}_{index}.txt", "w", encoding="utf-8") as printed:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), str(folder), task],
                    env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "TF_CONFIG": config},
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder with all that two workers found until one of them died, how both ended, and how long it took."""
    folder = tmp_path_factory.mktemp("workers")
    processes = start(folder, "compare")
    try:
        processes[1].wait(400)
        died = time.time()
        processes[0].wait(120)
        seconds = time.time() - died
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return folder, [process.returncode for process in processes], seconds


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [False, True])
def test_two_workers_equal_one_process_with_the_whole_batch(compared, accumulated):
    folder, _, _ = compared
    name = "parts" if accumulated else "whole"
    expected = workers_script.results()
    for index in range(2):
        assert (folder / f"{name}_{index}.npz").exists(), (folder / f"compare_{index}.txt").read_text()[-3000:]
        found = arrays(folder / f"{name}_{index}.npz")
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(
                found[key], values, rtol=0, atol=1e-6 * max(1, np.abs(values).max()), err_msg=key
            )


@pytest.mark.slow
def test_two_workers_in_mixed_precision_equal_one_process(compared):
    expected = workers_script.results(models=[workers_script.in_bfloat16])
    for index in range(2):
        found = arrays(compared[0] / f"bfloat16_{index}.npz")
        for key, values in expected.items():
            # Sums over rows of numbers with 8 bits, in other parts.
            np.testing.assert_allclose(
                found[key], values, rtol=0, atol=2**-8 * max(1, np.abs(values).max()), err_msg=key
            )


@pytest.mark.slow
def test_three_workers_equal_one_process_and_go_on_where_each_was_in_its_share_of_a_stream(tmp_path):
    processes = start(tmp_path, "three", count=3)
    codes = [process.wait(300) for process in processes]
    assert codes == [0, 0, 0], (tmp_path / "three_0.txt").read_text()[-3000:]
    expected = workers_script.results(models=[workers_script.gpt])
    for index in range(3):
        found = arrays(tmp_path / f"three_{index}.npz")
        for key, values in expected.items():
            np.testing.assert_allclose(
                found[key], values, rtol=0, atol=1e-6 * max(1, np.abs(values).max()), err_msg=key
            )
        whole, again = arrays(tmp_path / f"stream_{index}.npz"), arrays(tmp_path / f"stream_again_{index}.npz")
        for key in whole:
            np.testing.assert_array_equal(again[key], whole[key])


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_other_and_a_restart_ends_as_the_whole_run(compared):
    folder, codes, seconds = compared
    printed = (folder / "compare_0.txt").read_text()
    assert codes[1] == -9, printed[-3000:]
    assert codes[0] not in (0, -9), printed[-3000:]  # neither as if nothing had been, nor killed for lack of an end
    assert seconds < 60
    codes = [process.wait(300) for process in start(folder, "resume")]
    assert codes == [0, 0], (folder / "resume_0.txt").read_text()[-3000:]
    for index in range(2):
        expected, resumed = arrays(folder / f"uninterrupted_{index}.npz"), arrays(folder / f"resumed_{index}.npz")
        for key in expected:
            if key.startswith("state"):
                np.testing.assert_array_equal(resumed[key], expected[key])
    assert not list((folder / "killed").glob(".*"))


def test_without_tf_config_or_with_one_worker_it_is_one_process(monkeypatch):
    for config in (None, "", {"cluster": {"worker": ["host:1"]}, "task": {"index": 0}}, {"task": {"index": 0}}):
        monkeypatch.delenv("TF_CONFIG", raising=False)
        if config is not None:
            monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
        with workers() as them:
            assert them == Workers(0, 1)
            assert them.is_chief
            assert not tf.distribute.has_strategy()


def test_workers_are_numbered_from_the_chief_on():
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, number in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        assert _from_config(config) == Workers(number, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "which gives"),
        ("[]", "which gives"),
        ({"cluster": {"worker": 3}}, "which gives"),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}, "the task worker 2"),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}, "the task chief 0"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "each address once"),
        ({"cluster": {"worker": ["a", "b:1"]}, "task": {"type": "worker", "index": 0}}, "without a port"),
        ({"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "task": {"type": "worker", "index": 0}}, "'ps'"),
    ],
)
def test_a_tf_config_that_cannot_work_is_refused(config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=f"TF_CONFIG must be of the form .*{message}"), workers():
        pass


def test_jit_compile_is_refused_where_xla_cannot_exchange():
    step = tf.function(lambda: None, jit_compile=True)
    with pytest.raises(ValueError, match="`jit_compile` must be False for several workers without GPUs"):
        _Strategy.run(object.__new__(_Strategy), step)


# ---- Keras' faults, which `reduce` of the strategy works around


class Asked(Exception):
    """What a strategy was asked to reduce, and over which axis."""


class Asking:
    """In place of a strategy of several workers."""

    def reduce(self, reduce_op, value, axis=None):
        raise Asked(value, axis)


def test_keras_still_reduces_metrics_over_an_axis_that_they_lack(monkeypatch):
    monkeypatch.setattr(trainer, "_collective_all_reduce_multi_worker", lambda strategy: True)
    with pytest.raises(Asked) as asked:
        trainer.reduce_per_replica(tf.constant(1.0), Asking(), "mean")
    assert asked.value.args[1] == 0, "Keras has mended this: leave `is_scalar` out of `reduce` in training/workers.py"


def test_keras_still_reduces_a_batch_of_which_it_needs_the_shapes(monkeypatch):
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    monkeypatch.setattr(model, "_distribute_strategy", Asking())
    batch = (tf.distribute.DistributedValues(),)
    with pytest.raises(Asked) as asked:
        model._maybe_symbolic_build(iterator=[(0, 0, iter([batch]))])
    assert asked.value.args == (batch, None), "Keras has mended this: `reduce` in training/workers.py need not see it"
