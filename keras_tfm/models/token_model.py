"""What models over token ids share: a Functional graph whose parts are attributes, and inputs that may be absent."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_tfm import compat
from keras_tfm.arguments import refuse_ragged
from keras_tfm.files import written_whole
from keras_tfm.layers.composite import (
    Composite,
    adapted_settings,
    freeze_parts,
    quantized_settings,
    revive,
    serialize,
    set_parts,
    trainable_settings,
)
from keras_tfm.layers.embeddings import TokenEmbedding
from keras_tfm.models import inference
from keras_tfm.models.inspection import Inspection, inspect
from keras_tfm.ops.positions import refuse_float_mask
from keras_tfm.types import Config, DTypeLike, LayerLike, PathLike, Tensor

INPUTS = {
    "token_ids": "int32",
    "segment_ids": "int32",
    "padding_mask": "bool",
    "document_ids": "int32",
    "mask_positions": "int32",
    "encoder_token_ids": "int32",
    "encoder_padding_mask": "bool",
    "decoder_token_ids": "int32",
    "decoder_padding_mask": "bool",
}


def token_inputs(*names: str, required: tuple[str, ...] = ("token_ids",)) -> dict[str, keras.KerasTensor]:
    """Symbolic inputs (B, T) by name, each of its dtype in `INPUTS`; all but those required may be left out in a call.

    Args:
        *names: those that may be left out.
        required: the others.
    """
    return {
        name: keras.Input((None,), dtype=INPUTS[name], name=name, optional=name not in required)
        for name in (*required, *names)
    }


def save_whole(save: Callable, filepath: str | os.PathLike, overwrite: bool, **options: Any) -> None:
    """Calls Keras' `save` of a model for a place beside `filepath`, and renames what is there then."""
    if "://" in str(filepath):  # no file of this machine
        save(filepath, overwrite=overwrite, **options)
        return
    with written_whole(filepath, overwrite) as unfinished:
        save(unfinished, **options)


