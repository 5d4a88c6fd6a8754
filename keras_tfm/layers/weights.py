"""The layers that hold the weights, a dense kernel and a table of tokens, each in floats or in 8 bits.

8 bits take a quarter of float32's memory, and at batch 1, where a step reads all weights, a fraction of the time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.arguments import refuse_ragged
from keras_tfm.layers.composite import revive, serialize
from keras_tfm.layers.lora import Lora
from keras_tfm.ops.int8_products import is_by_onednn
from keras_tfm.ops.tensors import batch_size, is_compiled_by_xla, look_up, size, slice_update
from keras_tfm.types import Config, Shape, Tensor

_PARTS = 4  # of a product that is split along its inputs
_FEW = 8  # rows for which reading 8 bits anew for each is faster than writing 32 bits once for all
_LARGE = 2**21  # numbers in a matrix for which that is worth compiling a loop; GPT-2 small has 25 of them


class Int8Rows(NamedTuple):
    """A matrix (outputs, inputs) as int8 with one float32 scale for each output.

    In this order a compiled product reads 8 bits and converts as it goes: 24 products of 768 x 3072 take 2.9 ms instead
    of 7.1 in float32 on 2 cores, which is the limit of the memory; in the other order they take 38.
    """

    values: Any
    scale: Any

    @classmethod
    def of(cls, matrix: Tensor) -> "Int8Rows":
        """Rounds each row to 255 steps between its greatest magnitude and minus that; outside of compiled code."""
        matrix = np.asarray(matrix, "float32")
        scale = np.abs(matrix).max(axis=1, keepdims=True) / 127.0
        values = np.round(matrix / np.where(scale > 0, scale, 1.0))
        return cls(values.astype("int8"), scale[:, 0].astype("float32"))

    def product(self, x: Tensor) -> Tensor:
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        num_outputs, num_inputs = self.values.shape
        if not is_compiled_by_xla():
            return self._plain_product(x)
        if x.shape[1] != 1 or num_outputs * num_inputs < _LARGE:
            return self._product(x)
        num_rows = size(x, 0)
        if isinstance(num_rows, int):
            return self._row_by_row(x) if num_rows <= _FEW else self._product(x)
        return ops.cond(num_rows <= _FEW, lambda: self._row_by_row(x), lambda: self._product(x))

    def _plain_product(self, x):
        return ops.einsum("bti,oi->bto", x, ops.cast(self.values, x.dtype)) * ops.cast(self.scale, x.dtype)

    def _product(self, x):
        # XLA fuses a product of one row with the cheap operations before it, and recomputes them for each output. It
        # never does so with a division, so x is divided by 1: GPT-2 small then writes 138 tokens/s, not 64.
        x = x / (1 + _unknown_zero(x) * ops.cast(ops.arange(x.shape[-1]), x.dtype))
        # XLA would hoist the conversion of the weights out of the loop and read 32 bits ever after: so it depends on x.
        values = ops.cast(ops.bitwise_xor(self.values, ops.cast(_unknown_zero(x), "int8")), x.dtype)
        return ops.einsum("bti,oi->bto", x, values) * ops.cast(self.scale, x.dtype)

    def _row_by_row(self, x):
        """x (B, 1, inputs) -> (B, 1, outputs); for several rows at once, the matrix is written in 32 bits first."""
        num_rows, num_outputs = size(x, 0), self.values.shape[0]

        def step(row, y):
            one = self._product(ops.slice(x, (row, 0, 0), (1, 1, x.shape[2])))
            return row + 1, slice_update(y, (row, 0, 0), one)

        start = (ops.zeros((), "int32"), ops.zeros((num_rows, 1, num_outputs), x.dtype))
        return ops.while_loop(lambda row, y: row < num_rows, step, start)[1]


def _unknown_zero(x):
    """0, even if x is not a number, computed from x: XLA does not know that it is."""
    return ops.cast(ops.reshape(x, (-1,))[0] < float("-inf"), x.dtype)


def replace_kernel(layer: keras.layers.Dense, kernel: Any) -> Any:
    """Puts a kernel for inference in the place of a built layer's own; its parts, arrays or None, become variables."""
    compat.remove_weight(layer, "kernel")
    parts: dict[str, Any] = {}
    for name, array in kernel._asdict().items():
        parts[name] = array
        if array is not None:
            options = {"shape": array.shape, "dtype": keras.backend.standardize_dtype(array.dtype), "trainable": False}
            with compat.unlocked(layer):
                parts[name] = layer.add_weight(name=f"inference_{name}", initializer="zeros", autocast=False, **options)
            parts[name].assign(array)
    return type(kernel)(**parts)


