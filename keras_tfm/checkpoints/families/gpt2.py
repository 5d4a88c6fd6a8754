"""GPT-2 and its descendants (DistilGPT-2, ...)."""

from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Flag, Number, Only, Size
from keras_tfm.checkpoints.tensors import Fused, Transposed
from keras_tfm.models import build_gpt

_WIDTH = Size("n_embd", "hidden_dim", default=768, also=("hidden_size",))
CONFIG = (
    Size("vocab_size", "vocabulary_size"),
    Size("n_positions", "max_sequence_length", default=1024, also=("max_position_embeddings",)),
    Size("n_layer", "num_layers", default=12, most=MOST_LAYERS, also=("num_hidden_layers",)),
    Size("n_head", "num_heads", default=12, also=("num_attention_heads",)),
    _WIDTH,
    Size("n_inner", "intermediate_dim", default=lambda config: 4 * _WIDTH.read(config)["hidden_dim"]),
    Number("layer_norm_epsilon", "norm_epsilon", default=1e-5),
    Choice("activation_function", "activation", ACTIVATIONS, default="gelu_new"),
    Flag("tie_word_embeddings", "tie_weights", default=True),
    Only("scale_attn_weights", True),
    Only("scale_attn_by_inverse_layer_idx", False),
    Only("is_decoder", False, also=(True,)),
    Only("add_cross_attention", False),
    Only("reorder_and_upcast_attn", False, also=(True,)),  # float32 scores: ours always are
)

_BLOCK, _OURS = "transformer.h.{i}", "stack.blocks.{i}"
_ATTENTION, _FEED_FORWARD = f"{_OURS}.self_attention", f"{_OURS}.feed_forward"
# Conv1D keeps (inputs, outputs), as Keras does: nothing is transposed.
TENSORS = {
    "transformer.wte.weight": "token_embedding.embedding.embeddings",
    "transformer.wpe.weight": "token_embedding.position.embeddings",
    f"{_BLOCK}.ln_1.weight": f"{_OURS}.attention_wrap.norm_before.gamma",
    f"{_BLOCK}.ln_1.bias": f"{_OURS}.attention_wrap.norm_before.beta",
    f"{_BLOCK}.attn.c_attn.weight": Fused(tuple(f"{_ATTENTION}.{x}_dense.kernel" for x in ("query", "key", "value"))),
    f"{_BLOCK}.attn.c_attn.bias": Fused(tuple(f"{_ATTENTION}.{x}_dense.bias" for x in ("query", "key", "value"))),
    f"{_BLOCK}.attn.c_proj.weight": f"{_ATTENTION}.output_dense.kernel",
    f"{_BLOCK}.attn.c_proj.bias": f"{_ATTENTION}.output_dense.bias",
    f"{_BLOCK}.ln_2.weight": f"{_OURS}.feed_forward_wrap.norm_before.gamma",
    f"{_BLOCK}.ln_2.bias": f"{_OURS}.feed_forward_wrap.norm_before.beta",
    f"{_BLOCK}.mlp.c_fc.weight": f"{_FEED_FORWARD}.intermediate_dense.kernel",
    f"{_BLOCK}.mlp.c_fc.bias": f"{_FEED_FORWARD}.intermediate_dense.bias",
    f"{_BLOCK}.mlp.c_proj.weight": f"{_FEED_FORWARD}.output_dense.kernel",
    f"{_BLOCK}.mlp.c_proj.bias": f"{_FEED_FORWARD}.output_dense.bias",
    "transformer.ln_f.weight": "stack.final_norm.gamma",
    "transformer.ln_f.bias": "stack.final_norm.beta",
    "lm_head.weight": Transposed("head.kernel"),
    # Causal masks, which old versions saved.
    f"{_BLOCK}.attn.bias": None,
    f"{_BLOCK}.attn.masked_bias": None,
}


def describe(model: Any) -> dict:
    """The arguments of `build_gpt` that give this model."""
    block = model.stack.blocks[0]
    return {
        "vocabulary_size": model.token_embedding.vocabulary_size,
        "max_sequence_length": model.token_embedding.position.max_sequence_length,
        "num_layers": len(model.stack.blocks),
        "num_heads": block.self_attention.num_heads,
        "hidden_dim": model.token_embedding.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "norm_epsilon": block.norm.epsilon,
        "activation": block.feed_forward.activation,
        "tie_weights": model.head is None,
    }


ARCHITECTURES = (
    Architecture(
        name="GPT2LMHeadModel",
        model_type="gpt2",
        config=CONFIG,
        tensors=TENSORS,
        build=build_gpt,
        describe=describe,
        prefix="transformer.",
        aliases=("GPT2Model",),
        copies={"lm_head.weight": "transformer.wte.weight"},
    ),
)
