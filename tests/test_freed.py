"""Nothing that is done with a model keeps it in memory once it has been deleted: no weight, no graph, no optimizer."""

import copy
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.adapters import add_lora, merge
from keras_tfm.data import PackedTokens
from keras_tfm.evaluation import token_scores
from keras_tfm.generation import TextGenerator
from keras_tfm.models import TextClassifier, build_bert, build_llama
from keras_tfm.pipelines import TextClassification
from keras_tfm.samplers import DraftModel, SpeculativeSampler
from keras_tfm.tokenizers import WordPieceTokenizer
from keras_tfm.training import Checkpointer

# XLA's compiled code is TensorFlow's, which keeps it whatever becomes of the function.
pytestmark = pytest.mark.usefixtures("without_xla")

SIZES = {"vocabulary_size": 300, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}


def llama(**options):
    return build_llama(**{**SIZES, "num_key_value_heads": 1, "intermediate_dim": 24, "tie_weights": True, **options})


def fitted(model, loss=None, **options):
    token_ids = np.random.default_rng(0).integers(0, 300, 65).astype("int32")
    data = PackedTokens(token_ids, 1, sequence_length=16).dataset(batch_size=2)
    model.compile("adam", loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    callbacks = [Checkpointer(folder, data) for folder in options.values()]
    model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
    return model


def fit(tokenizer, folder):
    yield fitted(llama(), folder=folder)


def fit_with_little_memory(tokenizer, folder):
    yield fitted(llama(remat=True), "chunked")


def adapters(tokenizer, folder):
    yield (model := llama())
    add_lora(model, rank=2)
    fitted(model)
    model.generate([[1, 2]], max_new_tokens=2)
    merge(model)


def generate(tokenizer, folder):
    yield (model := llama())
    yield (draft := llama(num_layers=1))
    model.generate([[1, 2]], max_new_tokens=2, sampler=SpeculativeSampler(drafter=DraftModel(draft)))
    token_scores(model, [[1, 2, 3]], [2])


def stream_and_session(tokenizer, folder):
    yield (model := llama())
    writer = TextGenerator(model, tokenizer)
    yield writer
    assert "".join(writer.stream("ROMEO", max_new_tokens=2)) is not None
    session = writer.session("But")
    yield session
    session(" soft", max_new_tokens=2)


def export(tokenizer, folder):
    yield (model := llama())
    TextGenerator(model, tokenizer).export(folder / "1", max_new_tokens=2, max_total_tokens=16, jit_compile=False)
    yield tf.saved_model.load(str(folder / "1"))


def save_and_load(tokenizer, folder):
    yield (model := llama())
    model.save(folder / "model.keras")
    yield keras.models.load_model(folder / "model.keras")


def pipeline(tokenizer, folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]
    tokenizer = WordPieceTokenizer({word: token_id for token_id, word in enumerate(words)})
    encoder = build_bert(**{**SIZES, "vocabulary_size": 6}, max_sequence_length=8)
    yield (model := TextClassifier(encoder, ("bad", "good")))
    yield (classify := TextClassification(model, tokenizer))
    classify(["good", "bad good"])
    classify.export(folder / "1")


USES = [fit, fit_with_little_memory, adapters, generate, stream_and_session]
SLOW_USES = [pytest.param(use, marks=pytest.mark.slow) for use in (export, save_and_load, pipeline)]


@pytest.mark.parametrize("use", USES + SLOW_USES)
def test_what_is_deleted_is_freed(use, tiny_tokenizer, tmp_path):
    gc.collect()
    graphs_before = weakref.WeakSet(graphs())
    used = []
    for thing in use(copy.deepcopy(tiny_tokenizer), tmp_path):
        used.append(weakref.ref(thing))
        model = thing if isinstance(thing, keras.Model) else None
        if model is not None:
            used += [weakref.ref(part) for part in (*model.layers, *model.variables)]
    del thing, model
    for _ in range(2):  # TensorFlow ends its functions in the first round, which lets go of their graphs
        gc.collect()
    assert used
    assert [one() for one in used if one() is not None] == []
    assert [graph.name for graph in graphs() if graph not in graphs_before] == []


def graphs():
    """What TensorFlow has traced and not let go: with what they read, each holds a model's weights."""
    return [thing for thing in gc.get_objects() if isinstance(thing, tf.Graph) and hasattr(thing, "captures")]
