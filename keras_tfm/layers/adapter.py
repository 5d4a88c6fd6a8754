"""What stands beside a layer that stays as it is: the base class of adapters, IA3, bottlenecks and virtual tokens."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_tfm import compat
from keras_tfm.arguments import as_integer
from keras_tfm.ops.tensors import size
from keras_tfm.types import ActivationLike, Config, Shape, Tensor

_rows: contextvars.ContextVar[Mapping[str, Tensor] | None] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def rows_with_adapters(rows: Mapping[str, Tensor]) -> Iterator[None]:
    """In this scope each row of a batch has adapters of its own.

    Args:
        rows: name of an adapter -> bool (B,), the rows that use it. Those whose name is not there serve no row.
    """
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


class Adapter(keras.layers.Layer):
    """Base class of adapters: what a `Projection` asks them before, in and after its product.

    A subclass overrides what it changes. Beside a `Projection` it must change nothing when it is new.

    Args:
        share: float, how much of the change counts; 0 = none, and nothing is computed.
        merged: bool, whether the change is in the kernel already.
        **kwargs: those of `keras.layers.Layer`; the `name` is the adapter's.
    """

    is_linear = False  # whether `merged_with` answers
    dropout = 0.0  # rate of it in training
    reads_kernel = False  # whether `changed` is given the kernel, and the product without the bias

    def __init__(self, share: float = 1.0, merged: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.share = float(share)
        self.merged = merged

    @property
    def is_active(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.share) and not self.merged

    def where_used(self, changed: Tensor, plain: Tensor) -> Tensor:
        """Of two (B, ...) the changed one, in the rows that use this adapter; see `rows_with_adapters`."""
        rows = _rows.get()
        if rows is None or changed is plain:
            return changed
        if self.name not in rows:
            return plain
        return ops.where(ops.reshape(rows[self.name], (-1, *[1] * (len(plain.shape) - 1))), changed, plain)

    def before(self, x: Tensor) -> Tensor:
        """The inputs (B, T, inputs) of the dense layer."""
        return x

    def changed(self, y: Tensor, x: Tensor, kernel: Any = None, training: bool | None = None) -> Tensor:
        """The product (B, T, units) of the inputs `x`."""
        return y

    def after(self, y: Tensor) -> Tensor:
        """The outputs (B, T, units), with the bias."""
        return y

    def merged_with(self, kernel: Tensor, bias: Any) -> tuple[Tensor, Any]:
        """(kernel float32 (inputs, units), bias or None) of a dense layer that computes what both do.

        Raises:
            ValueError: if there is none.
        """
        raise ValueError(
            f"An adapter must be linear to be merged. Received: {self.name!r}, a {type(self).__name__}. Leave it as it "
            "is."
        )

    def get_config(self) -> Config:
        return {**super().get_config(), "share": self.share, "merged": self.merged}


class Adaptable(keras.layers.Layer):
    """Base class of layers that may have adapters beside their weight, which is frozen then."""

    adapters: Sequence[Adapter] = ()

    def add_adapter(self, adapter: Adapter) -> None:
        """Puts a built adapter beside the weights, which are frozen."""
        with compat.unlocked(self):
            self.adapters = [*self.adapters, adapter]
        for variable in compat.own_variables(self):
            variable.trainable = False

    def remove_adapters(self, is_removed: Callable[[Adapter], bool]) -> None:
        """Takes adapters away, with their weights."""
        for adapter in filter(is_removed, self.adapters):
            compat.remove_layer(self, adapter)
        with compat.unlocked(self):
            self.adapters = [adapter for adapter in self.adapters if not is_removed(adapter)]


@keras.saving.register_keras_serializable(package="keras_tfm")
class Ia3(Adapter):
    """A learned factor on each output of a dense layer, or on each input; ones at first.

    `keras_tfm.adapters.add_ia3` puts them beside the projections of a model.

    Args:
        size: int, number of factors.
        on_inputs: bool, the factors are for the inputs (the paper has this in feed-forwards), not the outputs.
        share, merged, **kwargs: as in `Adapter`; of each factor's distance from 1.

    Call arguments:
        x: float (..., size).

    Returns:
        float (..., size).

    Example:
        >>> Ia3(size=4)(np.ones((1, 3, 4), "float32")).shape
        (1, 3, 4)

    Reference:
        Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
        section 3.3, https://arxiv.org/abs/2205.05638
    """

    is_linear = True

    def __init__(self, size: int, on_inputs: bool = False, share: float = 1.0, merged: bool = False, **kwargs: Any):
        super().__init__(share, merged, **kwargs)
        self.size: int = as_integer("size", size, 1)
        self.on_inputs = on_inputs

    def build(self, x_shape: Shape) -> None:
        self.factors = self.add_weight(shape=(self.size,), initializer="ones", name="factors")

    @property
    def whole_factors(self) -> Tensor:
        """float32 (size,): with the share."""
        return 1.0 + self.share * (ops.cast(self.factors, "float32") - 1.0)

    def call(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.whole_factors, x.dtype)

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def before(self, x: Tensor) -> Tensor:
        return self(x) if self.on_inputs else x

    def after(self, y: Tensor) -> Tensor:
        return y if self.on_inputs else self(y)

    def merged_with(self, kernel: Tensor, bias: Any) -> tuple[Tensor, Any]:
        factors, kernel = self.whole_factors, ops.cast(kernel, "float32")
        if self.on_inputs:
            return kernel * factors[:, None], bias
        return kernel * factors, None if bias is None else ops.cast(bias, "float32") * factors

    def get_config(self) -> Config:
        return {**super().get_config(), "size": self.size, "on_inputs": self.on_inputs}


@keras.saving.register_keras_serializable(package="keras_tfm")
class Bottleneck(Adapter):
    """A small feed-forward after a dense layer, y + share * up(activation(down(y))); `up` begins with zeros.

    `keras_tfm.adapters.add_bottlenecks` puts them after the output projections of attention and feed-forward, before
    their residual connections.

    Args:
        units: int, number of outputs of the dense layer.
        bottleneck_dim: int, columns of `down` and rows of `up`.
        activation: of the hidden units.
        share, merged, **kwargs: as in `Adapter`.

    Call arguments:
        y: float (..., units).

    Returns:
        float (..., units).

    Example:
        >>> Bottleneck(units=8, bottleneck_dim=2)(np.ones((1, 3, 8), "float32")).shape
        (1, 3, 8)

    Reference:
        Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2.1,
        https://arxiv.org/abs/1902.00751
    """

    def __init__(
        self,
        units: int,
        bottleneck_dim: int = 16,
        activation: ActivationLike = "gelu",
        share: float = 1.0,
        merged: bool = False,
        **kwargs: Any,
    ):
        super().__init__(share, merged, **kwargs)
        self.units: int = as_integer("units", units, 1)
        self.bottleneck_dim: int = as_integer("bottleneck_dim", bottleneck_dim, 1)
        self.activation = keras.activations.get(activation)

    def build(self, y_shape: Shape) -> None:
        shape = (self.units, self.bottleneck_dim)
        draw = keras.initializers.TruncatedNormal(stddev=0.01)  # as in section 3.6
        self.down = self.add_weight(shape=shape, initializer=draw, name="down")
        self.down_bias = self.add_weight(shape=shape[1:], initializer="zeros", name="down_bias")
        self.up = self.add_weight(shape=shape[::-1], initializer="zeros", name="up")
        self.up_bias = self.add_weight(shape=shape[:1], initializer="zeros", name="up_bias")

    def call(self, y: Tensor) -> Tensor:
        down, down_bias, up, up_bias = (
            ops.cast(weight, self.compute_dtype) for weight in (self.down, self.down_bias, self.up, self.up_bias)
        )
        hidden = self.activation(ops.matmul(y, down) + down_bias)
        return y + self.share * (ops.matmul(hidden, up) + up_bias)

    def compute_output_shape(self, y_shape: Shape) -> Shape:
        return y_shape

    def after(self, y: Tensor) -> Tensor:
        return self(y)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "bottleneck_dim": self.bottleneck_dim,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class VirtualTokens(Adapter):
    """Learned vectors that a model reads before each text, as if they were tokens (prompt tuning).

    `keras_tfm.adapters.add_virtual_tokens` puts them beside the token table of a `CausalLM`.

    Args:
        num_tokens: int, how many.
        hidden_dim: int, width of the vectors.
        share, merged, **kwargs: as in `Adapter`; `share` is 0 or 1.

    Call arguments:
        token_ids: int32 (B, T), of which only B counts.

    Returns:
        float (B, num_tokens, hidden_dim), the same vectors for each row.

    Example:
        >>> VirtualTokens(num_tokens=5, hidden_dim=8)(np.zeros((2, 3), "int32")).shape
        (2, 5, 8)

    Reference:
        Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", https://arxiv.org/abs/2104.08691
    """

    def __init__(self, num_tokens: int, hidden_dim: int, share: float = 1.0, merged: bool = False, **kwargs: Any):
        super().__init__(share, merged, **kwargs)
        self.num_tokens: int = as_integer("num_tokens", num_tokens, 1)
        self.hidden_dim: int = as_integer("hidden_dim", hidden_dim, 1)

    def build(self, token_ids_shape: Shape) -> None:
        shape = (self.num_tokens, self.hidden_dim)
        self.vectors = self.add_weight(shape=shape, initializer="uniform", name="vectors")

    def call(self, token_ids: Tensor) -> Tensor:
        vectors = ops.cast(self.vectors, self.compute_dtype)
        return ops.broadcast_to(vectors[None], (size(token_ids, 0), self.num_tokens, self.hidden_dim))

    def compute_output_shape(self, token_ids_shape: Shape) -> Shape:
        return (token_ids_shape[0], self.num_tokens, self.hidden_dim)

    def compute_output_spec(self, token_ids: Tensor) -> Any:
        return keras.KerasTensor(self.compute_output_shape(token_ids.shape), dtype=self.compute_dtype)

    def get_config(self) -> Config:
        return {**super().get_config(), "num_tokens": self.num_tokens, "hidden_dim": self.hidden_dim}
