"""The layers that hold the weights, a dense kernel and a table of tokens, in floats or rounded to 16, 8 or 4 bits.

8 bits take a quarter of float32's memory, and at batch 1, where a step reads all weights, a fraction of the time.
4 bits in groups take a seventh, bfloat16 half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.arguments import refuse_ragged
from keras_tfm.layers.adapter import Adaptable, Adapter
from keras_tfm.layers.composite import build_part, revive, serialize
from keras_tfm.ops.int8_products import int8_product, is_by_onednn, round_rows
from keras_tfm.ops.tensors import batch_size, constant_value, is_compiled_by_xla, look_up, size, slice_update
from keras_tfm.types import Config, Shape, Tensor

_PARTS = 4  # of a product that is split along its inputs
_FEW = 8  # rows for which reading 8 bits anew for each is faster than writing 32 bits once for all
_LARGE = 2**21  # numbers in a matrix for which that is worth compiling a loop; GPT-2 small has 25 of them
_GROUP = 32  # numbers of 4 bits that share a scale


class Int8Rows(NamedTuple):
    """A matrix (outputs, inputs) as int8 with one float32 scale for each output.

    In this order a compiled product reads 8 bits and converts as it goes: 24 products of 768 x 3072 take 2.9 ms instead
    of 7.1 in float32 on 2 cores, which is the limit of the memory; in the other order they take 38.
    """

    values: Any
    scale: Any

    @property
    def names(self) -> tuple[str, str]:
        """Of the weights that hold them."""
        return "int8_values", "int8_scale"

    @classmethod
    def of(cls, matrix: Tensor) -> "Int8Rows":
        """Rounds each row to 255 steps between its greatest magnitude and minus that; outside of compiled code."""
        matrix = np.asarray(matrix, "float32")
        scale = np.abs(matrix).max(axis=1, keepdims=True) / 127.0
        values = np.round(matrix / np.where(scale > 0, scale, 1.0))
        return cls(values.astype("int8"), scale[:, 0].astype("float32"))

    def product(self, x: Tensor) -> Tensor:
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        return _product_by_xla(self._product, x, self.values.shape) if is_compiled_by_xla() else self._product(x)

    def rows(self, ids: Tensor) -> Tensor:
        """float32 (..., inputs), the rows of these numbers, int (...)."""
        return ops.cast(ops.take(self.values, ids, axis=0), "float32") * ops.take(self.scale, ids, axis=0)[..., None]

    def floats(self, num_inputs: int) -> Tensor:
        """float32 (outputs, inputs), what the numbers stand for."""
        return ops.cast(self.values, "float32") * self.scale[:, None]

    def transposed_product(self, y: Tensor, num_inputs: int) -> Tensor:
        """y (B, T, outputs) -> (B, T, inputs): the way of gradients."""
        return ops.einsum("bto,oi->bti", y * ops.cast(self.scale, y.dtype), self._converted(y))

    def _product(self, x):
        return ops.einsum("bti,oi->bto", x, self._converted(x)) * ops.cast(self.scale, x.dtype)

    def _converted(self, x):
        """The values in the dtype of x."""
        # They depend on x: else TensorFlow converts all matrices of a model at once, as soon as a step begins, and XLA
        # takes the conversion out of the loop and reads 32 bits ever after.
        return ops.cast(ops.bitwise_xor(self.values, ops.cast(_unknown_zero(x), "int8")), x.dtype)


class Int8RowsAndInputs(NamedTuple):
    """`Int8Rows` whose inputs are rounded to 8 bits too, each row by its own scale, as they come ("W8A8").

    A channel that is far larger than the others in all rows would take their steps away. So `spread` multiplies each
    channel of the inputs by a number that the matrix was divided by, 1 without a calibration: see `ObservedKernel`.

    Processors with VNNI or AMX multiply 8 bits several times as fast as floats, and oneDNN does it with them where
    `is_by_onednn`. Elsewhere floats give the same numbers, up to the order of sums, and are no faster.
    """

    values: Any
    scale: Any
    spread: Any  # float32 (inputs,); None, 1, where an operation keeps the matrix and it is known

    @property
    def names(self) -> tuple[str, str, str]:
        """Of the weights that hold them."""
        return "w8a8_values", "w8a8_scale", "w8a8_spread"

    @classmethod
    def of(cls, matrix: Tensor, spread: Tensor | None = None) -> "Int8RowsAndInputs":
        """Rounds a matrix for inputs that are multiplied by `spread` first; outside of compiled code."""
        matrix = np.asarray(matrix, "float32")
        spread = np.ones(matrix.shape[1], "float32") if spread is None else np.asarray(spread, "float32")
        return cls(*Int8Rows.of(matrix / spread), spread)

    def product(self, x: Tensor) -> Tensor:
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        num_outputs, num_inputs = self.values.shape
        flat = ops.cast(ops.reshape(x, (-1, num_inputs)), "float32")
        rows, step = round_rows(flat if self.spread is None else flat * self.spread)
        sizes = batch_size(x), size(x, 1)
        if is_by_onednn():
            y = int8_product(rows, self.values, self.scale, transposed=True) * step
            return ops.cast(ops.reshape(y, (*sizes, num_outputs)), x.dtype)
        rounded = ops.reshape(ops.cast(rows, "float32") * step, (*sizes, num_inputs))
        return self._rows.product(ops.cast(rounded, x.dtype))

    def rows(self, ids: Tensor) -> Tensor:
        """float32 (..., inputs), the rows of these numbers, int (...)."""
        return self._rows.rows(ids) * self.spread

    def floats(self, num_inputs: int) -> Tensor:
        """float32 (outputs, inputs), what the numbers stand for."""
        return self._rows.floats(num_inputs) * self.spread

    def transposed_product(self, y: Tensor, num_inputs: int) -> Tensor:
        """y (B, T, outputs) -> (B, T, inputs): the way of gradients."""
        x = self._rows.transposed_product(y, num_inputs)
        return x if self.spread is None else x * ops.cast(self.spread, y.dtype)

    def as_kept(self) -> "Int8RowsAndInputs":
        """These variables as an operation keeps them from now on: a spread of ones is none, and no work in a step."""
        is_spread = bool((constant_value(self.spread) != 1).any())
        return self if is_spread else self._replace(spread=None)

    @property
    def _rows(self):
        return Int8Rows(self.values, self.scale)


class Bfloat16Rows(NamedTuple):
    """A matrix (outputs, inputs) in bfloat16; outside of XLA its products are, too, with sums in float32.

    A step reads half of what it reads of float32. Processors with AVX-512 bfloat16 or AMX multiply it themselves, by
    oneDNN. XLA converts the matrix as it goes, and rounds neither inputs nor results.
    """

    values: Any

    @property
    def names(self) -> tuple[str]:
        """Of the weights that hold them."""
        return ("bfloat16_values",)

    @classmethod
    def of(cls, matrix: Tensor) -> "Bfloat16Rows":
        """Rounds a matrix; outside of compiled code."""
        return cls(ops.convert_to_numpy(ops.cast(matrix, "bfloat16")))

    def product(self, x: Tensor) -> Tensor:
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        return _product_by_xla(self._product, x, self.values.shape) if is_compiled_by_xla() else self._product(x)

    def rows(self, ids: Tensor) -> Tensor:
        """float32 (..., inputs), the rows of these numbers, int (...)."""
        # As bits: XLA would convert the whole matrix for one row of bfloat16.
        bits = ops.take(ops.view(self.values, "int16"), ids, axis=0)
        return ops.cast(ops.view(bits, "bfloat16"), "float32")

    def floats(self, num_inputs: int) -> Tensor:
        """float32 (outputs, inputs), what the numbers stand for."""
        return ops.cast(self.values, "float32")

    def transposed_product(self, y: Tensor, num_inputs: int) -> Tensor:
        """y (B, T, outputs) -> (B, T, inputs): the way of gradients."""
        return self._einsum("bto,oi->bti", y)

    def _product(self, x):
        return self._einsum("bti,oi->bto", x)

    def _einsum(self, equation, x):
        if not is_compiled_by_xla():
            return ops.cast(ops.einsum(equation, ops.cast(x, "bfloat16"), self.values), x.dtype)
        # As bits, dependent on x: see `Int8Rows`. What is done to bfloat16 itself, XLA does in 32 bits before the loop.
        bits = ops.bitwise_xor(ops.view(self.values, "int16"), ops.cast(_unknown_zero(x), "int16"))
        y = ops.einsum(equation, x, ops.cast(ops.view(bits, "bfloat16"), x.dtype))
        # XLA takes such a product of one row for a cheap operation, too: undivided, it is computed anew for each number
        # of what a norm makes of it, and two blocks 768 wide take 37 ms instead of 2.
        return y / (1 + _unknown_zero(x))


class Int4Groups(NamedTuple):
    """A matrix (outputs, inputs) in 4 bits, -8 to 7, with one float16 scale for each 32 of a row: 4.5 bits a number.

    Two numbers lie in a byte: those of the first half of a group in its lower bits. The scale is the one, of several,
    with the least squared error, so that the weights of MiniLM move by 8.4 % (root mean square), where NF4 with as many
    scales moves them by 8.8 %; and a product needs no look-up.

    Reference: Dettmers et al. 2023, "QLoRA", section 3, https://arxiv.org/abs/2305.14314 (NF4); GGUF's Q4_0.
    """

    values: Any  # uint8 (outputs, groups, 16)
    scale: Any  # float16 (outputs, groups)

    @property
    def names(self) -> tuple[str, str]:
        """Of the weights that hold them."""
        return "int4_values", "int4_scale"

    @classmethod
    def of(cls, matrix: Tensor) -> "Int4Groups":
        """Rounds a matrix, whose rows are filled with zeros to whole groups; outside of compiled code."""
        matrix = np.asarray(matrix, "float32")
        missing = -matrix.shape[1] % _GROUP
        groups = np.pad(matrix, ((0, 0), (0, missing))).reshape(len(matrix), -1, _GROUP)
        greatest = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)
        least = np.full(greatest.shape, np.inf, "float32")
        scale, values = np.ones_like(greatest), np.zeros_like(groups)
        for steps in np.arange(-10.0, -5.75, 0.25):  # how many there are to the greatest, which has 8 of a sign
            tried = (greatest / np.float32(steps)).astype("float16").astype("float32")
            rounded = np.clip(np.round(groups / np.where(tried == 0, 1.0, tried)), -8, 7)
            error = np.square(rounded * tried - groups).sum(-1, keepdims=True)
            is_better = error < least
            least, scale = np.where(is_better, error, least), np.where(is_better, tried, scale)
            values = np.where(is_better, rounded, values)
        codes = (values + 8).astype("uint8")
        packed = codes[..., : _GROUP // 2] | codes[..., _GROUP // 2 :] << 4
        return cls(packed, scale[..., 0].astype("float16"))

    def product(self, x: Tensor) -> Tensor:
        """x (B, T, inputs) -> (B, T, outputs) in the dtype of x."""
        return ops.einsum("bti,oi->bto", x, self._converted(x, x.shape[-1]))

    def floats(self, num_inputs: int) -> Tensor:
        """float32 (outputs, inputs), what the numbers stand for."""
        return self._floats(ops.convert_to_tensor(self.values), num_inputs, "float32")

    def transposed_product(self, y: Tensor, num_inputs: int) -> Tensor:
        """y (B, T, outputs) -> (B, T, inputs): the way of gradients."""
        return ops.einsum("bto,oi->bti", y, self._converted(y, num_inputs))

    def _converted(self, x, num_inputs):
        values = ops.bitwise_xor(self.values, ops.cast(_unknown_zero(x), "uint8"))  # see `Int8Rows`
        return self._floats(values, num_inputs, x.dtype)

    def _floats(self, values, num_inputs, dtype):
        halves = [ops.bitwise_and(values, np.uint8(15)), ops.right_shift(values, np.uint8(4))]
        numbers = ops.cast(ops.concatenate(halves, axis=-1), dtype) - 8.0
        matrix = ops.reshape(numbers * ops.cast(self.scale, dtype)[..., None], (values.shape[0], -1))
        return matrix[:, :num_inputs]


Rounded = Int8Rows | Int8RowsAndInputs | Bfloat16Rows | Int4Groups


def rounded_product(x: Tensor, matrix: Rounded) -> Tensor:
    """x (B, T, inputs) -> (B, T, outputs), whose gradient converts the matrix anew: no floats are kept."""
    matrix = matrix.__class__(*(None if part is None else ops.convert_to_tensor(part) for part in matrix))

    @ops.custom_gradient
    def product(x):
        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            return matrix.transposed_product(upstream, x.shape[-1])

        return matrix.product(x), gradient

    return product(x)


def _product_by_xla(product, x, shape):
    """`product` of x (B, T, inputs) and a matrix of this shape, (outputs, inputs), that is converted as XLA goes."""

    def alone(x):
        # XLA fuses a product of one row with the cheap operations before it, and recomputes them for each output. It
        # never does so with a division, so x is divided by 1: GPT-2 small then writes 138 tokens/s, not 64.
        return product(x / (1 + _unknown_zero(x) * ops.cast(ops.arange(x.shape[-1]), x.dtype)))

    if x.shape[1] != 1 or shape[0] * shape[1] < _LARGE:
        return alone(x)
    num_rows = size(x, 0)
    if isinstance(num_rows, int):
        return _row_by_row(alone, x, shape[0]) if num_rows <= _FEW else alone(x)
    return ops.cond(num_rows <= _FEW, lambda: _row_by_row(alone, x, shape[0]), lambda: alone(x))


def _row_by_row(product, x, num_outputs):
    """x (B, 1, inputs) -> (B, 1, outputs); for several rows at once, the matrix is written in 32 bits first."""
    num_rows = size(x, 0)

    def step(row, y):
        one = product(ops.slice(x, (row, 0, 0), (1, 1, x.shape[2])))
        return row + 1, slice_update(y, (row, 0, 0), one)

    start = (ops.zeros((), "int32"), ops.zeros((num_rows, 1, num_outputs), x.dtype))
    return ops.while_loop(lambda row, y: row < num_rows, step, start)[1]


def _unknown_zero(x):
    """0, even if x is not a number or empty, computed from x: no compiler knows that it is."""
    return ops.cast(ops.sum(ops.reshape(x, (-1,))[:1]) < float("-inf"), x.dtype)


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
            "A layer must be quantized once only, by Keras' `quantize`, `to_int8`, `to_w8a8`, `to_bfloat16` or "
            f"`to_int4`. Received: {layer.name!r}, quantized already: {by}. Begin with the model that is not."
        )


def replace_weight(layer: keras.layers.Layer, name: str, rounded: Rounded) -> Rounded:
    """Puts rounded numbers in the place of the "kernel" or "embeddings" of a built layer; they do not train."""
    compat.remove_weight(layer, name)
    variables = []
    with compat.unlocked(layer):
        for part_name, part in zip(rounded.names, rounded, strict=True):
            options = {"shape": part.shape, "dtype": str(part.dtype), "trainable": False, "autocast": False}
            variable = layer.add_weight(name=part_name, initializer="zeros", **options)
            variable.assign(part)
            variables.append(variable)
    return type(rounded)(*variables)


class RoundedWeight(keras.layers.Layer):
    """What layers share that can hold their weight rounded: they round it once, and save what it is then."""

    rounded: Any = None  # of a kind of `Rounded` from `to_int8` or its like on
    is_kept = False  # whether an operation in a graph may keep what it has read of the weight
    untraced_attributes: tuple[str, ...] = ("is_kept",)
    weight_name: str

    def to_int8(self) -> None:
        """Rounds the weight to 8 bits; it cannot be trained after that."""
        self._round(Int8Rows)

    def to_bfloat16(self) -> None:
        """Rounds the weight to bfloat16; it cannot be trained after that."""
        self._round(Bfloat16Rows)

    def to_w8a8(self, spread: Tensor | None = None) -> None:
        """Rounds the weight to 8 bits, and from then on what it is multiplied with; it cannot be trained after that.

        Args:
            spread: float (inputs,), what the inputs are multiplied with before they are rounded. Default: 1.
        """
        self._round(Int8RowsAndInputs, spread)

    @property
    def can_be_kept(self) -> bool:
        """Whether an operation in a graph that is traced now keeps the weight, whatever its variable holds later."""
        return isinstance(self.rounded, Int8RowsAndInputs) and is_by_onednn()

    def check_is_not_kept(self) -> None:
        """Raises if an operation in a graph has kept the weight, and would go on with it."""
        if self.is_kept:
            raise ValueError(
                "The weights of a model whose products are in 8 bits must be loaded before it is first called in a "
                f"graph, which keeps them. Received: weights for {self.name!r}, which has been called. Load into a new "
                "model: `type(model).from_config(model.get_config())`."
            )

    def _rounded_product(self, x: Tensor) -> Tensor:
        self.is_kept = self.is_kept or self.can_be_kept
        return rounded_product(x, self.rounded.as_kept() if self.can_be_kept else self.rounded)

    def _rows(self) -> Tensor:
        """float (outputs, inputs), the weight before it is rounded."""
        raise NotImplementedError(f"{type(self).__name__} must define `_rows`.")

    def _round(self, kind: type[Rounded], *options: Any) -> None:
        if self.rounded.__class__ is kind:  # TensorFlow has wrapped the tuple: its type is another
            return
        refuse_rounded(self, self.quantization_mode or self.rounded_by())
        self.rounded = replace_weight(self, self.weight_name, kind.of(self._rows(), *options))

    def rounded_by(self) -> str | None:
        """By what the weight was rounded, for errors; None if it was not."""
        return None if self.rounded is None else f"`to_{self.rounded.names[0].partition('_')[0]}`"

    @property
    def is_in_floats(self) -> bool:
        """Whether the weight is as it was trained: rounded by none of the ways here, and not by Keras' `quantize`."""
        return self.quantization_mode is None and self.rounded_by() is None

    def _rounded_variables(self) -> list:
        """What a file holds of a rounded layer; nothing if it is not."""
        return [] if self.rounded is None else list(self.rounded)

    def save_own_variables(self, store: Any) -> None:
        if not (variables := self._rounded_variables()):
            return super().save_own_variables(store)
        for i, variable in enumerate(variables):
            store[str(i)] = variable

    def set_weights(self, weights: Any) -> None:
        """Keras' `set_weights`, unless a graph has kept the weights as they are."""
        self.check_is_not_kept()
        super().set_weights(weights)

    def load_own_variables(self, store: Any) -> None:
        self.check_is_not_kept()
        if not (variables := self._rounded_variables()):
            return super().load_own_variables(store)
        for i, variable in enumerate(variables):
            variable.assign(store[str(i)])


