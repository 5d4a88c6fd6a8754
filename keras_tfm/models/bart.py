"""BART and mBART: their wiring, and their sizes."""

import keras

from keras_tfm.layers import PositionEmbedding
from keras_tfm.models.encoder_decoder import encoder_decoder
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.models.wiring import size_of
from keras_tfm.types import ActivationLike, DTypeLike

_BASE = {"num_layers": 6, "num_decoder_layers": 6, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
_LARGE = {"num_layers": 12, "num_decoder_layers": 12, "num_heads": 16, "hidden_dim": 1024, "intermediate_dim": 4096}
_BART = {"vocabulary_size": 50_265, "max_sequence_length": 1024}
_MBART = {**_BART, **_LARGE, "norm_placement": "pre", "scale_embedding": True}
SIZES = {
    "bart_base": {**_BART, **_BASE},
    "bart_large": {**_BART, **_LARGE},
    "distilbart_12_6": {**_BART, **_LARGE, "num_decoder_layers": 6, "vocabulary_size": 50_264},
    "mbart_large": {**_MBART, "vocabulary_size": 250_027},
    "mbart50_large": {**_MBART, "vocabulary_size": 250_054},
}


def build_bart(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    max_sequence_length: int | None = None,
    num_layers: int | None = None,
    num_decoder_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    norm_placement: str | None = None,
    scale_embedding: bool | None = None,
    activation: ActivationLike = "gelu",
    norm_epsilon: float = 1e-5,
    start_token_id: int = 2,
    dropout: float = 0.1,
    method: str = "plain",
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "bart",
) -> Seq2SeqLM:
    """BART: post-norm, learned positions, a norm after each embedding, GELU; or mBART: pre-norm, with scaled vectors.

    Weights start normal with deviation 0.02.

    Args:
        size: a row of `SIZES`: "bart_base", "bart_large", "distilbart_12_6", "mbart_large", "mbart50_large". Numbers
            given beside it replace those of the row; without it, the seven from `vocabulary_size` to
            `intermediate_dim` are required.
        vocabulary_size: int, number of tokens V.
        max_sequence_length: int, number of learned positions, for the source and for the target.
        num_layers: int, blocks of the encoder.
        num_decoder_layers: int, blocks of the decoder. Default: `num_layers`.
        num_heads: int, heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward.
        norm_placement: "post" (BART), or "pre" with a norm after each stack (mBART). Default: that of the row, "post".
        scale_embedding: bool, token vectors times sqrt(D) (mBART). Default: that of the row, False.
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        start_token_id: int, what the decoder reads first: the end-of-text token.
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
        >>> model = build_bart("bart_base", vocabulary_size=100, num_layers=1)
        >>> model({"encoder_token_ids": np.array([[5, 6, 2]]), "decoder_token_ids": np.array([[2, 0]])}).shape
        (1, 2, 100)

    Reference:
        Lewis et al. 2019, "BART", https://arxiv.org/abs/1910.13461; Liu et al. 2020, "Multilingual Denoising
        Pre-training for Neural Machine Translation" (mBART), https://arxiv.org/abs/2001.08210
    """
    numbers = size_of(
        SIZES,
        size,
        vocabulary_size=vocabulary_size,
        max_sequence_length=max_sequence_length,
        num_layers=num_layers,
        num_decoder_layers=num_decoder_layers or num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=intermediate_dim,
    )
    width = numbers["hidden_dim"]
    if scale_embedding is None:
        scale_embedding = numbers.get("scale_embedding", False)
    weights = keras.initializers.RandomNormal(stddev=0.02)
    return encoder_decoder(
        numbers,
        position=lambda: PositionEmbedding(
            numbers["max_sequence_length"], width, embeddings_initializer=weights, dtype=dtype
        ),
        norm_placement=norm_placement or numbers.get("norm_placement", "post"),
        embedding_norm=True,
        scale=width**0.5 if scale_embedding else 1.0,
        activation=activation,
        norm_epsilon=norm_epsilon,
        logit_bias=True,
        kernel_initializer=weights,
        embeddings_initializer=weights,
        start_token_id=start_token_id,
        dropout=dropout,
        method=method,
        remat=remat,
        dtype=dtype,
        name=name,
    )
