"""BLOOM."""

from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import MOST_LAYERS, Harmless, Number, Only, Size
from keras_tfm.checkpoints.tensors import FusedByHead, Transposed
from keras_tfm.models import build_bloom

CONFIG = (
    Size("vocab_size", "vocabulary_size"),
    Size("n_layer", "num_layers", most=MOST_LAYERS, also=("num_hidden_layers",)),
    Size("n_head", "num_heads", also=("num_attention_heads",)),
    Size("hidden_size", "hidden_dim", also=("n_embed",)),
    Number("layer_norm_epsilon", "norm_epsilon", default=1e-5),
    Only("n_inner", None),
    Only("apply_residual_connection_post_layernorm", False),
    Only("tie_word_embeddings", True),
    # Kernels of the training code, and the length of its sequences, which ALiBi does not limit.
    Harmless(
        (
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "masked_softmax_fusion",
            "offset_alibi",
            "seq_length",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "slow_but_exact",
        )
    ),
)

_BLOCK, _OURS = "transformer.h.{i}", "stack.blocks.{i}"
_ATTENTION, _FEED_FORWARD = f"{_OURS}.self_attention", f"{_OURS}.feed_forward"
TENSORS = {
    "transformer.word_embeddings.weight": "token_embedding.embedding.embeddings",
    "transformer.word_embeddings_layernorm.weight": "token_embedding.norm.gamma",
    "transformer.word_embeddings_layernorm.bias": "token_embedding.norm.beta",
    f"{_BLOCK}.input_layernorm.weight": f"{_OURS}.attention_wrap.norm_before.gamma",
    f"{_BLOCK}.input_layernorm.bias": f"{_OURS}.attention_wrap.norm_before.beta",
    f"{_BLOCK}.self_attention.query_key_value.weight": FusedByHead(_ATTENTION, "kernel"),
    f"{_BLOCK}.self_attention.query_key_value.bias": FusedByHead(_ATTENTION, "bias"),
    f"{_BLOCK}.self_attention.dense.weight": Transposed(f"{_ATTENTION}.output_dense.kernel"),
    f"{_BLOCK}.self_attention.dense.bias": f"{_ATTENTION}.output_dense.bias",
    f"{_BLOCK}.post_attention_layernorm.weight": f"{_OURS}.feed_forward_wrap.norm_before.gamma",
    f"{_BLOCK}.post_attention_layernorm.bias": f"{_OURS}.feed_forward_wrap.norm_before.beta",
    f"{_BLOCK}.mlp.dense_h_to_4h.weight": Transposed(f"{_FEED_FORWARD}.intermediate_dense.kernel"),
    f"{_BLOCK}.mlp.dense_h_to_4h.bias": f"{_FEED_FORWARD}.intermediate_dense.bias",
    f"{_BLOCK}.mlp.dense_4h_to_h.weight": Transposed(f"{_FEED_FORWARD}.output_dense.kernel"),
    f"{_BLOCK}.mlp.dense_4h_to_h.bias": f"{_FEED_FORWARD}.output_dense.bias",
    "transformer.ln_f.weight": "stack.final_norm.gamma",
    "transformer.ln_f.bias": "stack.final_norm.beta",
}


def describe(model: Any) -> dict:
    """The arguments of `build_bloom` that give this model."""
    block = model.stack.blocks[0]
    return {
        "vocabulary_size": model.token_embedding.vocabulary_size,
        "num_layers": len(model.stack.blocks),
        "num_heads": block.self_attention.num_heads,
        "hidden_dim": model.token_embedding.hidden_dim,
        "norm_epsilon": block.norm.epsilon,
    }


ARCHITECTURES = (
    Architecture(
        name="BloomForCausalLM",
        model_type="bloom",
        config=CONFIG,
        tensors=TENSORS,
        build=build_bloom,
        describe=describe,
        prefix="transformer.",
        aliases=("BloomModel",),
        copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
)
