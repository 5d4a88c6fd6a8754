"""The table of token vectors, read in both directions."""

import keras
from keras import ops

from keras_tfm.layers.int8_rows import Int8Rows, refuse_rounded, replace_weight
from keras_tfm.ops.gather import look_up


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenTable(keras.layers.Embedding):
    """`keras.layers.Embedding` that also gives the logits of states, and can be held in 8 bits.

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

    int8_rows = None

    def to_int8(self) -> None:
        """Rounds the table to 8 bits; it cannot be trained after that."""
        if self.int8_rows is None:
            refuse_rounded(self, self.quantization_mode)
            self.int8_rows = replace_weight(self, "embeddings", Int8Rows.of(self.embeddings))

    def quantize(self, mode=None, type_check=True, config=None):
        """Keras' quantization, which it leaves to its own classes unless told otherwise; "int8" only."""
        refuse_rounded(self, None if self.int8_rows is None else "`to_int8`")
        if mode != "int8":
            raise NotImplementedError(
                f'A table of tokens can be quantized to "int8" only. Received: mode={mode!r}. It stays as it is; leave '
                "it out with `filters` to be rid of this warning."
            )
        super().quantize(mode, type_check=False, config=config)

    def call(self, inputs):
        if self.int8_rows is None:
            if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
                inputs = ops.cast(inputs, "int32")
            return look_up(self.embeddings, inputs, self.compute_dtype)
        values, scale = (ops.take(part, inputs, axis=0) for part in self.int8_rows)
        return ops.cast(ops.cast(values, "float32") * scale[..., None], self.compute_dtype)

    def logits(self, x):
        """float (B, T, output_dim) -> (B, T, input_dim)."""
        if self.int8_rows is not None:
            return self.int8_rows.product(x)
        # An einsum reads the table as it lies; `ReversibleEmbedding` transposes it first, which at batch 8 makes a
        # compiled decoding step of GPT-2 small 2 times slower on a CPU.
        y = ops.einsum("btd,vd->btv", x, ops.cast(self.embeddings, self.compute_dtype))
        return y if self.quantization_mode is None else y / ops.cast(self.embeddings_scale, y.dtype)

    def save_own_variables(self, store):
        if self.int8_rows is None:
            return super().save_own_variables(store)
        for i, variable in enumerate(self.int8_rows):
            store[str(i)] = variable

    def load_own_variables(self, store):
        if self.int8_rows is None:
            return super().load_own_variables(store)
        for i, variable in enumerate(self.int8_rows):
            variable.assign(store[str(i)])
