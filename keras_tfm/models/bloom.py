"""BLOOM: ALiBi instead of position embeddings, a norm after the token embedding; and its sizes."""

import keras

from keras_tfm.layers import (
    AlibiBias,
    FeedForward,
    MultiHeadSelfAttention,
    TransformerBlock,
)
from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.wiring import causal_lm, size_of
from keras_tfm.ops import gelu_tanh
from keras_tfm.types import DTypeLike

_BLOOM = {"vocabulary_size": 250880}
SIZES = {
    "nano": {"vocabulary_size": 4096, "num_layers": 4, "num_heads": 4, "hidden_dim": 128},
    "bloom_560m": {**_BLOOM, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "bloom_1b1": {**_BLOOM, "num_layers": 24, "num_heads": 16, "hidden_dim": 1536},
    "bloom_3b": {**_BLOOM, "num_layers": 30, "num_heads": 32, "hidden_dim": 2560},
}


def build_bloom(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    norm_epsilon: float = 1e-5,
    dropout: float = 0.0,
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "bloom",
) -> CausalLM:
    """A BLOOM: pre-norm causal blocks that see distances as a bias on the scores, a normalized embedding, a tied head.

    Args:
        size: a row of `SIZES`: "nano", "bloom_560m", "bloom_1b1", "bloom_3b". Numbers given beside it replace those of
            the row; without it, the four numbers from `vocabulary_size` to `hidden_dim` are required.
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D; the feed-forward has 4 D.
        norm_epsilon: float, of the layer norms.
        dropout: float, rate after the embedding, on attention weights and before each residual sum.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `CausalLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_bloom("nano", vocabulary_size=512)
        >>> model(np.array([[1, 2, 3]])).shape
        (1, 3, 512)

    Reference:
        BigScience 2022, "BLOOM", section 3.2, https://arxiv.org/abs/2211.05100
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
    )
    weights = keras.initializers.RandomNormal(stddev=0.02)

    def norm():
        return keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(i):
        return TransformerBlock(
            MultiHeadSelfAttention(
                numbers["num_heads"], causal=True, dropout=dropout, kernel_initializer=weights, dtype=dtype
            ),
            FeedForward(4 * numbers["hidden_dim"], activation=gelu_tanh, kernel_initializer=weights, dtype=dtype),
            norm=norm(),
            dropout=dropout,
            dtype=dtype,
        )

    return causal_lm(
        numbers,
        block,
        norm(),
        initializer=weights,
        tie_weights=True,
        remat=remat,
        dtype=dtype,
        name=name,
        position_bias=AlibiBias(numbers["num_heads"], dtype=dtype),
        norm=norm(),
        dropout=dropout,
    )
