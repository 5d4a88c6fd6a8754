"""GPT-NeoX and Pythia."""

from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Flag, Number, Only, Size
from keras_tfm.checkpoints.rotary_keys import Rotary
from keras_tfm.checkpoints.tensors import FusedByHead, Transposed
from keras_tfm.layers import ParallelTransformerBlock
from keras_tfm.models import build_gpt_neox

CONFIG = (
    Size("vocab_size", "vocabulary_size"),
    Size("num_hidden_layers", "num_layers", most=MOST_LAYERS),
    Size("num_attention_heads", "num_heads"),
    Size("hidden_size", "hidden_dim"),
    Size("intermediate_size", "intermediate_dim"),
    Number("layer_norm_eps", "norm_epsilon", default=1e-5),
    Choice("hidden_act", "activation", ACTIVATIONS, default="gelu"),
    Flag("use_parallel_residual", "parallel", default=True),
    Flag("tie_word_embeddings", "tie_weights", default=False),
    Rotary(theta_key="rotary_emb_base", part_key="rotary_pct", part=0.25),
    Only("attention_bias", True),
    Only("is_decoder", False, also=(True,)),
)

_BLOCK, _OURS = "gpt_neox.layers.{i}", "stack.blocks.{i}"
_ATTENTION, _FEED_FORWARD = f"{_OURS}.self_attention", f"{_OURS}.feed_forward"
TENSORS = {
    "gpt_neox.embed_in.weight": "token_embedding.embedding.embeddings",
    f"{_BLOCK}.input_layernorm.weight": f"{_OURS}.attention_wrap.norm_before.gamma",
    f"{_BLOCK}.input_layernorm.bias": f"{_OURS}.attention_wrap.norm_before.beta",
    f"{_BLOCK}.post_attention_layernorm.weight": f"{_OURS}.feed_forward_wrap.norm_before.gamma",
    f"{_BLOCK}.post_attention_layernorm.bias": f"{_OURS}.feed_forward_wrap.norm_before.beta",
    f"{_BLOCK}.attention.query_key_value.weight": FusedByHead(_ATTENTION, "kernel"),
    f"{_BLOCK}.attention.query_key_value.bias": FusedByHead(_ATTENTION, "bias"),
    f"{_BLOCK}.attention.dense.weight": Transposed(f"{_ATTENTION}.output_dense.kernel"),
    f"{_BLOCK}.attention.dense.bias": f"{_ATTENTION}.output_dense.bias",
    f"{_BLOCK}.mlp.dense_h_to_4h.weight": Transposed(f"{_FEED_FORWARD}.intermediate_dense.kernel"),
    f"{_BLOCK}.mlp.dense_h_to_4h.bias": f"{_FEED_FORWARD}.intermediate_dense.bias",
    f"{_BLOCK}.mlp.dense_4h_to_h.weight": Transposed(f"{_FEED_FORWARD}.output_dense.kernel"),
    f"{_BLOCK}.mlp.dense_4h_to_h.bias": f"{_FEED_FORWARD}.output_dense.bias",
    "gpt_neox.final_layer_norm.weight": "stack.final_norm.gamma",
    "gpt_neox.final_layer_norm.bias": "stack.final_norm.beta",
    "embed_out.weight": Transposed("head.kernel"),
    # Causal masks and angles, which old versions saved.
    f"{_BLOCK}.attention.bias": None,
    f"{_BLOCK}.attention.masked_bias": None,
    f"{_BLOCK}.attention.rotary_emb.inv_freq": None,
}


def describe(model: Any) -> dict:
    """The arguments of `build_gpt_neox` that give this model."""
    block = model.stack.blocks[0]
    return {
        "vocabulary_size": model.token_embedding.vocabulary_size,
        "num_layers": len(model.stack.blocks),
        "num_heads": block.self_attention.num_heads,
        "hidden_dim": model.token_embedding.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "norm_epsilon": block.norm.epsilon,
        "activation": block.feed_forward.activation,
        "parallel": isinstance(block, ParallelTransformerBlock),
        "tie_weights": model.head is None,
        "rotary": block.self_attention.rotary,
    }


ARCHITECTURES = (
    Architecture(
        name="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        config=CONFIG,
        tensors=TENSORS,
        build=build_gpt_neox,
        describe=describe,
        prefix="gpt_neox.",
        aliases=("GPTNeoXModel",),
        copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
    ),
)
