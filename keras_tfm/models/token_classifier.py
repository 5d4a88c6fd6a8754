"""One label for each token."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_tfm.layers.composite import serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.text_classifier import check_class_names, head_parts
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Config, DTypeLike, LayerLike


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenClassifier(TokenModel):
    """An encoder with a dense layer over classes at every position: named entities, parts of speech.

    Args:
        encoder: `Bert`; a pooler is left out.
        class_names: str each, at least two; label i of the training data means `class_names[i]`. Entities are
            written "B-PLACE" for their first word, "I-PLACE" for the others, and "O" for what is none.
        dropout: float, rate of the dropout before the dense layer.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        Logits (B, T, number of classes). Give padding, special tokens and all but the first piece of a word a sample
        weight of 0 in `fit`. Keras' `class_weight` wants one label a row and fails here: weigh the labels by the sample
        weights, `dataset.map(lambda x, y, w: (x, y, w * tf.gather(weight_of_label, y)))`.

    Raises:
        ValueError: for names that are not different, or fewer than two. TypeError: for an encoder that is no
            `Bert`. In calls: as `Bert`.

    Example:
        >>> model = TokenClassifier(build_bert("tiny", vocabulary_size=100), class_names=["O", "B-PLACE", "I-PLACE"])
        >>> model(np.array([[2, 4, 9, 3]])).shape
        (1, 4, 3)

    Reference:
        Devlin et al. 2018, section 5.3, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: LayerLike,
        class_names: Sequence[str],
        dropout: float = 0.1,
        dtype: DTypeLike | None = None,
        name: str = "token_classifier",
        **kwargs: Any,
    ):
        encoder = as_encoder(encoder).without_pooler()
        class_names = check_class_names(class_names)
        parts = {"class_names": class_names, "encoder": encoder, **head_parts(encoder, len(class_names), dropout)}
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)

    def _forward(self, **inputs):
        return self.head(self.dropout(self.encoder(inputs)["sequence_output"]))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "class_names": list(self.class_names),
            "dropout": self.dropout.rate,
        }
