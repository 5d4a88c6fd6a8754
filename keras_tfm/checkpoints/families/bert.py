"""BERT and its descendants (MiniLM, sentence transformers, ...): the bare encoder, pretraining, and tasks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Harmless, Labels, Number, Only, Size
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.models import BertPretrainer, MaskedLM, SpanClassifier, TextClassifier, TokenClassifier, build_bert
from keras_tfm.types import ActivationLike

CONFIG = (
    Size("vocab_size", "vocabulary_size", default=30522),
    Size("max_position_embeddings", "max_sequence_length", default=512),
    Size("num_hidden_layers", "num_layers", default=12, most=MOST_LAYERS),
    Size("num_attention_heads", "num_heads", default=12),
    Size("hidden_size", "hidden_dim", default=768),
    Size("intermediate_size", "intermediate_dim", default=3072),
    Size("type_vocab_size", "num_segments", default=2),
    Number("layer_norm_eps", "norm_epsilon", default=1e-12),
    Choice("hidden_act", "activation", ACTIVATIONS, default="gelu"),
    Only("position_embedding_type", "absolute"),
    Only("tie_word_embeddings", True),
    Only("is_decoder", False),
    Only("add_cross_attention", False),
    Harmless(("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
              "pooler_size_per_head", "pooler_type")),
)  # fmt: skip


# What TensorFlow called them; Google's own checkpoints, "bert-base-uncased" among them, still do.
OLDER = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


def dense(name: str, path: str) -> dict:
    """A linear layer of torch as one of Keras."""
    return {f"{name}.weight": Transposed(f"{path}.kernel"), f"{name}.bias": f"{path}.bias"}


def norm(name: str, path: str) -> dict:
    """A layer norm."""
    return {f"{name}.weight": f"{path}.gamma", f"{name}.bias": f"{path}.beta"}


def encoder_tensors(path: str = "") -> dict:
    """The tensors of the encoder, which is the model itself or stands at `path`."""
    theirs, ours = "bert.encoder.layer.{i}", path + "stack.blocks.{i}"
    embedding = f"{path}token_embedding"
    return {
        "bert.embeddings.word_embeddings.weight": f"{embedding}.embedding.embeddings",
        "bert.embeddings.position_embeddings.weight": f"{embedding}.position.embeddings",
        "bert.embeddings.token_type_embeddings.weight": f"{embedding}.segment.embeddings",
        **norm("bert.embeddings.LayerNorm", f"{embedding}.norm"),
        **dense(f"{theirs}.attention.self.query", f"{ours}.self_attention.query_dense"),
        **dense(f"{theirs}.attention.self.key", f"{ours}.self_attention.key_dense"),
        **dense(f"{theirs}.attention.self.value", f"{ours}.self_attention.value_dense"),
        **dense(f"{theirs}.attention.output.dense", f"{ours}.self_attention.output_dense"),
        **norm(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention_wrap.norm_after"),
        **dense(f"{theirs}.intermediate.dense", f"{ours}.feed_forward.intermediate_dense"),
        **dense(f"{theirs}.output.dense", f"{ours}.feed_forward.output_dense"),
        **norm(f"{theirs}.output.LayerNorm", f"{ours}.feed_forward_wrap.norm_after"),
        "bert.embeddings.position_ids": None,  # 0, 1, 2, ..., which old versions saved
    }


POOLER = dense("bert.pooler.dense", "pooler")
NO_POOLER = dict.fromkeys(POOLER)  # some files hold one that the model does not use
MASKED_LM = {
    **dense("cls.predictions.transform.dense", "masked_lm.dense"),
    **norm("cls.predictions.transform.LayerNorm", "masked_lm.norm"),
    "cls.predictions.bias": "masked_lm.bias",
}
COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
NEXT_SENTENCE = dict.fromkeys(dense("cls.seq_relationship", ""))
# What stands beside the encoder in the files of its task models, when the bare encoder is asked for.
HEADS = {
    **dict.fromkeys((*MASKED_LM, *COPIES, *dense("classifier", ""), *dense("qa_outputs", ""))),
    **dict.fromkeys(f"cls.predictions.transform.{old}" for old in OLDER.values()),
    **NEXT_SENTENCE,
}


def describe(encoder: Any) -> dict:
    """The arguments of `build_bert` that give this encoder."""
    embedding, block = encoder.token_embedding, encoder.stack.blocks[0]
    return {
        "vocabulary_size": embedding.vocabulary_size,
        "max_sequence_length": embedding.position.max_sequence_length,
        "num_layers": len(encoder.stack.blocks),
        "num_heads": block.self_attention.num_heads,
        "hidden_dim": embedding.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "num_segments": embedding.num_segments,
        "norm_epsilon": block.norm.epsilon,
        "activation": block.feed_forward.activation,
    }


def task(model_class: Any, activation: ActivationLike, **arguments: Any) -> Any:
    """A model on top of an encoder, whose head has the encoder's activation."""
    return model_class(build_bert(activation=activation, **arguments), activation=activation)


