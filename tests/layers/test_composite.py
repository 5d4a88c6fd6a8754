"""What holds for layers made of layers: frozen is frozen, templates are no parts, Keras' own tools work on them."""

import inspect

import keras
import numpy as np
import pytest

from keras_tfm import layers
from keras_tfm.layers.composite import Composite
from tests.harness import float32, functional
from tests.layers.registry import CASES

T, D = 5, 8
X = np.random.default_rng(0).normal(size=(2, T, D)).astype("float32")


def one_case_of_each(kind):
    """The names of one case for each class of the kind."""
    kinds = {type(case.make()): name for name, case in reversed(CASES.items())}
    return [name for cls, name in kinds.items() if issubclass(cls, kind)]


def make_block(**options):
    return layers.TransformerBlock(layers.MultiHeadSelfAttention(2), layers.FeedForward(12), **options)


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.parametrize("name", one_case_of_each(Composite))
def test_frozen_is_frozen_whenever_it_is_said(name):
    case = CASES[name]
    first, *others = case.inputs
    arguments = {other: case.inputs[other] for other in others}
    frozen_at_once, frozen_unbuilt, frozen_built = case.make(trainable=False), case.make(), case.make()
    frozen_unbuilt.trainable = False
    for layer in (frozen_at_once, frozen_unbuilt, frozen_built):
        layer(case.inputs[first], **arguments)
    frozen_built.trainable = False
    for layer in (frozen_at_once, frozen_unbuilt, frozen_built):
        assert layer.weights
        assert not any(weight.trainable for weight in layer.weights)  # which is what a model around it goes by
        layer.trainable = True
        assert len(layer.trainable_weights) == len(layer.weights)


def freeze_projection(block):
    block.self_attention.query_dense.trainable = False


def freeze_norm(block):
    block.attention_wrap.norm_before.trainable = False


def freeze_all_but_feed_forward(block):
    block.trainable = False
    block.feed_forward.trainable = True


def freeze_all_but_one_projection(block):
    block.trainable = False
    block.feed_forward.output_dense.trainable = True


@pytest.mark.parametrize(
    ("freeze", "num_trainable"),
    [
        (freeze_projection, 14),
        (freeze_norm, 14),
        (freeze_all_but_feed_forward, 4),
        (freeze_all_but_one_projection, 2),
    ],
)
def test_a_part_that_is_frozen_or_not_by_itself_stays_so(freeze, num_trainable, tmp_path):
    inputs = keras.Input((None, D))
    block = make_block()
    model = keras.Model(inputs, layers.TransformerStack([block, make_block(trainable=False)])(inputs))
    freeze(block)
    assert len(model.trainable_weights) == num_trainable
    for other in (reloaded(model, tmp_path), keras.models.clone_model(model)):
        assert [weight.trainable for weight in other.weights] == [weight.trainable for weight in model.weights]
        config = other.layers[1].get_config()
        assert layers.TransformerStack.from_config(config).get_config() == config


@pytest.mark.parametrize("place", ["final norm", "layer of the model"])
def test_a_norm_used_as_a_template_and_once_more_as_a_layer_saves_and_loads(place, tmp_path):
    norm = keras.layers.RMSNormalization()
    inputs = keras.Input((None, D))
    attention = layers.MultiHeadSelfAttention(1, query_key_norm=norm)
    block = layers.TransformerBlock(attention, layers.FeedForward(12), norm=norm)
    parallel = layers.ParallelTransformerBlock(layers.MultiHeadSelfAttention(2), layers.FeedForward(12), norm=norm)
    stack = layers.TransformerStack([block, parallel], final_norm=norm if place == "final norm" else None)
    model = keras.Model(inputs, stack(inputs) if place == "final norm" else norm(stack(inputs)))
    assert sum(weight is norm.scale for weight in model.weights) == 1
    norm.scale.assign(np.linspace(0.5, 2.0, D))
    np.testing.assert_array_equal(float32(reloaded(model, tmp_path)(X)), float32(model(X)))


@pytest.mark.parametrize("template", [layers.LayerScale, keras.layers.LayerNormalization])
def test_a_template_is_no_part_and_stays_as_it_was_given(template):
    given = template(name="given")
    block = make_block(**{"residual_scale" if template is layers.LayerScale else "norm": given})
    block.build((None, T, D))
    assert not given.built
    assert all(part is not given and part.name != "given" for part in block._flatten_layers())
    assert layers.TransformerBlock.from_config(block.get_config()).get_config() == block.get_config()


@pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method implemented")
@pytest.mark.parametrize(
    ("make", "num_rounded"), [(lambda: layers.FeedForward(12), 3), pytest.param(make_block, 7, marks=pytest.mark.slow)]
)
def test_keras_quantize_rounds_projections_and_reloads(make, num_rounded, tmp_path):
    model = keras.Sequential([keras.Input((T,), dtype="int32"), layers.TokenEmbedding(11, D), make()])
    ids = np.array([[1, 2, 3, 4, 5]], "int32")
    expected = float32(model(ids))
    model.quantize("int8")
    y = float32(model(ids))
    assert 0 < np.abs(y - expected).max() < 0.1
    kernels = [weight for weight in model.weights if weight.path.endswith(("kernel", "embeddings"))]
    assert len(kernels) == num_rounded
    assert {weight.dtype for weight in kernels} == {"int8"}
    other = reloaded(model, tmp_path)
    assert [weight.dtype for weight in other.weights] == [weight.dtype for weight in model.weights]
    np.testing.assert_array_equal(float32(other(ids)), y)


