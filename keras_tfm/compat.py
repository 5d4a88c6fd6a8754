"""What is used of Keras, TensorFlow and Python that they do not promise to keep: each thing once, behind a function.

Private and experimental APIs may change with any release. Each function says what it is needed for and what to do when
it breaks; `tests/test_compat.py` tries each by itself and says what it was that broke. No other file of the package may
touch them (a test sees to it). TensorFlow is imported inside of the functions: layers and models run without it.
"""

import contextlib
import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope as in_keras_stateless_scope

_WITHOUT_VALUES = "uninitialized_variables"  # Keras' list of variables that were made in a stateless scope


# --- Keras: layers -----------------------------------------------------------------------------------------------


def all_layers(layer: keras.layers.Layer, include_self: bool = True) -> list[keras.layers.Layer]:
    """The layer and all layers inside of it, however deep, each once.

    Why: only a model tells of its layers in public (`Model.layers`), and only of those right below it.
    Uses `Layer._flatten_layers`. If it breaks: walk `layer._layers`, the list that Keras fills when a layer is set as
    an attribute.

    Args:
        layer: a layer or model.
        include_self: bool, whether it comes first itself.

    Returns:
        list of layers.

    Example:
        >>> [layer.name for layer in all_layers(keras.Sequential([keras.layers.Dense(2, name="last")]), False)]
        ['last']
    """
    return layer._flatten_layers(include_self=include_self)


def attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """The attributes of a layer, by name, layers among them.

    Why: parts that a layer makes by itself are found by the names under which it keeps them.
    Relies on torch keeping layers in `Module._modules`, not in `vars`. If it breaks: read torch's `Module.__setattr__`.

    Args:
        layer: a layer or model.

    Returns:
        dict from name to value.
    """
    return {**vars(layer), **vars(layer).get("_modules", {})}


def remove_weight(layer: keras.layers.Layer, name: str) -> None:
    """Takes a weight that Keras' own layer made out of a built layer, so that its memory is free.

    Why: a weight that is held in 8 bits takes the place of the one that `Dense` or `Embedding` made. They keep it
    under a private name, since their public one (`kernel`) adds LoRA's product to it.
    Uses `Dense._kernel`, `Embedding._embeddings`, `Layer._untrack_variable` and, on TensorFlow, whose checkpoints hold
    on to all that was an attribute, `AutoTrackable._delete_tracking`. If it breaks: read in `build` of the layer where
    it keeps the weight, and in its `quantize` how Keras takes it out.

    Args:
        layer: a built `keras.layers.Dense` or `keras.layers.Embedding`.
        name: "kernel" or "embeddings".
    """
    layer._untrack_variable(getattr(layer, f"_{name}"))
    setattr(layer, f"_{name}", None)
    if hasattr(layer, "_delete_tracking"):
        layer._delete_tracking(f"_{name}")


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that a layer has itself, without those of its parts.

    Why: a layer that has adapters freezes its own weights and not theirs; `Layer.variables` has both.
    Uses `Layer._trainable_variables` and `Layer._non_trainable_variables`. If it breaks: take `Layer.variables` without
    the variables of the layers in `Layer._layers`.

    Args:
        layer: a built layer.

    Returns:
        list of variables.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def remove_layer(owner: keras.layers.Layer, part: keras.layers.Layer) -> None:
    """Takes a part out of a built layer, so that its weights are no longer among the layer's.

    Why: an adapter that is removed must not be trained or saved any more; Keras forgets no part of a layer.
    Uses `Layer._tracker.untrack`. If it breaks: take the part out of the list `owner._layers`.

    Args:
        owner: a built layer.
        part: one of its parts.
    """
    with unlocked(owner):
        owner._tracker.untrack(part)


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """In this scope a layer that is built can be given weights.

    Why: Keras refuses `add_weight` after `build`, but a layer is quantized when it has been trained or loaded.
    Uses `Layer._tracker`. If it breaks: read in `Dense.enable_lora` how Keras adds weights to a built layer.

    Args:
        layer: a built layer.
    """
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def set_before_init(model: keras.Model, attributes: Mapping[str, Any]) -> None:
    """Sets attributes of a model whose `__init__` of Keras has not run yet.

    Why: `Functional.__init__` wants the graph, which is made from parts that are the model's attributes. On torch, no
    layer can be set as an attribute before it. The graph tracks the layers that it uses, so that nothing is lost.
    Relies on Keras keeping attributes in `vars(model)`. If it breaks: make the graph from a dict of parts, and set them
    as attributes after `__init__`.

    Args:
        model: in its `__init__`, before `super().__init__`.
        attributes: name -> value.
    """
    vars(model).update(attributes)