def refuse_rounded(layer: keras.layers.Layer, by: str | None) -> None:
    """Raises if `by`, a name, has quantized the layer already: its integers would be taken for weights."""
    if by is not None:
        raise ValueError(
            "A layer must be quantized once only, by Keras' `quantize` or by `to_int8`. "
            f"Received: {layer.name!r}, quantized already: {by}. Begin with the model that is not."
        )


def replace_weight(layer: keras.layers.Layer, name: str, rows: Int8Rows) -> Int8Rows:
    """Puts rows in the place of the "kernel" or "embeddings" of a built layer; they do not train."""
    compat.remove_weight(layer, name)
    with compat.unlocked(layer):
        values = layer.add_weight(
            name="int8_values", shape=rows.values.shape, dtype="int8", initializer="zeros", trainable=False
        )
        scale = layer.add_weight(
            name="int8_scale", shape=rows.scale.shape, dtype="float32", initializer="ones", trainable=False
        )
    values.assign(rows.values)
    scale.assign(rows.scale)
    return Int8Rows(values, scale)


@keras.saving.register_keras_serializable(package="keras_tfm")
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` for sequences: one matrix product, laid out differently in a compiled decoding step.

    Keras traces a product with a (B, T, D) tensor of unknown sizes to 16 operations; here it takes a few. In a compiled
    decoding step on a CPU, XLA runs a product of one row in one thread, fused with the bias. Split along the input into
    parts that are summed, the same product is a batched one and reads the weights 1.7 times faster at batch 1 and 1.15
    times at batch 8 (768 x 3072, float32). Kernel, bias, LoRA and quantization are those of `Dense`; besides,
    `to_int8` keeps the kernel in 8 bits (weights only: activations stay floats), and `to_inference` holds it as a
    processor multiplies fast.

    Args:
        units, use_bias, kernel_initializer, ...: as in `keras.layers.Dense`.
        adapters: configs of the `Lora` beside the kernel, as `get_config` gives them.

    Call arguments:
        inputs: float (B, T, D).

    Returns:
        float (B, T, units).

    Example:
        >>> Projection(64)(np.ones((2, 1, 32), "float32")).shape
        (2, 1, 64)
    """

    int8_rows: Any = None  # `Int8Rows` from `to_int8` on
    inference_kernel: Any = None  # `Int8Kernel` or `Bfloat16Kernel` from `to_inference` on
    untraced_attributes = ("unmerged_kernel", "is_kept")
    is_kept = False  # whether an operation in a graph may keep what it has read of the kernel
    unmerged_kernel: Any = None  # the kernel as it was before adapters were merged into it, an array

    def __init__(self, units: Any, *args: Any, adapters: Sequence[Config] = (), **kwargs: Any):
        super().__init__(units, *args, **kwargs)
        self.adapters: list[Lora] = []
        self._adapters_to_add = tuple(adapters)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for config in self._adapters_to_add:
            self.add_adapter(revive(config))

    def add_adapter(self, adapter: Lora) -> None:
        """Puts an adapter beside the kernel, which is frozen, and the bias with it."""
        if self.inference_kernel is not None:
            raise ValueError(
                "Adapters must be added, trained and merged before a model is quantized for inference. "
                f"Received: an adapter for {self.name!r}, which is. Begin with the model that is not."
            )
        inputs = self.input_spec.axes[-1]
        with compat.unlocked(self):
            self.adapters = [*self.adapters, adapter]
        if not adapter.built:
            adapter.build((None, None, inputs))
        for variable in compat.own_variables(self):
            variable.trainable = False

    def remove_adapters(self, is_removed: Callable[[Lora], bool]) -> None:
        """Takes adapters away, with their weights."""
        for adapter in filter(is_removed, self.adapters):
            compat.remove_layer(self, adapter)
        with compat.unlocked(self):
            self.adapters = [adapter for adapter in self.adapters if not is_removed(adapter)]

    def kernel_values(self) -> Tensor:
        """float (inputs, units), rounded where the kernel is."""
        if self.inference_kernel is not None:
            return self.inference_kernel.floats()
        if self.int8_rows is None:
            return self.kernel
        values, scale = self.int8_rows
        return ops.transpose(ops.cast(values, "float32") * scale[:, None])

    def to_int8(self) -> None:
        """Rounds the kernel to 8 bits; it cannot be trained after that."""
        if self.int8_rows is None and self.inference_kernel is None:
            refuse_rounded(self, self.quantization_mode)
            self.int8_rows = replace_weight(self, "kernel", Int8Rows.of(ops.transpose(self.kernel)))

    def to_inference(self, kernel: Any) -> None:
        """Puts an `Int8Kernel` or a `Bfloat16Kernel` of arrays in the place of the kernel; nothing is trained then."""
        self.inference_kernel = replace_kernel(self, kernel)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Config | None = None) -> None:
        """Keras' quantization, which it leaves to `Dense` itself unless told otherwise."""
        refuse_rounded(self, None if self.int8_rows is None else "`to_int8`")
        refuse_rounded(self, None if self.inference_kernel is None else "`quantize_for_inference`")
        super().quantize(mode, type_check=False, config=config)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        refuse_ragged(inputs, "inputs")
        if training and self.inference_kernel is not None:
            raise ValueError(
                "A model that is quantized for inference must not be trained: its kernels have no gradients. "
                f"Received: training={training!r} in {self.name!r}. Train first, and quantize then."
            )
        if len(inputs.shape) != 3 or self.quantization_mode is not None:
            return self._adapted(super().call(inputs, training=training), inputs, training)
        is_scaled = any(adapter.dora and adapter.is_active for adapter in self.adapters)  # before the bias is added
        bias = ops.cast(self.bias, self.compute_dtype) if self.use_bias else None
        y = self._adapted(self._product(inputs, None if is_scaled else bias), inputs, training)
        y = ops.add(y, bias) if is_scaled and self.use_bias else y
        return y if self.activation is None else self.activation(y)

    def _product(self, inputs, bias):
        """(B, T, inputs) -> (B, T, units)."""
        if self.int8_rows is not None:
            y = self.int8_rows.product(inputs)
            return y if bias is None else y + bias
        if self.inference_kernel is not None:
            self.is_kept = self.is_kept or is_by_onednn()
            y = self.inference_kernel.product(ops.reshape(inputs, (-1, inputs.shape[2])), bias)
            return ops.reshape(y, (batch_size(inputs), size(inputs, 1), self.units))
        kernel = ops.cast(self.kernel, self.compute_dtype)
        if inputs.shape[1] == 1 and inputs.shape[2] % _PARTS == 0 and is_compiled_by_xla():
            width = inputs.shape[2] // _PARTS
            rows = ops.transpose(ops.reshape(inputs, (-1, _PARTS, width)), (1, 0, 2))  # (parts, B, width)
            y = ops.sum(ops.matmul(rows, ops.reshape(kernel, (_PARTS, width, self.units))), axis=0)  # (B, units)
        else:
            y = ops.matmul(ops.reshape(inputs, (-1, inputs.shape[2])), kernel)  # (B * T, units)
        y = y if bias is None else ops.add(y, bias)  # here, where TensorFlow fuses it with the product
        return ops.reshape(y, (batch_size(inputs), size(inputs, 1), self.units))

    def _adapted(self, y, inputs, training):
        for adapter in self.adapters:
            if adapter.is_active:
                y = adapter.changed(y, inputs, self.kernel_values() if adapter.dora else None, training=training)
        return y

    def save_own_variables(self, store: Any) -> None:
        if self._rounded is None:
            return super().save_own_variables(store)
        for i, variable in enumerate(self._rounded_variables()):
            store[str(i)] = variable

    def load_own_variables(self, store: Any) -> None:
        if self._rounded is None:
            return super().load_own_variables(store)
        if self.is_kept:
            raise ValueError(
                "The weights of a model that is quantized for inference must be loaded before it is first called in a "
                f"graph, which keeps them. Received: weights for {self.name!r}, which has been called. Load into a new "
                "model: `type(model).from_config(model.get_config())`."
            )
        for i, variable in enumerate(self._rounded_variables()):
            variable.assign(store[str(i)])

    @property
    def _rounded(self):
        return self.inference_kernel if self.int8_rows is None else self.int8_rows

    def _rounded_variables(self):
        return [part for part in (*self._rounded, self.bias) if part is not None]

    def get_config(self) -> Config:
        return {**super().get_config(), "adapters": [serialize(adapter) for adapter in self.adapters]}


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenTable(keras.layers.Embedding):
    """`keras.layers.Embedding` that also projects hidden states to logits (tied weights), and can be kept in 8 bits.

    The gradient of its table is dense, which Adam and the check of a scaled loss need. Keras can quantize it to "int8".

    Args:
        input_dim, output_dim, ...: as in `keras.layers.Embedding`.

    Call arguments:
        inputs: int (B, T).

    Returns:
        float (B, T, output_dim).

    Example:
        >>> TokenTable(100, 64)(np.array([[1, 2, 3]])).shape
        (1, 3, 64)
    """

    int8_rows: Any = None  # `Int8Rows` from `to_int8` on

    def to_int8(self) -> None:
        """Rounds the table to 8 bits; it cannot be trained after that."""
        if self.int8_rows is None:
            refuse_rounded(self, self.quantization_mode)
            self.int8_rows = replace_weight(self, "embeddings", Int8Rows.of(self.embeddings))

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Config | None = None) -> None:
        """Keras' quantization, which it leaves to its own classes unless told otherwise; "int8" only."""
        refuse_rounded(self, None if self.int8_rows is None else "`to_int8`")
        if mode != "int8":
            raise NotImplementedError(
                f'A table of tokens can be quantized to "int8" only. Received: mode={mode!r}. It stays as it is; leave '
                "it out with `filters` to be rid of this warning."
            )
        super().quantize(mode, type_check=False, config=config)

    def call(self, inputs: Tensor) -> Tensor:
        if self.int8_rows is None:
            if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
                inputs = ops.cast(inputs, "int32")
            return look_up(self.embeddings, inputs, self.compute_dtype)
        values, scale = (ops.take(part, inputs, axis=0) for part in self.int8_rows)
        return ops.cast(ops.cast(values, "float32") * scale[..., None], self.compute_dtype)

    def logits(self, x: Tensor) -> Tensor:
        """float (B, T, output_dim) -> (B, T, input_dim)."""
        if self.int8_rows is not None:
            return self.int8_rows.product(x)
        # An einsum reads the table as it lies; `ReversibleEmbedding` transposes it first, which at batch 8 makes a
        # compiled decoding step of GPT-2 small 2 times slower on a CPU.
        y = ops.einsum("btd,vd->btv", x, ops.cast(self.embeddings, self.compute_dtype))
        return y if self.quantization_mode is None else y / ops.cast(self.embeddings_scale, y.dtype)

    def save_own_variables(self, store: Any) -> None:
        if self.int8_rows is None:
            return super().save_own_variables(store)
        for i, variable in enumerate(self.int8_rows):
            store[str(i)] = variable

    def load_own_variables(self, store: Any) -> None:
        if self.int8_rows is None:
            return super().load_own_variables(store)
        for i, variable in enumerate(self.int8_rows):
            variable.assign(store[str(i)])
