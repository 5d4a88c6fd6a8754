"""T5, its version 1.1 (FLAN-T5) and mT5: their wiring, and their sizes."""

import keras

from keras_tfm.layers import (
    FeedForward,
    GatedFeedForward,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    Projection,
    RelativePositionBias,
    TokenEmbedding,
    TransformerBlock,
    TransformerStack,
)
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.models.wiring import size_of
from keras_tfm.ops import gelu_tanh
from keras_tfm.types import ActivationLike, DTypeLike


def _row(num_layers, num_heads, head_dim, hidden_dim, intermediate_dim, **more):
    return {
        "vocabulary_size": 32_128,
        "num_layers": num_layers,
        "num_decoder_layers": num_layers,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "hidden_dim": hidden_dim,
        "intermediate_dim": intermediate_dim,
        **more,
    }


_FIRST = {"gated": False, "tie_weights": True}
_V11 = {
    "small": (8, 6, 64, 512, 1024),
    "base": (12, 12, 64, 768, 2048),
    "large": (24, 16, 64, 1024, 2816),
    "xl": (24, 32, 64, 2048, 5120),
    "xxl": (24, 64, 64, 4096, 10_240),
}
SIZES = {
    "t5_small": _row(6, 8, 64, 512, 2048, **_FIRST),
    "t5_base": _row(12, 12, 64, 768, 3072, **_FIRST),
    "t5_large": _row(24, 16, 64, 1024, 4096, **_FIRST),
    "t5_3b": _row(24, 32, 128, 1024, 16_384, **_FIRST),
    "t5_11b": _row(24, 128, 128, 1024, 65_536, **_FIRST),
    **{f"flan_t5_{name}": _row(*numbers) for name, numbers in _V11.items()},
    **{f"mt5_{name}": _row(*numbers, vocabulary_size=250_112) for name, numbers in _V11.items()},
}


def build_t5(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_decoder_layers: int | None = None,
    num_heads: int | None = None,
    head_dim: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    gated: bool | None = None,
    activation: ActivationLike | None = None,
    tie_weights: bool | None = None,
    num_buckets: int = 32,
    max_distance: int = 128,
    norm_epsilon: float = 1e-6,
    start_token_id: int = 0,
    dropout: float = 0.1,
    method: str = "plain",
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "t5",
) -> Seq2SeqLM:
    """T5: pre-norm RMS norms, relative position biases shared by a stack's blocks, no other positions, no biases.

    Version 1.1, of which FLAN-T5 is a fine-tuning, has a gated feed-forward and a head of its own; mT5 is version 1.1
    with another vocabulary. Scores are not scaled. Published weights overflow in float16: use "mixed_bfloat16".

    Args:
        size: a row of `SIZES`: "t5_small", "t5_base", "t5_large", "t5_3b", "t5_11b", and "flan_t5_" (version 1.1) or
            "mt5_" with "small", "base", "large", "xl", "xxl". Numbers given beside it replace those of the row; without
            it, `vocabulary_size` and the six numbers from `num_layers` to `intermediate_dim` are required.
        vocabulary_size: int, number of tokens V.
        num_layers: int, blocks of the encoder.
        num_decoder_layers: int, blocks of the decoder. Default: `num_layers`.
        num_heads: int, heads N.
        head_dim: int, width H of a head; N x H need not be D.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward.
        gated: bool, a gated feed-forward. Default: that of the row, else True.
        activation: of the feed-forward, name or function. Default: `gelu_tanh` if it is gated, else "relu".
        tie_weights: bool, project with the transposed token embedding, after a factor D^-0.5, instead of a head.
            Default: that of the row, else False.
        num_buckets, max_distance: of `RelativePositionBias`.
        norm_epsilon: float, of the RMS norms.
        start_token_id: int, what the decoder reads first: the padding token.
        dropout: float, rate after the embedding, on attention weights and before each residual sum.
        method: as in `build_transformer`.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again: less memory.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `Seq2SeqLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_t5("flan_t5_small", vocabulary_size=100, num_layers=1)
        >>> model({"encoder_token_ids": np.array([[5, 6, 1]]), "decoder_token_ids": np.array([[0, 8]])}).shape
        (1, 2, 100)

    Reference:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        https://arxiv.org/abs/1910.10683; Xue et al. 2020, "mT5", https://arxiv.org/abs/2010.11934; Chung et al. 2022,
        "Scaling Instruction-Finetuned Language Models" (FLAN), https://arxiv.org/abs/2210.11416
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_decoder_layers=num_decoder_layers or num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        hidden_dim=hidden_dim,
        intermediate_dim=intermediate_dim,
    )
    gated = numbers.get("gated", True) if gated is None else gated
    tie_weights = numbers.get("tie_weights", False) if tie_weights is None else tie_weights
    if activation is None:
        activation = gelu_tanh if gated else "relu"
    width, heads, head_dim = numbers["hidden_dim"], numbers["num_heads"], numbers["head_dim"]

    def normal(fan_in):  # as Mesh TensorFlow has it: variances of 1 everywhere, unscaled scores included
        return keras.initializers.RandomNormal(stddev=fan_in**-0.5)

    attention = {
        "head_dim": head_dim,
        "scale": 1.0,
        "use_bias": False,
        "dropout": dropout,
        "method": method,
        "kernel_initializer": normal(width),
        "query_kernel_initializer": normal(width * head_dim),
        "output_kernel_initializer": normal(heads * head_dim),
        "dtype": dtype,
    }

    def norm():
        return keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block(is_decoder):
        return TransformerBlock(
            MultiHeadSelfAttention(heads, causal=is_decoder, **attention),
            (GatedFeedForward if gated else FeedForward)(
                numbers["intermediate_dim"],
                activation=activation,
                use_bias=False,
                kernel_initializer=normal(width),
                output_kernel_initializer=normal(numbers["intermediate_dim"]),
                dtype=dtype,
            ),
            norm=norm(),
            cross_attention=MultiHeadCrossAttention(heads, **attention) if is_decoder else None,
            dropout=dropout,
            dtype=dtype,
        )

    def stack(num_layers, name):
        is_decoder = name == "decoder"
        bias = RelativePositionBias(
            heads,
            num_buckets,
            max_distance,
            bidirectional=not is_decoder,
            embeddings_initializer=normal(width),
            dtype=dtype,
        )
        blocks = [block(is_decoder) for _ in range(num_layers)]
        return TransformerStack(blocks, bias, final_norm=norm(), remat=remat, dtype=dtype, name=name)

    head = Projection(
        numbers["vocabulary_size"], use_bias=False, kernel_initializer=normal(width), dtype=dtype, name="head"
    )
    return Seq2SeqLM(
        TokenEmbedding(
            numbers["vocabulary_size"],
            width,
            dropout=dropout,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0),
            logit_scale=width**-0.5 if tie_weights else 1.0,
            dtype=dtype,
            name="token_embedding",
        ),
        stack(numbers["num_layers"], "encoder"),
        stack(numbers["num_decoder_layers"], "decoder"),
        head=None if tie_weights else head,
        start_token_id=start_token_id,
        dtype=dtype,
        name=name,
    )
