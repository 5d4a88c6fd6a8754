"""A vector for a sentence, near to those of sentences that mean the same."""

import keras

from keras_tfm.layers import MeanPooling
from keras_tfm.layers.parts import revive, serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.text_classifier import pooled
from keras_tfm.models.token_model import TokenModel


@keras.saving.register_keras_serializable(package="keras_tfm")
class SentenceEncoder(TokenModel):
    """An encoder, a pool, and a division by the length: the scalar product of two vectors is their cosine.

    Train it inside a `SentencePairRanker` or a `SentencePairRegressor`.

    Args:
        encoder: `Bert`; a pooler is left out.
        pooling: `MeanPooling` or `FirstTokenPooling`. Default: the mean.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        float32 (B, D), each row of length 1 (0 for a row without real tokens).

    Raises:
        TypeError: for an encoder that is no `Bert`. In calls: as `Bert`.

    Example:
        >>> model = SentenceEncoder(build_bert("tiny", vocabulary_size=100))
        >>> model(np.array([[2, 4, 9, 3]])).shape
        (1, 128)

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", https://arxiv.org/abs/1908.10084
    """

    def __init__(self, encoder, pooling=None, dtype=None, name="sentence_encoder", **kwargs):
        encoder = as_encoder(encoder).without_pooler()
        parts = {
            "encoder": encoder,
            "pooling": revive(pooling) or MeanPooling(dtype="float32", name="pooling"),
            "unit_length": keras.layers.UnitNormalization(dtype="float32", name="unit_length"),
        }
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)

    @property
    def hidden_dim(self) -> int:
        """Width D of the vectors."""
        return self.encoder.hidden_dim

    def _forward(self, **inputs):
        return self.unit_length(pooled(self.encoder, self.pooling, inputs))

    def get_config(self):
        return {**super().get_config(), "encoder": serialize(self.encoder), "pooling": serialize(self.pooling)}
