"""The wiring that the first Transformer, BART and Marian have in common."""

from collections.abc import Callable
from typing import Any

import keras

from keras_tfm.layers import (
    FeedForward,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    TokenEmbedding,
    TransformerBlock,
    TransformerStack,
)
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.types import DTypeLike


def encoder_decoder(
    numbers: dict[str, int],
    *,
    position: Callable[[], keras.layers.Layer],
    norm_placement: str,
    embedding_norm: bool,
    scale: float,
    activation: Any,
    norm_epsilon: float,
    logit_bias: bool,
    kernel_initializer: Any,
    embeddings_initializer: Any,
    decoder_vocabulary_size: int | None = None,
    start_token_id: int = 0,
    dropout: float = 0.0,
    method: str = "plain",
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "seq2seq",
) -> Seq2SeqLM:
    """An encoder and a decoder of blocks with layer norms and biases, and a tied head.

    Args:
        numbers: of `size_of`; those from "vocabulary_size" to "intermediate_dim" are read.
        position: makes the positions' embedding, for each of the two embeddings.
        norm_placement: "post", or "pre" with a norm after each stack.
        embedding_norm: bool, a norm after each embedding.
        scale: float, factor on the token vectors.
        activation, norm_epsilon: of the feed-forward and of the norms.
        logit_bias: bool, a learned number for each token on the logits.
        kernel_initializer, embeddings_initializer: for projections, and for tables.
        decoder_vocabulary_size: int, if the target has a vocabulary and a table of its own.
        start_token_id, dropout, method, remat, dtype, name: as in the builders.
    """
    width, heads = numbers["hidden_dim"], numbers["num_heads"]
    options = {"kernel_initializer": kernel_initializer, "dtype": dtype}
    attention = {"dropout": dropout, "method": method, **options}

    def norm():
        return keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype)

    def embedding(vocabulary_size, name, **more):
        return TokenEmbedding(
            vocabulary_size,
            width,
            position=position(),
            scale=scale,
            norm=norm() if embedding_norm else None,
            dropout=dropout,
            embeddings_initializer=embeddings_initializer,
            dtype=dtype,
            name=name,
            **more,
        )

    def block(is_decoder):
        return TransformerBlock(
            MultiHeadSelfAttention(heads, causal=is_decoder, **attention),
            FeedForward(numbers["intermediate_dim"], activation=activation, **options),
            norm=norm(),
            norm_placement=norm_placement,
            cross_attention=MultiHeadCrossAttention(heads, **attention) if is_decoder else None,
            dropout=dropout,
            dtype=dtype,
        )

    def stack(num_layers, name):
        return TransformerStack(
            [block(name == "decoder") for _ in range(num_layers)],
            final_norm=norm() if norm_placement == "pre" else None,
            remat=remat,
            dtype=dtype,
            name=name,
        )

    source = embedding(numbers["vocabulary_size"], "encoder_embedding")
    table = source.embedding if decoder_vocabulary_size is None else None
    return Seq2SeqLM(
        source,
        stack(numbers["num_layers"], "encoder"),
        stack(numbers["num_decoder_layers"], "decoder"),
        decoder_embedding=embedding(
            decoder_vocabulary_size or numbers["vocabulary_size"],
            "decoder_embedding",
            logit_bias=logit_bias,
            table=table,
        ),
        start_token_id=start_token_id,
        dtype=dtype,
        name=name,
    )