# Of what every Keras layer has, what a call depends on; and what TensorFlow, `fit` and a model's graph add to it.
_MATERIAL = {"_dtype_policy", "_trainable", "autocast", "_layers", "_trainable_variables", "_non_trainable_variables"}
_ONLY_IF_TRUE = {"is_awq_calibrated", "is_gptq_calibrated"}  # appear, as False, when weights are loaded
_TRACKING = """
    _self_name_based_restores _self_saveable_object_factories _self_unconditional_checkpoint_dependencies
    _self_unconditional_deferred_dependencies _self_unconditional_dependency_names _self_update_uid
"""
_TRAINER = """
    _compile_config _compile_loss _compile_metrics _compiled_trainable_state _compute_loss_has_training_arg
    _distribute_reduction_method _distribute_strategy _distributed_dataset _eval_epoch_iterator _initial_epoch
    _jax_state _jax_state_synced _jit_compile _loss_tracker _metrics_variable_shardings
    _non_trainable_variable_shardings _optimizer_variable_shardings _run_eagerly _trainable_variable_shardings
    compiled history loss optimizer predict_function steps_per_execution stop_evaluating stop_predicting
    stop_training test_function train_function train_step unrolled_steps_per_execution
"""
_GRAPH = """
    _functional _input_shape_arg _inputs _inputs_struct _manual_input_spec _nodes _nodes_by_depth _operations
    _operations_by_depth _outputs _outputs_struct output_names
"""


def call_attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """The attributes of a layer that its call may depend on.

    Why: whether a trace still says what a layer computes, and whether one serves two layers, is read off them. Keras
    keeps some 50 more in each layer and model for itself, which other values of weights, `fit` or a name change.
    Uses their names. If one is missing here, loops are compiled anew that need not be: put it into the list that fits.

    Args:
        layer: a built layer or model.

    Returns:
        dict from name to value; parts and weights among them.
    """
    attributes = vars(layer)
    left_out = _bookkeeping() | {name for name in _ONLY_IF_TRUE if not attributes.get(name)}
    return {name: value for name, value in attributes.items() if name not in left_out}


@functools.cache
def _bookkeeping() -> frozenset[str]:
    return frozenset(vars(keras.layers.Layer())) - _MATERIAL | {*_TRACKING.split(), *_TRAINER.split(), *_GRAPH.split()}


# --- Keras: fit --------------------------------------------------------------------------------------------------


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """From `on_train_begin` of a callback: which epoch `fit` begins with, whatever it was asked for.

    Why: the same command has to go on where the run was that it finds.
    Uses `Trainer._initial_epoch`. If it breaks: read in `keras.callbacks.BackupAndRestore` how it does so.

    Args:
        model: in `fit`.
        epoch: int; None for what `fit` was asked for.
    """
    model._initial_epoch = epoch


