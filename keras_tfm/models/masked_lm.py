"""The masked language model: which token was here?"""

from typing import Any

import keras

from keras_tfm.layers.composite import clone, serialize
from keras_tfm.layers.masked_lm_head import MaskedLMHead
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import ActivationLike, Config, DTypeLike, LayerLike


@keras.saving.register_keras_serializable(package="keras_tfm")
class MaskedLM(TokenModel):
    """An encoder with a masked language modelling head, whose projection is the encoder's token embedding.

    `compile(optimizer)` adds the loss and the accuracy, so that `fit` takes what
    `keras_tfm.data.masked_lm_dataset(..., next_sentence=False)` gives.

    Args:
        encoder: `Bert`; a pooler is left out.
        activation: of the head's dense layer, name or function.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert` but for "document_ids", and perhaps "mask_positions", int32 (B, M): the positions, counted
            from the left end of the row, whose tokens are asked for. Default: all.
        training: bool.

    Returns:
        dict of "masked_lm": logits (B, M, V), or (B, T, V) without "mask_positions".

    Raises:
        TypeError: for an encoder that is no `Bert`. In calls: as `Bert`.

    Example:
        >>> model = MaskedLM(build_bert("tiny", vocabulary_size=100))
        >>> model({"token_ids": np.array([[2, 4, 9, 3]]), "mask_positions": np.array([[1]])})["masked_lm"].shape
        (1, 1, 100)

    Reference:
        Devlin et al. 2018, section 3.1, https://arxiv.org/abs/1810.04805; without the next sentence: Liu et al. 2019,
        "RoBERTa", https://arxiv.org/abs/1907.11692
    """

    def __init__(
        self,
        encoder: LayerLike,
        activation: ActivationLike = "gelu",
        dtype: DTypeLike | None = None,
        name: str = "masked_lm",
        **kwargs: Any,
    ):
        parts = self._parts(as_encoder(encoder), activation)
        super().__init__(parts["encoder"].inputs_for_tasks("mask_positions"), parts, dtype, name=name, **kwargs)

    def _parts(self, encoder, activation) -> dict:
        embedding = encoder.token_embedding
        head = MaskedLMHead(
            embedding,
            activation,
            norm=clone(embedding.norm),
            kernel_initializer=clone(embedding.embeddings_initializer),
            dtype=embedding.dtype_policy,
            name="masked_lm",
        )
        return {"encoder": encoder.without_pooler(), "masked_lm": head}

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V."""
        return self.encoder.vocabulary_size

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adamw",
        loss: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.compile` with the loss and the accuracy of each output, unless others are given.

        `weighted_metrics=[]` is no metric. The loss is the mean over the tokens that count, so unused slots of
        "mask_positions", whose sample weight is 0, do not dilute it.
        """

        def crossentropy():
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")

        def accuracy():
            return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

        outputs = self.output
        loss = {name: crossentropy() for name in outputs} if loss is None else loss
        weighted_metrics = {name: accuracy() for name in outputs} if weighted_metrics is None else weighted_metrics
        super().compile(optimizer, loss=loss, weighted_metrics=weighted_metrics, **kwargs)

    def _forward(self, mask_positions=None, **inputs):
        sequence = self.encoder(inputs)["sequence_output"]
        return {"masked_lm": self.masked_lm(sequence, mask_positions=mask_positions)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "activation": keras.activations.serialize(self.masked_lm.activation),
        }
