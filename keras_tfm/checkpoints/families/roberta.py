"""RoBERTa: BERT whose positions are counted from 2, with heads of other names."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Labels, Number, Only, Size, value_at
from keras_tfm.checkpoints.families import bert
from keras_tfm.checkpoints.families.bert import dense, norm
from keras_tfm.checkpoints.tensors import Same
from keras_tfm.models import MaskedLM, SpanClassifier, TextClassifier, TokenClassifier, build_bert

_UNUSED = 2  # rows of the position table before that of the first token: its padding token's number, and one more


@dataclasses.dataclass(frozen=True)
class Positions:
    """The argument `max_sequence_length`; the config counts the unused rows, too."""

    keys: tuple[str, ...] = ("max_position_embeddings",)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        number = value_at(config, self.keys[0], 514)
        if isinstance(number, bool) or not isinstance(number, int) or not _UNUSED < number < 2**31:
            raise ValueError(f"`{self.keys[0]}` of the config must be greater than {_UNUSED}. Received: {number!r}.")
        return {"max_sequence_length": number - _UNUSED}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {self.keys[0]: arguments["max_sequence_length"] + _UNUSED}


class WithoutUnusedRows(Same):
    """The variable is the tensor without its first rows, which are written as zeros."""

    def unit(self, get: Callable[[str], Any]) -> int:
        return self.shape(get)[0]

    def shape(self, get: Callable[[str], Any]) -> tuple[int, ...]:
        num_rows, width = get(self.path).shape
        return (num_rows + _UNUSED, width)

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        return [tensor[_UNUSED:]]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
        return np.concatenate([np.zeros_like(values[0][:1]).repeat(_UNUSED, axis=0), values[0]])


CONFIG = (
    Size("vocab_size", "vocabulary_size", default=50265),
    Positions(),
    Size("num_hidden_layers", "num_layers", default=12, most=MOST_LAYERS),
    Size("num_attention_heads", "num_heads", default=12),
    Size("hidden_size", "hidden_dim", default=768),
    Size("intermediate_size", "intermediate_dim", default=3072),
    Size("type_vocab_size", "num_segments", default=2),
    Number("layer_norm_eps", "norm_epsilon", default=1e-12),
    Choice("hidden_act", "activation", ACTIVATIONS, default="gelu"),
    Only("pad_token_id", _UNUSED - 1),
    Only("position_embedding_type", "absolute"),
    Only("tie_word_embeddings", True),
    Only("is_decoder", False),
    Only("add_cross_attention", False),
)


def encoder_tensors(path: str = "") -> dict:
    """BERT's, with another prefix and longer positions."""
    tensors = {name.replace("bert.", "roberta.", 1): rule for name, rule in bert.encoder_tensors(path).items()}
    name = "roberta.embeddings.position_embeddings.weight"
    return {**tensors, name: WithoutUnusedRows(tensors[name])}


MASKED_LM = {
    **dense("lm_head.dense", "masked_lm.dense"),
    **norm("lm_head.layer_norm", "masked_lm.norm"),
    "lm_head.bias": "masked_lm.bias",
}
COPIES = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
_CLASSIFIERS = ("classifier.dense", "classifier.out_proj", "classifier", "qa_outputs")
# What stands beside the encoder in the files of its task models, when the bare encoder is asked for.
HEADS = dict.fromkeys((*MASKED_LM, *COPIES, *(name for layer in _CLASSIFIERS for name in dense(layer, ""))))
NO_POOLER = dict.fromkeys(("roberta.pooler.dense.weight", "roberta.pooler.dense.bias"))


def architecture(
    name: str,
    tensors: dict,
    build: Callable[..., Any],
    describe: Callable[[Any], dict[str, Any]],
    config: tuple = CONFIG,
    **more: Any,
) -> Architecture:
    """An `Architecture` of this family."""
    return Architecture(name, "roberta", config, tensors, build, describe, "roberta.", older=bert.OLDER, **more)


ARCHITECTURES = (
    architecture(
        "RobertaModel",
        {**encoder_tensors(), **dense("roberta.pooler.dense", "pooler"), **HEADS},
        build_bert,
        bert.describe,
    ),
    architecture(
        "RobertaForMaskedLM",
        {**encoder_tensors("encoder."), **MASKED_LM, **NO_POOLER},
        functools.partial(bert.task, MaskedLM),
        bert.describe_encoder,
        copies=COPIES,
    ),
    architecture(
        "RobertaForSequenceClassification",
        # The head's dense layer, with tanh, is what BERT calls the pooler.
        {
            **encoder_tensors("encoder."),
            **dense("classifier.dense", "encoder.pooler"),
            **dense("classifier.out_proj", "head"),
            **NO_POOLER,
        },
        functools.partial(bert.classifier, TextClassifier),
        bert.describe_classifier,
        (*CONFIG, Labels()),
    ),
    architecture(
        "RobertaForTokenClassification",
        {**encoder_tensors("encoder."), **dense("classifier", "head"), **NO_POOLER},
        functools.partial(bert.classifier, TokenClassifier),
        bert.describe_classifier,
        (*CONFIG, Labels()),
    ),
    architecture(
        "RobertaForQuestionAnswering",
        {**encoder_tensors("encoder."), **dense("qa_outputs", "head"), **NO_POOLER},
        lambda **arguments: SpanClassifier(build_bert(**arguments)),
        bert.describe_encoder,
    ),
)
