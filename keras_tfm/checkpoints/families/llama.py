"""Llama 1 to 3, SmolLM and others of exactly that wiring."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import MOST_LAYERS, Always, Flag, Number, Only, Size, value_at
from keras_tfm.checkpoints.rotary_keys import Rotary
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.checkpoints.window_keys import windows_of
from keras_tfm.models import build_llama
from keras_tfm.models.llama import BIASES


def shared_config(num_key_value_heads: int | None = None, head_dim: int | None = None) -> tuple:
    """What the configs of Llama, Mistral and Qwen have in common.

    Args:
        num_key_value_heads: what a config without the key means; null always means as many as heads. Default: those.
        head_dim: what a config without the key means. Default: the width divided by the number of heads.
    """

    def heads_without_key(config):
        is_null = "num_key_value_heads" in config
        return config.get("num_attention_heads") if is_null or num_key_value_heads is None else num_key_value_heads

    return (
        Size("vocab_size", "vocabulary_size"),
        Size("num_hidden_layers", "num_layers", most=MOST_LAYERS),
        Size("num_attention_heads", "num_heads"),
        Size("num_key_value_heads", "num_key_value_heads", default=heads_without_key),
        Size("hidden_size", "hidden_dim"),
        Size("intermediate_size", "intermediate_dim"),
        Size(
            "head_dim",
            "head_dim",
            default=lambda config: head_dim or config["hidden_size"] // config["num_attention_heads"],
        ),
        Number("rms_norm_eps", "norm_epsilon", default=1e-6),
        Flag("tie_word_embeddings", "tie_weights", default=False),
        Only("hidden_act", "silu", also=("swish",)),
        Rotary(head_dim=head_dim),
        Only("rope_interleaved", False),
        Only("use_mrope", False),
    )


@dataclasses.dataclass(frozen=True)
class Biases:
    """The argument `biases`: Llama's configs name those of attention and of the feed-forward."""

    keys: tuple[str, ...] = ("attention_bias", "mlp_bias")

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        attention, feed_forward = (value_at(config, key, False) for key in self.keys)
        for key, value in zip(self.keys, (attention, feed_forward), strict=True):
            if not isinstance(value, bool):
                raise ValueError(f"`{key}` of the config must be true or false. Received: {value!r}.")
        return {"biases": (*BIASES[:2],) * attention + (BIASES[2],) * feed_forward}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        biases = arguments["biases"]
        return {"attention_bias": BIASES[0] in biases, "mlp_bias": BIASES[2] in biases}


_BLOCK, _OURS = "model.layers.{i}", "stack.blocks.{i}"
_ATTENTION, _FEED_FORWARD = f"{_OURS}.self_attention", f"{_OURS}.feed_forward"
_LINEAR = {
    "self_attn.q_proj": f"{_ATTENTION}.query_dense",
    "self_attn.k_proj": f"{_ATTENTION}.key_dense",
    "self_attn.v_proj": f"{_ATTENTION}.value_dense",
    "self_attn.o_proj": f"{_ATTENTION}.output_dense",
    "mlp.gate_proj": f"{_FEED_FORWARD}.gate_dense",
    "mlp.up_proj": f"{_FEED_FORWARD}.intermediate_dense",
    "mlp.down_proj": f"{_FEED_FORWARD}.output_dense",
}
TENSORS = {
    "model.embed_tokens.weight": "token_embedding.embedding.embeddings",
    f"{_BLOCK}.input_layernorm.weight": f"{_OURS}.attention_wrap.norm_before.scale",
    f"{_BLOCK}.post_attention_layernorm.weight": f"{_OURS}.feed_forward_wrap.norm_before.scale",
    f"{_BLOCK}.self_attn.q_norm.weight": f"{_ATTENTION}.query_norm.scale",
    f"{_BLOCK}.self_attn.k_norm.weight": f"{_ATTENTION}.key_norm.scale",
    **{f"{_BLOCK}.{theirs}.weight": Transposed(f"{ours}.kernel") for theirs, ours in _LINEAR.items()},
    **{f"{_BLOCK}.{theirs}.bias": f"{ours}.bias" for theirs, ours in _LINEAR.items()},
    "model.norm.weight": "stack.final_norm.scale",
    "lm_head.weight": Transposed("head.kernel"),
    f"{_BLOCK}.self_attn.rotary_emb.inv_freq": None,  # old versions saved what follows from the config
}


def describe(model: Any) -> dict:
    """The arguments of `build_llama` that give this model."""
    block = model.stack.blocks[0]
    attention = block.self_attention
    with_bias = (attention.use_bias, attention.output_use_bias, block.feed_forward.use_bias)
    return {
        "vocabulary_size": model.token_embedding.vocabulary_size,
        "num_layers": len(model.stack.blocks),
        "num_heads": attention.num_heads,
        "num_key_value_heads": attention.num_key_value_heads,
        "hidden_dim": model.token_embedding.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "head_dim": attention.head_dim,
        "rotary": attention.rotary,
        "norm_epsilon": block.norm.epsilon,
        "tie_weights": model.head is None,
        "windows": windows_of(model),
        "query_key_norm": attention.query_key_norm is not None,
        "biases": tuple(bias for bias, has_it in zip(BIASES, with_bias, strict=True) if has_it),
    }


def architecture(
    name: str,
    model_type: str,
    config: tuple,
    build: Callable[..., Any] = build_llama,
    describe: Callable[[Any], dict[str, Any]] = describe,
    tensors: Any = TENSORS,
) -> Architecture:
    """An `Architecture` whose files have Llama's names; `name` ends in "ForCausalLM"."""
    return Architecture(
        name=name,
        model_type=model_type,
        config=config,
        tensors=tensors,
        build=build,
        describe=describe,
        prefix="model.",
        aliases=(name.replace("ForCausalLM", "Model"),),
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    )


ARCHITECTURES = (
    architecture(
        "LlamaForCausalLM",
        "llama",
        (*shared_config(), Biases(), Always("windows", (None,)), Always("query_key_norm", False)),
    ),
)
