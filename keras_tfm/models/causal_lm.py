"""The causal language model: token ids in, logits of the next token out."""

from typing import Any

import keras
from keras import ops

from keras_tfm.arguments import check_rank
from keras_tfm.layers.composite import as_layer, serialize
from keras_tfm.layers.embeddings import TokenEmbedding, TokenPositions
from keras_tfm.layers.transformer_stack import TransformerStack
from keras_tfm.models.inspection import padded
from keras_tfm.models.language_model import LanguageModel
from keras_tfm.models.token_model import as_embedding, check_blocks, token_inputs
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.tensors import size
from keras_tfm.types import Config, DTypeLike, LayerLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class CausalLM(LanguageModel):
    """Embeds tokens, runs a causal stack, projects to logits; trains with `fit` and generates text with `generate`.

    Args:
        token_embedding: `TokenEmbedding`.
        stack: `TransformerStack` with causal self-attention.
        head: a layer (B, T, D) -> (B, T, V). Default: the transposed token embedding (tied weights).
        weight_dtype: "int8", "w8a8", "int4" or "bfloat16", as `quantize_for_generation` makes weights. Default: as the
            parts say.
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

    what_must_fit = "A prompt and its new tokens must"

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
        super().__init__(token_inputs("padding_mask", "document_ids"), parts, dtype, weight_dtype, **kwargs)

    @property
    def writing_embedding(self) -> TokenEmbedding:
        """See `LanguageModel`."""
        return self.token_embedding

    @property
    def writing_stack(self) -> TransformerStack:
        """See `LanguageModel`."""
        return self.stack

    @property
    def prompt_vocabulary_size(self) -> int:
        """Number of tokens that prompts are made of: those that are written."""
        return self.vocabulary_size

    def most_new_tokens(self, num_prompt: int | Tensor, num_positions: int | Tensor) -> Any:
        """See `LanguageModel`: a prompt and its new tokens are one text."""
        return num_positions - num_prompt

    @property
    def num_virtual_tokens(self) -> int:
        """See `LanguageModel`."""
        return sum(virtual.num_tokens for virtual in self._virtual_tokens)

    @property
    def _virtual_tokens(self):
        """Those that count; the functional graph was made without any."""
        return [virtual for virtual in self.token_embedding.embedding.adapters if virtual.is_active]

    def call(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if self._stops_at_hidden or not self._virtual_tokens:
            return super().call(inputs, training=training, mask=mask)
        return self.project(self.hidden_states(inputs, training=bool(training)))

    def hidden_states(self, inputs: Tensor | dict[str, Tensor], training: bool = False) -> Tensor:
        """See `ChunkedLossModel`; those of virtual tokens are not among them."""
        if not self._virtual_tokens:
            return super().hidden_states(inputs, training=training)
        inputs = self._complete(inputs)
        token_ids = ops.convert_to_tensor(inputs["token_ids"], "int32")
        self._check_virtual_tokens_fit(token_ids, inputs["document_ids"])
        before, first_positions = self._first_inputs(token_ids, training)
        positions = self.token_positions(
            token_ids, padding_mask=inputs["padding_mask"], num_tokens=first_positions[:, -1] + 1
        )
        x = self.token_embedding(token_ids, positions=positions, training=training)
        hidden = self.stack(
            ops.concatenate([before, x], axis=1),
            positions=ops.concatenate([first_positions, positions], axis=1),
            training=training,
        )
        return hidden[:, self.num_virtual_tokens :]

    def _first_inputs(self, token_ids, training=False):
        """What virtual tokens give the stack, (B, P, D), and their positions, int32 (B, P): 0, 1, 2, ..."""
        vectors = ops.concatenate([virtual(token_ids) for virtual in self._virtual_tokens], axis=1)
        positions = ops.cumsum(ops.ones_like(vectors[..., 0], dtype="int32"), axis=1) - 1
        return self.token_embedding(vectors, positions=positions, training=training), positions

    def _check_virtual_tokens_fit(self, token_ids, document_ids):
        check_rank(token_ids, 2, "token_ids", "(B, T)")
        if document_ids is not None:
            raise ValueError(
                "`document_ids` must not be given to a model with virtual tokens, which stand before one text. "
                f"Received: documents side by side, {self.num_virtual_tokens} virtual tokens. Pad each instead."
            )
        length, longest = token_ids.shape[1], self.max_sequence_length
        if length is not None and longest is not None and length > longest:
            raise ValueError(
                f"The sequence must fit the learned positions beside {self.num_virtual_tokens} virtual tokens. "
                f"Received: {length} tokens for {longest} positions. Shorten it."
            )

    def _whole_texts(self, prompts, written):
        token_ids, mask = padded([prompt + ids for prompt, ids in zip(prompts, written, strict=True)])
        return {"token_ids": token_ids, "padding_mask": mask}

    def _forward(self, token_ids, padding_mask=None, document_ids=None):
        """Logits (B, T, V)."""
        return self.project(self._hidden(token_ids, padding_mask, document_ids))

    def _hidden(self, token_ids, padding_mask=None, document_ids=None):
        return self._read(token_ids, padding_mask, document_ids=document_ids)

    def _read(self, token_ids, padding_mask=None, state=None, document_ids=None):
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
        """The decoding state that has read no tokens but virtual ones, with slots for `max_sequence_length` tokens.

        Args:
            batch_size, max_sequence_length: int, or int32 () where traced. Prompt, padding and new tokens count.
            dtype: "int8" for a quarter of float32's memory and rounded keys and values. Default: the compute dtype.
        """
        num_slots = max_sequence_length + self.num_virtual_tokens
        state = DecodingState(ops.zeros((batch_size,), "int32"), self.stack.init_cache(batch_size, num_slots, dtype))
        if not self._virtual_tokens:
            return state
        x, positions = self._first_inputs(state.num_tokens[:, None])
        _, memories = self.stack(x, positions=positions, cache=state.memories)
        return state.after(positions, memories)

    def begin(
        self, token_ids: Tensor, padding_mask: Tensor, num_slots: int | Tensor, dtype: str | None = None
    ) -> tuple[Tensor, Tensor, DecodingState]:
        """See `LanguageModel`: the prompts are what the model reads, and goes on from."""
        state = self.init_state(size(token_ids, 0), size(token_ids, 1) + num_slots, dtype)
        return token_ids, padding_mask, state

    def read_logits(self, token_ids: Tensor) -> Tensor:
        """The logits (B, T, V) of a forward pass, computed by chunked prefill.

        With T unknown it is traced in a fraction of the time of `call`, and long rows are read in pieces.

        Args:
            token_ids: int32 (B, T).
        """
        batch, length = ops.shape(token_ids)
        return self.project(self.read(token_ids, self.init_state(batch, length))[0])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "token_embedding": serialize(self.token_embedding),
            "stack": serialize(self.stack),
            "head": serialize(self.head),
        }
