"""The causal language model: token ids in, logits of the next token out."""

import functools
from collections.abc import Iterator

import keras
from keras import ops

from keras_tfm.generation.runner import Generation, GenerationRunner
from keras_tfm.layers.parts import revive, serialize
from keras_tfm.layers.positions import PositionEmbedding, TokenPositions
from keras_tfm.ops.masks import refuse_float_mask


@keras.saving.register_keras_serializable(package="keras_tfm")
class CausalLM(keras.Model):
    """Embeds tokens, runs a causal stack, projects to logits; trains with `fit` and writes with `generate`.

    Args:
        token_embedding: `TokenEmbedding`.
        stack: `TransformerStack` with causal self-attention.
        head: a layer (B, T, D) -> (B, T, V). Default: the transposed token embedding (tied weights).
        dtype: the dtype policy that `compile` goes by (float16 losses are scaled); the parts have their own.

    Call arguments:
        inputs: int32 (B, T) token ids, or a dict of "token_ids" and perhaps "padding_mask", bool (B, T), True = a real
            token, and "document_ids", int32 (B, T), for rows packed with several documents that must not see each
            other (`keras_tfm.data.with_document_ids` makes them).
        training: bool.

    Returns:
        Logits (B, T, V) in the compute dtype.

    Raises:
        ValueError: for ids outside the vocabulary (eagerly), other ranks, sequences longer than learned positions.
        TypeError: for a float padding mask.

    Masking:
        Padding may be on either side and is looked at by nobody. Without a mask every token is real.

    Example:
        >>> model = build_gpt(vocabulary_size=512, max_sequence_length=64, num_layers=2, num_heads=2, hidden_dim=32)
        >>> model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = model.fit(token_ids, next_ids)
        >>> model.generate([[1, 2, 3]], max_new_tokens=8).token_ids

    Reference:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2)
    """

    def __init__(self, token_embedding, stack, head=None, dtype=None, **kwargs):
        token_embedding, stack, head = revive(token_embedding), revive(stack), revive(head)
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask", optional=True),
            "document_ids": keras.Input((None,), dtype="int32", name="document_ids", optional=True),
        }
        parts = {
            "token_positions": TokenPositions(name="token_positions"),
            "token_embedding": token_embedding,
            "stack": stack,
            "head": head,
        }
        # Attributes first: `_forward` reads them, and Keras wants the functional graph in `super().__init__`.
        for name, part in parts.items():
            setattr(self, name, part)
        super().__init__(inputs=inputs, outputs=self._forward(**inputs), **kwargs)
        if dtype is not None:
            self.dtype_policy = dtype  # Keras drops a functional model's `dtype` argument

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V."""
        return self.token_embedding.vocabulary_size

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that learned positions allow; None if nothing limits it."""
        position = self.token_embedding.position
        return position.max_sequence_length if isinstance(position, PositionEmbedding) else None

    def __call__(self, inputs, *args, **kwargs):
        # Before Keras compares the structure of `inputs` with the functional graph's.
        inputs = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        refuse_float_mask(inputs.get("padding_mask"), "padding_mask")  # Keras would cast it to bool
        return super().__call__({"padding_mask": None, "document_ids": None, **inputs}, *args, **kwargs)

    def _forward(self, token_ids, padding_mask=None, document_ids=None, cache=None):
        """Logits (B, T, V); with a cache the pair (logits, new cache)."""
        if cache is None:
            return self._project(self._read(token_ids, padding_mask, document_ids))
        x, cache = self._read(token_ids, padding_mask, document_ids, cache)
        return self._project(x), cache

    def _read(self, token_ids, padding_mask=None, document_ids=None, cache=None):
        """Hidden states (B, T, D); with a cache the pair (states, new cache)."""
        remembered = None if cache is None else cache[0].self_attention.positions
        positions = self.token_positions(
            token_ids, padding_mask=padding_mask, document_ids=document_ids, remembered_positions=remembered
        )
        x = self.token_embedding(token_ids, positions=positions)
        return self.stack(x, positions=positions, document_ids=document_ids, cache=cache)

    def _project(self, x):
        return self.token_embedding(x, reverse=True) if self.head is None else self.head(x)

    def init_cache(self, batch_size, max_length):
        """Empty caches, one a block, for `max_length` tokens (prompt, padding included, and new ones)."""
        return self.stack.init_cache(batch_size, max_length)

    def prefill(self, token_ids, cache, padding_mask=None):
        """Reads a prompt, or one more piece of it.

        Args:
            token_ids: int32 (B, T).
            cache: from `init_cache`, or what an earlier call returned.
            padding_mask: bool (B, T), True = a real token; each row has at least one.

        Returns:
            The pair (logits (B, V) after each row's last real token, new cache).
        """
        x, cache = self._read(token_ids, padding_mask, cache=cache)
        if padding_mask is None:
            last = x[:, -1:]
        else:
            # The last real token is the last maximum of a running count; only its state is projected.
            indices = ops.arange(1, ops.shape(token_ids)[1] + 1, dtype="int32")
            index = ops.argmax(ops.where(padding_mask, indices, 0), axis=1)
            last = ops.take_along_axis(x, ops.cast(index, "int32")[:, None, None], axis=1)
        return self._project(last)[:, 0], cache

    def decode_step(self, token_ids, cache, padding_mask=None):
        """Reads one more token for each row.

        Args:
            token_ids: int32 (B,).
            cache: the cache so far.
            padding_mask: bool (B,), False where a row has nothing more to read. Default: all read.

        Returns:
            The pair (logits (B, V), new cache).
        """
        if padding_mask is not None:
            padding_mask = padding_mask[:, None]
        logits, cache = self._forward(token_ids[:, None], padding_mask, cache=cache)
        return logits[:, 0], cache

    def generate(
        self,
        token_ids,
        max_new_tokens: int = 64,
        sampler="greedy",
        stop_token_ids=(),
        seed: int | None = None,
        start_token_id: int = 0,
    ) -> Generation:
        """Continues prompts with new tokens, in one compiled loop with a KV cache.

        Args:
            token_ids: the prompts: an int array (B, T) or (T,), or a list of lists of any lengths. An empty prompt
                starts from `start_token_id`.
            max_new_tokens: int, new tokens for each row.
            sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p".
            stop_token_ids: a row ends before the first of these.
            seed: int. Row i's draw depends on its prompt, the seed and i alone. Default: the sampler's seed, or a
                fresh one from Python's `random` (which `keras.utils.set_random_seed` fixes).
            start_token_id: int, what an empty prompt stands for; customarily the end-of-text token.

        Returns:
            `Generation`: `token_ids`, int32 (B, max_new_tokens), -1 after a row's end, and `num_tokens`, int32 (B,).

        Raises:
            ValueError: for ids outside the vocabulary, or a prompt that with its new tokens exceeds the learned
                positions; before any work.

        Example:
            >>> model.generate([[5, 7], [3]], max_new_tokens=4, sampler="top_p", seed=1).num_tokens
            [4, 4]
        """
        settings = (sampler, stop_token_ids, seed, start_token_id)
        *_, last = self._generation_runner.steps(token_ids, max_new_tokens, *settings, tokens_per_step=max_new_tokens)
        return last

    def generate_steps(
        self,
        token_ids,
        max_new_tokens: int = 64,
        sampler="greedy",
        stop_token_ids=(),
        seed: int | None = None,
        start_token_id: int = 0,
        tokens_per_step: int = 1,
    ) -> Iterator[Generation]:
        """`generate`, looked at while it goes on: yields after the first token and every `tokens_per_step` more.

        Nothing is computed that is not asked for: closing the iterator ends the work. Each `Generation` holds all new
        tokens so far; the last equals what `generate` returns.
        """
        settings = (sampler, stop_token_ids, seed, start_token_id)
        return self._generation_runner.steps(token_ids, max_new_tokens, *settings, tokens_per_step=tokens_per_step)

    @functools.cached_property
    def _generation_runner(self) -> GenerationRunner:
        return GenerationRunner(self)

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": serialize(self.dtype_policy),
            "token_embedding": serialize(self.token_embedding),
            "stack": serialize(self.stack),
            "head": serialize(self.head),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
