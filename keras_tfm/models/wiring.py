"""What the builders of models share: a row of a table of sizes, and the wiring of a causal language model."""

from collections.abc import Callable
from typing import Any

import keras

from keras_tfm.arguments import as_integer
from keras_tfm.layers import Projection, TokenEmbedding, TransformerStack
from keras_tfm.models.causal_lm import CausalLM


def size_of(table: dict, size: str | None, **numbers: int | None) -> dict:
    """Merges a named row and the numbers given.

    Args:
        table: name -> row, a dict of numbers.
        size: a name in `table`, or None.
        numbers: what replaces the row's numbers; None = as in the row.

    Returns:
        dict with every key of `numbers`.

    Raises:
        ValueError: for an unknown name, missing numbers, or numbers that are not positive.
    """
    if size is not None and size not in table:
        raise ValueError(f"`size` must be one of {sorted(table)}, or None with numbers. Received: size={size!r}.")
    given = {name: number for name, number in numbers.items() if number is not None}
    merged = {**table.get(size, {}), **given}
    missing = [name for name in numbers if name not in merged]
    if missing:
        raise ValueError(
            f"A model needs a size name or all of its numbers. Received: size={size!r} without {missing}. "
            f"Pass them, or one of {sorted(table)}."
        )
    return {**merged, **{name: as_integer(name, number, 1) for name, number in given.items()}}


def causal_lm(
    numbers: dict[str, int],
    block: Callable[[int], keras.layers.Layer],
    final_norm: keras.layers.Layer,
    *,
    initializer: keras.initializers.Initializer,
    tie_weights: bool,
    remat: bool,
    dtype: Any,
    name: str,
    position_bias: keras.layers.Layer | None = None,
    **embedding: Any,
) -> CausalLM:
    """A token embedding, blocks in a row, a final norm, and a head of its own unless the embedding is one.

    Args:
        numbers: of `size_of`; "vocabulary_size", "hidden_dim" and "num_layers" are read.
        block: block number i -> the block.
        final_norm: a norm layer.
        initializer: of the token embedding and the head.
        tie_weights: project with the transposed token embedding.
        position_bias, remat: as in `TransformerStack`.
        dtype: dtype policy of all layers.
        name: name of the model.
        **embedding: what else `TokenEmbedding` is given.
    """
    vocabulary_size, hidden_dim = numbers["vocabulary_size"], numbers["hidden_dim"]
    token_embedding = TokenEmbedding(
        vocabulary_size,
        hidden_dim,
        embeddings_initializer=initializer,
        dtype=dtype,
        name="token_embedding",
        **embedding,
    )
    stack = TransformerStack(
        [block(i) for i in range(numbers["num_layers"])],
        position_bias=position_bias,
        final_norm=final_norm,
        remat=remat,
        dtype=dtype,
        name="stack",
    )
    head = Projection(vocabulary_size, use_bias=False, kernel_initializer=initializer, dtype=dtype, name="head")
    return CausalLM(token_embedding, stack, head=None if tie_weights else head, dtype=dtype, name=name)
