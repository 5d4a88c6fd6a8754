"""BERT's pretraining: which token was here, and does the second text follow the first?"""

from typing import Any

import keras

from keras_tfm.layers.composite import clone
from keras_tfm.models.masked_lm import MaskedLM
from keras_tfm.types import ActivationLike, DTypeLike, LayerLike


@keras.saving.register_keras_serializable(package="keras_tfm")
class BertPretrainer(MaskedLM):
    """A masked language model that also says whether the second text follows the first (0) or is a random one (1).

    `compile(optimizer)` adds both losses and both accuracies, so that `fit` takes what
    `keras_tfm.data.masked_lm_dataset` gives.

    Args:
        encoder: `Bert` with a pooler.
        activation: of the masked language modelling head's dense layer, name or function.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `MaskedLM`.
        training: bool.

    Returns:
        dict of "masked_lm", logits (B, M, V) or (B, T, V), and "next_sentence", logits (B, 2).

    Raises:
        ValueError: for an encoder without a pooler. TypeError: for one that is no `Bert`. In calls: as `Bert`.

    Example:
        >>> model = BertPretrainer(build_bert("tiny", vocabulary_size=100))
        >>> model.compile(keras.optimizers.AdamW(1e-3))
        >>> model.fit(dataset)  # of ({"token_ids": ..., ...}, {"masked_lm": ids, "next_sentence": 0 or 1}, weights)

    Reference:
        Devlin et al. 2018, section 3.1, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: LayerLike,
        activation: ActivationLike = "gelu",
        dtype: DTypeLike | None = None,
        name: str = "bert_pretrainer",
        **kwargs: Any,
    ):
        super().__init__(encoder, activation, dtype, name, **kwargs)

    def _parts(self, encoder, activation):
        if encoder.pooler is None:
            raise ValueError(
                "`encoder` must have a pooler, which the next-sentence head reads. Received: an encoder with "
                "pooler=None. Build it with `pooler=True`, or use `MaskedLM`."
            )
        next_sentence = keras.layers.Dense(
            2,
            kernel_initializer=clone(encoder.token_embedding.embeddings_initializer),
            dtype=encoder.pooler.dtype_policy,
            name="next_sentence",
        )
        return {**super()._parts(encoder, activation), "encoder": encoder, "next_sentence": next_sentence}

    def _forward(self, mask_positions=None, **inputs):
        encoded = self.encoder(inputs)
        return {
            "masked_lm": self.masked_lm(encoded["sequence_output"], mask_positions=mask_positions),
            "next_sentence": self.next_sentence(encoded["pooled_output"]),
        }
