"""One number for a text, or for a pair of texts."""

from typing import Any

import keras
from keras import ops

from keras_tfm.layers.composite import revive, serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.text_classifier import head_parts, pooled
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Config, DTypeLike, LayerLike


@keras.saving.register_keras_serializable(package="keras_tfm")
class TextRegressor(TokenModel):
    """An encoder with a dense layer to one number: how positive a text is, how alike two texts are.

    A pair of texts is one row, `[CLS] first [SEP] second [SEP]`, each with its segment: the two attend to each other.
    `SentenceEncoder` reads them one by one, which is less accurate, and can be searched.

    Args:
        encoder: `Bert`.
        pooling: `MeanPooling` or `FirstTokenPooling` over the encoder's "sequence_output". Default: its
            "pooled_output".
        dropout: float, rate of the dropout before the dense layer.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        float (B,).

    Raises:
        TypeError: for an encoder that is no `Bert`. In calls: as `Bert`.

    Example:
        >>> model = TextRegressor(build_bert("tiny", vocabulary_size=100))
        >>> model.compile("adamw", "mse")
        >>> model(np.array([[2, 4, 9, 3]])).shape
        (1,)

    Reference:
        Devlin et al. 2018, section 4.1 (STS-B), https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: LayerLike,
        pooling: LayerLike | None = None,
        dropout: float = 0.1,
        dtype: DTypeLike | None = None,
        name: str = "text_regressor",
        **kwargs: Any,
    ):
        encoder = as_encoder(encoder) if pooling is None else as_encoder(encoder).without_pooler()
        parts = {"encoder": encoder, "pooling": revive(pooling), **head_parts(encoder, 1, dropout)}
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)

    def _forward(self, **inputs):
        return ops.squeeze(self.head(self.dropout(pooled(self.encoder, self.pooling, inputs))), axis=-1)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "pooling": serialize(self.pooling),
            "dropout": self.dropout.rate,
        }
