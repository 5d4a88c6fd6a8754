"""Which document of a packed row each token belongs to."""

from collections.abc import Callable

import tensorflow as tf

from keras_tfm.arguments import as_integer


def with_document_ids(end_of_text_id: int) -> Callable:
    """A function for `dataset.map` that lets a model keep the documents of a packed row apart.

    It turns (token_ids, next_ids, ...) into ({"token_ids", "document_ids"}, next_ids, ...). Each row counts its
    documents from 0; an end-of-text token belongs to the document that it ends. With them `CausalLM` restarts positions
    at each document and lets no token look into another one.

    Args:
        end_of_text_id: int, the token that ends documents; a tokenizer's `end_of_text_id`.

    Returns:
        A function of int32 (B, T) tensors.

    Raises:
        ValueError: for an id that is no integer, such as the None of a tokenizer without an end-of-text token.

    Example:
        >>> dataset = language_model_dataset(files, tokenizer, sequence_length=256, batch_size=16)
        >>> model.fit(dataset.map(with_document_ids(tokenizer.end_of_text_id)), shuffle=False)

    Reference:
        Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", https://arxiv.org/abs/2107.02027
    """
    end_of_text_id = as_integer("end_of_text_id", end_of_text_id, note=": that of the tokenizer's end-of-text token")

    def add(token_ids: tf.Tensor, *others: tf.Tensor) -> tuple:
        ends = tf.cast(token_ids == end_of_text_id, tf.int32)
        return {"token_ids": token_ids, "document_ids": tf.cumsum(ends, axis=-1, exclusive=True)}, *others

    return add
