"""The causal language model: token ids in, logits of the next token out."""

import functools
from collections.abc import Iterator

import keras
from keras import ops, tree

from keras_tfm import compat
from keras_tfm.generation.generation import Generation, GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.layers.cache import LONGEST_APPEND, BlockCache, Int8Array
from keras_tfm.layers.parts import check_rank, revive, serialize
from keras_tfm.layers.positions import PositionEmbedding, TokenPositions
from keras_tfm.models.token_model import TokenModel, token_inputs
from keras_tfm.ops.positions import last_real
from keras_tfm.ops.slice_update import slice_update


@keras.saving.register_keras_serializable(package="keras_tfm")
class CausalLM(TokenModel):
    """Embeds tokens, runs a causal stack, projects to logits; trains with `fit` and writes with `generate`.

    Args:
        token_embedding: `TokenEmbedding`.
        stack: `TransformerStack` with causal self-attention.
        head: a layer (B, T, D) -> (B, T, V). Default: the transposed token embedding (tied weights).
        weight_dtype: "int8" for weights as `quantize_for_generation` makes them. Default: as the parts say.
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

    untraced_attributes = ("generation_runner",)

    def __init__(self, token_embedding, stack, head=None, weight_dtype=None, dtype=None, **kwargs):
        token_embedding, stack, head = revive(token_embedding), revive(stack), revive(head)
        parts = {
            "token_positions": TokenPositions(name="token_positions"),
            "token_embedding": token_embedding,
            "stack": stack,
            "head": head,
        }
        super().__init__(token_inputs("padding_mask", "document_ids"), parts, dtype, **kwargs)
        self.weight_dtype = None
        if weight_dtype is not None:
            if weight_dtype != "int8":
                raise ValueError(f'`weight_dtype` must be None or "int8". Received: {weight_dtype!r}.')
            self.quantize_for_generation()

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V."""
        return self.token_embedding.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """Width D of the residual stream."""
        return self.token_embedding.hidden_dim

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that learned positions allow; None if nothing limits it."""
        position = self.token_embedding.position
        return position.max_sequence_length if isinstance(position, PositionEmbedding) else None

    def _forward(self, token_ids, padding_mask=None, document_ids=None):
        """Logits (B, T, V)."""
        return self.project(self._read(token_ids, padding_mask, document_ids))

    def _read(self, token_ids, padding_mask=None, document_ids=None, cache=None):
        """Hidden states (B, T, D); with a cache the pair (states, new cache)."""
        remembered = None if cache is None else cache[0].self_attention.positions
        positions = self.token_positions(
            token_ids, padding_mask=padding_mask, document_ids=document_ids, remembered_positions=remembered
        )
        x = self.token_embedding(token_ids, positions=positions)
        return self.stack(x, positions=positions, document_ids=document_ids, cache=cache)

    def init_cache(self, batch_size, max_length, dtype: str | None = None) -> tuple[BlockCache, ...]:
        """Empty caches, one a block, for `max_length` tokens (prompt, padding included, and new ones).

        Args:
            batch_size, max_length: int, or int32 () where traced.
            dtype: "int8" for a quarter of float32's memory and rounded keys and values. Default: the compute dtype.
        """
        return self.stack.init_cache(batch_size, max_length, dtype)

    def read(self, token_ids, cache, padding_mask=None):
        """Reads tokens into the cache, at most `LONGEST_APPEND` at once, so that long prompts need little memory.

        Args:
            token_ids: int32 (B, T). Where T is unknown while traced, powers of two (and their sums) are fastest.
            cache: from `init_cache`, or what an earlier call returned.
            padding_mask: bool (B, T), True = a real token. Default: all are.

        Returns:
            The pair (hidden states (B, T, D), new cache); `project` makes logits of states.
        """
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        length = token_ids.shape[1]
        if length is not None and length <= LONGEST_APPEND:
            return self._read(token_ids, padding_mask, cache=cache)
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        if length is not None:
            pieces = []
            for start in range(0, length, LONGEST_APPEND):
                piece = slice(start, start + LONGEST_APPEND)
                hidden, cache = self._read(token_ids[:, piece], padding_mask[:, piece], cache=cache)
                pieces.append(hidden)
            return ops.concatenate(pieces, axis=1), cache
        batch, length = ops.shape(token_ids)[:2]
        # Pieces are of one size, the greatest power of two that divides T, if it cannot be read at once.
        size = ops.where(
            length <= LONGEST_APPEND, length, ops.minimum(ops.bitwise_and(length, -length), LONGEST_APPEND)
        )

        def read_piece(start, hidden, cache):
            ids, mask = (ops.slice(x, (0, start), (batch, size)) for x in (token_ids, padding_mask))
            piece, cache = self._read(ids, mask, cache=cache)
            return start + size, slice_update(hidden, (0, start, 0), piece), cache

        hidden = ops.zeros((batch, length, self.hidden_dim), self.stack.compute_dtype)
        _, hidden, cache = ops.while_loop(
            lambda start, hidden, cache: start < length, read_piece, (ops.zeros((), "int32"), hidden, cache)
        )
        return hidden, cache

    def project(self, hidden):
        """Logits (B, T, V) of hidden states (B, T, D)."""
        return self.token_embedding(hidden, reverse=True) if self.head is None else self.head(hidden)

    def read_logits(self, token_ids):
        """The logits (B, T, V) that the model itself gives, by way of a cache.

        Where T is unknown while traced, it is traced in a fraction of the time, and long rows are read in pieces.

        Args:
            token_ids: int32 (B, T).
        """
        batch, length = ops.shape(token_ids)
        missing = ops.where(length > LONGEST_APPEND, -length % LONGEST_APPEND, 0)  # to be read in whole pieces
        mask = ops.pad(ops.ones_like(token_ids, dtype="bool"), ((0, 0), (0, missing)))
        token_ids = ops.pad(token_ids, ((0, 0), (0, missing)))
        hidden, _ = self.read(token_ids, self.init_cache(batch, length + missing), mask)
        return self.project(hidden[:, :length])

    def rewind(self, cache, num_read: int, kept):
        """A cache that has forgotten new tokens: of the last `num_read` each row keeps the first `kept`, (B,)."""
        return tuple(block._replace(self_attention=block.self_attention.rewind(num_read, kept)) for block in cache)

    def num_read(self, cache) -> int:
        """How many tokens the first row of a cache holds; outside of compiled code."""
        return int(ops.max(cache[0].self_attention.positions[0])) + 1

    def forget(self, cache, num_kept: int):
        """A cache that has forgotten each row's tokens after the first `num_kept`; their slots stay in use."""

        def shorter(memory):
            return memory._replace(positions=ops.where(memory.positions < num_kept, memory.positions, -1))

        return tuple(block._replace(self_attention=shorter(block.self_attention)) for block in cache)

    def extend_cache(self, cache, num_slots: int):
        """The cache with at least `num_slots` free slots; outside of compiled code.

        Sizes are powers of two, so that a growing chat compiles few loops.
        """
        memories = [block.self_attention for block in cache]
        needed = max(int(memories[0].index) + num_slots, *(memory.positions.shape[1] for memory in memories))
        dtype = "int8" if isinstance(memories[0].key, Int8Array) else None
        longer = self.init_cache(memories[0].positions.shape[0], 2 ** (needed - 1).bit_length(), dtype)
        return tree.map_structure(
            lambda new, old: slice_update(new, [0] * len(new.shape), old) if len(new.shape) else old, longer, cache
        )

    def prefill(self, token_ids, cache, padding_mask=None):
        """Reads a prompt, or one more piece of it.

        Args:
            token_ids, cache, padding_mask: as in `read`; each row has at least one real token.

        Returns:
            The pair (logits (B, V) after each row's last real token, new cache).
        """
        hidden, cache = self.read(token_ids, cache, padding_mask)
        if padding_mask is None:
            return self.project(hidden[:, -1:])[:, 0], cache
        return self.project(last_real(hidden, padding_mask))[:, 0], cache

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
        hidden, cache = self.read(token_ids[:, None], cache, padding_mask)
        return self.project(hidden)[:, 0], cache

    def generate(self, token_ids, max_new_tokens: int = 64, sampler="greedy", **options) -> Generation:
        """Continues prompts with new tokens, in one compiled loop with a KV cache.

        The loop is compiled for a structure of sampler and options and for buckets of sizes; other numbers and other
        values of weights compile nothing. After a change of the model itself (an adapter, 8 bits, another part) the
        next call compiles anew. The logger "keras_tfm" tells of each at INFO.

        Args:
            token_ids: the prompts: an int array (B, T) or (T,), or a list of lists of any lengths. An empty prompt
                starts from `start_token_id`.
            max_new_tokens: int, new tokens for each row.
            sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p", "beam".
            **options: seed, stops, several texts for a prompt, guidance, log-probabilities, ...: see
                `keras_tfm.generation.GenerationOptions`.

        Returns:
            `Generation`: `token_ids`, int32 (R, max_new_tokens), -1 after a row's end, `num_tokens`, int32 (R,),
            `finish_reasons` and more; R = B x `num_return_sequences`.

        Raises:
            ValueError: for ids outside the vocabulary, or a prompt that with its new tokens exceeds the learned
                positions; before any work. Also for NaN logits.

        Example:
            >>> model.generate([[5, 7], [3]], max_new_tokens=4, sampler="top_p", seed=1).num_tokens
            [4, 4]
        """
        steps = self.generate_steps(token_ids, max_new_tokens, sampler, tokens_per_step=max_new_tokens, **options)
        *_, last = steps
        return last

    def generate_steps(
        self, token_ids, max_new_tokens: int = 64, sampler="greedy", tokens_per_step: int | None = 1, **options
    ) -> Iterator[Generation]:
        """`generate`, looked at while it goes on: yields after the first token and every `tokens_per_step` more.

        With None for `tokens_per_step` it yields about every tenth of a second.

        Nothing is computed that is not asked for: closing the iterator ends the work. Each `Generation` holds all new
        tokens so far; the last equals what `generate` returns. Beam search knows its tokens only at the end.
        """
        options = GenerationOptions(max_new_tokens=max_new_tokens, sampler=sampler, **options)
        return self.generation_runner.steps(token_ids, options, tokens_per_step)

    def quantize_for_generation(self) -> None:
        """Rounds the weights of all projections and the token table to 8 bits, in place: for writing, not for training.

        They take a quarter of float32's memory, and a step at batch 1, which reads them all, a fraction of the time;
        sums stay in the compute dtype. Beyond 8 rows it is no faster. The model saves, reloads and exports as it
        is.

        Reference: Dettmers et al. 2022, "LLM.int8()", section 2.1 (vector-wise absmax), https://arxiv.org/abs/2208.07339
        """
        for layer in compat.all_layers(self):
            if hasattr(layer, "to_int8"):
                layer.to_int8()
        self.weight_dtype = "int8"
        self.train_function = self.test_function = self.predict_function = None

    @functools.cached_property
    def generation_runner(self) -> GenerationRunner:
        """What holds the compiled loops of this model."""
        return GenerationRunner(self)

    def get_config(self):
        return {
            **super().get_config(),
            "token_embedding": serialize(self.token_embedding),
            "stack": serialize(self.stack),
            "head": serialize(self.head),
            "weight_dtype": self.weight_dtype,
        }