class TokenModel(keras.Model):
    """A Functional model over token ids, called with an int array or with a dict in which optional inputs may miss.

    A class of models that reads more than one text says the names of its `required_inputs`, and takes dicts only.

    A model without "segment_ids" among its inputs leaves those that it is given unread, since all packers and datasets
    of this library give them. Inputs of other names are an error.

    Keras' `clone_model` makes a plain Functional model of it, without `generate` and with all inputs required:
    `type(model).from_config(model.get_config())` is a copy of the same kind.

    Subclasses write `_forward(token_ids, ...)` in terms of their parts, and `get_config` on top of the one here.

    Args:
        inputs: from `token_inputs`.
        parts: dict from attribute name to layer, or None; `_forward` reads them as attributes.
        dtype: the dtype policy that `compile` goes by; the parts have their own.
        trainable: bool, False freezes all parts.
        parts_trainable, parts_quantized, parts_adapted: as in `Composite`.
        parts_for_inference: dict from a projection's path to what `quantize_for_inference` made of its kernel.
        checkpoint: dict, what `keras_tfm.checkpoints.load` has noted for `save` and for exports; kept in .keras files.
    """

    required_inputs: tuple[str, ...] = ("token_ids",)

    def __init__(
        self,
        inputs: dict,
        parts: dict,
        dtype: DTypeLike | None = None,
        trainable: bool = True,
        parts_trainable: dict | None = None,
        parts_quantized: dict | None = None,
        parts_adapted: dict | None = None,
        parts_for_inference: dict | None = None,
        checkpoint: dict | None = None,
        **kwargs: Any,
    ):
        compat.set_before_init(self, parts)
        super().__init__(inputs=inputs, outputs=self._forward(**inputs), **kwargs)
        for layer in compat.all_layers(self, include_self=False):
            if not layer.trainable and not isinstance(layer, Composite | TokenModel):  # which see to it themselves
                freeze_parts(layer)  # revived as frozen, before it had parts that could be told
        if not trainable:  # True, passed on, would thaw the parts that are frozen by themselves
            self.trainable = False
        self.checkpoint = checkpoint or {}
        set_parts(self, parts_trainable or {}, parts_quantized or {}, parts_adapted or {})
        inference.restore(self, parts_for_inference or {})
        if dtype is not None:
            self.dtype_policy = dtype  # Keras drops a functional model's `dtype` argument

    def __call__(self, inputs: Tensor | dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        # Before Keras compares the structure of `inputs` with the functional graph's.
        return super().__call__(self._complete(inputs), *args, **kwargs)

    def call(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        # JAX's `fit` and `predict` come here directly.
        return super().call(self._complete(inputs), training=training, mask=mask)

    def compute_output_spec(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Any:
        # As a part of another model's graph: Keras knows no absent inputs there, and our own stand for them.
        given = self._complete(inputs)
        inputs = {x.name: x if given[x.name] is None else given[x.name] for x in self.inputs}
        return super().compute_output_spec(inputs, training=training)

    def _complete(self, inputs) -> dict:
        """The dict of all inputs; None for those not given."""
        known, required = [tensor.name for tensor in self.inputs], self.required_inputs
        if not isinstance(inputs, dict):
            if len(required) > 1:
                raise TypeError(
                    f"The inputs of {self.name!r} must be a dict of {known}, {list(required)} among them. "
                    f"Received: {type(inputs).__name__}."
                )
            inputs = {required[0]: _as_array(inputs)}
        unknown = sorted(set(inputs) - {*known, "segment_ids"})
        if unknown or not set(required) <= set(inputs):
            raise ValueError(
                f"The inputs of {self.name!r} must be named {known}, {', '.join(map(repr, required))} among them. "
                f"Received: {sorted(inputs)}."
            )
        for name, x in inputs.items():
            refuse_ragged(x, name)
            if name.endswith("padding_mask"):
                refuse_float_mask(x, name)  # Keras would cast it to bool
        return {name: inputs.get(name) for name in known}

    def inspect(self, inputs: Tensor | dict[str, Tensor]) -> Inspection:
        """The hidden states of each block and the attention weights of each head for these inputs.

        Args:
            inputs: as the model is called with. Padding, packed documents and windows count as they do there.

        Returns:
            `Inspection`: `hidden_states`, `attention_weights` and more, as arrays; see `keras_tfm.models.inspect`,
            which takes models of your own.

        Example:
            >>> inspection = build_gpt("nano", vocabulary_size=512).inspect([[5, 7, 3]])
            >>> len(inspection.hidden_states), inspection.attention_weights[0].shape
            (5, (1, 4, 3, 3))
        """
        return inspect(self, inputs)

    def save(self, filepath: PathLike, overwrite: bool = True, **options: Any) -> None:
        """Keras' `save`, but that the file is there whole or not at all; see `written_whole`.

        Args:
            filepath: a file whose name ends in ".keras".
            overwrite: bool, whether it may exist, to be replaced.
            **options: as Keras has them, such as `zipped`.

        Raises:
            FileExistsError: if it exists and may not; Keras would ask on the terminal.
        """
        save_whole(super().save, filepath, overwrite, **options)

    def quantize_for_inference(
        self, dtype: str, calibration: Any = None, largest_error: float = inference.LARGEST_ERROR
    ) -> None:
        """Holds the kernels of all projections as processors multiply them fast, in place: for inference only.

        Reading in plain graphs - pipelines, `predict`, SavedModels - becomes faster on processors with VNNI or AMX
        ("int8") or with bfloat16 instructions ("bfloat16"); elsewhere it may be slower: measure it. All but the
        projections stays in the compute dtype. The model saves, reloads and exports as it is. Weights must not change
        after the first call.

        "int8" keeps one scale for each output of a kernel and rounds each row of inputs by its own; half of what makes
        an outlier channel large moves into the weights. Each product is then tried in 8 bits by itself, and those that
        lose most for the work that they save are done in bfloat16, until the rest loses at most `largest_error`. The
        model is called once for each text and for each of its projections: BERT base takes a minute.

        The products are oneDNN's, by an operation that stock TensorFlow has on x86; eagerly, under XLA and on other
        machines and backends, products of floats give the same numbers, and no speed. A SavedModel holds the
        operation: see `export` of the pipelines.

        Args:
            dtype: "int8" or "bfloat16".
            calibration: for "int8", inputs as the model is called with, or a list of such, of some texts of the kind
                that it is to read; 32 do.
            largest_error: of the model's outputs for these texts, to their standard deviation. 1 keeps all in 8 bits.

        Raises:
            ValueError: for another dtype, for "int8" without calibration, for a model with adapters that are not
                merged, or that is quantized already.

        Example:
            >>> encoder = build_bert("tiny", vocabulary_size=100)
            >>> encoder.quantize_for_inference("int8", np.array([[1, 2, 3]]))

        Reference:
            Xiao et al. 2022, "SmoothQuant", https://arxiv.org/abs/2211.10438
        """
        inference.quantize(self, dtype, calibration, largest_error)

    def set_weights(self, weights: Any) -> None:
        """Keras' `set_weights`; it raises if a graph has kept the weights, see `quantize_for_inference`."""
        inference.check_are_not_kept(self)
        super().set_weights(weights)

    def load_weights(self, filepath: PathLike, *arguments: Any, **options: Any) -> None:
        """Keras' `load_weights`; it raises if a graph has kept the weights, before any is loaded."""
        inference.check_are_not_kept(self)
        super().load_weights(filepath, *arguments, **options)

    def compile_from_config(self, config: Config) -> None:
        # Keras compiles a reloaded model anew only if `compile` is its own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": serialize(self.dtype_policy),
            "parts_trainable": trainable_settings(self),
            "parts_quantized": quantized_settings(self),
            "parts_adapted": adapted_settings(self),
            "parts_for_inference": inference.settings_of(self),
            "checkpoint": self.checkpoint,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Any = None) -> Any:
        if "labels" in config:  # files of before the argument was called so
            config = {**config, "class_names": config["labels"]}
            del config["labels"]
        return cls(**config)


def _as_array(inputs):
    """Lists of token ids as an array: Keras would take each number for an input of its own."""
    if not isinstance(inputs, list | tuple):
        return inputs
    try:
        ids = np.asarray(inputs)
    except ValueError:  # rows of different lengths
        ids = np.empty((), object)
    if ids.dtype.kind not in "iu":
        raise TypeError(
            "Token ids must be an int array (B, T), or a list of lists of one length. "
            f"Received: {inputs!s:.80}. Pad shorter rows and pass a `padding_mask`."
        )
    return ids


def as_embedding(part: Any, name: str = "token_embedding") -> TokenEmbedding:
    """The `TokenEmbedding` itself, or the one that its config describes; a TypeError for anything else.

    name: of the caller's argument.
    """
    part = revive(part)
    if not isinstance(part, TokenEmbedding):
        raise TypeError(
            f"`{name}` must be a `TokenEmbedding(vocabulary_size, hidden_dim)`. "
            f"Received: {part!r:.80} of type {type(part).__name__}."
        )
    return part


def check_blocks(stack: LayerLike, name: str = "stack") -> None:
    """Raises for a stack, given in the argument `name`, whose blocks wait for a context that there is none of."""
    for i, block in enumerate(getattr(stack, "blocks", ())):
        if getattr(block, "cross_attention", None) is not None:
            raise ValueError(
                f"The blocks of `{name}` must be without cross-attention: it reads one text, and no `context`. "
                f"Received: a cross_attention in block {i}. Make the block without it, or make a `Seq2SeqLM`, whose "
                "decoder has it."
            )
