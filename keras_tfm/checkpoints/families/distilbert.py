"""DistilBERT: BERT without segments and pooler, under other names."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Always, Choice, Harmless, Labels, Size
from keras_tfm.checkpoints.families import bert
from keras_tfm.checkpoints.families.bert import dense, norm
from keras_tfm.models import Bert, MaskedLM, SpanClassifier, TextClassifier, TokenClassifier, build_bert
from keras_tfm.types import ActivationLike

CONFIG = (
    Size("vocab_size", "vocabulary_size", default=30522),
    Size("max_position_embeddings", "max_sequence_length", default=512),
    Size("n_layers", "num_layers", default=6, most=MOST_LAYERS),
    Size("n_heads", "num_heads", default=12),
    Size("dim", "hidden_dim", default=768),
    Size("hidden_dim", "intermediate_dim", default=3072),
    Choice("activation", "activation", ACTIVATIONS, default="gelu"),
    Always("num_segments", 0),
    Always("norm_epsilon", 1e-12),
    # Sinusoids, if any, are in the file like learned positions.
    Harmless(("sinusoidal_pos_embds", "dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_",
              "tie_word_embeddings")),
)  # fmt: skip


def encoder_tensors(path: str = "") -> dict:
    """The tensors of the encoder, which is the model itself or stands at `path`."""
    theirs, ours = "distilbert.transformer.layer.{i}", path + "stack.blocks.{i}"
    embedding = f"{path}token_embedding"
    return {
        "distilbert.embeddings.word_embeddings.weight": f"{embedding}.embedding.embeddings",
        "distilbert.embeddings.position_embeddings.weight": f"{embedding}.position.embeddings",
        **norm("distilbert.embeddings.LayerNorm", f"{embedding}.norm"),
        **dense(f"{theirs}.attention.q_lin", f"{ours}.self_attention.query_dense"),
        **dense(f"{theirs}.attention.k_lin", f"{ours}.self_attention.key_dense"),
        **dense(f"{theirs}.attention.v_lin", f"{ours}.self_attention.value_dense"),
        **dense(f"{theirs}.attention.out_lin", f"{ours}.self_attention.output_dense"),
        **norm(f"{theirs}.sa_layer_norm", f"{ours}.attention_wrap.norm_after"),
        **dense(f"{theirs}.ffn.lin1", f"{ours}.feed_forward.intermediate_dense"),
        **dense(f"{theirs}.ffn.lin2", f"{ours}.feed_forward.output_dense"),
        **norm(f"{theirs}.output_layer_norm", f"{ours}.feed_forward_wrap.norm_after"),
    }


MASKED_LM = {
    **dense("vocab_transform", "masked_lm.dense"),
    **norm("vocab_layer_norm", "masked_lm.norm"),
    "vocab_projector.bias": "masked_lm.bias",
}
COPIES = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
_CLASSIFIERS = ("pre_classifier", "classifier", "qa_outputs")
# What stands beside the encoder in the files of its task models, when the bare encoder is asked for.
HEADS = dict.fromkeys((*MASKED_LM, *COPIES, *(name for layer in _CLASSIFIERS for name in dense(layer, ""))))


def build_encoder(**arguments: Any) -> Bert:
    """A BERT whose vector for the text is that of its first token."""
    return build_bert(**arguments, pooler=False)


def build_text_classifier(class_names: Sequence[str], **arguments: Any) -> TextClassifier:
    """The classifier has a dense layer of its own, with relu, where BERT has the pooler's with tanh."""
    encoder = build_encoder(**arguments)
    pooler = keras.layers.Dense(encoder.hidden_dim, activation="relu", name="pooler")
    return TextClassifier(Bert(encoder.token_embedding, encoder.stack, pooler, name="distilbert"), class_names)


def task(model_class: Any, activation: ActivationLike, **arguments: Any) -> Any:
    """A task model whose head has the encoder's activation."""
    return model_class(build_encoder(activation=activation, **arguments), activation=activation)


def classifier(model_class: Any, class_names: Sequence[str], **arguments: Any) -> Any:
    """A task model with names for its classes."""
    return model_class(build_encoder(**arguments), class_names)


def architecture(
    name: str,
    tensors: dict,
    build: Callable[..., Any],
    describe: Callable[[Any], dict[str, Any]],
    config: tuple = CONFIG,
    **more: Any,
) -> Architecture:
    """An `Architecture` of this family."""
    return Architecture(name, "distilbert", config, tensors, build, describe, "distilbert.", older=bert.OLDER, **more)


ARCHITECTURES = (
    architecture("DistilBertModel", {**encoder_tensors(), **HEADS}, build_encoder, bert.describe),
    architecture(
        "DistilBertForMaskedLM",
        {**encoder_tensors("encoder."), **MASKED_LM},
        functools.partial(task, MaskedLM),
        bert.describe_encoder,
        copies=COPIES,
    ),
    architecture(
        "DistilBertForSequenceClassification",
        {**encoder_tensors("encoder."), **dense("pre_classifier", "encoder.pooler"), **dense("classifier", "head")},
        build_text_classifier,
        bert.describe_classifier,
        (*CONFIG, Labels()),
    ),
    architecture(
        "DistilBertForTokenClassification",
        {**encoder_tensors("encoder."), **dense("classifier", "head")},
        functools.partial(classifier, TokenClassifier),
        bert.describe_classifier,
        (*CONFIG, Labels()),
    ),
    architecture(
        "DistilBertForQuestionAnswering",
        {**encoder_tensors("encoder."), **dense("qa_outputs", "head")},
        lambda **arguments: SpanClassifier(build_encoder(**arguments)),
        bert.describe_encoder,
    ),
)
