"""Marian: the translators of OPUS-MT."""

import dataclasses

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Flag, Harmless, Only, Size
from keras_tfm.checkpoints.encoder_decoder_keys import IS_ENCODER_DECODER, TRAINING_ONLY, InBoth, StartToken
from keras_tfm.checkpoints.families import bart
from keras_tfm.checkpoints.tensors import OneRow
from keras_tfm.models import build_marian


@dataclasses.dataclass(frozen=True)
class DecoderVocabulary:
    """The size of the target's own vocabulary; None where both share one."""

    keys: tuple[str, ...] = ("share_encoder_decoder_embeddings", "decoder_vocab_size")

    def read(self, config):
        shared = Flag(self.keys[0], "shared", default=True).read(config)["shared"]
        own = Size(self.keys[1], "size", default=config.get("vocab_size")).read(config)["size"]
        if shared and own != config.get("vocab_size"):
            raise ValueError(
                f"`{self.keys[1]}` of the config must be `vocab_size` where the embeddings are shared. Received: {own}."
            )
        return {"decoder_vocabulary_size": None if shared else own}

    def write(self, arguments):
        own = arguments["decoder_vocabulary_size"]
        return {self.keys[0]: own is None, self.keys[1]: own or arguments["vocabulary_size"]}


CONFIG = (
    Size("vocab_size", "vocabulary_size", default=58101),
    Size("encoder_layers", "num_layers", default=12, most=MOST_LAYERS, also=("num_hidden_layers",)),
    Size("decoder_layers", "num_decoder_layers", default=12, most=MOST_LAYERS),
    InBoth("attention_heads", "num_heads", default=16),
    InBoth("ffn_dim", "intermediate_dim", default=4096),
    Size("d_model", "hidden_dim", default=1024),
    Choice("activation_function", "activation", ACTIVATIONS, default="gelu"),
    Flag("scale_embedding", "scale_embedding", default=False),
    DecoderVocabulary(),
    StartToken(58100),
    Only("tie_word_embeddings", True),
    Only("normalize_before", False),
    Only("normalize_embedding", False),
    Only("add_final_layer_norm", False),
    Only("add_bias_logits", False),
    Only("static_position_embeddings", True),
    *IS_ENCODER_DECODER,
    Harmless((*TRAINING_ONLY, "classif_dropout", "extra_pos_embeddings")),
)


def tensors_of(model) -> dict:
    """The tensor map of a model, whose halves share one token table or not."""
    tables = {"model.shared.weight": "encoder_embedding.embedding.embeddings"}
    if not model.decoder_embedding.shares_table:
        tables = {
            f"model.{side}.embed_tokens.weight": f"{side}_embedding.embedding.embeddings"
            for side in ("encoder", "decoder")
        }
    return {
        **tables,
        **bart.layers(is_pre=False),
        "final_logits_bias": OneRow("decoder_embedding.bias"),
        # Sinusoids, which the first files hold.
        **dict.fromkeys(f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")),
    }


def describe(model) -> dict:
    """The arguments of `build_marian` that give this model."""
    is_shared = model.decoder_embedding.embedding is model.encoder_embedding.embedding
    return {
        **bart.describe_parts(model),
        "decoder_vocabulary_size": None if is_shared else model.vocabulary_size,
    }


ARCHITECTURES = (
    Architecture(
        name="MarianMTModel",
        model_type="marian",
        config=CONFIG,
        tensors=tensors_of,
        build=build_marian,
        describe=describe,
        prefix="model.",
        copies={**bart.COPIES, "lm_head.weight": "model.decoder.embed_tokens.weight"},
    ),
)
