"""The first Transformer: its wiring, and its sizes."""

import keras

from keras_tfm.layers import SinusoidalEmbedding
from keras_tfm.models.encoder_decoder import encoder_decoder
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.models.wiring import size_of
from keras_tfm.types import ActivationLike, DTypeLike

_PAPER = {"vocabulary_size": 37_000, "num_layers": 6, "num_decoder_layers": 6}
SIZES = {
    "tiny": {**_PAPER, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "hidden_dim": 128,
             "intermediate_dim": 512},
    "base": {**_PAPER, "num_heads": 8, "hidden_dim": 512, "intermediate_dim": 2048},
    "big": {**_PAPER, "num_heads": 16, "hidden_dim": 1024, "intermediate_dim": 4096},
}  # fmt: skip


def build_transformer(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    decoder_vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_decoder_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    norm_placement: str = "post",
    activation: ActivationLike = "relu",
    norm_epsilon: float = 1e-6,
    start_token_id: int = 0,
    dropout: float = 0.1,
    method: str = "plain",
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "transformer",
) -> Seq2SeqLM:
    """The encoder-decoder of "Attention Is All You Need": post-norm, sinusoids, ReLU, one table for all three places.

    Positions have no end. Post-norm models of 6 layers and more need a warm-up of the learning rate
    (`keras_tfm.training.WarmupSchedule`); `norm_placement="pre"` does not, and has a norm after each stack.

    Args:
        size: a row of `SIZES`: "tiny", and the paper's "base" and "big". Numbers given beside it replace those of the
            row; without it, `vocabulary_size` and the five numbers from `num_layers` to `intermediate_dim` are
            required.
        vocabulary_size: int, number of tokens V.
        decoder_vocabulary_size: int, if the target has a vocabulary of its own. Default: one vocabulary and one table.
        num_layers: int, blocks of the encoder.
        num_decoder_layers: int, blocks of the decoder. Default: `num_layers`.
        num_heads: int, heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward.
        norm_placement: "post" or "pre".
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        start_token_id: int, what the decoder reads first; customarily the id of the padding.
        dropout: float, rate after the embeddings, on attention weights and before each residual sum. The paper's "big"
            has 0.3.
        method: how attention is computed. "auto" for texts of a thousand tokens and more: it needs memory for tokens
            rather than for pairs of them.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again: less memory.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `Seq2SeqLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_transformer("tiny", vocabulary_size=100)
        >>> model({"encoder_token_ids": np.array([[5, 6, 7]]), "decoder_token_ids": np.array([[0, 8]])}).shape
        (1, 2, 100)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_decoder_layers=num_decoder_layers or num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=intermediate_dim,
    )
    width = numbers["hidden_dim"]
    return encoder_decoder(
        numbers,
        position=lambda: SinusoidalEmbedding(width, dtype=dtype),
        norm_placement=norm_placement,
        embedding_norm=False,
        scale=width**0.5,  # sinusoids have size 1, and so have the vectors then
        activation=activation,
        norm_epsilon=norm_epsilon,
        logit_bias=False,
        kernel_initializer="glorot_uniform",
        embeddings_initializer=keras.initializers.RandomNormal(stddev=width**-0.5),
        decoder_vocabulary_size=decoder_vocabulary_size,
        start_token_id=start_token_id,
        dropout=dropout,
        method=method,
        remat=remat,
        dtype=dtype,
        name=name,
    )
