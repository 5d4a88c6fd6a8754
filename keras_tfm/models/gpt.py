"""GPT: the wiring of GPT-2, and its sizes."""

import keras

from keras_tfm.layers import (
    AlibiBias,
    FeedForward,
    MultiHeadSelfAttention,
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinusoidalEmbedding,
    TransformerBlock,
)
from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.wiring import causal_lm, size_of
from keras_tfm.ops import gelu_tanh
from keras_tfm.types import ActivationLike, DTypeLike

_GPT2 = {"vocabulary_size": 50257, "max_sequence_length": 1024}
SIZES = {
    "nano": {"vocabulary_size": 4096, "max_sequence_length": 128, "num_layers": 4, "num_heads": 4, "hidden_dim": 128},
    "gpt2_small": {**_GPT2, "num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "gpt2_medium": {**_GPT2, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "gpt2_large": {**_GPT2, "num_layers": 36, "num_heads": 20, "hidden_dim": 1280},
    "gpt2_xl": {**_GPT2, "num_layers": 48, "num_heads": 25, "hidden_dim": 1600},
}
POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "relative")


def build_gpt(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    max_sequence_length: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    position: str = "learned",
    activation: ActivationLike = gelu_tanh,
    norm_epsilon: float = 1e-5,
    tie_weights: bool = True,
    dropout: float = 0.0,
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "gpt",
) -> CausalLM:
    """A GPT: pre-norm causal blocks with GELU feed-forward, learned positions, tied head, GPT-2's initialisation.

    Weights start normal with deviation 0.02, the projections back into the residual stream 0.02 / sqrt(2 num_layers).

    Args:
        size: a row of `SIZES`: "nano", "gpt2_small", "gpt2_medium", "gpt2_large", "gpt2_xl". Numbers given beside it
            replace those of the row; without it, the five numbers from `vocabulary_size` to `hidden_dim` are required.
        vocabulary_size: int, number of tokens V.
        max_sequence_length: int, number of learned positions; other schemes have no limit and do not use it.
        num_layers: int, number of blocks.
        num_heads: int, query heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward. Default: 4 D.
        position: how the model knows where a token stands: "learned" and "sinusoidal" add to the embedding, "rotary"
            turns queries and keys, "alibi" and "relative" (T5's buckets) add to the scores.
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        tie_weights: bool, project with the transposed token embedding; otherwise with a head of its own.
        dropout: float, rate after the embedding, on attention weights and before each residual sum.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again: less memory.
        dtype: dtype policy of all layers, for example "mixed_bfloat16". Default: Keras' global policy.
        name: name of the model.

    Returns:
        `CausalLM`. On CPUs it trains faster with `compile(jit_compile=True)`, which Keras leaves off there.

    Raises:
        ValueError: for an unknown size or position, or missing numbers.

    Example:
        >>> model = build_gpt("nano", vocabulary_size=512)
        >>> model(np.array([[1, 2, 3]])).shape
        (1, 3, 512)

    Reference:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        max_sequence_length=max_sequence_length,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
    )
    if position not in POSITIONS:
        raise ValueError(f"`position` must be one of {POSITIONS}. Received: position={position!r}.")
    depth, heads, width = numbers["num_layers"], numbers["num_heads"], numbers["hidden_dim"]
    weights = keras.initializers.RandomNormal(stddev=0.02)
    initializers = {
        "kernel_initializer": weights,
        "output_kernel_initializer": keras.initializers.RandomNormal(stddev=0.02 / (2 * depth) ** 0.5),
        "dtype": dtype,
    }
    absolute = {
        "learned": lambda: PositionEmbedding(
            numbers["max_sequence_length"], width, embeddings_initializer=weights, dtype=dtype
        ),
        "sinusoidal": lambda: SinusoidalEmbedding(width, dtype=dtype),
    }
    bias = {
        "alibi": lambda: AlibiBias(heads, dtype=dtype),
        "relative": lambda: RelativePositionBias(heads, bidirectional=False, dtype=dtype),
    }

    def norm():
        return keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(i):
        return TransformerBlock(
            MultiHeadSelfAttention(
                heads,
                causal=True,
                rotary=RotaryEmbedding(dtype=dtype) if position == "rotary" else None,
                dropout=dropout,
                **initializers,
            ),
            FeedForward(intermediate_dim or 4 * width, activation=activation, **initializers),
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
        position=absolute[position]() if position in absolute else None,
        position_bias=bias[position]() if position in bias else None,
        scale=width**0.5 if position == "sinusoidal" else 1.0,  # as in the paper: sinusoids have size 1
        dropout=dropout,
    )
