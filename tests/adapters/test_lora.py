"""LoRA beside projections: nothing changes at first, only adapters train, merging is exact, files keep all of it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters
from keras_tfm.layers import FeedForward
from keras_tfm.models import build_gpt
from tests.models.tiny import TINY, VOCABULARY_SIZE

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, VOCABULARY_SIZE, (4, 9)).astype("int32")
PROMPTS = [[1, 2, 3], [4]]


def logits_of(model):
    return ops.convert_to_numpy(model(IDS))


def disturbed(model, name="default"):
    """Gives the adapters values as if they had been trained."""
    rng = np.random.default_rng(1)
    for projection in adapters.projections_of(model).values():
        for lora in projection.adapters:
            if lora.name == name:
                lora.up.assign(rng.normal(size=lora.up.shape) * 0.5)
                if lora.dora:
                    lora.magnitude.assign(lora.magnitude * rng.uniform(0.5, 1.5, lora.magnitude.shape))
    return model


def adapted(family="llama", **options):
    model = TINY[family]()
    adapters.add_lora(model, rank=2, alpha=3.0, **options)
    return model


def fitted(model, epochs=2):
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(IDS[:, :-1], IDS[:, 1:], epochs=epochs, batch_size=4, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt_learned"])
def test_at_first_nothing_changes(family, dora):
    model = TINY[family]()
    before = logits_of(model)
    adapters.add_lora(model, rank=2, targets=("query", "feed_forward"), dora=dora)
    # DoRA divides by the lengths that it was given: one rounding.
    np.testing.assert_allclose(logits_of(model), before, atol=1e-6 if dora else 0.0)


def test_only_adapters_train():
    model = adapted("gpt_learned", dropout=0.1)
    before = {variable.path: ops.convert_to_numpy(variable) for variable in model.variables}
    trained = {variable.path for variable in model.trainable_variables}
    assert len(trained) == 2 * 2 * 2  # two matrices, two targets, two blocks
    fitted(model)
    changed = {
        variable.path for variable in model.weights if (ops.convert_to_numpy(variable) != before[variable.path]).any()
    }
    assert changed == trained
    assert len(model.optimizer.variables) == 2 + 2 * len(trained)  # steps, rate, two moments each


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_what_is_written_follows_each_change():
    model = TINY["llama"]()
    plain = model.generate(PROMPTS, 6).token_ids
    adapters.add_lora(model, rank=2, alpha=20.0)
    assert (model.generate(PROMPTS, 6).token_ids == plain).all()
    changed = disturbed(model).generate(PROMPTS, 6).token_ids
    assert (changed != plain).any()
    adapters.use(model, ())
    assert (model.generate(PROMPTS, 6).token_ids == plain).all()
    adapters.use(model, "default")
    adapters.merge(model)
    assert (model.generate(PROMPTS, 6).token_ids == changed).all()
    adapters.unmerge(model)
    adapters.remove(model)
    assert (model.generate(PROMPTS, 6).token_ids == plain).all()


@pytest.mark.parametrize(
    "options", [{}, {"rslora": True}, {"dora": True, "targets": ("query", "feed_forward", "head")}]
)
def test_merged_computes_the_same_and_unmerged_is_what_it_was(options):
    model = disturbed(adapted(**options))
    kernels = {path: ops.convert_to_numpy(one.kernel) for path, one in adapters.projections_of(model).items()}
    before = logits_of(model)
    adapters.merge(model)
    np.testing.assert_allclose(logits_of(model), before, atol=1e-5)  # sums of 16 numbers of size 1
    adapters.unmerge(model)
    for path, one in adapters.projections_of(model).items():
        np.testing.assert_array_equal(ops.convert_to_numpy(one.kernel), kernels[path])
    np.testing.assert_array_equal(logits_of(model), before)


def test_several_adapters_are_chosen_and_weighted():
    model = disturbed(adapted())
    first = logits_of(model)
    adapters.add_lora(model, rank=3, name="other", targets="feed_forward")
    disturbed(model, "other")
    both = logits_of(model)
    assert adapters.adapter_names(model) == ["default", "other"]
    adapters.use(model, "default")
    np.testing.assert_array_equal(logits_of(model), first)
    adapters.use(model, {"default": 1.0, "other": 0.5})
    assert np.abs(logits_of(model) - first).max() > 1e-3
    adapters.use(model, ("default", "other"))
    np.testing.assert_array_equal(logits_of(model), both)
    adapters.remove(model, "other")
    np.testing.assert_array_equal(logits_of(model), first)
    with pytest.raises(ValueError, match=r"must be among \['default'\]"):
        adapters.use(model, "other")


@pytest.mark.slow
@pytest.mark.parametrize("weight_dtype", [None, "int8", "int4", "bfloat16"])
def test_a_saved_file_goes_on_training_where_it_was(tmp_path, weight_dtype):
    model = TINY["llama"]()
    if weight_dtype:
        model.quantize_for_generation(weight_dtype)
    adapters.add_lora(model, rank=2, targets=("query", "head"), dora=True)
    fitted(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert [x.shape for x in again.trainable_variables] == [x.shape for x in model.trainable_variables]
    for one in (model, again):
        one.fit(IDS[:, :-1], IDS[:, 1:], batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


def test_layers_named_are_trained_beside_the_adapters():
    model = adapted(trained="^head$")
    assert model.head.kernel.trainable
    assert not model.stack.blocks[0].feed_forward.gate_dense.kernel.trainable


def test_a_model_of_the_users_own_is_adapted_too():
    x = keras.Input((None, 8))
    model = keras.Model(x, FeedForward(16)(x))
    adapters.add_lora(model, rank=1, targets="intermediate_dense")
    assert len(model.trainable_variables) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "nobody"}, "Received: 'nobody', which is in none of"),
        ({"rank": 0}, "`rank` must be"),
        ({"dropout": 1.0}, "`dropout`"),
    ],
)
def test_what_cannot_be_adapted_changes_nothing(options, message):
    model = TINY["llama"]()
    with pytest.raises(ValueError, match=message):
        adapters.add_lora(model, **options)
    assert all(variable.trainable for variable in model.weights)
    assert not adapters.adapter_names(model)


def test_rounded_kernels_are_not_merged():
    model = adapted()
    model.quantize_for_generation()
    disturbed(model)
    with pytest.raises(ValueError, match="must be in floats to be merged"):
        adapters.merge(model)
    with pytest.raises(ValueError, match="of no adapter that is there"):
        adapters.add_lora(model)


def test_a_chunked_loss_and_remat_train_adapters():
    model = build_gpt(
        vocabulary_size=VOCABULARY_SIZE, max_sequence_length=12, num_layers=1, num_heads=2, hidden_dim=8, remat=True
    )
    adapters.add_lora(model, rank=2, targets="feed_forward", dropout=0.1)
    model.compile("adam", loss="chunked")
    before = [ops.convert_to_numpy(x) for x in model.trainable_variables]
    model.fit(IDS[:, :-1], IDS[:, 1:], verbose=0)
    assert any((ops.convert_to_numpy(x) != y).any() for x, y in zip(model.trainable_variables, before, strict=True))
