"""Gemma 2: norms on both sides of each sublayer, soft caps, local and global blocks in turn; and its sizes."""

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
from keras_tfm.ops import gelu_tanh
from keras_tfm.types import ActivationLike, DTypeLike

_GEMMA2 = {"vocabulary_size": 256000, "head_dim": 256}
SIZES = {
    "nano": {
        "vocabulary_size": 4096,
        "num_layers": 4,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        "head_dim": 32,
    },
    "gemma2_2b": {
        **_GEMMA2,
        "num_layers": 26,
        "num_heads": 8,
        "num_key_value_heads": 4,
        "hidden_dim": 2304,
        "intermediate_dim": 9216,
    },
    "gemma2_9b": {
        **_GEMMA2,
        "num_layers": 42,
        "num_heads": 16,
        "num_key_value_heads": 8,
        "hidden_dim": 3584,
        "intermediate_dim": 14336,
    },
}


def build_gemma2(
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
    norm_epsilon: float = 1e-6,
    activation: ActivationLike = gelu_tanh,
    attention_scale: float | None = None,
    attention_logit_cap: float | None = 50.0,
    logit_cap: float | None = 30.0,
    windows: tuple[int | None, ...] = (4096, None),
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "gemma2",
) -> CausalLM:
    """A Gemma 2: RMS norms before and after each sublayer, GEGLU, capped scores and logits, scaled and tied embedding.

    Args:
        size: a row of `SIZES`: "nano", "gemma2_2b", "gemma2_9b". Numbers given beside it replace those of the row;
            without it, the seven numbers from `vocabulary_size` to `head_dim` are required.
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, query heads N.
        num_key_value_heads: int, shared key and value heads K, a divisor of N.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the gated feed-forward.
        head_dim: int, width of one head; N times it need not be D.
        rotary: `RotaryEmbedding`. Default: base 10,000.
        norm_epsilon: float, of the RMS norms.
        activation: of the gate, name or function.
        attention_scale: float, factor on the scores. Default: 1 / sqrt(head_dim).
        attention_logit_cap: float, scores become cap * tanh(scores / cap), or None.
        logit_cap: float, the same for the logits, or None.
        windows: block i sees `windows[i % len(windows)]` positions back, None = all.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `CausalLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_gemma2("nano", vocabulary_size=512)
        >>> model(np.array([[1, 2, 3]])).shape
        (1, 3, 512)

    Reference:
        Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size",
        https://arxiv.org/abs/2408.00118
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
        head_dim=head_dim,
    )
    weights = keras.initializers.RandomNormal(stddev=0.02)
    rotary = rotary or RotaryEmbedding(dtype=dtype)

    def norm():
        return keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(i):
        return TransformerBlock(
            MultiHeadSelfAttention(
                numbers["num_heads"],
                head_dim=numbers["head_dim"],
                num_key_value_heads=numbers["num_key_value_heads"],
                rotary=clone(rotary),
                causal=True,
                window=windows[i % len(windows)],
                scale=attention_scale,
                logit_cap=attention_logit_cap,
                use_bias=False,
                kernel_initializer=weights,
                dtype=dtype,
            ),
            GatedFeedForward(
                numbers["intermediate_dim"], activation=activation, kernel_initializer=weights, dtype=dtype
            ),
            norm=norm(),
            norm_placement="sandwich",
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
        scale=numbers["hidden_dim"] ** 0.5,
        logit_cap=logit_cap,
    )
