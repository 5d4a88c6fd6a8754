"""Two sentences a row, through one sentence encoder: what teaches it which sentences are alike."""

from typing import Any

import keras
from keras import ops

from keras_tfm import compat
from keras_tfm.layers.composite import revive, serialize
from keras_tfm.models.sentence_encoder import SentenceEncoder
from keras_tfm.models.token_model import save_whole
from keras_tfm.types import Config, LayerLike, PathLike, Tensor


class _SentencePairs(keras.Model):
    """What ranker and regressor share: two sets of inputs, one encoder, and what their vectors become."""

    def __init__(self, sentence_encoder: LayerLike, trainable: bool = True, **kwargs: Any):
        sentence_encoder = revive(sentence_encoder)
        if not isinstance(sentence_encoder, SentenceEncoder):
            raise TypeError(
                "`sentence_encoder` must be a `SentenceEncoder`. "
                f"Received: {sentence_encoder!r:.60} of type {type(sentence_encoder).__name__}; put a `Bert` into one."
            )
        inputs = {
            side: {
                x.name: keras.Input((None,), dtype=x.dtype, name=f"{side}_{x.name}") for x in sentence_encoder.inputs
            }
            for side in ("first", "second")
        }
        vectors = [sentence_encoder(inputs[side]) for side in ("first", "second")]
        super().__init__(inputs=inputs, outputs=self._compare(*vectors), **kwargs)
        self.sentence_encoder = sentence_encoder
        if not trainable:  # True, passed on, would thaw the parts that are frozen by themselves
            self.trainable = False

    @property
    def encoder(self):
        """The `Bert` inside."""
        return self.sentence_encoder.encoder

    def __call__(self, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        # Before Keras compares the structure of `inputs` with the functional graph's.
        return super().__call__(self._known(inputs), *args, **kwargs)

    def call(self, inputs: dict[str, Any], training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        # JAX's `fit` and `predict` come here directly.
        return super().call(self._known(inputs), training=training, mask=mask)

    def _known(self, inputs) -> dict:
        """The inputs without "segment_ids" for an encoder that does not read them."""
        names = {x.name for x in self.sentence_encoder.inputs}
        return {
            side: {name: x for name, x in given.items() if name in names or name != "segment_ids"}
            for side, given in inputs.items()
        }

    def save(self, filepath: PathLike, overwrite: bool = True, **options: Any) -> None:
        """As `TokenModel.save`."""
        save_whole(super().save, filepath, overwrite, **options)

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "sentence_encoder": serialize(self.sentence_encoder),
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Any = None) -> Any:
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_tfm")
class SentencePairRanker(_SentencePairs):
    """Scores the second sentence of each pair against those of all others in the batch (in-batch negatives).

    The right answer for row i is i, so the labels of a batch are 0, 1, ..., B - 1.

    Args:
        sentence_encoder: `SentenceEncoder`; it is trained, and used by itself afterwards.
        scale: float, factor on the cosines: the inverse of the softmax's temperature.

    Call arguments:
        inputs: dict of "first" and "second", each a dict with all inputs of the `SentenceEncoder`.
        training: bool.

    Returns:
        Logits (B, B), float32: the cosines of first and second sentences times `scale`.

    Raises:
        ValueError: for a scale that is not positive. TypeError: for anything but a `SentenceEncoder`.

    Example:
        >>> encoder = SentenceEncoder(build_bert("tiny", vocabulary_size=100))
        >>> ranker = SentencePairRanker(encoder)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> ranker.compile("adamw", loss, metrics=["accuracy"])
        >>> dataset = pairs.batch(32).map(lambda inputs: (inputs, tf.range(tf.shape(inputs["first"]["token_ids"])[0])))
        >>> ranker.fit(dataset)

    Reference:
        Henderson et al. 2017, "Efficient Natural Language Response Suggestion", section 4.4,
        https://arxiv.org/abs/1705.00652
    """

    def __init__(
        self, sentence_encoder: LayerLike, scale: float = 20.0, name: str = "sentence_pair_ranker", **kwargs: Any
    ):
        if not scale > 0:
            raise ValueError(f"`scale` must be positive. Received: scale={scale!r}.")
        compat.set_before_init(self, {"scale": scale})  # before `super().__init__`, which makes the graph
        super().__init__(sentence_encoder, name=name, **kwargs)

    def _compare(self, first, second):
        return self.scale * ops.matmul(first, ops.transpose(second))

    def get_config(self) -> Config:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_tfm")
class SentencePairRegressor(_SentencePairs):
    """The cosine of two sentences, to be taught how alike they are.

    Args:
        sentence_encoder: `SentenceEncoder`; it is trained, and used by itself afterwards.

    Call arguments:
        inputs: dict of "first" and "second", each a dict with all inputs of the `SentenceEncoder`.
        training: bool.

    Returns:
        float32 (B,), from -1 to 1.

    Raises:
        TypeError: for anything but a `SentenceEncoder`.

    Example:
        >>> regressor = SentencePairRegressor(SentenceEncoder(build_bert("tiny", vocabulary_size=100)))
        >>> regressor.compile("adamw", "mse")
        >>> regressor.fit(pairs, scores)

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3, https://arxiv.org/abs/1908.10084
    """

    def __init__(self, sentence_encoder: LayerLike, name: str = "sentence_pair_regressor", **kwargs: Any):
        super().__init__(sentence_encoder, name=name, **kwargs)

    def _compare(self, first, second):
        return ops.sum(first * second, axis=-1)
