"""Every backend computes the numbers of TensorFlow, which `numbers.json` holds: logits, and losses of `fit`.

To write them anew: `python -m tests.models.test_backends`.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tfm.generation.options import GenerationOptions
from keras_tfm.models import build_bert
from tests.harness import float32
from tests.models import tiny, tiny_seq2seq

pytestmark = [pytest.mark.slow] if keras.backend.backend() == "tensorflow" else []  # it wrote the numbers
FILE = Path(__file__).with_name("numbers.json")
BERT = {"vocabulary_size": 17, "max_sequence_length": 12, "num_layers": 2, "num_heads": 2, "hidden_dim": 12}
# Trained without dropout, whose draws are the backend's own.
TRAINED = {"gpt_alibi": {"dropout": 0.0, "remat": True}, "llama": {}}
# A wiring of each kind: on JAX, each model compiles its operations for a second and more.
NAMES = ("gpt_learned", "llama", "gemma2", "t5_gated", "bart", "bert")


def logits_of(name):
    """What each model makes of the last token of two rows."""
    if name == "bert":
        model = build_bert(**BERT)
        rng = np.random.default_rng(0)
        model.set_weights([0.3 * rng.normal(size=w.shape) + (len(w.shape) == 1) for w in model.weights])
        return float32(model(tiny.batch(2)[0])["pooled_output"])
    if name in tiny_seq2seq.TINY:
        return float32(tiny_seq2seq.make(name)(tiny_seq2seq.batch(2)[0]))[:, -1]
    return float32(tiny.make(name)(tiny.batch(2)[0]))[:, -1]


def losses_of(name, loss):
    """Two epochs of two batches."""
    model = tiny.make(name, **TRAINED[name])
    # Each compiler takes seconds; JAX has no other way to be fast.
    model.compile(keras.optimizers.AdamW(1e-2), loss, jit_compile=keras.backend.backend() == "jax")
    return model.fit(*tiny.batch(4), batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"]


@pytest.fixture(scope="module")
def numbers():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_tensorflow(name, numbers):
    # Some units of the last place of logits of up to 10.
    np.testing.assert_allclose(logits_of(name), numbers["logits"][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_fit_has_the_losses_of_tensorflow(name, numbers):
    # The loss in chunks is the plain one, and its gradient is written by hand.
    loss = "chunked" if name == "llama" else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(losses_of(name, loss), numbers["losses"][name], rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="`generate` refuses torch")
def test_what_texts_are_compiled_for_is_not_changed_by_fit():
    model = tiny.make("llama")
    model.compile("sgd", "chunked", jit_compile=keras.backend.backend() == "jax")
    version = model.generation_runner.version()
    model.fit(*tiny.batch(2), batch_size=2, verbose=0)
    assert model.generation_runner.version() == version


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA under TensorFlow takes over no arguments")
def test_caches_are_handed_on_while_a_text_is_written_and_not_copied():
    model = tiny.make("llama")
    options = GenerationOptions(max_new_tokens=4)
    texts = model.generation_runner.run([[1, 2, 3]], options, tokens_per_piece=1)
    first = next(texts)
    keys = first.state.memories[0].self_attention.key
    assert not keys.is_deleted()
    second = next(texts)
    assert keys.is_deleted()
    np.testing.assert_array_equal(second.generation.token_ids[:, :1], first.generation.token_ids[:, :1])


if __name__ == "__main__":
    logits = {name: logits_of(name).astype("float64").round(6).tolist() for name in NAMES}
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {name: losses_of(name, plain) for name in TRAINED}
    FILE.write_text(json.dumps({"logits": logits, "losses": losses}) + "\n", encoding="utf-8")
