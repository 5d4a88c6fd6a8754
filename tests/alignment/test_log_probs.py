"""Log-probabilities are those of the model's logits, whatever its head, and 0 at padding."""

import numpy as np
import pytest
from keras import ops

from keras_tfm import adapters
from keras_tfm.alignment import next_log_probs
from keras_tfm.alignment.reference import Reference
from tests.adapters.test_lora import disturbed
from tests.models.tiny import TINY, VOCABULARY_SIZE

IDS = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (2, 2, 9)).astype("int32")
MASK = np.arange(9) < np.array([[9, 4], [5, 9]])[..., None]


@pytest.mark.parametrize(
    ("family", "lora"), [("gpt_learned", False), ("gemma2", False), ("llama", True)], ids=["tied", "capped", "adapted"]
)
def test_they_are_those_of_the_logits(family, lora):
    model = TINY[family]()
    if lora:
        adapters.add_lora(model, rank=2, targets=("query", "head"))
        disturbed(model)
    found = ops.convert_to_numpy(next_log_probs(model, {"token_ids": IDS, "padding_mask": MASK}))
    flat = {"token_ids": IDS.reshape(4, 9), "padding_mask": MASK.reshape(4, 9)}
    expected = ops.convert_to_numpy(ops.log_softmax(model(flat)))[:, :-1]
    expected = np.take_along_axis(expected, flat["token_ids"][:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.reshape(4, 8), np.where(flat["padding_mask"][:, 1:], expected, 0.0), atol=1e-5)


def test_a_trained_adapter_of_the_head_alone_is_not_taken_for_a_new_one():
    model = TINY["llama"]()
    adapters.add_lora(model, rank=2, targets="head")
    assert Reference(model).without_adapters
    disturbed(model)
    assert not Reference(model).without_adapters
