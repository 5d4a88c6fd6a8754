"""Where in a text does the answer begin, and where does it end?"""

from typing import Any

import keras
from keras import ops

from keras_tfm.layers.composite import serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.text_classifier import head_parts
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Config, DTypeLike, LayerLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class SpanClassifier(TokenModel):
    """An encoder with two scores at every position: of the answer's first token, and of its last.

    A question and its context are one row, `[CLS] question [SEP] context [SEP]`. A question without an answer in the
    context is taught as the span of the [CLS] token alone.

    Args:
        encoder: `Bert`; a pooler is left out.
        dropout: float, rate of the dropout before the dense layer.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        dict of "start" and "end", logits (B, T); -1e9 at padding.

    Raises:
        TypeError: for an encoder that is no `Bert`. In calls: as `Bert`.

    Example:
        >>> model = SpanClassifier(build_bert("tiny", vocabulary_size=100))
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adamw", {"start": loss, "end": loss})
        >>> model(np.array([[2, 4, 9, 3]]))["start"].shape
        (1, 4)

    Reference:
        Devlin et al. 2018, sections 4.2 and 4.3, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: LayerLike,
        dropout: float = 0.1,
        dtype: DTypeLike | None = None,
        name: str = "span_classifier",
        **kwargs: Any,
    ):
        encoder = as_encoder(encoder).without_pooler()
        parts = {
            "encoder": encoder,
            **head_parts(encoder, 2, dropout),
            "hide_padding": _HidePadding(name="hide_padding"),
        }
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)

    def _forward(self, **inputs):
        logits = self.head(self.dropout(self.encoder(inputs)["sequence_output"]))  # (B, T, 2)
        start, end = self.hide_padding(logits, padding_mask=inputs["padding_mask"])
        return {"start": start, "end": end}

    def get_config(self) -> Config:
        return {**super().get_config(), "encoder": serialize(self.encoder), "dropout": self.dropout.rate}


class _HidePadding(keras.layers.Layer):
    """Logits (B, T, 2) as two float32 (B, T), -1e9 at padding: no softmax gives it a share."""

    def call(self, logits: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        start, end = ops.unstack(ops.cast(logits, "float32"), 2, axis=-1)
        if padding_mask is None:
            return start, end
        return ops.where(padding_mask, start, -1e9), ops.where(padding_mask, end, -1e9)
