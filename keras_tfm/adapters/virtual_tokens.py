"""Prompt tuning: learned vectors that a model reads before each text."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm.adapters.adapters import add_to
from keras_tfm.arguments import as_integer
from keras_tfm.layers import VirtualTokens
from keras_tfm.layers.cache import LONGEST_APPEND
from keras_tfm.layers.embeddings import check_token_ids
from keras_tfm.models import CausalLM


def add_virtual_tokens(
    model: keras.Model,
    num_tokens: int = 20,
    token_ids: Iterable[int] | None = None,
    seed: int = 0,
    name: str = "default",
    trained: str | Iterable[str] = (),
) -> None:
    """Puts learned vectors before each text that a `CausalLM` reads, and freezes all else (prompt tuning).

    They take positions 0, 1, 2, ..., and the text those after them; logits are those of the text's tokens alone, so
    that `fit`, `generate`, sessions, SavedModels and log-probabilities are as before. Learned positions hold so many
    tokens fewer. Several that count stand one after the other. They cannot be merged, and change what is computed from
    the first step on.

    Args:
        model: `CausalLM`.
        num_tokens: int, how many, at most 512.
        token_ids: int (N,), tokens of a text whose vectors they begin as, cut or repeated to `num_tokens`. Default:
            drawn from the vocabulary.
        seed: int, of that draw.
        name, trained: as in `add_lora`.

    Raises:
        ValueError: for another kind of model, numbers that do not fit its positions, a name that is there already;
            before anything is changed.

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> ktfm.adapters.add_virtual_tokens(model, num_tokens=8)
        >>> model.compile("adamw", loss="chunked")

    Reference:
        Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 3.2 (their start),
        https://arxiv.org/abs/2104.08691
    """
    num_tokens = as_integer("num_tokens", num_tokens, 1)
    check_reads_virtual_tokens(model, num_tokens)
    if token_ids is None:
        token_ids = np.random.default_rng(seed).integers(0, model.vocabulary_size, num_tokens)
    ids = ops.convert_to_tensor(np.resize(np.asarray(token_ids), (1, num_tokens)), "int32")
    check_token_ids(ids, model.vocabulary_size)
    vectors = model.token_embedding.embedding(ids)[0] * model.token_embedding.scale
    put_virtual_tokens(model, ops.convert_to_numpy(ops.cast(vectors, "float32")), name, trained)


def put_virtual_tokens(model: Any, vectors: np.ndarray, name: str, trained: str | Iterable[str] = ()) -> None:
    """Puts these vectors, float (P, D), before each text."""
    table = model.token_embedding.embedding
    dtype = table.dtype_policy if table.quantization_mode is None else table.compute_dtype
    virtual = VirtualTokens(*vectors.shape, dtype=dtype, name=name)
    add_to(model, name, {"token_embedding.embedding": table}, {"token_embedding.embedding": lambda _: virtual}, trained)
    virtual.vectors.assign(vectors)


def check_reads_virtual_tokens(model: Any, num_tokens: int) -> None:
    """Raises unless a model can read so many before a text."""
    if not isinstance(model, CausalLM):
        raise ValueError(
            "Virtual tokens must stand before what a `CausalLM` reads. Received: "
            f"{getattr(model, 'name', model)!r}, a {type(model).__name__}. Use another kind of adapter."
        )
    longest = model.max_sequence_length
    most = LONGEST_APPEND if longest is None else min(LONGEST_APPEND, longest - 1)
    if num_tokens > most:
        raise ValueError(
            f"`num_tokens` must leave room for a text, and be at most {LONGEST_APPEND}. Received: "
            f"num_tokens={num_tokens} for {longest if longest is not None else 'any number of'} positions."
        )
