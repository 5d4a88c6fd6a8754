"""The causal language model: token ids in, logits of the next token out."""

from typing import Any

import keras
from keras import ops

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
        weight_dtype: "int8" or "int4" for weights as `quantize_for_generation` makes them. Default: as the parts say.
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
        """The empty decoding state, whose KV caches have slots for `max_sequence_length` tokens.

        Args:
            batch_size, max_sequence_length: int, or int32 () where traced. Prompt, padding and new tokens count.
            dtype: "int8" for a quarter of float32's memory and rounded keys and values. Default: the compute dtype.
        """
        return DecodingState(
            ops.zeros((batch_size,), "int32"), self.stack.init_cache(batch_size, max_sequence_length, dtype)
        )

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
