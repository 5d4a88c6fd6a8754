"""GPT-NeoX: attention and feed-forward side by side, partly rotary heads; and the sizes of Pythia."""

import keras

from keras_tfm.layers import (
    FeedForward,
    MultiHeadSelfAttention,
    ParallelTransformerBlock,
    RotaryEmbedding,
    TransformerBlock,
)
from keras_tfm.layers.composite import clone
from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.wiring import causal_lm, size_of
from keras_tfm.types import ActivationLike, DTypeLike


def _pythia(num_layers, num_heads, hidden_dim, vocabulary_size=50304):
    return {
        "vocabulary_size": vocabulary_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 4 * hidden_dim,
    }


SIZES = {
    "nano": _pythia(4, 4, 128, vocabulary_size=4096),
    "pythia_70m": _pythia(6, 8, 512),
    "pythia_160m": _pythia(12, 12, 768),
    "pythia_410m": _pythia(24, 16, 1024),
    "pythia_1b": _pythia(16, 8, 2048),
}


def build_gpt_neox(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    rotary: RotaryEmbedding | None = None,
    activation: ActivationLike = "gelu",
    norm_epsilon: float = 1e-5,
    parallel: bool = True,
    tie_weights: bool = False,
    dropout: float = 0.0,
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "gpt_neox",
) -> CausalLM:
    """A GPT-NeoX: both sublayers of a block read the same stream, a quarter of each head turns, its own output head.

    Args:
        size: a row of `SIZES`: "nano", "pythia_70m", "pythia_160m", "pythia_410m", "pythia_1b". Numbers given beside
            it replace those of the row; without it, the five numbers from `vocabulary_size` on are required.
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward.
        rotary: `RotaryEmbedding`. Default: base 10,000 on a quarter of the features of each head.
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        parallel: bool, `ParallelTransformerBlock`; otherwise the feed-forward comes after attention.
        tie_weights: bool, project with the transposed token embedding instead of a head.
        dropout: float, rate after the embedding, on attention weights and before each residual sum.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `CausalLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_gpt_neox("nano", vocabulary_size=512)
        >>> model(np.array([[1, 2, 3]])).shape
        (1, 3, 512)

    Reference:
        Black et al. 2022, "GPT-NeoX-20B", https://arxiv.org/abs/2204.06745; Biderman et al. 2023, "Pythia",
        https://arxiv.org/abs/2304.01373
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=intermediate_dim,
    )
    weights = keras.initializers.RandomNormal(stddev=0.02)
    if rotary is None:
        rotary = RotaryEmbedding(rotary_dim=numbers["hidden_dim"] // numbers["num_heads"] // 4, dtype=dtype)

    def norm():
        return keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(i):
        wiring = ParallelTransformerBlock if parallel else TransformerBlock
        return wiring(
            MultiHeadSelfAttention(
                numbers["num_heads"],
                rotary=clone(rotary),
                causal=True,
                dropout=dropout,
                kernel_initializer=weights,
                dtype=dtype,
            ),
            FeedForward(numbers["intermediate_dim"], activation=activation, kernel_initializer=weights, dtype=dtype),
            norm=norm(),
            dropout=dropout,
            dtype=dtype,
        )

    return causal_lm(
        numbers,
        block,
        norm(),
        initializer=weights,
        tie_weights=tie_weights,
        remat=remat,
        dtype=dtype,
        name=name,
        dropout=dropout,
    )