def have_masks(outputs: Any) -> bool:
    """Whether Keras has put a mask on one of a model's outputs, by which its losses divide.

    Why: a mean over what a mask leaves is not the mean of the means of parts of a batch.
    Uses the attribute `_keras_mask` of tensors. If it breaks: read in `keras.losses.Loss.__call__` where the mask is.

    Args:
        outputs: structure of tensors.
    """
    return any(getattr(output, "_keras_mask", None) is not None for output in keras.tree.flatten(outputs))


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Gives the metrics of a compiled model the variables that they otherwise have after the first step.

    Why: a run that goes on in the middle of an epoch goes on with its metrics.
    Uses `Trainer._symbolic_build`. If it breaks: call `model.evaluate` on the batch, which takes a step's time.

    Args:
        model: compiled.
        batch: what `fit` trains on: (x, y), (x, y, sample_weight) or x.
    """
    model._symbolic_build(data_batch=batch)


# --- Keras: variables --------------------------------------------------------------------------------------------


def without_autocast() -> contextlib.AbstractContextManager:
    """A scope in which variables have the values and the dtype that they are stored in.

    Why: while a layer is called, Keras casts all float variables that are read to that layer's compute dtype, those of
    other layers, too. Who hands a layer's variables on as arguments must not round them.
    Uses `keras.src.backend.AutocastScope`. If it breaks: look in `Layer.__call__` for what does the casting.

    Returns:
        A context manager.

    Example:
        >>> with without_autocast():
        ...     values = [variable.value for variable in layer.variables]
    """
    return AutocastScope(None)


@contextlib.contextmanager
def variables_without_values() -> Iterator[None]:
    """In this scope, variables get a shape and a dtype but no value: models take no memory. `initialize` gives values.

    Why: the variables of a checkpoint's model need no random values first. `StatelessScope(initialize_variables=False)`
    does it, but notes the variables in a list, and the end of the next stateless scope would give them values. So the
    list is put back as it was: variables that a stateless scope around this one has made stay in it.
    Uses `keras.src.backend.common.global_state` and the list's name in it. If it breaks: look in
    `register_uninitialized_variable` (keras/src/backend/common/variables.py) for where the list is now.

    Example:
        >>> with variables_without_values():
        ...     layer = keras.layers.Embedding(10**6, 10**6)
        ...     layer.build()
    """
    noted = global_state.get_global_attribute(_WITHOUT_VALUES)
    global_state.set_global_attribute(_WITHOUT_VALUES, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_WITHOUT_VALUES, noted)


def initialize(variable: keras.Variable, value: Callable[[], Any] | None = None) -> None:
    """Gives a variable of `variables_without_values` its value, outside of that scope.

    Why: `assign` needs a variable that has a value.
    Uses `Variable._initializer`, `Variable._deferred_initialize` and, where a distribution cuts it, so that no device
    gets the whole, `Variable._initialize`. If they break: look in `initialize_all_variables`
    (keras/src/backend/common/variables.py) for what the end of a stateless scope does.

    Args:
        variable: has no value yet.
        value: gives an array or tensor of its shape and dtype, which the variable keeps. Default: what its own
            initializer gives.
    """
    if value is not None and keras.backend.backend() == "jax" and keras.distribution.distribution() is not None:
        variable._initialize(value())  # what Keras does with initializers would compile the values into a program
        variable._initializer = None
        return
    if value is not None:
        variable._initializer = lambda shape, dtype=None: value()
    variable._deferred_initialize()


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Which of an optimizer's variables this is, as `update_step` gets it.

    Why: an optimizer with numbers of its own for each variable must find them. TensorFlow's variable comes in the place
    of Keras', and a part of it under a distribution strategy, so that `id` does not find it.
    Uses `Optimizer._get_variable_index`. If it breaks: read in `Adam.update_step` how Keras finds its momentums.

    Args:
        optimizer: built.
        variable: an argument of `update_step`.

    Returns:
        int, the place among the variables that `optimizer.build` was given.
    """
    return optimizer._get_variable_index(variable)


def in_stateless_scope() -> bool:
    """Whether variables have other values now than their own, as in the trace of a functional model.

    Why: an operation that keeps what it read of a variable must read the variable itself.
    Uses `keras.src.backend.common.stateless_scope`. If it breaks: read in `StatelessScope.__enter__` where Keras notes
    that one is open.
    """
    return in_keras_stateless_scope()


# --- Python ------------------------------------------------------------------------------------------------------


def parsed_regex(pattern: str, flags: int = 0) -> tuple[list, int]:
    """A regular expression as Python's own `re` reads it.

    Why: a grammar writes what `re` matches, so it must read a pattern as `re` does, and nothing public tells how.
    Uses `re._parser`, which was the module `sre_parse` for twenty years. If it breaks: read `re/_parser.py`.

    Args:
        pattern: str.
        flags: of `re`.

    Returns:
        (items, flags): pairs of an operation's name ("LITERAL", "IN", "MAX_REPEAT", ...) and its arguments, sequences
        in them as such lists; and the flags with those that the pattern itself sets.

    Raises:
        re.error: as `re.compile`.

    Example:
        >>> parsed_regex("a|b")[0]
        [('IN', [('LITERAL', 97), ('LITERAL', 98)])]
    """
    from re import _constants, _parser  # type: ignore[attr-defined]

    def plain(value):
        if isinstance(value, _parser.SubPattern):
            return [plain(item) for item in value]
        if isinstance(value, tuple):
            return tuple(plain(item) for item in value)
        if isinstance(value, list):
            return [plain(item) for item in value]
        if value is _constants.MAXREPEAT:
            return None
        return str(value) if isinstance(value, _constants._NamedIntConstant) else value

    parsed = _parser.parse(pattern, flags)
    return plain(parsed), parsed.state.flags


