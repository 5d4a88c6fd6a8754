"""Runs the compiled loop from Python: checks prompts, keeps what was compiled, gives arrays back."""

import dataclasses
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_tfm.generation.compiled import CompiledGeneration, new_tokens, pad_prompts
from keras_tfm.samplers.numbers import split_numbers
from keras_tfm.samplers.sampler import get_sampler


@dataclasses.dataclass(frozen=True)
class Generation:
    """New tokens of a batch. `token_ids`: int32 (B, max_new_tokens), -1 after a row's end; `num_tokens`: int32 (B,)."""

    token_ids: np.ndarray
    num_tokens: np.ndarray


class GenerationRunner:
    """Generates with one model; each sampler structure is compiled once."""

    def __init__(self, model):
        self._model = model
        self._compiled: dict = {}

    def compiled(self, sampler) -> CompiledGeneration:
        """The compiled loop for samplers of this structure."""
        structure = split_numbers(sampler)[0]
        if structure not in self._compiled:
            self._compiled[structure] = CompiledGeneration(self._model, sampler)
        return self._compiled[structure]

    def steps(
        self, token_ids, max_new_tokens, sampler, stop_token_ids, seed, start_token_id, tokens_per_step
    ) -> Iterator[Generation]:
        """See `CausalLM.generate_steps`."""
        sampler = get_sampler(sampler)
        prompts = prompts_of(token_ids, self._model.vocabulary_size)
        check_fits(self._model, prompts, max_new_tokens)
        num_rows = int(prompts.nrows())
        if max_new_tokens == 0 or num_rows == 0:
            yield Generation(np.full((num_rows, max_new_tokens), -1, "int32"), np.zeros(num_rows, "int32"))
            return
        if seed is None:
            seed = random.getrandbits(31) if sampler.seed is None else sampler.seed
        sampler = dataclasses.replace(sampler, seed=None)
        compiled = self.compiled(sampler)
        settings = {
            "numbers": [tf.constant(number) for number in split_numbers(sampler)[1]],
            "stop_token_ids": tf.constant([-1, *stop_token_ids], tf.int32),
            "seed": tf.constant(np.uint32(seed % 2**32).view(np.int32)),
        }
        inputs = pad_prompts(prompts, max_new_tokens, start_token_id)
        state = compiled.begin(inputs, settings)
        for done in range(1, max_new_tokens + tokens_per_step, max(1, tokens_per_step)):
            if done > 1:
                until = tf.constant(min(done, max_new_tokens))
                state = compiled.extend(state, inputs["room"], until, settings)
            ids, num_tokens = new_tokens(state, inputs["room"], num_rows)
            yield Generation(ids.numpy()[:, :max_new_tokens], num_tokens.numpy())
            if bool(tf.reduce_all(state.finished)):
                return


def prompts_of(token_ids, vocabulary_size: int) -> tf.RaggedTensor:
    """Prompts in any of the accepted forms as an int32 ragged tensor (B, None).

    Raises:
        ValueError: for another rank, or ids outside the vocabulary.
    """
    if isinstance(token_ids, tf.RaggedTensor):
        rows = token_ids.to_list()
    else:
        rows = token_ids if isinstance(token_ids, (list, tuple)) else np.asarray(token_ids)
    if len(rows) and np.ndim(rows[0]) == 0:
        rows = [rows]
    rows = [np.asarray(row, "int32" if len(row) == 0 else None) for row in rows]
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.dtype.kind not in "iu":
            raise ValueError(
                "`token_ids` must be integers of shape (B, T) or (T,), or a list of lists. "
                f"Received: row {i} of shape {row.shape} and dtype {row.dtype}."
            )
        if row.size and (row.min() < 0 or row.max() >= vocabulary_size):
            raise ValueError(
                f"Token ids must be in [0, {vocabulary_size}). Received: ids from {row.min()} to {row.max()} in row "
                f"{i}. Use the tokenizer that the model was trained with."
            )
    flat = np.concatenate([*rows, np.zeros(0, "int32")]).astype("int32")
    return tf.RaggedTensor.from_row_lengths(flat, np.array([len(row) for row in rows], "int64"))


def check_fits(model, prompts: tf.RaggedTensor, max_new_tokens: int) -> None:
    """Raises unless the longest prompt and its new tokens fit the model's positions."""
    if isinstance(max_new_tokens, bool) or int(max_new_tokens) != max_new_tokens or max_new_tokens < 0:
        raise ValueError(f"`max_new_tokens` must be an integer of at least 0. Received: {max_new_tokens!r}.")
    limit, longest = model.max_sequence_length, max([1, *prompts.row_lengths().numpy()])
    if limit is not None and longest + max_new_tokens > limit:
        raise ValueError(
            f"A prompt and its new tokens must fit the model's {limit} positions. Received: a prompt of {longest} "
            f"tokens and max_new_tokens={max_new_tokens}. Shorten the prompt or ask for fewer tokens."
        )