@keras.saving.register_keras_serializable(package="keras_tfm")
class Projection(RoundedWeight, Adaptable, keras.layers.Dense):
    """`keras.layers.Dense` for sequences: one matrix product, laid out differently in a compiled decoding step.

    Keras traces a product with a (B, T, D) tensor of unknown sizes to 16 operations; here it takes a few. In a compiled
    decoding step on a CPU, XLA runs a product of one row in one thread, fused with the bias. Split along the input into
    parts that are summed, the same product is a batched one and reads the weights 1.7 times faster at batch 1 and 1.15
    times at batch 8 (768 x 3072, float32). Kernel, bias, LoRA and quantization are those of `Dense`; besides,
    `to_int8` and `to_int4` keep the kernel in 8 or 4 bits (weights only: activations stay floats), `to_bfloat16`,
    `to_w8a8` and `to_inference` hold it as a processor multiplies fast.

    Args:
        units, use_bias, kernel_initializer, ...: as in `keras.layers.Dense`.
        adapters: configs of the adapters beside the kernel, as `get_config` gives them.

    Call arguments:
        inputs: float (B, T, D).

    Returns:
        float (B, T, units).

    Example:
        >>> Projection(64)(np.ones((2, 1, 32), "float32")).shape
        (2, 1, 64)
    """

    weight_name = "kernel"
    inference_kernel: Any = None  # `Int8Kernel` or `Bfloat16Kernel` from `to_inference` on
    untraced_attributes = (*RoundedWeight.untraced_attributes, "unmerged")
    unmerged: Any = None  # (kernel, bias or None), arrays, as they were before adapters were merged into them

    def __init__(self, units: Any, *args: Any, adapters: Sequence[Config] = (), **kwargs: Any):
        super().__init__(units, *args, **kwargs)
        self._adapters_to_add = tuple(adapters)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for config in self._adapters_to_add:
            self.add_adapter(revive(config))

    def add_adapter(self, adapter: Adapter) -> None:
        """Puts an adapter beside the kernel, which is frozen, and the bias with it."""
        if self.inference_kernel is not None:
            raise ValueError(
                "Adapters must be added, trained and merged before a model is quantized for inference. "
                f"Received: an adapter for {self.name!r}, which is. Begin with the model that is not."
            )
        build_part(adapter, (None, None, self.input_spec.axes[-1]))
        super().add_adapter(adapter)

    def kernel_values(self) -> Tensor:
        """float (inputs, units), rounded where the kernel is."""
        if self.inference_kernel is not None:
            return self.inference_kernel.floats()
        if self.rounded is None:
            return self.kernel
        return ops.transpose(self.rounded.floats(self.input_spec.axes[-1]))

    def _rows(self) -> Tensor:
        return ops.transpose(self.kernel)

    def to_int4(self) -> None:
        """Rounds the kernel to 4 bits in groups of 32 inputs; it cannot be trained after that."""
        self._round(Int4Groups)

    def to_inference(self, kernel: Any) -> None:
        """Puts an `Int8Kernel` or a `Bfloat16Kernel` of arrays in the place of the kernel; nothing is trained then."""
        self.inference_kernel = replace_kernel(self, kernel)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Config | None = None) -> None:
        """Keras' quantization, which it leaves to `Dense` itself unless told otherwise."""
        refuse_rounded(self, self.rounded_by())
        super().quantize(mode, type_check=False, config=config)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        refuse_ragged(inputs, "inputs")
        if training and self.inference_kernel is not None:
            raise ValueError(
                "A model that is quantized for inference must not be trained: its kernels have no gradients. "
                f"Received: training={training!r} in {self.name!r}. Train first, and quantize then."
            )
        x = inputs
        active = [adapter for adapter in self.adapters if adapter.is_active]
        for adapter in active:
            x = adapter.where_used(adapter.before(x), x)
        if len(inputs.shape) != 3 or self.quantization_mode is not None:
            y = self._changed(super().call(x, training=training), x, active, training)
        else:
            is_scaled = any(adapter.reads_kernel for adapter in active)  # before the bias is added
            bias = ops.cast(self.bias, self.compute_dtype) if self.use_bias else None
            y = self._changed(self._product(x, None if is_scaled else bias), x, active, training)
            y = ops.add(y, bias) if is_scaled and self.use_bias else y
            y = y if self.activation is None else self.activation(y)
        for adapter in active:
            y = adapter.where_used(adapter.after(y), y)
        return y

    def _product(self, inputs, bias):
        """(B, T, inputs) -> (B, T, units)."""
        if self.rounded is not None:
            y = self._rounded_product(inputs)
            return y if bias is None else y + bias
        if self.inference_kernel is not None:
            self.is_kept = self.is_kept or self.can_be_kept
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

    def _changed(self, y, x, active, training):
        for adapter in active:
            kernel = self.kernel_values() if adapter.reads_kernel else None
            y = adapter.where_used(adapter.changed(y, x, kernel, training=training), y)
        return y

    @property
    def can_be_kept(self) -> bool:
        """Whether an operation in a graph that is traced now keeps the weight, whatever its variable holds later."""
        return super().can_be_kept or (self.inference_kernel is not None and is_by_onednn())

    def rounded_by(self) -> str | None:
        return super().rounded_by() if self.inference_kernel is None else "`quantize_for_inference`"

    def _rounded_variables(self) -> list:
        parts = self.rounded if self.inference_kernel is None else self.inference_kernel
        return [] if parts is None else [part for part in (*parts, self.bias) if part is not None]

    def get_config(self) -> Config:
        return {**super().get_config(), "adapters": [serialize(adapter) for adapter in self.adapters]}


