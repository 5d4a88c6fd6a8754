"""BART and its descendants (DistilBART, ...)."""

import functools
from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Always, Choice, Flag, Harmless, Only, Size
from keras_tfm.checkpoints.encoder_decoder_keys import IS_ENCODER_DECODER, TRAINING_ONLY, InBoth, StartToken
from keras_tfm.checkpoints.families.bert import dense, norm
from keras_tfm.checkpoints.families.roberta import WithoutUnusedRows
from keras_tfm.checkpoints.tensors import OneRow
from keras_tfm.models import build_bart

# What the first files of both families say beside, in the words of fairseq.
_OLDER_KEYS = (
    Only("normalize_embedding", True),
    Only("add_bias_logits", False),
    Only("static_position_embeddings", False),
    Only("extra_pos_embeddings", 2),
)


def config(norm_placement: str, default_start: int | None) -> tuple:
    """The config map of BART, or of mBART, which differs in where norms sit."""
    is_pre = norm_placement == "pre"
    return (
        Size("vocab_size", "vocabulary_size", default=50265),
        Size("max_position_embeddings", "max_sequence_length", default=1024),
        Size("encoder_layers", "num_layers", default=12, most=MOST_LAYERS, also=("num_hidden_layers",)),
        Size("decoder_layers", "num_decoder_layers", default=12, most=MOST_LAYERS),
        InBoth("attention_heads", "num_heads", default=16),
        InBoth("ffn_dim", "intermediate_dim", default=4096),
        Size("d_model", "hidden_dim", default=1024),
        Choice("activation_function", "activation", ACTIVATIONS, default="gelu"),
        Flag("scale_embedding", "scale_embedding", default=False),
        Always("norm_placement", norm_placement),
        StartToken(default_start),
        Only("tie_word_embeddings", True),
        Only("normalize_before", is_pre),
        Only("add_final_layer_norm", is_pre),
        *_OLDER_KEYS,
        *IS_ENCODER_DECODER,
        Harmless((*TRAINING_ONLY, "classif_dropout", "force_bos_token_to_be_generated", "save_step")),
    )


def layers(is_pre: bool) -> dict:
    """The tensors of the blocks of both stacks."""
    place = "norm_before" if is_pre else "norm_after"
    tensors: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        theirs, ours = f"model.{side}.layers.{{i}}", f"{side}.blocks.{{i}}"
        attentions = [("self_attn", "self_attention", "attention")]
        attentions += [("encoder_attn", "cross_attention", "context")] if side == "decoder" else []
        for their_name, our_name, wrap in attentions:
            for short, name in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output")):
                tensors |= dense(f"{theirs}.{their_name}.{short}", f"{ours}.{our_name}.{name}_dense")
            tensors |= norm(f"{theirs}.{their_name}_layer_norm", f"{ours}.{wrap}_wrap.{place}")
        tensors |= dense(f"{theirs}.fc1", f"{ours}.feed_forward.intermediate_dense")
        tensors |= dense(f"{theirs}.fc2", f"{ours}.feed_forward.output_dense")
        tensors |= norm(f"{theirs}.final_layer_norm", f"{ours}.feed_forward_wrap.{place}")
        if is_pre:
            tensors |= norm(f"model.{side}.layer_norm", f"{side}.final_norm")
    return tensors


def tensors(is_pre: bool) -> dict:
    """The tensor map of BART, or of mBART."""
    found = {
        "model.shared.weight": "encoder_embedding.embedding.embeddings",
        **layers(is_pre),
        "final_logits_bias": OneRow("decoder_embedding.bias"),
    }
    for side in ("encoder", "decoder"):
        embedding = f"{side}_embedding"
        found[f"model.{side}.embed_positions.weight"] = WithoutUnusedRows(f"{embedding}.position.embeddings")
        found |= norm(f"model.{side}.layernorm_embedding", f"{embedding}.norm")
        found[f"{side}.version"] = None
    return found


def describe(model) -> dict:
    """The arguments of `build_bart` that give this model."""
    return {
        **describe_parts(model),
        "max_sequence_length": model.encoder_embedding.position.max_sequence_length,
        "norm_placement": model.encoder.blocks[0].norm_placement,
    }


def describe_parts(model) -> dict:
    """The arguments that the builders of BART and Marian have in common."""
    block, embedding = model.encoder.blocks[0], model.encoder_embedding
    return {
        "vocabulary_size": embedding.vocabulary_size,
        "num_layers": len(model.encoder.blocks),
        "num_decoder_layers": len(model.decoder.blocks),
        "num_heads": block.self_attention.num_heads,
        "hidden_dim": model.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "activation": block.feed_forward.activation,
        "scale_embedding": embedding.scale != 1.0,
        "start_token_id": model.start_token_id,
    }


COPIES = {
    "model.encoder.embed_tokens.weight": "model.shared.weight",
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "lm_head.weight": "model.shared.weight",
}
architecture = functools.partial(Architecture, build=build_bart, describe=describe, prefix="model.", copies=COPIES)
ARCHITECTURES = (
    architecture(
        name="BartForConditionalGeneration",
        model_type="bart",
        config=config("post", default_start=2),
        tensors=tensors(is_pre=False),
    ),
)
