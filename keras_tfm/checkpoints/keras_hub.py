"""Backbones of KerasHub as models of this library."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_tfm.checkpoints.filling import build_empty, fill
from keras_tfm.checkpoints.tensors import Same
from keras_tfm.layers import Llama3Scaling, RotaryEmbedding
from keras_tfm.models import build_bert, build_gpt, build_llama
from keras_tfm.ops import gelu_tanh
from keras_tfm.ops.tensors import known_value
from keras_tfm.types import DTypeLike


@dataclasses.dataclass(frozen=True)
class PerHead(Same):
    """KerasHub keeps head and feature apart: (D, N, H), (N, H) or, where heads come in, (N, H, D).

    Args:
        path: the variable: (D, N*H), (N*H,) or (N*H, D).
        heads: path of the number of heads.
        come_in: bool, the heads are the first axis.
    """

    heads: str
    come_in: bool = False

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        shape, num_heads = tuple(get(self.path).shape), get(self.heads)
        if self.come_in:
            return (num_heads, shape[0] // num_heads, *shape[1:])
        return (*shape[:-1], num_heads, shape[-1] // num_heads)

    def unit(self, get: Callable[[str], Any]) -> int:
        return self.shape(get)[0]

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        return [tensor.reshape(get(self.path).shape)]


def _blocks(attention: str, norms: tuple[str, str], placement: str, weights: tuple, dense: tuple) -> dict[str, Any]:
    """The tensors of KerasHub's blocks, whose layers are named slightly differently in each family.

    Args:
        attention: name of the attention layer.
        norms: names of the norms of attention and of the feed-forward.
        placement: "before" or "after".
        weights: of a norm.
        dense: the layers of the feed-forward.
    """
    theirs, ours = "transformer_layer_{i}", "stack.blocks.{i}"
    heads = {"query": "num_heads", "key": "num_key_value_heads", "value": "num_key_value_heads"}
    tensors: dict[str, Any] = {}
    for part in ("kernel", "bias"):
        for name, number in heads.items():
            path, count = f"{ours}.self_attention.{name}_dense.{part}", f"{ours}.self_attention.{number}"
            tensors[f"{theirs}/{attention}/{name}/{part}"] = PerHead(path, count)
        for name in dense:
            tensors[f"{theirs}/feedforward_{name}_dense/{part}"] = f"{ours}.feed_forward.{name}_dense.{part}"
    output = f"{ours}.self_attention.output_dense"
    tensors[f"{theirs}/{attention}/attention_output/kernel"] = PerHead(
        f"{output}.kernel", f"{ours}.self_attention.num_heads", come_in=True
    )
    tensors[f"{theirs}/{attention}/attention_output/bias"] = f"{output}.bias"
    for norm, wrap in zip(norms, ("attention_wrap", "feed_forward_wrap"), strict=True):
        tensors |= {f"{theirs}/{norm}/{weight}": f"{ours}.{wrap}.norm_{placement}.{weight}" for weight in weights}
    return tensors


_NORM, _RMS = ("gamma", "beta"), ("scale",)
_EMBEDDINGS = {
    "token_embedding/embeddings": "token_embedding.embedding.embeddings",
    "position_embedding/embeddings": "token_embedding.position.embeddings",
}
_PLAIN, _GATED = ("intermediate", "output"), ("intermediate", "gate", "output")
_NORMS = ("self_attention_layer_norm", "feedforward_layer_norm")
_GPT2 = {
    **_EMBEDDINGS,
    **_blocks("self_attention", _NORMS, "before", _NORM, _PLAIN),
    **{f"layer_norm/{weight}": f"stack.final_norm.{weight}" for weight in _NORM},
}
_BERT = {
    **_EMBEDDINGS,
    "segment_embedding/embeddings": "token_embedding.segment.embeddings",
    **{f"embeddings_layer_norm/{weight}": f"token_embedding.norm.{weight}" for weight in _NORM},
    **_blocks("self_attention_layer", _NORMS, "after", _NORM, _PLAIN),
    "pooled_dense/kernel": "pooler.kernel",
    "pooled_dense/bias": "pooler.bias",
}
_LLAMA = {
    "token_embedding/embeddings": "token_embedding.embedding.embeddings",
    **_blocks("self_attention", ("self_attention_layernorm", "feedforward_layernorm"), "before", _RMS, _GATED),
    "sequence_output_layernorm/scale": "stack.final_norm.scale",
    "token_embedding/reverse_embeddings": "head.kernel",
}


def _gpt2(backbone) -> keras.Model:
    return build_gpt(
        **_sizes(backbone, "max_sequence_length", "num_heads"),
        activation=gelu_tanh,
        norm_epsilon=backbone.get_layer("layer_norm").epsilon,
        dropout=backbone.dropout,
    )


def _bert(backbone) -> keras.Model:
    return build_bert(
        **_sizes(backbone, "max_sequence_length", "num_heads", "num_segments"),
        activation=gelu_tanh,  # KerasHub's choice; Google's is the exact form
        norm_epsilon=backbone.get_layer("embeddings_layer_norm").epsilon,
        dropout=backbone.dropout,
    )


def _llama(backbone) -> keras.Model:
    if backbone.rope_position_scaling_factor != 1:
        raise ValueError(
            "`rope_position_scaling_factor` of the backbone must be 1: KerasHub 0.32 keeps the number and computes "
            f"without it. Received: {backbone.rope_position_scaling_factor}. Build the model with `build_llama` and "
            "`LinearScaling`, or load the original checkpoint."
        )
    scaling = None
    if backbone.rope_frequency_adjustment_factor is not None:
        scaling = Llama3Scaling(
            factor=backbone.rope_frequency_adjustment_factor,
            original_max_sequence_length=backbone.rope_pretraining_sequence_length,
            low_frequency_factor=backbone.rope_low_freq_factor,
            high_frequency_factor=backbone.rope_high_freq_factor,
        )
    return build_llama(
        **_sizes(backbone, "num_key_value_heads"),
        num_heads=backbone.num_query_heads,
        rotary=RotaryEmbedding(backbone.rope_max_wavelength, scaling=scaling),
        norm_epsilon=backbone.layer_norm_epsilon,
        tie_weights=backbone.token_embedding.tie_weights,
    )


def _sizes(backbone, *names: str) -> dict[str, Any]:
    shared = ("vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim")
    return {name: getattr(backbone, name) for name in (*shared, *names)}


# The class of the backbone -> (what builds our model, the tensors).
_FAMILIES: dict[str, tuple[Callable, dict[str, Any]]] = {
    "GPT2Backbone": (_gpt2, _GPT2),
    "BertBackbone": (_bert, _BERT),
    "Llama3Backbone": (_llama, _LLAMA),
    "LlamaBackbone": (_llama, _LLAMA),
}


class _Weights:
    """The weights of a Keras model as a source of tensors, by their paths."""

    def __init__(self, model: keras.Model):
        self.place = f"the backbone {model.name!r}"
        self._weights = {weight.path: weight for weight in model.weights}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(weight.shape) for path, weight in self._weights.items()}

    def check_types(self, names: Iterable[str]) -> None:
        """Weights of a model are of floats."""

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return known_value(self._weights[name])[start:stop]


def from_keras_hub(backbone: Any, dtype: DTypeLike | None = None) -> keras.Model:
    """Turns a backbone of KerasHub into a model of this library, with a copy of its weights.

    `CausalLM` then gives the logits that KerasHub's own task model gives, and generates, streams and exports; `save`
    writes it for Hugging Face.

    Args:
        backbone: `keras_hub.models.GPT2Backbone`, `LlamaBackbone`, `Llama3Backbone` or `BertBackbone`.
        dtype: dtype policy of the layers. Default: Keras' global policy.

    Returns:
        `CausalLM`; for `BertBackbone` the encoder, `Bert`.

    Raises:
        ValueError: for another class, or weights that do not fit.

    Example:
        >>> backbone = keras_hub.models.GPT2Backbone.from_preset("gpt2_base_en")
        >>> model = ktfm.checkpoints.from_keras_hub(backbone)
    """
    # By the exact class: Mistral's backbone, say, is one of Llama's with other rules.
    kind = type(backbone).__name__
    if kind not in _FAMILIES:
        advice = " Pass its `.backbone`." if hasattr(backbone, "backbone") else ""
        raise ValueError(f"`backbone` must be one of {sorted(_FAMILIES)} of KerasHub. Received: {kind}.{advice}")
    build, tensors = _FAMILIES[kind]
    model = build_empty(lambda: build(backbone), dtype)
    fill(model, tensors, _Weights(backbone))
    return model
