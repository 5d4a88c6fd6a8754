"""A vector for a sentence, near to those of sentences that mean the same."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_tfm.arguments import check_positive
from keras_tfm.layers import MeanPooling
from keras_tfm.layers.composite import revive, serialize
from keras_tfm.models.bert import as_encoder
from keras_tfm.models.text_classifier import pooled
from keras_tfm.models.token_model import TokenModel
from keras_tfm.types import Config, DTypeLike, LayerLike


@keras.saving.register_keras_serializable(package="keras_tfm")
class SentenceEncoder(TokenModel):
    """An encoder, a pool, and a division by the length: the scalar product of two vectors is their cosine.

    Train it inside a `SentencePairRanker` or a `SentencePairRegressor`. Besides, it keeps what the texts are to be that
    it is given, as a classifier keeps its labels: `SentenceEmbedding` goes by that.

    Args:
        encoder: `Bert`; a pooler is left out.
        pooling: `MeanPooling` or `FirstTokenPooling`. Default: the mean.
        normalize: bool, whether vectors are divided by their lengths. Some published encoders are without it: their
            scalar products are no cosines, and rank texts otherwise.
        sequence_length: int, tokens that are read of a text. Default: what the encoder allows.
        prompts: dict from a name, such as "query", to what stands before a text of that kind.
        default_prompt_name: the name of the prompt of every text for which no other is asked for. Default: none.
        dtype: the dtype policy that `compile` goes by.

    Call arguments:
        inputs: as `Bert`, but for "document_ids".
        training: bool.

    Returns:
        float32 (B, D), each row of length 1 (0 for a row without real tokens), if `normalize`.

    Raises:
        TypeError: for an encoder that is no `Bert`, or prompts that are no strings. ValueError: for a
            `sequence_length` that the encoder does not allow, or a `default_prompt_name` that no prompt has. In calls:
            as `Bert`.

    Example:
        >>> model = SentenceEncoder(build_bert("tiny", vocabulary_size=100))
        >>> model(np.array([[2, 4, 9, 3]])).shape
        (1, 128)

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", https://arxiv.org/abs/1908.10084
    """

    def __init__(
        self,
        encoder: LayerLike,
        pooling: LayerLike | None = None,
        normalize: bool = True,
        sequence_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        dtype: DTypeLike | None = None,
        name: str = "sentence_encoder",
        **kwargs: Any,
    ):
        encoder = as_encoder(encoder).without_pooler()
        unit_length = keras.layers.UnitNormalization(dtype="float32", name="unit_length")
        parts = {
            "encoder": encoder,
            "pooling": revive(pooling) or MeanPooling(dtype="float32", name="pooling"),
            "unit_length": unit_length if normalize else None,
        }
        super().__init__(encoder.inputs_for_tasks(), parts, dtype, name=name, **kwargs)
        longest = encoder.max_sequence_length
        if sequence_length is not None:
            check_positive(sequence_length=sequence_length)
            if longest is not None and sequence_length > longest:
                raise ValueError(
                    f"`sequence_length` must be at most the {longest} positions of the encoder. "
                    f"Received: sequence_length={sequence_length}."
                )
        self.sequence_length = sequence_length
        self._prompts = _checked_prompts(prompts, default_prompt_name)
        self.default_prompt_name = default_prompt_name

    @property
    def prompts(self) -> dict[str, str]:
        """What stands before a text, by name."""
        return dict(self._prompts)

    @property
    def default_prompt(self) -> str:
        """What stands before a text for which no other prompt is asked for."""
        return "" if self.default_prompt_name is None else self.prompts[self.default_prompt_name]

    @property
    def normalize(self) -> bool:
        """Whether vectors are divided by their lengths."""
        return self.unit_length is not None

    @property
    def hidden_dim(self) -> int:
        """Width D of the vectors."""
        return self.encoder.hidden_dim

    def _forward(self, **inputs):
        vectors = pooled(self.encoder, self.pooling, inputs)
        return vectors if self.unit_length is None else self.unit_length(vectors)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "pooling": serialize(self.pooling),
            "normalize": self.normalize,
            "sequence_length": self.sequence_length,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }


def _checked_prompts(prompts: Mapping[str, str] | None, default: str | None) -> tuple[tuple[str, str], ...]:
    pairs = tuple(dict(prompts or {}).items())
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise TypeError(f"`prompts` must be a dict from strings to strings. Received: prompts={prompts!r:.80}.")
    if default is not None and default not in dict(pairs):
        raise ValueError(
            f"`default_prompt_name` must be one of {sorted(dict(pairs))}. Received: default_prompt_name={default!r}."
        )
    return pairs
