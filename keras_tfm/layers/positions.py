"""How a model knows where a token stands: positions themselves, and embeddings of them."""

import keras
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.layers.parts import check_positive, check_rank, clone, serialize
from keras_tfm.ops.gather import look_up


@keras.saving.register_keras_serializable(package="keras_tfm")
class TokenPositions(keras.layers.Layer):
    """Numbers the real tokens of each row and document: 0, 1, 2, ..., -1 at padding, going on after those already read.

    Call arguments:
        token_ids: int32 (B, T).
        padding_mask: bool (B, T), True = a real token. Default: all are.
        document_ids: int32 (B, T): positions start anew where the number changes; or None.
        num_tokens: int32 (B,), real tokens of each row that have been read before, or None.

    Returns:
        int32 (B, T).

    Raises:
        ValueError: for other ranks or shapes. TypeError: for a float mask.

    Example:
        >>> TokenPositions()(np.array([[7, 8, 9]]), padding_mask=np.array([[False, True, True]]))
        [[-1, 0, 1]]
    """

    def call(self, token_ids, padding_mask=None, document_ids=None, num_tokens=None):
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        if padding_mask is None:
            mask = ops.ones_like(token_ids, dtype="bool")
        else:
            mask = tfm_ops.padding_mask(padding_mask, token_ids.shape, "padding_mask")
        return tfm_ops.next_positions(mask, num_tokens, document_ids)

    def compute_output_shape(self, token_ids_shape):
        return token_ids_shape

    def compute_output_spec(self, token_ids, **arguments):
        return keras.Operation.compute_output_spec(self, token_ids, **arguments)  # integers, and other errors


@keras.saving.register_keras_serializable(package="keras_tfm")
class PositionEmbedding(keras.layers.Layer):
    """One learned vector for each position (GPT-2, BERT); padding reads position 0's, which nobody looks at.

    Args:
        max_sequence_length: int, number of positions.
        hidden_dim: int, width of the vectors.
        embeddings_initializer: for the table.

    Call arguments:
        positions: int32 (B, T), -1 = padding.

    Returns:
        float (B, T, hidden_dim).

    Raises:
        ValueError: if T exceeds `max_sequence_length`.

    Example:
        >>> PositionEmbedding(max_sequence_length=128, hidden_dim=64)(np.array([[0, 1, 2]])).shape
        (1, 3, 64)

    Reference:
        Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1,
        https://arxiv.org/abs/1705.03122
    """

    def __init__(self, max_sequence_length: int, hidden_dim: int, embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        check_positive(max_sequence_length=max_sequence_length, hidden_dim=hidden_dim)
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, positions_shape):
        self.embeddings = self.add_weight(
            shape=(self.max_sequence_length, self.hidden_dim),
            initializer=clone(self.embeddings_initializer),
            name="embeddings",
            autocast=False,  # gradients of a position that many rows have are summed in float32
        )

    def call(self, positions):
        check_rank(positions, 2, "positions", "(B, T)")
        length = positions.shape[1]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                f"The sequence must not be longer than `max_sequence_length`={self.max_sequence_length} learned "
                f"positions. Received: {length} tokens. Shorten it, or build the model with more positions."
            )
        return look_up(self.embeddings, ops.maximum(positions, 0), self.compute_dtype)

    def compute_output_shape(self, positions_shape):
        return (*positions_shape, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "hidden_dim": self.hidden_dim,
            "embeddings_initializer": serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class SinusoidalEmbedding(keras.layers.Layer):
    """Sines and cosines of the position at geometrically spaced wavelengths: no weights, no longest sequence.

    Args:
        hidden_dim: int, width of the vectors, even.
        max_wavelength: float, the longest wavelength in units of 2 pi positions.
        interleaved: bool, feature 2i is a sine and 2i + 1 the cosine of the same angle, as in the paper; otherwise
            all sines come first, then all cosines, as in tensor2tensor and Marian.

    Call arguments:
        positions: int32 (B, T), -1 = padding (gives zeros).

    Returns:
        float (B, T, hidden_dim).

    Raises:
        ValueError: if `hidden_dim` is odd.

    Example:
        >>> SinusoidalEmbedding(hidden_dim=64)(np.array([[0, 1, 2]])).shape
        (1, 3, 64)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, hidden_dim: int, max_wavelength: float = 10_000.0, interleaved: bool = True, **kwargs):
        super().__init__(**kwargs)
        check_positive(hidden_dim=hidden_dim)
        if hidden_dim % 2:
            raise ValueError(f"`hidden_dim` must be even. Received: hidden_dim={hidden_dim}.")
        self.hidden_dim = hidden_dim
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved

    def call(self, positions):
        check_rank(positions, 2, "positions", "(B, T)")
        encoding = tfm_ops.sinusoidal_encoding(positions, self.hidden_dim, self.max_wavelength, self.interleaved)
        return ops.cast(encoding, self.compute_dtype)

    def compute_output_shape(self, positions_shape):
        return (*positions_shape, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
        }