def classifier(model_class: Any, class_names: Sequence[str], **arguments: Any) -> Any:
    """A model with a dense layer over classes on top of an encoder."""
    return model_class(build_bert(**arguments), class_names)


def describe_encoder(model: Any) -> dict:
    """The arguments of the encoder, for models that have no others."""
    return describe(model.encoder)


def describe_classifier(model: Any) -> dict:
    """The arguments of the encoder, and the names of its classes."""
    return {**describe(model.encoder), "class_names": tuple(model.class_names)}


def architecture(
    name: str,
    tensors: dict,
    build: Callable[..., Any],
    describe: Callable[[Any], dict[str, Any]],
    config: tuple = CONFIG,
    **more: Any,
) -> Architecture:
    """An `Architecture` of this family."""
    return Architecture(name, "bert", config, tensors, build, describe, "bert.", older=OLDER, **more)


ARCHITECTURES = (
    architecture(
        name="BertModel",
        tensors={**encoder_tensors(), **POOLER, **HEADS},
        build=build_bert,
        describe=describe,
    ),
    architecture(
        name="BertForPreTraining",
        tensors={
            **encoder_tensors("encoder."),
            **dense("bert.pooler.dense", "encoder.pooler"),
            **MASKED_LM,
            **dense("cls.seq_relationship", "next_sentence"),
        },
        build=functools.partial(task, BertPretrainer),
        describe=describe_encoder,
        copies=COPIES,
    ),
    architecture(
        name="BertForMaskedLM",
        # Files of Google's release hold the rest of its pretraining, too.
        tensors={
            **encoder_tensors("encoder."),
            **MASKED_LM,
            **NO_POOLER,
            **NEXT_SENTENCE,
        },
        build=functools.partial(task, MaskedLM),
        describe=describe_encoder,
        copies=COPIES,
    ),
    architecture(
        name="BertForSequenceClassification",
        config=(*CONFIG, Labels()),
        tensors={
            **encoder_tensors("encoder."),
            **dense("bert.pooler.dense", "encoder.pooler"),
            **dense("classifier", "head"),
        },
        build=functools.partial(classifier, TextClassifier),
        describe=describe_classifier,
    ),
    architecture(
        name="BertForTokenClassification",
        config=(*CONFIG, Labels()),
        tensors={**encoder_tensors("encoder."), **dense("classifier", "head"), **NO_POOLER},
        build=functools.partial(classifier, TokenClassifier),
        describe=describe_classifier,
    ),
    architecture(
        name="BertForQuestionAnswering",
        tensors={**encoder_tensors("encoder."), **dense("qa_outputs", "head"), **NO_POOLER},
        build=lambda **arguments: SpanClassifier(build_bert(**arguments)),
        describe=describe_encoder,
    ),
)
