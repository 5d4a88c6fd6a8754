"""The causal language model: token ids in, logits of the next token out."""

import functools
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_tfm import compat
from keras_tfm.arguments import check_rank
from keras_tfm.generation.options import Generation, GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.layers.cache import LONGEST_APPEND
from keras_tfm.layers.composite import as_layer, serialize
from keras_tfm.layers.embeddings import PositionEmbedding, TokenPositions
from keras_tfm.layers.weights import Projection
from keras_tfm.losses.chunked_cross_entropy import HeadWeights
from keras_tfm.models.chunked_loss_model import ChunkedLossModel
from keras_tfm.models.token_model import as_embedding, check_blocks, token_inputs
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.positions import last_real
from keras_tfm.ops.tensors import is_compiled_by_xla, slice_update
from keras_tfm.samplers import Sampler
from keras_tfm.types import Config, DTypeLike, LayerLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class CausalLM(ChunkedLossModel):
    """Embeds tokens, runs a causal stack, projects to logits; trains with `fit` and generates text with `generate`.

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
        ValueError: for ids outside the vocabulary (eagerly), other ranks, sequences longer than learned positions;
            for blocks with cross-attention. TypeError: for a float padding mask, a ragged tensor, parts that are no
            layers.

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

    untraced_attributes = (*ChunkedLossModel.untraced_attributes, "generation_runner")

    def __init__(
        self,
        token_embedding: LayerLike,
        stack: LayerLike,
        head: LayerLike | None = None,
        weight_dtype: str | None = None,
        dtype: DTypeLike | None = None,
        **kwargs: Any,
    ):
        token_embedding = as_embedding(token_embedding)
        stack = as_layer(stack, "stack", "TransformerStack([TransformerBlock(...), ...])")
        check_blocks(stack)
        head = as_layer(head, "head", "keras.layers.Dense(vocabulary_size)", optional=True)
        parts = {
            "token_positions": TokenPositions(name="token_positions"),
            "token_embedding": token_embedding,
            "stack": stack,
            "head": head,
        }
        super().__init__(token_inputs("padding_mask", "document_ids"), parts, dtype, **kwargs)
        self.weight_dtype: str | None = None
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

    def head_weights(self) -> HeadWeights:
        """The weights that project hidden states, as they are.

        Raises:
            ValueError: if the head is another layer than a dense one, or holds its weights in 8 bits.
        """
        layer = self.token_embedding.embedding if self.head is None else self.head
        is_table = self.head is None or type(layer) is keras.layers.Dense or isinstance(layer, Projection)
        if not is_table or layer.quantization_mode is not None or getattr(layer, "int8_rows", None) is not None:
            raise ValueError(
                "The head of a model with a chunked loss must be its token embedding, or a dense layer, in floats. "
                f"Received: {layer!r:.80}. Use `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
            )
        if self.head is None:
            cap = self.token_embedding.logit_cap
            return HeadWeights(ops.convert_to_tensor(layer.embeddings), None, cap, layer.compute_dtype)
        return HeadWeights(ops.transpose(layer.kernel), layer.bias, None, layer.compute_dtype)

    def _forward(self, token_ids, padding_mask=None, document_ids=None):
        """Logits (B, T, V)."""
        return self.project(self._read(token_ids, padding_mask, document_ids))

    def _read(self, token_ids, padding_mask=None, document_ids=None, state=None):
        """Hidden states (B, T, D); with a state the pair (hidden states, new state)."""
        positions = self.token_positions(
            token_ids,
            padding_mask=padding_mask,
            document_ids=document_ids,
            num_tokens=None if state is None else state.num_tokens,
        )
        x = self.token_embedding(token_ids, positions=positions)
        if state is None:
            return self.stack(x, positions=positions, document_ids=document_ids)
        hidden, memories = self.stack(x, positions=positions, cache=state.memories)
        return hidden, state.after(positions, memories)

    def init_state(
        self, batch_size: int | Tensor, max_sequence_length: int | Tensor, dtype: str | None = None
    ) -> DecodingState:
        """The empty decoding state, whose KV caches have slots for `max_sequence_length` tokens.

        Args:
            batch_size, max_sequence_length: int, or int32 () where traced. Prompt, padding and new tokens count.
            dtype: "int8" for a quarter of float32's memory and rounded keys and values. Default: the compute dtype.
        """
        return DecodingState(
            ops.zeros((batch_size,), "int32"), self.stack.init_cache(batch_size, max_sequence_length, dtype)
        )

    def read(
        self, token_ids: Tensor, state: DecodingState, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, DecodingState]:
        """Reads tokens into the KV caches, at most `LONGEST_APPEND` at once (chunked prefill), to save memory.

        Args:
            token_ids: int32 (B, T). Where T is unknown while XLA compiles, a piece has the greatest power of two that
                divides T; the generation loop pads prompts to buckets, which are powers of two.
            state: from `init_state`, or what an earlier call returned.
            padding_mask: bool (B, T), True = a real token. Default: all are.

        Returns:
            The pair (hidden states (B, T, D), new state); `project` makes logits of hidden states.
        """
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        length = token_ids.shape[1]
        if length is not None and length <= LONGEST_APPEND:
            return self._read(token_ids, padding_mask, state=state)
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        if length is not None:
            pieces = []
            for start in range(0, length, LONGEST_APPEND):
                piece = slice(start, start + LONGEST_APPEND)
                hidden, state = self._read(token_ids[:, piece], padding_mask[:, piece], state=state)
                pieces.append(hidden)
            return ops.concatenate(pieces, axis=1), state
        batch, length = ops.shape(token_ids)[:2]
        longest = ops.minimum(length, LONGEST_APPEND)
        if is_compiled_by_xla():  # which wants pieces of one size
            divisor = ops.minimum(ops.bitwise_and(length, -length), LONGEST_APPEND)
            longest = ops.where(length <= LONGEST_APPEND, length, divisor)

        def read_piece(start, hidden, state):
            num_read = longest if is_compiled_by_xla() else ops.minimum(longest, length - start)
            ids, mask = (ops.slice(x, (0, start), (batch, num_read)) for x in (token_ids, padding_mask))
            piece, state = self._read(ids, mask, state=state)
            return start + num_read, slice_update(hidden, (0, start, 0), piece), state

        hidden = ops.zeros((batch, length, self.hidden_dim), self.stack.compute_dtype)
        _, hidden, state = ops.while_loop(
            lambda start, hidden, state: start < length, read_piece, (ops.zeros((), "int32"), hidden, state)
        )
        return hidden, state

    def project(self, hidden: Tensor) -> Tensor:
        """Logits (B, T, V) of hidden states (B, T, D)."""
        return self.token_embedding(hidden, reverse=True) if self.head is None else self.head(hidden)

    def read_logits(self, token_ids: Tensor) -> Tensor:
        """The logits (B, T, V) of a forward pass, computed by chunked prefill.

        With T unknown it is traced in a fraction of the time of `call`, and long rows are read in pieces.

        Args:
            token_ids: int32 (B, T).
        """
        batch, length = ops.shape(token_ids)
        return self.project(self.read(token_ids, self.init_state(batch, length))[0])

    def prefill(
        self, token_ids: Tensor, state: DecodingState, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, DecodingState]:
        """Prefill: reads a prompt, or one more piece of it.

        Args:
            token_ids, state, padding_mask: as in `read`; each row has at least one real token.

        Returns:
            The pair (logits (B, V) after each row's last real token, new state).
        """
        hidden, state = self.read(token_ids, state, padding_mask)
        if padding_mask is None:
            return self.project(hidden[:, -1:])[:, 0], state
        return self.project(last_real(hidden, padding_mask))[:, 0], state

    def decode_step(
        self, token_ids: Tensor, state: DecodingState, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, DecodingState]:
        """One decoding step: reads one more token for each row.

        Args:
            token_ids: int32 (B,).
            state: what has been read so far.
            padding_mask: bool (B,), False where a row has nothing more to read. Default: all read.

        Returns:
            The pair (logits (B, V), new state).
        """
        if padding_mask is not None:
            padding_mask = padding_mask[:, None]
        hidden, state = self.read(token_ids[:, None], state, padding_mask)
        return self.project(hidden)[:, 0], state

    def generate(
        self, token_ids: Tensor, max_new_tokens: int = 64, sampler: str | Sampler = "greedy", **options: Any
    ) -> Generation:
        """Continues prompts with new tokens, in one compiled loop with a KV cache.

        The loop is compiled for a structure of sampler and options and for buckets of batch size, prompt length and new
        tokens; other numbers and other values of weights never retrace it. After a change of the model itself (an
        adapter, 8 bits, another part) the next call compiles anew. The logger "keras_tfm" tells of each at INFO.

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
            RuntimeError: on another backend than TensorFlow; `prefill` and `decode_step` run on all.

        Example:
            >>> model.generate([[5, 7], [3]], max_new_tokens=4, sampler="top_p", seed=1).num_tokens
            [4, 4]
        """
        steps = self.generate_steps(token_ids, max_new_tokens, sampler, tokens_per_piece=max_new_tokens, **options)
        *_, last = steps
        return last

    def generate_steps(
        self,
        token_ids: Tensor,
        max_new_tokens: int = 64,
        sampler: str | Sampler = "greedy",
        tokens_per_piece: int | None = 1,
        **options: Any,
    ) -> Iterator[Generation]:
        """`generate` as a stream: yields after the first token and every `tokens_per_piece` more.

        With None for `tokens_per_piece` it yields about every tenth of a second.

        Nothing is computed that is not asked for: closing the iterator ends the work. Each `Generation` holds all new
        tokens so far; the last equals what `generate` returns. Beam search knows its tokens only at the end.
        """
        checked = GenerationOptions(max_new_tokens=max_new_tokens, sampler=sampler, **options)
        return self.generation_runner.steps(token_ids, checked, tokens_per_piece)

    def quantize_for_generation(self) -> None:
        """Rounds the weights of all projections and the token table to 8 bits, in place: for inference only.

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
        """The cache of this model's compiled loops."""
        return GenerationRunner(self)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "token_embedding": serialize(self.token_embedding),
            "stack": serialize(self.stack),
            "head": serialize(self.head),
            "weight_dtype": self.weight_dtype,
        }
