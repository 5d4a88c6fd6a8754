"""Token ids to vectors, and vectors back to logits over tokens."""

import keras
from keras import ops

from keras_tfm.layers.parts import build_part, check_positive, check_rank, check_rate, known_value, revive, serialize


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenEmbedding(keras.layers.Layer):
    """A vector for each token, plus one for its position; the same table projects back to logits (`reverse=True`).

    Args:
        vocabulary_size: int, number of tokens V.
        hidden_dim: int, width D.
        position: `PositionEmbedding`, `SinusoidalEmbedding` or any layer (B, T) -> (B, T, D), added, or None.
        scale: float, factor on the token vectors before positions are added. The paper has sqrt(D), so that sinusoids,
            whose size is 1, do not drown them.
        dropout: float, rate of the dropout on the sum.
        embeddings_initializer: for the table.

    Call arguments:
        inputs: int32 (B, T) token ids; with `reverse` float (B, T, D).
        positions: int32 (B, T), -1 = padding. Default: 0, 1, 2, ...
        reverse: bool, project to logits with the transposed table.
        training: bool.

    Returns:
        float (B, T, D); with `reverse` logits (B, T, V).

    Raises:
        ValueError: for another rank, and for ids outside the vocabulary where their values are known (called eagerly;
            in `fit` TensorFlow's own gather says it on a CPU).

    Example:
        >>> embedding = TokenEmbedding(vocabulary_size=100, hidden_dim=64)
        >>> x = embedding(np.array([[1, 2, 3]]))
        >>> embedding(x, reverse=True).shape
        (1, 3, 100)

    Reference:
        Press and Wolf 2016, "Using the Output Embedding to Improve Language Models" (the tied projection),
        https://arxiv.org/abs/1608.05859
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int,
        position=None,
        scale: float = 1.0,
        dropout: float = 0.0,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(vocabulary_size=vocabulary_size, hidden_dim=hidden_dim)
        check_rate(dropout=dropout)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.position = revive(position)
        self.scale = scale
        self.dropout = dropout
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embedding = keras.layers.Embedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=self.embeddings_initializer,
            dtype=self.dtype_policy,
            name="tokens",
        )
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape, positions_shape=None):
        build_part(self.embedding, inputs_shape)
        if self.position is not None:
            build_part(self.position, inputs_shape)

    def call(self, inputs, positions=None, reverse=False, training=None):
        if reverse:
            # An einsum reads the table as it lies; `ReversibleEmbedding` transposes it first, which at batch 8 makes
            # a compiled decoding step of GPT-2 small 2 times slower on a CPU.
            table = ops.cast(self.embedding.embeddings, self.compute_dtype)
            return ops.einsum("btd,vd->btv", inputs, table)
        check_rank(inputs, 2, "token_ids", "(B, T)")
        check_token_ids(inputs, self.vocabulary_size)
        x = self.embedding(inputs) * self.scale
        if self.position is not None:
            if positions is None:
                positions = ops.cumsum(ops.ones_like(inputs, dtype="int32"), axis=1) - 1
            x = x + self.position(positions)
        return self.dropout_layer(x, training=training)

    def compute_output_spec(self, inputs, positions=None, reverse=False, training=None):
        # Said, not traced: JAX and torch trace with a made-up length, which may exceed the learned positions.
        width = self.vocabulary_size if reverse else self.hidden_dim
        return keras.KerasTensor((*inputs.shape[:2], width), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "position": serialize(self.position),
            "scale": self.scale,
            "dropout": self.dropout,
            "embeddings_initializer": serialize(self.embeddings_initializer),
        }


def check_token_ids(token_ids, vocabulary_size: int) -> None:
    """Raises for ids outside [0, vocabulary_size), wherever their values are known (outside of traced code)."""
    values = known_value(token_ids)
    if values is None or not values.size:
        return
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= vocabulary_size:
        raise ValueError(
            f"Token ids must be in [0, {vocabulary_size}). Received: ids from {lowest} to {highest}. Use the tokenizer "
            "that the model was trained with; padding takes any id of the vocabulary and a False in `padding_mask`."
        )
