"""For all tests: a quiet TensorFlow and the same random numbers each time."""

import contextlib
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tiny models are compiled often and run little: code of less quality is compiled a third faster, and without its MLIR
# emitters a fifth faster again, on JAX nearly twice as fast. `test_train_gpt.py` and `test_cli.py` start processes
# without these flags. JAX has eight devices, for tests of weights in parts; all else runs on the first.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    + " --xla_force_host_platform_device_count=8" * (os.environ.get("KERAS_BACKEND") == "jax"),
)
# Nothing outside of the tests' own folders is written; `test_compile_cache.py` switches this on.
os.environ["KERAS_TFM_COMPILE_CACHE"] = "0"

import hypothesis
import keras
import numpy as np
import pytest

from keras_tfm.generation import TextGenerator
from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import BytePairTokenizer
from tests.generation.plain_graphs import plain_graphs

# The same examples on every machine and in every run; tracing and first calls make deadlines meaningless.
hypothesis.settings.register_profile("keras_tfm", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("keras_tfm")


def pytest_configure(config):
    # Keras 3.15 saves a model with `np.array(variable)`, of which NumPy 2 complains; it is not ours to mend.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(1234)


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect():
    """TensorFlow never gives traced graphs back: Python's collector would look through all of them again and again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def without_xla():
    """`generate` compiles nothing: for tests of what is written, not of how."""
    with plain_graphs():
        yield


@pytest.fixture(params=["plain", pytest.param("xla", marks=pytest.mark.slow)])
def with_and_without_xla(request):
    """The test runs as a plain graph; among the slow tests, under XLA too."""
    with plain_graphs() if request.param == "plain" else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=keras.backend.backend() == "torch")
def _no_gradients():
    """On torch, only outputs without a graph can be given to NumPy; `outputs_and_gradients` has its own."""
    import torch

    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """300 tokens learned from a few lines; token 0 is the end of a text."""
    text = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n" * 9
    return BytePairTokenizer.train(text, vocabulary_size=300)


@pytest.fixture(scope="session")
def tiny_writer(tiny_tokenizer):
    """A random GPT with lively weights that writes with a random sampler."""
    model = build_gpt(
        vocabulary_size=tiny_tokenizer.vocabulary_size,
        max_sequence_length=64,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
    )
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape, scale=0.3))
    return TextGenerator(model, tiny_tokenizer, "random")
