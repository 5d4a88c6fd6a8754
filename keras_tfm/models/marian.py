"""Marian (OPUS-MT): its wiring, and its size."""

import keras

from keras_tfm.layers import SinusoidalEmbedding
from keras_tfm.models.encoder_decoder import encoder_decoder
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.models.wiring import size_of
from keras_tfm.types import ActivationLike, DTypeLike

_OPUS = {"num_layers": 6, "num_decoder_layers": 6, "num_heads": 8, "hidden_dim": 512, "intermediate_dim": 2048}
SIZES = {"opus_mt_en_de": {"vocabulary_size": 58_101, **_OPUS}, "opus_mt_en_fr": {"vocabulary_size": 59_514, **_OPUS}}


def build_marian(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    decoder_vocabulary_size: int | None = None,
    num_layers: int | None = None,
    num_decoder_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    scale_embedding: bool = True,
    activation: ActivationLike = "silu",
    norm_epsilon: float = 1e-5,
    start_token_id: int | None = None,
    dropout: float = 0.1,
    method: str = "plain",
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "marian",
) -> Seq2SeqLM:
    """Marian's Transformer, as OPUS-MT trains it: post-norm, sinusoids before cosines, SiLU, a bias on the logits.

    Its decoder starts from the padding token, which must never be written:
    `GreedySampler((BanTokens((start_token_id,)),))`; `checkpoints.open(...).text_to_text()` sees to that.

    Args:
        size: a row of `SIZES`: "opus_mt_en_de", "opus_mt_en_fr". Numbers given beside it replace those of the row;
            without it, `vocabulary_size` and the five numbers from `num_layers` to `intermediate_dim` are required.
        vocabulary_size: int, number of tokens V.
        decoder_vocabulary_size: int, if the target has a vocabulary and a table of its own.
        num_layers, num_decoder_layers, num_heads, hidden_dim, intermediate_dim: as in `build_transformer`.
        scale_embedding: bool, token vectors times sqrt(D).
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        start_token_id: int, what the decoder reads first. Default: the last token that can be written, which is
            Marian's padding.
        dropout: float, rate after the embeddings, on attention weights and before each residual sum.
        method: as in `build_transformer`.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again: less memory.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `Seq2SeqLM`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> model = build_marian("opus_mt_en_de", vocabulary_size=100, num_layers=1)
        >>> model({"encoder_token_ids": np.array([[5, 6, 0]]), "decoder_token_ids": np.array([[99, 7]])}).shape
        (1, 2, 100)

    Reference:
        Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++", https://arxiv.org/abs/1804.00344;
        Tiedemann and Thottingal 2020, "OPUS-MT", https://aclanthology.org/2020.eamt-1.61
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
    last = (decoder_vocabulary_size or numbers["vocabulary_size"]) - 1
    weights = keras.initializers.RandomNormal(stddev=0.02)
    return encoder_decoder(
        numbers,
        position=lambda: SinusoidalEmbedding(width, interleaved=False, dtype=dtype),
        norm_placement="post",
        embedding_norm=False,
        scale=width**0.5 if scale_embedding else 1.0,
        activation=activation,
        norm_epsilon=norm_epsilon,
        logit_bias=True,
        kernel_initializer=weights,
        embeddings_initializer=weights,
        decoder_vocabulary_size=decoder_vocabulary_size,
        start_token_id=last if start_token_id is None else start_token_id,
        dropout=dropout,
        method=method,
        remat=remat,
        dtype=dtype,
        name=name,
    )
