"""What the package uses of Keras and TensorFlow without a promise that it stays: each thing by itself.

A failure here says which of them a new release has changed, and where in `keras_tfm/compat.py` to mend it.
"""

import ast
import contextlib
import gc
import inspect
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tfm import compat
from keras_tfm.checkpoints.filling import build_empty

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an API of TensorFlow")


PACKAGE = Path(compat.__file__).parent


def names_of_keras() -> dict[str, set[str]]:
    """Dotted names like "ops.add" that the package uses of Keras, each with the keywords that it is called with."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = node.func if isinstance(node, ast.Call) else node
            keywords = {given.arg for given in node.keywords if given.arg} if isinstance(node, ast.Call) else set()
            if isinstance(function, ast.Attribute):
                name = ast.unparse(function)
                if name.startswith(("ops.", "keras.", "tree.")) and name.replace(".", "").isidentifier():
                    names.setdefault(name, set()).update(keywords)
    return names


def test_the_installed_keras_knows_every_name_and_keyword_that_is_used():
    unknown = []
    for name, keywords in names_of_keras().items():
        thing = keras
        for part in name.removeprefix("keras.").split("."):
            thing = getattr(thing, part, None)
        if thing is None:
            unknown.append(name)
        elif inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters
            if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                unknown += [f"{name}({keyword}=...)" for keyword in keywords - set(parameters)]
    assert not unknown, f"Keras {keras.__version__} has no {unknown}: do without them, or raise the bound."


@contextlib.contextmanager
def says(what: str, where: str):
    """Whatever goes wrong inside is told as what broke, and where it is to be mended."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"{what}. Mend `{where}` in keras_tfm/compat.py; its docstring says how. Received: {error!r}.")


