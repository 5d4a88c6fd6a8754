"""Weights in parts on two and eight devices of JAX: `fit`, `generate` and loading give what one device gives."""

import keras
import numpy as np
import pytest

from keras_tfm import checkpoints
from keras_tfm.models import build_gpt
from keras_tfm.training import layout_map
from tests.models import tiny

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras cuts weights on JAX alone")
GPT = {**tiny.GPT, "vocabulary_size": 16, "hidden_dim": 16, "num_heads": 4, "dropout": 0.0}
IDS, TARGETS = (np.minimum(ids, 15) for ids in tiny.batch(8))


def mesh_of(*shape):
    devices = keras.distribution.list_devices()[: shape[0] * shape[1]]
    return keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)


def lively_gpt():
    model = build_gpt(**GPT)
    rng = np.random.default_rng(0)
    model.set_weights([0.3 * rng.normal(size=w.shape) + (len(w.shape) == 1) for w in model.weights])
    return model


def trained():
    """(a model, its losses in two epochs)."""
    model = tiny.compile_model(lively_gpt())
    return model, model.fit(IDS, TARGETS, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]


def written(model):
    return model.generate([[1, 2, 3], [5]], max_new_tokens=6, sampler="random", seed=3).token_ids.tolist()


def size_here(variable):
    """How many numbers of a variable lie on the first device."""
    return variable.value.addressable_shards[0].data.size


@pytest.fixture(scope="module")
def alone():
    return trained()


@on_jax
def test_weights_in_four_parts_and_batches_in_two_train_and_write_as_on_one_device(alone):
    layouts = layout_map(alone[0], mesh_of(2, 4))
    with keras.distribution.ModelParallel(layout_map=layouts).scope():
        model, losses = trained()
        # Sums over devices come in another order than those on one.
        np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
        assert written(model) == written(alone[0])
    cut = [weight for weight in model.weights if layouts[weight.path] is not None]
    assert len(cut) == 1 + 2 * (3 * 2 + 1 + 2 + 1)  # tokens; in each block q, k, v, output, intermediate, output
    assert all(size_here(weight) == weight.value.size // 4 for weight in cut)
    # The optimizer keeps two moments of each weight, in the same parts.
    moments = [size_here(variable) for variable in model.optimizer.variables if variable.shape]
    assert sum(moments) == 2 * sum(size_here(weight) for weight in model.weights)


@on_jax
def test_batches_in_two_parts_train_as_on_one_device(alone):
    with keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:2]).scope():
        np.testing.assert_allclose(trained()[1], alone[1], rtol=1e-5)


@on_jax
def test_a_checkpoint_is_loaded_in_parts(tmp_path):
    model = lively_gpt()
    checkpoints.save(model, tmp_path / "gpt")
    checkpoint = checkpoints.open(tmp_path / "gpt")
    layouts = layout_map(checkpoint.empty_model(), mesh_of(1, 2))
    with keras.distribution.ModelParallel(layout_map=layouts).scope():
        loaded = checkpoint.model()
    np.testing.assert_allclose(loaded(IDS), model(IDS), atol=1e-5, rtol=1e-5)
    whole = {weight.path for weight in loaded.weights if size_here(weight) == weight.value.size}
    assert whole == {weight.path for weight in loaded.weights if layouts[weight.path] is None}


@on_jax
def test_sizes_that_do_not_divide_stay_whole():
    layouts = layout_map(build_gpt(**{**GPT, "vocabulary_size": 17}), mesh_of(1, 2))
    assert layouts["token_embedding/tokens/embeddings"] is None
    assert layouts["block/self_attention/query/kernel"].axes == (None, "model")


@on_jax
def test_a_mesh_or_a_model_that_cannot_be_is_refused():
    mesh = keras.distribution.DeviceMesh((2,), ("batch",), keras.distribution.list_devices()[:2])
    with pytest.raises(ValueError, match=r'`mesh` must have an axis "model". Received: axis_names='):
        layout_map(build_gpt(**GPT), mesh)
    with pytest.raises(ValueError, match="`model` must have weights of this library's layers. Received: 'stranger'"):
        layout_map(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)], name="stranger"))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX can")
def test_other_backends_are_told_what_to_do():
    with pytest.raises(RuntimeError, match="`layout_map` must run on the backend JAX. Received: .*KERAS_BACKEND=jax"):
        layout_map(None)
