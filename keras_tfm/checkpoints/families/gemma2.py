"""Gemma 2."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_tfm.checkpoints.config_keys import ACTIVATIONS, LARGEST, MOST_LAYERS, Choice, Number, Only, Size, value_at
from keras_tfm.checkpoints.families import llama
from keras_tfm.checkpoints.rotary_keys import Rotary
from keras_tfm.checkpoints.tensors import OneMore
from keras_tfm.checkpoints.window_keys import Windows
from keras_tfm.models import build_gemma2


@dataclasses.dataclass(frozen=True)
class AttentionScale:
    """The argument `attention_scale`, whose inverse square the config has."""

    keys: tuple[str, ...] = ("query_pre_attn_scalar",)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        scalar = value_at(config, self.keys[0], 256)
        if isinstance(scalar, bool) or not isinstance(scalar, int | float) or not 0 < scalar <= LARGEST:
            raise ValueError(f"`{self.keys[0]}` of the config must be a positive number. Received: {scalar!r}.")
        return {"attention_scale": scalar**-0.5}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scalar = (arguments["attention_scale"] or arguments["head_dim"] ** -0.5) ** -2
        nearest = round(scalar)
        return {self.keys[0]: nearest if nearest**-0.5 == arguments["attention_scale"] else scalar}


@dataclasses.dataclass(frozen=True)
class Cap:
    """A soft cap; null = none."""

    key: str
    argument: str
    default: float

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        cap = config.get(self.key, self.default)
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap <= LARGEST):
            raise ValueError(f"`{self.key}` of the config must be null or positive. Received: {cap!r}.")
        return {self.argument: cap}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {self.key: arguments[self.argument]}


CONFIG = (
    Size("vocab_size", "vocabulary_size"),
    Size("num_hidden_layers", "num_layers", most=MOST_LAYERS),
    Size("num_attention_heads", "num_heads"),
    Size("num_key_value_heads", "num_key_value_heads"),
    Size("hidden_size", "hidden_dim"),
    Size("intermediate_size", "intermediate_dim"),
    Size("head_dim", "head_dim", default=256),
    Number("rms_norm_eps", "norm_epsilon", default=1e-6),
    Choice("hidden_activation", "activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
    Only("hidden_act", "gelu_pytorch_tanh", also=(None, "gelu")),  # transformers reads the other key
    Rotary(head_dim=256),
    Windows(is_local=lambda config, layer: layer % 2 == 0, window=4096),
    AttentionScale(),
    Cap("attn_logit_softcapping", "attention_logit_cap", default=50.0),
    Cap("final_logit_softcapping", "logit_cap", default=30.0),
    Only("tie_word_embeddings", True),
    Only("attention_bias", False),
    Only("use_bidirectional_attention", None, also=(False,)),
)

_BLOCK, _OURS = "model.layers.{i}", "stack.blocks.{i}"
TENSORS = {
    **llama.TENSORS,
    f"{_BLOCK}.input_layernorm.weight": OneMore(f"{_OURS}.attention_wrap.norm_before.scale"),
    f"{_BLOCK}.post_attention_layernorm.weight": OneMore(f"{_OURS}.attention_wrap.norm_branch.scale"),
    f"{_BLOCK}.pre_feedforward_layernorm.weight": OneMore(f"{_OURS}.feed_forward_wrap.norm_before.scale"),
    f"{_BLOCK}.post_feedforward_layernorm.weight": OneMore(f"{_OURS}.feed_forward_wrap.norm_branch.scale"),
    "model.norm.weight": OneMore("stack.final_norm.scale"),
}


def describe(model: Any) -> dict:
    """The arguments of `build_gemma2` that give this model."""
    attention, feed_forward = model.stack.blocks[0].self_attention, model.stack.blocks[0].feed_forward
    shared = {
        name: value
        for name, value in llama.describe(model).items()
        if name not in ("biases", "query_key_norm", "tie_weights")
    }
    return {
        **shared,
        "activation": feed_forward.activation,
        "attention_scale": attention.scale,
        "attention_logit_cap": attention.logit_cap,
        "logit_cap": model.token_embedding.logit_cap,
    }


ARCHITECTURES = (
    llama.architecture("Gemma2ForCausalLM", "gemma2", CONFIG, build=build_gemma2, describe=describe, tensors=TENSORS),
)