class Pair(keras.layers.Layer):
    """A layer with layers: one by itself, one in a list, and one inside of another."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(2, name="first")
        self.others = [keras.Sequential([keras.layers.Dense(2, name="inner")], name="outer"), self.first]


def test_all_layers_are_found_each_once():
    pair = Pair(name="pair")
    with says("`Layer._flatten_layers` no longer gives all layers inside of a layer, each once", "all_layers"):
        assert sorted(layer.name for layer in compat.all_layers(pair)) == ["first", "inner", "outer", "pair"]
        assert compat.all_layers(pair)[0] is pair
        assert pair not in compat.all_layers(pair, include_self=False)


def test_parts_stand_among_the_attributes():
    pair = Pair(name="pair")
    with says("a layer keeps its parts elsewhere", "attributes"):
        assert compat.attributes(pair)["first"] is pair.first
        assert list(compat.attributes(pair)["others"]) == list(pair.others)


@pytest.mark.parametrize(
    ("layer", "name", "shape"),
    [(keras.layers.Dense(2), "kernel", (1, 3)), (keras.layers.Embedding(5, 2), "embeddings", (1, 3))],
)
def test_a_weight_is_taken_out_of_a_built_layer(layer, name, shape):
    layer.build(shape)
    with says(f"`{type(layer).__name__}._{name}` or `Layer._untrack_variable` is gone", "remove_weight"):
        weight = getattr(layer, name)
        compat.remove_weight(layer, name)
        assert not any(variable is weight for variable in layer.variables)
        assert getattr(layer, name) is None


def test_a_built_layer_takes_weights_in_the_scope_and_only_there():
    layer = keras.layers.Dense(2)
    layer.build((1, 3))
    with says("`Layer._tracker` no longer locks a layer that is built", "unlocked"):
        with compat.unlocked(layer):
            weight = layer.add_weight(name="late", shape=(4,))
        assert any(variable is weight for variable in layer.weights)
        with pytest.raises(ValueError, match="cannot add new elements of state"):
            layer.add_weight(name="later", shape=(4,))


@pytest.fixture
def layer_with_a_late_part():
    layer, part = keras.layers.Dense(2), keras.layers.Dense(3)
    layer.build((1, 3))
    part.build((1, 3))
    with compat.unlocked(layer):
        layer.parts = [part]
    return layer, part


def test_a_layer_tells_its_own_weights_from_those_of_its_parts(layer_with_a_late_part):
    layer, part = layer_with_a_late_part
    with says("`Layer._trainable_variables` no longer holds a layer's own weights alone", "own_variables"):
        assert [id(x) for x in compat.own_variables(layer)] == [id(layer.kernel), id(layer.bias)]
        assert {id(x) for x in part.variables} < {id(x) for x in layer.variables}


def test_a_part_is_taken_out_of_a_built_layer(layer_with_a_late_part):
    layer, part = layer_with_a_late_part
    with says("`Layer._tracker.untrack` no longer takes a part out of a layer", "remove_layer"):
        compat.remove_layer(layer, part)
        assert compat.all_layers(layer) == [layer]
        assert [id(x) for x in layer.variables] == [id(layer.kernel), id(layer.bias)]


def test_a_layer_that_refuses_a_weight_is_locked_again():
    layer = keras.layers.Dense(2)
    layer.build((1, 3))
    with pytest.raises(TypeError), compat.unlocked(layer):
        layer.add_weight(nothing_of_the_kind=True)
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(name="later", shape=(4,))


class Doubling(keras.Model):
    """A Functional model that makes its graph from a part that it has as an attribute already."""

    def __init__(self):
        compat.set_before_init(self, {"part": keras.layers.Dense(2, name="part")})
        x = keras.Input((3,))
        super().__init__(inputs=x, outputs=2 * self.part(x))


def test_a_model_has_its_parts_before_the_init_of_keras_and_tracks_them_after():
    with says("Keras keeps attributes elsewhere than in `vars(model)`, or Functional loses them", "set_before_init"):
        model = Doubling()
        assert [layer.name for layer in model.layers if layer is model.part] == ["part"]
        assert len(model.weights) == 2
        x = np.ones((1, 3), "float32")
        expected = 2 * keras.ops.convert_to_numpy(model.part(x))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-6)


class Reading(keras.layers.Layer):
    """Notes the dtypes in which it finds a variable of another layer."""

    def __init__(self, variable, **kwargs):
        super().__init__(**kwargs)
        self.reads = lambda: keras.backend.standardize_dtype(variable.value.dtype)

    def call(self, x):
        self.cast = self.reads()
        with compat.without_autocast():
            self.stored = self.reads()
        self.cast_again = self.reads()
        return x


@needs_tensorflow
def test_training_and_weights_change_no_attribute_that_a_call_depends_on(tmp_path):
    def attributes():
        return [{**compat.call_attributes(layer)} for layer in compat.all_layers(model)]

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    graph = keras.Model(model.inputs, model.layers[0](model.inputs[0]))
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    with says("Keras keeps an attribute for itself under a new name", "call_attributes"):
        for one in (model, graph):
            before = attributes()
            one.compile("adam", "mse")
            one.fit(x, y, verbose=0, validation_data=(x, y))
            one.evaluate(x, y, verbose=0)
            one.predict(x, verbose=0)
            one.save(tmp_path / "model.keras")
            one.load_weights(tmp_path / "model.keras")
            for old, new in zip(before, attributes(), strict=True):
                assert {name for name in {*old, *new} if old.get(name) is not new.get(name)} == set()
    dense = model.layers[0]
    with says("`Dense` keeps what it computes with under other names", "call_attributes"):
        assert {"activation", "bias", "_dtype_policy", "_kernel", "_trainable"} <= set(compat.call_attributes(dense))


def test_variables_are_read_as_stored_inside_of_a_layer_of_another_dtype():
    variable = keras.Variable([1.0])
    layer = Reading(variable, dtype="mixed_float16")
    layer(np.ones((1, 1), "float32"))
    with says("`AutocastScope(None)` no longer switches the casting of variables off", "without_autocast"):
        assert (layer.cast, layer.stored, layer.cast_again) == ("float16", "float32", "float16")


def test_variables_without_values_get_theirs_later():
    with compat.variables_without_values():
        layer = keras.layers.Dense(2, bias_initializer="ones")
        layer.build((1, 3))
    with says("Variables made in a stateless scope cannot be given values any more", "initialize"):
        kernel = np.arange(6, dtype="float32").reshape(3, 2)
        compat.initialize(layer.kernel, lambda: keras.ops.convert_to_tensor(kernel))
        compat.initialize(layer.bias)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.kernel), kernel)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.bias), [1, 1])


def test_variables_without_values_take_no_memory():
    with says("Keras gives variables values in spite of the scope", "variables_without_values"):
        with compat.variables_without_values():
            layer = keras.layers.Embedding(10**8, 10**5)  # 40 TB
            layer.build()
        with keras.StatelessScope():  # its end gives values to all variables that are noted
            pass
        assert layer.embeddings.shape == (10**8, 10**5)


def test_a_stateless_scope_around_keeps_the_variables_that_it_has_made():
    with says("Keras keeps its list of variables without values elsewhere", "variables_without_values"):
        with keras.StatelessScope():
            before = keras.Variable("ones", shape=(2,))
            with compat.variables_without_values():
                inside = keras.Variable("ones", shape=(2,))
            after = keras.Variable("ones", shape=(2,))
        for variable in (before, after):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), [1, 1])
            with pytest.raises(ValueError, match="already initialized"):
                compat.initialize(variable)
        compat.initialize(inside)  # had no value yet


@pytest.mark.parametrize("fails", [False, True])
def test_an_empty_model_leaves_keras_as_it_was(fails):
    def build():
        layer = keras.layers.Dense(2)
        layer.build((1, 3))
        assert layer.dtype_policy.name == "bfloat16"
        if fails:
            raise KeyError("sizes")
        return layer

    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        with keras.StatelessScope():
            mine = keras.Variable("ones", shape=(2,))
            with pytest.raises(KeyError) if fails else contextlib.nullcontext():
                build_empty(build, "bfloat16")
        assert keras.config.dtype_policy() is policy
        with pytest.raises(ValueError, match="already initialized"):
            compat.initialize(mine)
    finally:
        keras.config.set_dtype_policy(before)


class Noting(keras.optimizers.SGD):
    """Notes which variables it was asked to change."""

    def update_step(self, gradient, variable, learning_rate):
        self.__dict__.setdefault("noted", []).append(compat.variable_index(self, variable))
        super().update_step(gradient, variable, learning_rate)


@needs_tensorflow  # On the other backends nothing but the Keras variable itself is passed.
def test_an_optimizer_finds_a_variable_that_keras_hands_it():
    variables = [keras.Variable([float(i)], name=f"variable{i}") for i in range(3)]
    optimizer = Noting(0.1)
    optimizer.build(variables)
    with says("`Optimizer._get_variable_index` no longer knows what `update_step` gets", "variable_index"):
        gradients = [keras.ops.ones((1,)) for _ in variables]
        optimizer.apply(gradients[::-1], variables[::-1])
        assert optimizer.noted == [2, 1, 0]


@needs_tensorflow
def test_a_function_knows_whether_xla_compiles_it():
    import tensorflow as tf

    found = []
    with says("`control_flow_util.GraphOrParentsInXlaContext` is gone", "in_xla_context"):

        def note(x):
            found.append(compat.in_xla_context())
            return x

        def inner(x):
            return tf.while_loop(lambda x: x < 2, lambda x: (tf.function(note)(x) + 1,), (x,))[0]

        for jit_compile in (True, False):
            found.clear()
            tf.function(inner, jit_compile=jit_compile)(tf.constant(0))
            assert set(found) == {jit_compile}


@needs_tensorflow
def test_operations_tell_where_they_were_made_without_the_frameworks():
    import tensorflow as tf

    def relu(x):
        return keras.ops.relu(x)

    def traceback():
        graph = tf.function(relu, autograph=False).get_concrete_function(tf.zeros([2])).graph
        return graph.get_operations()[1].traceback

    def of_frameworks(frames):
        return [frame for frame in frames if "/keras/" in frame.filename or "/tensorflow/" in frame.filename]

    whole = traceback()
    with says("`tf_stack.StackTraceFilter` is gone", "short_stack_traces"), compat.short_stack_traces():
        short = traceback()
        assert "relu" in {frame.name for frame in short if frame.filename == __file__}
        assert len(short) - len(of_frameworks(short)) == len(whole) - len(of_frameworks(whole))
        assert len(of_frameworks(short)) <= 2 < len(of_frameworks(whole))


@needs_tensorflow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's on x86 only")
def test_there_are_products_of_8_bits():
    with says("the operation `_QuantizedMatMul` is gone, or gives other numbers", "int8_product"):
        assert compat.has_int8_product()


@needs_tensorflow
@pytest.mark.skipif(platform.system() != "Linux", reason="other systems have another list of flags")
def test_whether_the_processor_multiplies_bfloat16_is_known():
    has_flag = any(flag in Path("/proc/cpuinfo").read_text().split() for flag in ("avx512_bf16", "amx_bf16"))
    with says("`_pywrap_util_port.IsMklEnabled` is gone or says something else", "has_bfloat16_product"):
        assert compat.has_bfloat16_product() == (has_flag and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0")


def test_a_stateless_scope_is_known():
    with says("`stateless_scope.in_stateless_scope` is gone", "in_stateless_scope"):
        assert not compat.in_stateless_scope()
        with keras.StatelessScope():
            assert compat.in_stateless_scope()


@needs_tensorflow
def test_a_slice_is_put_into_a_tensor():
    import tensorflow as tf

    with says("`tf.raw_ops.TensorStridedSliceUpdate` is gone", "with_slice"):
        x = tf.zeros((3, 4))
        y = compat.with_slice(x, [1, tf.constant(2)], [2, 4], tf.ones((1, 2)))
        assert y.numpy().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
        assert not x.numpy().any()


@needs_tensorflow
def test_whether_tensorflow_is_at_work_is_known():
    code = "import tensorflow as tf; from keras_tfm.compat import tensorflow_is_at_work as at_work; "
    code += "before = at_work(); tf.constant(1); print(before, at_work())"
    with says("`context()._context_handle` is gone", "tensorflow_is_at_work"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "True"]


@needs_tensorflow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_a_tensor_lies_over_the_memory_of_an_array(dtype):
    memory = np.zeros(1024 + 64, "uint8")
    start = -memory.ctypes.data % 64
    array = memory[start : start + 64].view(dtype)
    with says("`tf.experimental.dlpack` no longer takes over the memory of an array", "tensor_over"):
        tensor = compat.tensor_over(array)
        assert keras.backend.standardize_dtype(tensor.dtype) == dtype
        array[1] = 3  # nobody else may: it shows that there is no copy
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")), array.astype("float32")
        )


@needs_tensorflow
def test_a_dataset_says_how_many_batches_it_has():
    import tensorflow as tf

    dataset = tf.data.Dataset.range(1).flat_map(lambda _: tf.data.Dataset.range(3))
    with says("`tf.data.experimental.assert_cardinality` no longer tells the number", "with_cardinality"):
        assert int(compat.with_cardinality(dataset, 3).cardinality()) == 3


@needs_tensorflow
def test_a_dataset_tells_what_was_put_on_it():
    import tensorflow as tf

    dataset = tf.data.Dataset.range(3)
    with says("`map`, `prefetch` or options no longer tell what they were put on", "dataset_below"):
        mapped = dataset.map(lambda x: x + 1)
        parallel = mapped.map(lambda x: x, num_parallel_calls=2)
        prefetched = parallel.prefetch(1)
        assert compat.dataset_below(prefetched.with_options(tf.data.Options())) is prefetched
        assert compat.dataset_below(prefetched) is parallel
        assert compat.dataset_below(parallel) is mapped
        assert compat.dataset_below(mapped) is dataset
        assert compat.dataset_below(dataset) is compat.dataset_below(dataset.take(1)) is None


def test_a_callback_says_with_which_epoch_fit_begins():
    class GoesOn(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            compat.set_initial_epoch(self.model, 2)

    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with says("`Trainer._initial_epoch` is not what `fit` begins with", "set_initial_epoch"):
        x = np.ones([2, 1])
        assert model.fit(x, x, epochs=4, verbose=0, callbacks=[GoesOn()]).epoch == [2, 3]
        compat.set_initial_epoch(model, None)
        assert model.fit(x, x, verbose=0).epoch == [0]


def test_metrics_have_variables_before_the_first_step():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x = np.ones([2, 1], "float32")
    with says("`Trainer._symbolic_build` does not build metrics", "build_metrics"):
        compat.build_metrics(model, (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(x)))
        assert set(model.get_metrics_result()) == {"loss", "mae"}


def test_masks_of_outputs_are_seen():
    table = keras.layers.Embedding(3, 2, mask_zero=True)
    with says("Keras keeps masks elsewhere than in `_keras_mask`", "have_masks"):
        assert compat.have_masks({"a": table(np.ones([1, 2], "int32"))})
        assert not compat.have_masks([keras.ops.ones([1])])


@needs_tensorflow
def test_an_order_is_that_of_its_key_in_every_release():
    import tensorflow as tf

    with says(
        "`tf.random.experimental.stateless_shuffle` gives another order: runs do not resume", "stateless_shuffle"
    ):
        order = compat.stateless_shuffle(tf.range(10), tf.constant([7, 3], tf.int64)).numpy().tolist()
        assert order == [0, 5, 3, 1, 4, 2, 7, 8, 9, 6]  # TensorFlow 2.18, 2.20 and 2.21


@needs_tensorflow
def test_a_dataset_writes_to_a_table():
    import tensorflow as tf

    with says("`tf.lookup.experimental.MutableHashTable` is not what it was", "mutable_table"):
        table = compat.mutable_table(default=5)
        key = tf.constant(0, tf.int64)
        assert int(table.lookup(key)) == 5
        list(tf.data.Dataset.range(3).map(lambda i: (table.insert(key, i), i)[1]))
        assert int(table.lookup(key)) == 2


@needs_tensorflow
def test_saved_models_are_written_without_the_gradients_of_custom_functions(tmp_path):
    import tensorflow as tf

    module, traced = tf.Module(), []

    @tf.custom_gradient
    def doubled(x):
        def gradient(upstream):
            traced.append(True)
            return 2 * upstream

        return 2 * x, gradient

    module.doubled = tf.function(doubled, input_signature=[tf.TensorSpec([1])])
    with says(
        "`SaveOptions(experimental_custom_gradients=False)` is not what it was", "save_options_without_gradients"
    ):
        tf.saved_model.save(module, str(tmp_path / "1"), options=compat.save_options_without_gradients())
        assert not traced
        assert tf.saved_model.load(str(tmp_path / "1")).doubled(tf.constant([3.0])).numpy() == [6]


@needs_tensorflow
def test_a_custom_gradient_goes_with_the_graph_that_it_was_traced_in():
    import tensorflow as tf

    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda upstream: 20 * upstream

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tf.nn.silu(doubled(y))), (0, x))[1]
        return tape.gradient(y, x)

    with says("`tf.custom_gradient` leaves something else in `gradient_registry`", "free_traced_gradients"):
        x, function = tf.constant(0.5), tf.function(gradient)
        traced = function.get_concrete_function(x)
        np.testing.assert_allclose(traced(x), gradient(x), rtol=1e-6)
        graph = weakref.ref(traced.graph)
        del traced, function
        gc.collect()
        assert graph() is None
