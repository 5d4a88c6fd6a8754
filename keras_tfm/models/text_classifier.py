"""One label for a text, or for a pair of texts."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_tfm.arguments import check_rate
from keras_tfm.layers.composite import revive, serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Config, DTypeLike, LayerLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class TextClassifier(TokenModel):
    """An encoder with a dense layer over classes.

    Args:
        encoder: `Bert`.
        class_names: str each, at least two; label i of the training data means `class_names[i]`.
        pooling: `MeanPooling` or `FirstTokenPooling` over the encoder's "sequence_output". Default: its
            "pooled_output".
        dropout: float, rate of the dropout before the dense layer.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        Logits (B, number of classes).

    Raises:
        ValueError: for names that are not different, or fewer than two. TypeError: for an encoder that is no
            `Bert`. In calls: as `Bert`.

    Example:
        >>> model = TextClassifier(build_bert("tiny", vocabulary_size=100), class_names=["bad", "good"])
        >>> model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        >>> model(np.array([[2, 4, 9, 3]])).shape
        (1, 2)

    Reference:
        Devlin et al. 2018, section 4.1, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: LayerLike,
        class_names: Sequence[str],
        pooling: LayerLike | None = None,
        dropout: float = 0.1,
        dtype: DTypeLike | None = None,
        name: str = "text_classifier",
        **kwargs: Any,
    ):
        encoder = as_encoder(encoder) if pooling is None else as_encoder(encoder).without_pooler()
        class_names = check_class_names(class_names)
        parts = {
            "class_names": class_names,
            "encoder": encoder,
            "pooling": revive(pooling),
            **head_parts(encoder, len(class_names), dropout),
        }
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)

    def _forward(self, **inputs):
        return self.head(self.dropout(pooled(self.encoder, self.pooling, inputs)))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "class_names": list(self.class_names),
            "pooling": serialize(self.pooling),
            "dropout": self.dropout.rate,
        }


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; raises unless they are two different strings or more."""
    names = () if isinstance(class_names, str | int) else tuple(class_names)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`class_names` must be at least two different names. Received: class_names={class_names!r}.")
    return names


def head_parts(encoder: Any, units: int, dropout: float) -> dict:
    """The dropout and the dense layer of a task, in the encoder's dtype and drawn as its weights are."""
    check_rate(dropout=dropout)
    embedding = encoder.token_embedding
    initializer = embedding.embeddings_initializer
    return {
        "dropout": keras.layers.Dropout(dropout, dtype=embedding.dtype_policy, name="head_dropout"),
        "head": keras.layers.Dense(
            units, kernel_initializer=initializer.clone(), dtype=embedding.dtype_policy, name="head"
        ),
    }


def pooled(encoder: Any, pooling: Any, inputs: dict[str, Tensor]) -> Tensor:
    """float (B, D): the encoder's own vector for the text, or that of a pool."""
    encoded = encoder(inputs)
    if pooling is None:
        return encoded["pooled_output"]
    return pooling(encoded["sequence_output"], mask=inputs["padding_mask"])
