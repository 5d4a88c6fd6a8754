"""What `benchmarks/sizes.py` computes on paper is what real models have, and what docs/scaling.md shows."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import sizes
from keras_tfm.checkpoints.filling import build_empty
from keras_tfm.models import build_gpt, build_llama

NANO = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "vocabulary_size": 61}
GPT = sizes.gpt(**NANO, max_sequence_length=16)
LLAMA = sizes.Shape(**NANO, num_key_value_heads=2, intermediate_dim=88, sequence_length=16)


def build(shape, **options):
    """The model of a shape."""
    names = "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "vocabulary_size"
    options |= {name: getattr(shape, name) for name in names}
    if shape.is_gated:
        return build_llama(**options, num_key_value_heads=shape.num_key_value_heads)
    return build_gpt(**options, max_sequence_length=shape.sequence_length)


# Of the large ones two blocks, which take no memory either: 80 take seconds to be made.
LARGE = [dataclasses.replace(shape, num_layers=2) for shape in sizes.SHAPES.values()]


@pytest.mark.parametrize("shape", [GPT, LLAMA, *LARGE], ids=["gpt", "llama", "1.3B", "7B", "70B"])
def test_parameters_are_those_of_the_model(shape):
    model = build_empty(lambda: build(shape))
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == sizes.parameters(shape)


@pytest.mark.parametrize("shape", [GPT, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_weights_gradients_and_moments_have_the_bytes_on_paper(shape, dtype):
    model = build(shape, dtype=dtype)
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.cast(model(np.array([[1, 2, 3]])), "float32") ** 2)
    gradients = map(tf.convert_to_tensor, tape.gradient(loss, [v.value for v in model.trainable_variables]))
    moments = [v for v in optimizer.variables if len(v.shape)]

    def num_bytes(tensors):
        return sum(math.prod(x.shape) * tf.as_dtype(x.dtype).size for x in tensors)

    count = sizes.FLOAT * sizes.parameters(shape)
    assert num_bytes(model.trainable_variables) == num_bytes(gradients) == count
    assert num_bytes(moments) == sizes.MOMENTS * count


def test_the_sizes_are_called_by_their_parameters():
    billions = [float(name.split("B")[0]) for name in sizes.SHAPES]
    np.testing.assert_allclose([sizes.parameters(shape) / 1e9 for shape in sizes.SHAPES.values()], billions, rtol=0.04)


def test_activations_are_cut_by_tensor_parallelism_and_remat():
    whole, kept = sizes.block_activations(GPT)
    assert (whole, kept) == (16 * 32, 32)  # as Korthikanti et al. 2022 count: 34 bytes, two of them masks of dropout
    assert sizes.activation_bytes(GPT, 10, remat=False) == 10 * 2 * 2 * whole
    assert sizes.activation_bytes(GPT, 10, remat=True) == 10 * 2 * (2 * kept + whole)
    assert sizes.block_activations(GPT, parts=4)[0] == 4 * 32 + 12 * 32 // 4


def test_what_is_sent_is_that_of_rings():
    cluster = sizes.Cluster(devices=4, in_machine=2)
    count = sizes.FLOAT * sizes.parameters(GPT)
    parallel, states, tensor, fully, _ = sizes.shardings(cluster)
    sent = {
        one.name: sizes.communication(GPT, one, cluster, 4 * 16, False) for one in (parallel, states, tensor, fully)
    }
    assert sent[parallel.name] == sent[states.name] == {"tensor": 0, "data": 2 * 3 / 4 * count}
    assert sent[fully.name]["data"] == 3 / 4 * count * 2  # gradients as floats, and weights twice as halves
    # Two blocks, four sums each of 32 numbers of two bytes for 2 x 16 tokens; a ring of two sends each once.
    assert sent[tensor.name] == {"tensor": 2 * 4 * 32 * 32 * 2, "data": 2 * 1 / 2 * count / 2}


def test_the_page_has_the_tables_of_today():
    page = sizes.DOCS.read_text(encoding="utf-8")
    assert sizes.with_tables(page) == page, "Run `python benchmarks/sizes.py --update-docs`."