def keeps_weights(layer: keras.layers.Layer) -> bool:
    """Whether operations in a graph that is traced now keep weights of the layer: then it needs a graph of its own."""
    return any(part.can_be_kept for part in compat.all_layers(layer) if isinstance(part, RoundedWeight))


def projections_within(layer: keras.layers.Layer) -> list[Projection]:
    """The projections among a layer and its parts."""
    return [part for part in compat.all_layers(layer) if isinstance(part, Projection)]


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenTable(RoundedWeight, Adaptable, keras.layers.Embedding):
    """`keras.layers.Embedding` that also projects hidden states to logits (tied weights), and can be kept in 8 bits.

    The gradient of its table is dense, which Adam and the check of a scaled loss need. Keras can quantize it to "int8".
    Its adapters are `VirtualTokens`: it is the model that reads them.

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

    weight_name = "embeddings"

    def add_adapter(self, adapter: Adapter) -> None:
        """Puts virtual tokens beside the table, which is frozen."""
        build_part(adapter, (None, None))
        super().add_adapter(adapter)

    def _rows(self) -> Tensor:
        return self.embeddings

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Config | None = None) -> None:
        """Keras' quantization, which it leaves to its own classes unless told otherwise; "int8" only."""
        refuse_rounded(self, self.rounded_by())
        if mode != "int8":
            raise NotImplementedError(
                f'A table of tokens can be quantized to "int8" only. Received: mode={mode!r}. It stays as it is; leave '
                "it out with `filters` to be rid of this warning."
            )
        super().quantize(mode, type_check=False, config=config)

    def call(self, inputs: Tensor) -> Tensor:
        if self.rounded is None:
            if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
                inputs = ops.cast(inputs, "int32")
            return look_up(self.embeddings, inputs, self.compute_dtype)
        return ops.cast(self.rounded.rows(inputs), self.compute_dtype)

    def logits(self, x: Tensor) -> Tensor:
        """float (B, T, output_dim) -> (B, T, input_dim)."""
        if self.rounded is not None:
            return self._rounded_product(x)
        # An einsum reads the table as it lies; `ReversibleEmbedding` transposes it first, which at batch 8 makes a
        # compiled decoding step of GPT-2 small 2 times slower on a CPU.
        y = ops.einsum("btd,vd->btv", x, ops.cast(self.embeddings, self.compute_dtype))
        return y if self.quantization_mode is None else y / ops.cast(self.embeddings_scale, y.dtype)
