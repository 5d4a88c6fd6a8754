"""Llama: RMS norms, rotary positions, grouped-query attention, gated feed-forward; and its sizes."""

import keras

from keras_tfm.layers import (
    GatedFeedForward,
    MultiHeadSelfAttention,
    RotaryEmbedding,
    TransformerBlock,
)
from keras_tfm.layers.composite import clone
from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.wiring import causal_lm, size_of
from keras_tfm.types import DTypeLike

SIZES = {
    "nano": {
        "vocabulary_size": 4096,
        "num_layers": 4,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 128,
        "intermediate_dim": 344,
    },
    "llama2_7b": {
        "vocabulary_size": 32000,
        "num_layers": 32,
        "num_heads": 32,
        "num_key_value_heads": 32,
        "hidden_dim": 4096,
        "intermediate_dim": 11008,
    },
    "llama3_8b": {
        "vocabulary_size": 128256,
        "num_layers": 32,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "hidden_dim": 4096,
        "intermediate_dim": 14336,
    },
}
BIASES = ("query_key_value", "attention_output", "feed_forward")


def build_llama(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    num_key_value_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    head_dim: int | None = None,
    rotary: RotaryEmbedding | None = None,
    norm_epsilon: float = 1e-5,
    tie_weights: bool = False,
    windows: tuple[int | None, ...] = (None,),
    query_key_norm: bool = False,
    biases: tuple[str, ...] = (),
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "llama",
) -> CausalLM:
    """A Llama: pre-norm causal blocks with RMSNorm, rotary positions and SwiGLU, no biases, its own output head.

    Args:
        size: a row of `SIZES`: "nano", "llama2_7b", "llama3_8b". Numbers given beside it replace those of the row;
            without it, the six numbers from `vocabulary_size` to `intermediate_dim` are required.
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, query heads N.
        num_key_value_heads: int, shared key and value heads K, a divisor of N.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the gated feed-forward.
        head_dim: int, width of one head. Default: D / N.
        rotary: `RotaryEmbedding`. Default: base 10,000 (Llama 3 uses 500,000).
        norm_epsilon: float, of the RMS norms.
        tie_weights: bool, project with the transposed token embedding instead of a head.
        windows: block i sees `windows[i % len(windows)]` positions back, None = all: (4096,) for Mistral, (4096, None)
            for Gemma 2's alternation of local and global blocks.
        query_key_norm: bool, RMS norms on the queries and keys of each head (Qwen 3).
        biases: which projections have one: "query_key_value" (Qwen 2), "attention_output", "feed_forward".
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `CausalLM`.

    Raises:
        ValueError: for an unknown size or bias, or missing numbers.

    Example:
        >>> model = build_llama("nano", vocabulary_size=512)
        >>> model(np.array([[1, 2, 3]])).shape
        (1, 3, 512)

    Reference:
        Touvron et al. 2023, "LLaMA", https://arxiv.org/abs/2302.13971
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=intermediate_dim,
    )
    if unknown := set(biases) - set(BIASES):
        raise ValueError(f"`biases` must be among {BIASES}. Received: {sorted(unknown)}.")
    weights = keras.initializers.RandomNormal(stddev=0.02)
    rotary = rotary or RotaryEmbedding(dtype=dtype)

    def norm():
        return keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(i):
        return TransformerBlock(
            MultiHeadSelfAttention(
                numbers["num_heads"],
                head_dim=head_dim,
                num_key_value_heads=numbers["num_key_value_heads"],
                rotary=clone(rotary),
                causal=True,
                window=windows[i % len(windows)],
                query_key_norm=norm() if query_key_norm else None,
                use_bias="query_key_value" in biases,
                output_use_bias="attention_output" in biases,
                kernel_initializer=weights,
                dtype=dtype,
            ),
            GatedFeedForward(
                numbers["intermediate_dim"],
                use_bias="feed_forward" in biases,
                kernel_initializer=weights,
                dtype=dtype,
            ),
            norm=norm(),
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
    )
