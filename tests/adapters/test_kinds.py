"""IA3 and bottlenecks: nothing changes at first, only they train, files and texts keep them, as with LoRA."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters
from tests.models.tiny import TINY, VOCABULARY_SIZE

IDS = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (4, 9)).astype("int32")
ADD = {
    "ia3": (adapters.add_ia3, {}, 3 * 2),  # keys, values, inputs of feed-forwards; two blocks
    "bottleneck": (adapters.add_bottlenecks, {"bottleneck_dim": 2}, 2 * 4 * 2),  # two places, four weights, two blocks
}
every_kind = pytest.mark.parametrize("kind", list(ADD))


def logits_of(model):
    return ops.convert_to_numpy(model(IDS))


def added(model, kind, name="default"):
    add, options, _ = ADD[kind]
    add(model, name=name, **options)
    return model


def disturbed(model, name="default"):
    """Gives adapters values as if they had been trained."""
    rng = np.random.default_rng(len(name))
    for projection in adapters.projections_of(model).values():
        for adapter in projection.adapters:
            if adapter.name == name:
                for variable in adapter.variables:
                    variable.assign_add(rng.normal(size=variable.shape) * 0.3)
    return model


@every_kind
@pytest.mark.parametrize("family", ["llama", "gpt_learned"])
def test_at_first_nothing_changes_and_only_they_train(family, kind):
    model = TINY[family]()
    before = logits_of(model)
    added(model, kind)
    assert len(model.trainable_variables) == ADD[kind][2]
    np.testing.assert_array_equal(logits_of(model), before)


@every_kind
def test_they_are_saved_switched_weighted_and_removed(kind, tmp_path):
    model = TINY["gpt_learned"]()
    plain = logits_of(model)
    disturbed(added(model, kind))
    first = logits_of(model)
    disturbed(added(model, kind, "other"), "other")
    adapters.use(model, {"default": 0.5, "other": 0.25})
    weighted = logits_of(model)
    assert min(np.abs(first - plain).max(), np.abs(weighted - first).max()) > 1e-3
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    model.fit(IDS[:, :-1], IDS[:, 1:], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    adapters.use(again, ())
    np.testing.assert_array_equal(logits_of(again), plain)
    adapters.remove(again)
    assert not adapters.adapter_names(again)


def test_ia3_is_merged_with_biases_and_taken_out_again():
    model = TINY["gpt_learned"]()
    for projection in adapters.projections_of(model).values():
        projection.bias.assign(np.random.default_rng(0).normal(size=projection.bias.shape))
    plain = logits_of(model)
    disturbed(added(model, "ia3"))
    before = logits_of(model)
    adapters.merge(model)
    np.testing.assert_allclose(logits_of(model), before, atol=1e-5)  # sums of 16 numbers of size 1
    adapters.unmerge(model)
    np.testing.assert_array_equal(logits_of(model), before)
    adapters.use(model, ())
    np.testing.assert_array_equal(logits_of(model), plain)


def test_bottlenecks_are_not_merged():
    model = disturbed(added(TINY["llama"](), "bottleneck"))
    before = logits_of(model)
    with pytest.raises(ValueError, match="must be linear to be merged. Received: 'default', a Bottleneck"):
        adapters.merge(model)
    np.testing.assert_array_equal(logits_of(model), before)


@every_kind
@pytest.mark.usefixtures("without_xla")
def test_what_is_written_is_what_full_passes_say(kind):
    model = disturbed(added(TINY["llama"](), kind))
    ids = [3, 1, 4]
    written = model.generate([ids], 4).token_ids[0].tolist()
    for token in written:
        assert token == int(ops.convert_to_numpy(model(np.array([ids])))[0, -1].argmax())
        ids = [*ids, token]


def test_a_projection_has_adapters_of_one_kind():
    model = TINY["llama"]()
    adapters.add_lora(model, rank=2, targets="value", name="low")
    with pytest.raises(ValueError, match="must be of one kind. Received: a Ia3 for .*value.*, which has a Lora"):
        adapters.add_ia3(model)
    assert adapters.adapter_names(model) == ["low"]
    with pytest.raises(ValueError, match=r"must be in one of `targets` and `input_targets`. Received: \['stack"):
        adapters.add_ia3(model, targets="feed_forward", name="both")
    with pytest.raises(ValueError, match="`bottleneck_dim` must be"):
        adapters.add_bottlenecks(model, 0, name="narrow")
