"""Fewer blocks, heads and units: what stays computes what it did, and the parameters are really gone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters
from keras_tfm.compression import magnitudes, pruned, thinned
from keras_tfm.models import TextClassifier, build_bert
from tests.models.tiny import TINY, VOCABULARY_SIZE

IDS = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (3, 7)).astype("int32")


def logits_of(model):
    return ops.convert_to_numpy(model(IDS))


def classifier():
    sizes = {"vocabulary_size": VOCABULARY_SIZE, "max_sequence_length": 12, "num_layers": 3}
    encoder = build_bert(**sizes, num_heads=2, hidden_dim=8, intermediate_dim=12)
    return TextClassifier(encoder, ["bad", "good"])


def counted(model):
    return sum(int(np.prod(weight.shape)) for weight in model.weights)


def test_a_student_begins_as_its_teacher_without_every_second_block():
    teacher = TINY["llama"](num_layers=3)
    student = thinned(teacher)
    # A block whose two outputs are zero gives what it was given.
    block = teacher.stack.blocks[1]
    for dense in (block.self_attention.output_dense, block.feed_forward.output_dense):
        dense.kernel.assign(ops.zeros_like(dense.kernel))
    np.testing.assert_allclose(logits_of(student), logits_of(teacher), atol=1e-5)
    assert len(student.stack.blocks) == 2


def test_a_task_model_is_thinned_and_pruned_through_its_encoder():
    model = classifier()
    student = thinned(model, blocks=[0])
    assert len(student.encoder.stack.blocks) == 1
    assert student.class_names == model.class_names
    small = pruned(student, heads=0.5, feed_forward=0.5)
    assert small(IDS).shape == (3, 2)
    assert counted(small) < counted(student) < counted(model)


@pytest.mark.parametrize("family", ["llama", "gpt_learned", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_what_is_pruned_is_what_matters_least_and_the_rest_computes_what_it_did(family, tmp_path):
    model = TINY[family]()
    scores = magnitudes(model)
    small = pruned(model, heads=0.5, feed_forward=0.25, scores=scores)
    for i, block in enumerate(model.stack.blocks):
        attention, place = block.self_attention, f"stack.blocks.{i}.self_attention"
        rows = scores[f"{place}.output_dense"].sum(1)
        columns = [scores[f"{place}.{name}_dense"].sum(0) for name in ("query", "key", "value")]
        groups = attention.num_key_value_heads
        per_group = sum(x.reshape(groups, -1).sum(1) for x in (rows, *columns))
        stays = np.isin(np.arange(groups), np.argsort(-per_group)[: groups - groups // 2])
        mask = np.repeat(stays, len(rows) // groups)
        attention.output_dense.kernel.assign(attention.output_dense.kernel * mask[:, None].astype("float32"))
        assert small.stack.blocks[i].self_attention.num_key_value_heads == groups - groups // 2

        place = f"stack.blocks.{i}.feed_forward"
        total = scores[f"{place}.intermediate_dense"].sum(0) + scores[f"{place}.output_dense"].sum(1)
        if f"{place}.gate_dense" in scores:
            total = total + scores[f"{place}.gate_dense"].sum(0)
        count = len(total) - int(0.25 * len(total))
        stays = np.isin(np.arange(len(total)), np.argsort(-total)[:count])
        dense = block.feed_forward.output_dense
        dense.kernel.assign(dense.kernel * stays[:, None].astype("float32"))
        assert small.stack.blocks[i].feed_forward.intermediate_dim == count
    np.testing.assert_allclose(logits_of(small), logits_of(model), atol=1e-5)
    assert counted(small) < counted(model)
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(logits_of(keras.saving.load_model(tmp_path / "small.keras")), logits_of(small))


def test_a_smaller_model_trains_and_writes():
    small = pruned(thinned(TINY["llama"]()), heads=0.5)
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    small.fit(IDS[:, :-1], IDS[:, 1:], verbose=0)
    state = small.init_state(1, 8)
    logits, _ = small.prefill(IDS[:1], state)
    np.testing.assert_allclose(ops.convert_to_numpy(logits), logits_of(small)[:1, -1], atol=1e-5)


def test_what_cannot_be_made_smaller_says_why():
    model = TINY["llama"]()
    for shares, message in (({"heads": 1.0}, "`heads` must be in"), ({"feed_forward": -0.1}, "`feed_forward` must be")):
        with pytest.raises(ValueError, match=message):
            pruned(model, **shares)
    for blocks in ([], [1, 0], [2]):
        with pytest.raises(ValueError, match="`blocks` must be rising numbers of the 2 blocks"):
            thinned(model, blocks)
    with pytest.raises(ValueError, match="without a bias of their own to be pruned. Received: AlibiBias"):
        pruned(TINY["gpt_alibi"](), heads=0.5)
    scores = magnitudes(model)
    with pytest.raises(ValueError, match=r"`scores` must be those of the model's weights.*stack.*None"):
        pruned(model, heads=0.5, scores=dict(list(scores.items())[1:]))
    model.stack.blocks[0].trainable = False
    with pytest.raises(ValueError, match="trainable as a whole to be made smaller. Received: stack.blocks.0"):
        thinned(model)
    model = TINY["llama"]()
    adapters.add_lora(model, rank=1)
    with pytest.raises(ValueError, match="without adapters, to be pruned. Received: stack.blocks.0"):
        pruned(model, heads=0.5)
    model = build_bert(vocabulary_size=9, max_sequence_length=8, num_layers=2, num_heads=2, hidden_dim=8)
    model.quantize_for_inference("bfloat16")
    with pytest.raises(ValueError, match="must have its weights in floats"):
        thinned(model)


@pytest.mark.slow
def test_keras_own_distillation_teaches_a_thinned_student():
    teacher = classifier()
    student = thinned(teacher)
    logits = keras.distillation.LogitsDistillation(temperature=2.0, loss=keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(teacher, student, logits)
    before = ops.convert_to_numpy(student.head.kernel)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    inputs = {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": np.ones_like(IDS, "bool")}
    distiller.fit(inputs, np.array([0, 1, 0]), verbose=0)
    assert np.abs(ops.convert_to_numpy(student.head.kernel) - before).max() > 0