# --- TensorFlow --------------------------------------------------------------------------------------------------


def tensorflow_is_at_work() -> bool:
    """Whether TensorFlow has read its flags: it does when it looks for devices, for the first thing that is computed.

    Why: where compiled code is kept is a flag, which says nothing to a TensorFlow that has read its flags already.
    Uses `tensorflow.python.eager.context`. If it breaks: say False; whoever is late is then not warned.
    """
    from tensorflow.python.eager import context

    return getattr(context.context(), "_context_handle", None) is not None


def free_traced_gradients() -> None:
    """From now on, TensorFlow forgets a custom gradient with the graph that it was traced in.

    Why: it registers each for good, and with it the graph, what that has captured, and so a model's weights: a model
    that was once traced with SiLU, lean attention or rematerialization stayed in memory, optimizer included. Nothing
    public takes a gradient back, and TensorFlow's own functions register theirs as ours do.
    Puts a dict of its own into `ops.gradient_registry`. If it breaks: read in `custom_gradient.py` where
    `_graph_mode_decorator` leaves `internal_grad_fn`; until then only memory is lost.
    """
    from tensorflow.python.framework.ops import gradient_registry as registry

    if type(getattr(registry, "_registry", None)) is dict:  # once in a process, and where TensorFlow still has one
        registry._registry = _TracedGradients(registry._registry)


class _TracedGradients(dict):
    """What TensorFlow registers, name -> dict with the gradient as "type": graphs own the custom ones."""

    def __setitem__(self, name: str, entry: dict) -> None:
        import tensorflow as tf

        graph = tf.compat.v1.get_default_graph()  # where the operation is made right after
        if name.startswith("CustomGradient-") and hasattr(graph, "captures"):  # a function's, not the global one
            graph._traced_gradients = {**getattr(graph, "_traced_gradients", {}), name: entry["type"]}
            owner = weakref.ref(graph, lambda _: self.pop(name, None))
            entry = {**entry, "type": lambda operation, *upstream: _owned(owner, name)(operation, *upstream)}
        super().__setitem__(name, entry)


def _owned(owner: weakref.ref, name: str) -> Callable:
    return owner()._traced_gradients[name]  # type: ignore[union-attr]


@contextlib.contextmanager
def short_stack_traces() -> Iterator[None]:
    """What is traced here says where its operations were made, with hardly any frame inside of Keras and TensorFlow.

    Why: XLA has each operation keep the text of its whole stack for good: 6 MB for each function of a generation loop.
    Uses `tf_stack.StackTraceFilter`. If it breaks: do nothing; only memory is lost.
    """
    import tensorflow as tf
    from tensorflow.python.framework import ops
    from tensorflow.python.util import tf_stack

    folders = tuple(str(Path(package.__file__).parent) + os.sep for package in (keras, tf))
    innermost = {ops.__file__, tf_stack.__file__}  # frames that TensorFlow cuts off by their number

    class WithoutFrameworks(tf_stack.StackTraceFilter):
        def get_filtered_filenames(self):
            files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
            return {file for file in files if file and file.startswith(folders)} - innermost

    with WithoutFrameworks():
        yield


def is_jit_compiled(function) -> bool:
    """Whether a function is a `tf.function` with `jit_compile=True`.

    Why: XLA cannot exchange gradients between processes on CPUs, and says so at length when it is asked to.
    Uses `Function._jit_compile`. If it breaks: say False; TensorFlow then raises its own error in the first step.
    """
    return bool(getattr(function, "_jit_compile", False))