def test_a_quantized_table_gives_the_logits_of_its_rounded_rows():
    embedding = layers.TokenEmbedding(11, D, embeddings_initializer="random_normal")
    rows = float32(embedding(np.arange(11, dtype="int32")[None]))
    expected = float32(embedding(X, reverse=True))
    embedding.embedding.quantize("int8")
    np.testing.assert_allclose(float32(embedding(np.arange(11, dtype="int32")[None])), rows, atol=2e-3)
    np.testing.assert_allclose(float32(embedding(X, reverse=True)), expected, atol=2e-2)


def test_a_layer_is_quantized_once():
    block = make_block()
    block(X)
    first, second = block.feed_forward.intermediate_dense, block.feed_forward.output_dense
    first.to_int8()
    with pytest.raises(ValueError, match="must be quantized once only.*Received: 'intermediate', .*`to_int8`"):
        first.quantize("int8")
    second.quantize("int8")
    with pytest.raises(ValueError, match="must be quantized once only.*Received: 'output', .*int8"):
        second.to_int8()
    table = layers.TokenEmbedding(11, D).embedding
    table.build()
    with pytest.raises(NotImplementedError, match=r"can be quantized to \"int8\" only. Received: mode='int4'"):
        table.quantize("int4")


@pytest.mark.parametrize("name", one_case_of_each(keras.layers.Layer))
def test_the_output_shape_is_known_without_a_call(name):
    case = CASES[name]
    layer = case.make()
    first, *others = case.inputs
    y = layer(case.inputs[first], **{other: case.inputs[other] for other in others})
    known = inspect.signature(layer.compute_output_shape).parameters
    shapes = {f"{other}_shape": case.inputs[other].shape for other in others}
    shapes = {shape: value for shape, value in shapes.items() if shape in known}
    assert tuple(layer.compute_output_shape(case.inputs[first].shape, **shapes)) == tuple(y.shape)


WITH_ONE_INPUT = [name for name in one_case_of_each(keras.layers.Layer) if len(CASES[name].inputs) == 1]


@pytest.mark.parametrize("name", WITH_ONE_INPUT)
def test_time_distributed_applies_a_layer_to_each_step(name):
    (x,) = CASES[name].inputs.values()
    layer = CASES[name].make()
    steps = np.stack([x, x[::-1]], axis=1)
    inputs = keras.Input(steps.shape[1:], dtype=x.dtype.name)
    model = keras.Model(inputs, keras.layers.TimeDistributed(layer)(inputs))
    expected = np.stack([float32(layer(steps[:, i])) for i in range(2)], axis=1)
    np.testing.assert_allclose(float32(model(steps)), expected, atol=2e-5)


@pytest.mark.parametrize("name", one_case_of_each(keras.layers.Layer))
def test_a_clone_computes_the_same(name):
    model, _ = functional(*CASES[name][:2], static=True)
    clone = keras.models.clone_model(model)
    assert not {id(weight) for weight in clone.weights} & {id(weight) for weight in model.weights}
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(float32(clone(CASES[name].inputs)), float32(model(CASES[name].inputs)), atol=1e-5)


def test_a_block_that_stands_several_times_in_a_stack_does_so_in_a_clone(tmp_path):
    block = make_block()
    inputs = keras.Input((None, D))
    model = keras.Model(inputs, layers.TransformerStack([block, make_block(), block])(inputs))
    for other in (keras.models.clone_model(model), reloaded(model, tmp_path)):
        assert len(other.weights) == len(model.weights) == 32
        other.set_weights(model.get_weights())
        np.testing.assert_allclose(float32(other(X)), float32(model(X)), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: layers.TransformerBlock(4, 64),
            "`self_attention` must be a layer, .*MultiHeadSelfAttention.*=4, of type",
        ),
        (lambda: layers.TransformerBlock(layers.MultiHeadSelfAttention(2), 64), "`feed_forward` must be .*=64"),
        (lambda: layers.ParallelTransformerBlock(4, 64), "`self_attention` must be a layer"),
        (lambda: make_block(norm=keras.layers.LayerNormalization), "`norm` must be a layer, .*a class"),
        (lambda: make_block(norm="rms"), "`norm` must be a layer, .*norm='rms'"),
        (lambda: make_block(cross_attention=True), "`cross_attention` must be a layer or None"),
        (lambda: make_block(residual_scale=0.1), "`residual_scale` must be a layer or None, .*LayerScale"),
        (lambda: layers.MultiHeadSelfAttention(2, rotary=True), "`rotary` must be a layer or None, .*RotaryEmbedding"),
        (lambda: layers.MultiHeadSelfAttention(2, query_key_norm=True), "`query_key_norm` must be a layer or None"),
        (lambda: layers.MultiHeadSelfAttention(2, sink=4), "`sink` must be a layer or None, .*AttentionSink"),
        (lambda: layers.MultiHeadSelfAttention(2, output_gate=True), "`output_gate` must be a layer or None"),
        (lambda: layers.TransformerStack(3), "`blocks` must be a list of layers.*blocks=3"),
        (lambda: layers.TransformerStack(make_block()), "`blocks` must be a list of layers"),
        (lambda: layers.TransformerStack([0]), r"`blocks\[0\]` must be a layer"),
        (lambda: layers.TransformerStack([make_block()], position_bias="alibi"), "`position_bias` must be a layer or"),
        (lambda: layers.TransformerStack([make_block()], final_norm=True), "`final_norm` must be a layer or None"),
        (lambda: layers.TokenEmbedding(11, 8, position="learned"), "`position` must be a layer or None"),
        (lambda: layers.TokenEmbedding(11, 8, norm=True), "`norm` must be a layer or None"),
        (lambda: layers.MaskedLMHead(11), "`token_embedding` must be a layer, .*TokenEmbedding"),
    ],
)
def test_what_is_no_layer_is_refused_when_the_owner_is_made(make, message):
    with pytest.raises(TypeError, match=message):
        make()
