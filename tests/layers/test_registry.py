"""What holds for every layer: usable alone, any length, any dtype, and saved without a trace of this process."""

import importlib.util
import inspect

import keras
import numpy as np
import pytest

from keras_tfm import layers
from tests.harness import check_dtypes, check_layer, fresh_process, functional
from tests.layers.registry import CASES

RELOAD = """
import sys
import warnings
import numpy as np
import keras
import keras_tfm

# Of Keras 3.15's own `np.array(tensor)` NumPy 2 complains, on torch.
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy")

folder, *names = sys.argv[1:]
for name in names:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    with np.load(f"{folder}/{name}.npz") as arrays:
        arrays = dict(arrays)
    expected = arrays.pop("expected")
    y = keras.ops.convert_to_numpy(model(arrays))
    np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=name)
print("reloaded", len(names))
"""


@pytest.mark.parametrize("name", CASES)
def test_layer_works_alone_at_any_length(name):
    check_layer(CASES[name].make, CASES[name].inputs)


def one_case_of_each_class():
    """The names of all cases, the second and later ones of a class marked slow."""
    seen = set()
    for name, case in CASES.items():
        kind = type(case.make()).__name__
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


@pytest.mark.parametrize("name", list(one_case_of_each_class()))
def test_layer_works_in_any_dtype(name):
    check_dtypes(*CASES[name])


def test_every_public_layer_is_in_the_registry():
    classes = [getattr(layers, name) for name in layers.__all__ if inspect.isclass(getattr(layers, name))]
    public = {cls.__name__ for cls in classes if issubclass(cls, keras.layers.Layer)}
    public.remove("Projection")  # Keras' Dense but for its weights in 8 bits, with Keras' arguments and configuration
    assert public == {type(case.make()).__name__ for case in CASES.values()}


@pytest.fixture(scope="module")
def saved_layers(tmp_path_factory):
    """A folder with each layer as a `.keras` file, its inputs and what it made of them."""
    folder = tmp_path_factory.mktemp("layers")
    for name, case in CASES.items():
        model, _ = functional(case.make, case.inputs, static=False)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", **case.inputs, expected=keras.ops.convert_to_numpy(model(case.inputs)))
    return folder


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("tensorflow", "jax", "torch")],
)
def test_every_layer_reloads_in_a_fresh_process_on_every_backend_with_the_same_values(saved_layers, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    printed = fresh_process(RELOAD, saved_layers, *CASES, KERAS_BACKEND=backend)
    assert f"reloaded {len(CASES)}" in printed


@pytest.mark.parametrize("name", CASES)
def test_constructor_arguments_come_back_from_get_config(name):
    layer = CASES[name].make()
    names = set()
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("keras_tfm"):
            names |= set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    assert names <= set(layer.get_config())


def test_one_set_of_options_makes_layers_that_start_apart():
    attention = layers.MultiHeadSelfAttention(2, kernel_initializer=keras.initializers.RandomNormal())
    attention.build((None, None, 8))
    kernels = [attention.query_dense, attention.key_dense, attention.value_dense, attention.output_dense]
    kernels = [np.asarray(dense.kernel) for dense in kernels]
    for i in range(4):
        for j in range(i):
            assert np.abs(kernels[i] - kernels[j]).max() > 1e-3