def in_xla_context() -> bool:
    """Whether what is traced now is compiled by XLA as part of a function with `jit_compile=True`.

    Why: the fastest form of some products, and the only form of some updates, differs between XLA and a plain graph.
    Uses `control_flow_util.GraphOrParentsInXlaContext`, which TensorFlow's loops ask themselves. If it breaks: look in
    `tensorflow/python/ops/while_v2.py` for what it asks now.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def with_slice(x, begin, end, piece):
    """`x` with `piece` in its slice from `begin` to `end`, in place wherever nobody else holds `x`.

    Why: TensorFlow's public updates of a tensor scatter, which is slower, or need XLA.
    Uses `tf.raw_ops.TensorStridedSliceUpdate`. If it breaks: `tf.tensor_scatter_nd_update`.

    Args:
        x: tensor (...). begin, end: one int or int32 () for each axis, within `x`. piece: tensor of that size.
    """
    import tensorflow as tf

    return tf.raw_ops.TensorStridedSliceUpdate(input=x, begin=begin, end=end, strides=[1] * len(begin), value=piece)


def int8_product(x, weights, scale, transposed: bool = False):
    """The product of rows and a matrix, both in 8 bits, by one operation of oneDNN: floats, four bytes each.

    Why: processors with VNNI or AMX multiply 8 bits several times as fast as floats, and nothing public of TensorFlow
    does. Ask `has_int8_product` first.
    Uses the operation `_QuantizedMatMul`, which TensorFlow registers where it has oneDNN on x86; it keeps what it packs
    of the weights at its first call. It is made under a name that says what a server lacks that does not know it. If it
    breaks: read `tensorflow/core/kernels/mkl/mkl_qmatmul_op.cc`; until then `has_int8_product` says no, and products
    of floats give the same numbers.

    Args:
        x: int8 (rows, inputs).
        weights: int8 (inputs, outputs), a variable's value, which must not change after the first call.
        scale: float32 (outputs,), positive: what 1 of each output of the weights stands for.
        transposed: whether `weights` are (outputs, inputs).

    Returns:
        float32 (rows, outputs): x @ (weights * scale). Only while a graph is traced, outside of XLA.
    """
    import tensorflow as tf

    value, types = tf.compat.v1.AttrValue, tf.compat.v1.AttrValue.ListValue

    def one(dtype):
        return value(type=dtype.as_datatype_enum)

    def several(*dtypes):
        return value(list=types(type=[dtype.as_datatype_enum for dtype in dtypes]))

    # Of a range, the operation reads the greater magnitude, whose 127th part is what 1 stands for. That of the rows is
    # chosen so that those of the weights are `scale` as it lies.
    scale = tf.convert_to_tensor(scale)
    least, largest, no_bias = tf.constant(-(127.0**2)), tf.constant(127.0**2), tf.zeros(scale.shape)
    matrices = [tf.bitcast(x, tf.qint8), tf.bitcast(weights, tf.qint8)]
    inputs = [*matrices, no_bias, least, largest, scale, scale]
    operation = tf.compat.v1.get_default_graph().create_op(
        "_QuantizedMatMul",
        inputs,
        dtypes=[tf.float32],
        name="int8_product_for_TensorFlow_with_oneDNN_on_x86",
        attrs={
            **{"T1": one(tf.qint8), "T2": one(tf.qint8)},
            **{"Tbias": one(tf.float32), "U": one(tf.float32), "Tout": one(tf.float32)},
            **{"Tdevice_inputs": several(*[tensor.dtype for tensor in inputs]), "Thost_inputs": several()},
            **{"Tdevice_outputs": several(tf.float32), "Thost_outputs": several()},
            **{"transpose_a": value(b=False), "transpose_b": value(b=transposed)},
            **{"is_weight_const": value(b=True), "is_bias_const": value(b=True)},
            "fused_ops": value(list=types(s=[b"BiasAdd", b"Dequantize"])),
            **{"input_quant_mode": value(s=b"SCALED"), "output_quant_mode": value(s=b"SCALED")},
        },
    )
    return tf.ensure_shape(operation.outputs[0], [x.shape[0], weights.shape[0 if transposed else 1]])


@functools.cache
def has_int8_product() -> bool:
    """Whether `int8_product` works here and is right: tried once in a process, with a few numbers."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, weights = (rng.integers(-127, 128, shape).astype("int8") for shape in ((3, 16), (16, 5)))
    scale = rng.uniform(0.5, 1.5, 5).astype("float32")
    try:
        with tf.init_scope(), tf.device("CPU"):  # eagerly, though a graph may be traced now
            products = tf.function(
                lambda x, scale: (int8_product(x, weights, scale), int8_product(x, weights.T, scale, transposed=True)),
                autograph=False,
            )(tf.constant(x), tf.constant(scale))
    except Exception:  # whatever a release or a machine without it says
        return False
    expected = x.astype("float32") @ weights.astype("float32") * scale
    return all(np.allclose(product, expected, rtol=1e-5) for product in products)


