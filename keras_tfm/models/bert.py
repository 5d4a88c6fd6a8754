"""BERT: the encoder, its wiring, and its sizes."""

from typing import Any

import keras

from keras_tfm.layers import (
    FeedForward,
    FirstTokenPooling,
    MultiHeadSelfAttention,
    PositionEmbedding,
    TokenEmbedding,
    TokenPositions,
    TransformerBlock,
    TransformerStack,
)
from keras_tfm.layers.composite import as_layer, revive, serialize
from keras_tfm.models.token_model import TokenModel, as_embedding, check_blocks, token_inputs
from keras_tfm.models.wiring import size_of
from keras_tfm.ops import method_up_to
from keras_tfm.types import ActivationLike, Config, DTypeLike, LayerLike

_BERT = {"vocabulary_size": 30522, "max_sequence_length": 512}
SIZES = {
    "tiny": {**_BERT, "num_layers": 2, "num_heads": 2, "hidden_dim": 128},
    "mini": {**_BERT, "num_layers": 4, "num_heads": 4, "hidden_dim": 256},
    "small": {**_BERT, "num_layers": 4, "num_heads": 8, "hidden_dim": 512},
    "medium": {**_BERT, "num_layers": 8, "num_heads": 8, "hidden_dim": 512},
    "base": {**_BERT, "num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "large": {**_BERT, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
}


@keras.saving.register_keras_serializable(package="keras_tfm")
class Bert(TokenModel):
    """Reads a text in both directions: a vector for each token, and one for the whole.

    It differs from the paper in that positions count real tokens, so that padding may be on either side.

    Args:
        token_embedding: `TokenEmbedding`, with `num_segments` if the model is to know segments.
        stack: `TransformerStack` with bidirectional self-attention.
        pooler: a layer (B, D) -> (B, D) on the first token's vector, or None.
        dtype: the dtype policy that `compile` goes by; the parts have their own.

    Call arguments:
        inputs: int32 (B, T) token ids, or a dict of "token_ids" and perhaps "segment_ids", int32 (B, T), which sentence
            a token belongs to (default: all to the first; left unread by a model of fewer than two segments, so that
            the same datasets train it); "padding_mask", bool (B, T), True = a real token; and
            "document_ids", int32 (B, T), for rows packed with several texts that must not see each other: no work is
            done on padding then, and "pooled_output" is that of a row's first text.
        training: bool.

    Returns:
        dict of "sequence_output", float (B, T, D), and "pooled_output", float (B, D).

    Raises:
        ValueError: for ids outside the vocabulary (eagerly), other ranks, sequences longer than learned positions,
            inputs of other names. TypeError: for a float padding mask.

    Masking:
        Padding is looked at by nobody. Without a mask every token is real.

    Example:
        >>> encoder = build_bert("tiny", vocabulary_size=100)
        >>> encoder(np.array([[1, 2, 3]]))["pooled_output"].shape
        (1, 128)

    Reference:
        Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        token_embedding: LayerLike,
        stack: LayerLike,
        pooler: LayerLike | None = None,
        dtype: DTypeLike | None = None,
        **kwargs: Any,
    ):
        parts = {
            "token_positions": TokenPositions(name="token_positions"),
            "token_embedding": as_embedding(token_embedding),
            "stack": as_layer(stack, "stack", "TransformerStack([TransformerBlock(...), ...])"),
            "first_token": FirstTokenPooling(name="first_token", dtype=dtype),
            "pooler": as_layer(pooler, "pooler", 'keras.layers.Dense(768, "tanh")', optional=True),
        }
        check_blocks(parts["stack"])
        segments = ("segment_ids",) if parts["token_embedding"].num_segments > 1 else ()
        super().__init__(token_inputs(*segments, "padding_mask", "document_ids"), parts, dtype, **kwargs)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V."""
        return self.token_embedding.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """Width D of the outputs."""
        return self.token_embedding.hidden_dim

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that learned positions allow; None if nothing limits it."""
        position = self.token_embedding.position
        return position.max_sequence_length if isinstance(position, PositionEmbedding) else None

    def without_pooler(self) -> "Bert":
        """This encoder without its pooler, with the same layers: for models that do not read "pooled_output"."""
        if self.pooler is None:
            return self
        return Bert(self.token_embedding, self.stack, dtype=self.dtype_policy, name=self.name)

    def inputs_for_tasks(self, *more: str) -> dict:
        """New symbolic inputs for a model on top: those of the encoder but "document_ids", and `more`."""
        names = [name for name in (x.name for x in self.inputs) if name not in ("token_ids", "document_ids")]
        return token_inputs(*names, *more)

    def _forward(self, token_ids, segment_ids=None, padding_mask=None, document_ids=None):
        positions = self.token_positions(token_ids, padding_mask=padding_mask, document_ids=document_ids)
        x = self.token_embedding(token_ids, positions=positions, segment_ids=segment_ids)
        x = self.stack(x, positions=positions, document_ids=document_ids)
        first = self.first_token(x, positions=positions)
        return {"sequence_output": x, "pooled_output": first if self.pooler is None else self.pooler(first)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "token_embedding": serialize(self.token_embedding),
            "stack": serialize(self.stack),
            "pooler": serialize(self.pooler),
        }


def as_encoder(encoder: LayerLike) -> Bert:
    """The `Bert` itself, or the one that its config describes; a TypeError for anything else."""
    encoder = revive(encoder)
    if not isinstance(encoder, Bert):
        inner = "; pass its `.encoder`" if isinstance(getattr(encoder, "encoder", None), Bert) else ""
        raise TypeError(
            "`encoder` must be a `Bert`, as `build_bert` makes it. "
            f"Received: {encoder!r:.60} of type {type(encoder).__name__}{inner}."
        )
    return encoder


def build_bert(
    size: str | None = None,
    *,
    vocabulary_size: int | None = None,
    max_sequence_length: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    hidden_dim: int | None = None,
    intermediate_dim: int | None = None,
    num_segments: int = 2,
    activation: ActivationLike = "gelu",
    norm_epsilon: float = 1e-12,
    pooler: bool = True,
    dropout: float = 0.1,
    remat: bool = False,
    dtype: DTypeLike | None = None,
    name: str = "bert",
) -> Bert:
    """A BERT encoder: post-norm bidirectional blocks, learned positions and segments, a norm after the embedding.

    RoBERTa is `num_segments=0` with `norm_epsilon=1e-5`. Weights start normal with deviation 0.02.

    Args:
        size: a row of `SIZES`: "tiny", "mini", "small", "medium", "base", "large", as Google released them. Numbers
            given beside it replace those of the row; without it, the five from `vocabulary_size` to `hidden_dim` are
            required.
        vocabulary_size: int, number of tokens V.
        max_sequence_length: int, number of learned positions.
        num_layers: int, number of blocks.
        num_heads: int, heads N, a divisor of `hidden_dim`.
        hidden_dim: int, width D.
        intermediate_dim: int, width of the feed-forward. Default: 4 D.
        num_segments: int, sentences that are told apart; with 0 (none) or 1, "segment_ids" are not read.
        activation: of the feed-forward, name or function.
        norm_epsilon: float, of the layer norms.
        pooler: bool, a dense layer with tanh on the first token's vector.
        dropout: float, rate after the embedding, on attention weights and before each residual sum.
        remat: bool, keep only the blocks' inputs for the backward pass, and compute the rest again: less memory.
        dtype: dtype policy of all layers. Default: Keras' global policy.
        name: name of the model.

    Returns:
        `Bert`.

    Raises:
        ValueError: for an unknown size, or missing numbers.

    Example:
        >>> encoder = build_bert("tiny", vocabulary_size=100)
        >>> encoder(np.array([[1, 2, 3]]))["sequence_output"].shape
        (1, 3, 128)

    Reference:
        Devlin et al. 2018, https://arxiv.org/abs/1810.04805; the small sizes: Turc et al. 2019,
        https://arxiv.org/abs/1908.08962; RoBERTa: Liu et al. 2019, https://arxiv.org/abs/1907.11692
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
    width, heads = numbers["hidden_dim"], numbers["num_heads"]
    weights = keras.initializers.RandomNormal(stddev=0.02)
    options = {"kernel_initializer": weights, "dtype": dtype}
    method = method_up_to(numbers["max_sequence_length"])

    def norm():
        return keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype)

    def block():
        return TransformerBlock(
            MultiHeadSelfAttention(heads, dropout=dropout, method=method, **options),
            FeedForward(intermediate_dim or 4 * width, activation=activation, **options),
            norm=norm(),
            norm_placement="post",
            dropout=dropout,
            dtype=dtype,
        )

    return Bert(
        TokenEmbedding(
            numbers["vocabulary_size"],
            width,
            position=PositionEmbedding(
                numbers["max_sequence_length"], width, embeddings_initializer=weights, dtype=dtype
            ),
            num_segments=num_segments,
            norm=norm(),
            dropout=dropout,
            embeddings_initializer=weights,
            dtype=dtype,
            name="token_embedding",
        ),
        TransformerStack([block() for _ in range(numbers["num_layers"])], remat=remat, dtype=dtype, name="stack"),
        pooler=keras.layers.Dense(width, "tanh", name="pooler", **options) if pooler else None,
        dtype=dtype,
        name=name,
    )