@functools.cache
def has_bfloat16_product() -> bool:
    """Whether products of bfloat16 in a graph are the processor's own, by oneDNN.

    Why: elsewhere TensorFlow converts the matrices to float32 at each product, and is slower than with floats. Nothing
    public tells: that a product is right says nothing of how it was computed, and to time it would tell the load.
    Uses `_pywrap_util_port.IsMklEnabled` and the flags of the processor as Linux lists them; other systems say no. If
    it breaks: say no, and XLA computes.
    """
    from tensorflow.python.util import _pywrap_util_port

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return _pywrap_util_port.IsMklEnabled() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def tensor_over(array: np.ndarray):
    """A TensorFlow tensor over the memory of an array, which nobody may write to afterwards.

    Why: TensorFlow copies arrays twice on their way into a variable: a large model would be there three times.
    Uses `tf.experimental.dlpack`. If it breaks: `tf.constant(array)`, which needs the memory.

    Args:
        array: any numeric dtype; its memory must begin at a multiple of 64 bytes.

    Returns:
        tf.Tensor of the same shape and dtype.
    """
    import tensorflow as tf

    dtype = tf.as_dtype(array.dtype)
    if dtype == tf.bfloat16:  # of which NumPy's side of dlpack does not know
        return tf.bitcast(tf.experimental.dlpack.from_dlpack(array.view("uint16").__dlpack__()), dtype)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def with_cardinality(dataset, num_batches: int):
    """The dataset, which says that it has so many batches.

    Why: Keras asks the cardinality how many steps an epoch has, and `flat_map` forgets it.
    Uses `tf.data.experimental.assert_cardinality`. If it breaks: give the number to `fit` as `steps_per_epoch`.

    Args:
        dataset: tf.data.Dataset that has so many batches; reading it to another end is an error.
        num_batches: int, or `tf.data.INFINITE_CARDINALITY`.

    Returns:
        tf.data.Dataset.
    """
    import tensorflow as tf

    return dataset.apply(tf.data.experimental.assert_cardinality(num_batches))


def dataset_below(dataset):
    """The dataset that a `map`, a `prefetch` or options were put on: the same batches in the same order.

    Why: a run that goes on sets the position of the dataset that it reads, under whatever was done to its batches.
    Uses the classes' names and `Dataset._inputs`. If it breaks: a run must be given the dataset before `map`; read the
    new names off `type(dataset.map(tf.identity))`.

    Args:
        dataset: tf.data.Dataset.

    Returns:
        tf.data.Dataset, or None for one that was made in another way.
    """
    same_batches = {"_MapDataset", "_ParallelMapDataset", "_PrefetchDataset", "_OptionsDataset"}
    return dataset._inputs()[0] if type(dataset).__name__ in same_batches else None


def stateless_shuffle(values, key):
    """The values in an order that their number and the key decide, the same on every device.

    Why: an epoch's order must be one that a killed run finds again; `tf.random.shuffle` has a hidden state.
    Uses `tf.random.experimental.stateless_shuffle`. If it breaks: `tf.argsort` of `tf.random.stateless_uniform` - in
    another order, so that runs begun before cannot be resumed.

    Args:
        values: tensor; its first axis is shuffled.
        key: int (2,).

    Returns:
        Tensor of the same shape and dtype.
    """
    import tensorflow as tf

    return tf.random.experimental.stateless_shuffle(values, key, alg="philox")


def mutable_table(default: int):
    """A table int64 -> int64 that a dataset may write to.

    Why: a dataset that counts its epochs needs a state; a distribution strategy would mirror a variable.
    Uses `tf.lookup.experimental.MutableHashTable`. If it breaks: a `tf.Variable` made outside of the strategy's scope.

    Args:
        default: int, the value of keys that were never written.

    Returns:
        A table with `lookup` and `insert`.
    """
    import tensorflow as tf

    return tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=default)


def save_options_without_gradients():
    """Options for `tf.saved_model.save`: served models take no gradients.

    Why: to trace the gradients of lean attention takes longer than all else in an export.
    Uses `tf.saved_model.SaveOptions(experimental_custom_gradients=...)`. If it breaks: leave the options out; exports
    are then slow but right.

    Returns:
        tf.saved_model.SaveOptions.
    """
    import tensorflow as tf

    return tf.saved_model.SaveOptions(experimental_custom_gradients=False)
