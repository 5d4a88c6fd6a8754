"""The encoder-decoder: one text in, another one out."""

from typing import Any

import keras
from keras import ops

from keras_tfm.arguments import as_integer, require
from keras_tfm.layers.composite import as_layer, serialize
from keras_tfm.layers.embeddings import TokenEmbedding, TokenPositions
from keras_tfm.layers.transformer_stack import TransformerStack
from keras_tfm.models.inspection import padded
from keras_tfm.models.language_model import LanguageModel, longest_of
from keras_tfm.models.token_model import as_embedding, check_blocks, token_inputs
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.tensors import size
from keras_tfm.types import Config, DTypeLike, LayerLike, Tensor

_ENCODERS = "encoder"  # in a config: the table of the other embedding


@keras.saving.register_keras_serializable(package="keras_tfm")
class Seq2SeqLM(LanguageModel):
    """Reads a source in both directions and writes a target that attends to it: T5, BART, Marian.

    Positions and masks follow from the token ids and the padding masks; nothing of them is the caller's work.

    Args:
        encoder_embedding: `TokenEmbedding` of the source.
        encoder: `TransformerStack` of blocks that see both directions.
        decoder: `TransformerStack` of causal blocks with `cross_attention`.
        decoder_embedding: `TokenEmbedding` of the target. Default: that of the source. One that shares its table only
            (BART, whose positions are apart) is `TokenEmbedding(..., table=encoder_embedding.embedding)`.
        head: a layer (B, T, D) -> (B, T, V). Default: the transposed table of the target (tied weights).
        start_token_id: int, what the decoder reads before the first token that it writes: the padding token of T5 and
            Marian, the end-of-text token of BART.
        weight_dtype: "int8", "w8a8", "int4" or "bfloat16", as `quantize_for_generation` makes weights. Default: as the
            parts say.
        dtype: the dtype policy that `compile` goes by (float16 losses are scaled); the parts have their own.

    Call arguments:
        inputs: dict of "encoder_token_ids", int32 (B, S), "decoder_token_ids", int32 (B, T), which begin with the start
            token, and perhaps "encoder_padding_mask", bool (B, S), and "decoder_padding_mask", bool (B, T), True = a
            real token.
        training: bool.

    Returns:
        Logits (B, T, V) in the compute dtype: of the token that follows each of the decoder's.

    Raises:
        ValueError: for ids outside the vocabularies (eagerly), other ranks, sequences longer than learned positions,
            blocks without cross-attention in the decoder or with it in the encoder, a start token outside the
            vocabulary, inputs of other names. TypeError: for a float padding mask, parts that are no layers.

    Masking:
        Padding may be on either side and is looked at by nobody. Without a mask every token is real.

    Example:
        >>> model = build_transformer("tiny", vocabulary_size=100)
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = model.fit({"encoder_token_ids": sources, "decoder_token_ids": shifted_targets}, targets)
        >>> model.generate([[5, 7, 1], [3, 1]], max_new_tokens=8, stop_token_ids=(1,)).token_ids

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762
    """

    required_inputs = ("encoder_token_ids", "decoder_token_ids")
    reads_sources = True
    what_must_fit = "A source must, and the start token and new tokens must,"

    def __init__(
        self,
        encoder_embedding: LayerLike,
        encoder: LayerLike,
        decoder: LayerLike,
        decoder_embedding: LayerLike | None = None,
        head: LayerLike | None = None,
        start_token_id: int = 0,
        weight_dtype: str | None = None,
        dtype: DTypeLike | None = None,
        **kwargs: Any,
    ):
        encoder_embedding = as_embedding(encoder_embedding, "encoder_embedding")
        decoder_embedding = _decoder_embedding(decoder_embedding, encoder_embedding)
        encoder = as_layer(encoder, "encoder", "TransformerStack([TransformerBlock(...), ...])")
        check_blocks(encoder, "encoder")
        decoder = as_layer(decoder, "decoder", "TransformerStack([TransformerBlock(..., cross_attention=...), ...])")
        _check_decoder(decoder)
        start_token_id = as_integer("start_token_id", start_token_id, 0)
        require(
            start_token_id < decoder_embedding.vocabulary_size,
            f"`start_token_id` must be one of the {decoder_embedding.vocabulary_size} tokens that are written",
            start_token_id=start_token_id,
        )
        parts = {
            "token_positions": TokenPositions(name="token_positions"),
            "encoder_embedding": encoder_embedding,
            "encoder": encoder,
            "decoder_embedding": decoder_embedding,
            "decoder": decoder,
            "head": as_layer(head, "head", "keras.layers.Dense(vocabulary_size)", optional=True),
        }
        masks = ("encoder_padding_mask", "decoder_padding_mask")
        super().__init__(token_inputs(*masks, required=self.required_inputs), parts, dtype, weight_dtype, **kwargs)
        self.start_token_id = start_token_id

    @property
    def writing_embedding(self) -> TokenEmbedding:
        """See `LanguageModel`."""
        return self.decoder_embedding

    @property
    def writing_stack(self) -> TransformerStack:
        """See `LanguageModel`."""
        return self.decoder

    @property
    def prompt_vocabulary_size(self) -> int:
        """Number of tokens that sources are made of."""
        return self.encoder_embedding.vocabulary_size

    @property
    def max_sequence_length(self) -> int | None:
        """The longest source, and the longest target, that learned positions allow; None if nothing limits them."""
        limits = [longest_of(embedding) for embedding in (self.encoder_embedding, self.decoder_embedding)]
        return min((limit for limit in limits if limit is not None), default=None)

    def most_new_tokens(self, num_prompt: int | Tensor, num_positions: int | Tensor) -> Any:
        """See `LanguageModel`: a source has positions of its own; the target's first is the start token's."""
        return ops.where(num_prompt <= num_positions, num_positions - 1, -1)

    def _whole_texts(self, prompts, written):
        sources, source_mask = padded(prompts)
        targets, target_mask = padded([[self.start_token_id, *ids] for ids in written])
        return {
            "encoder_token_ids": sources,
            "encoder_padding_mask": source_mask,
            "decoder_token_ids": targets,
            "decoder_padding_mask": target_mask,
        }

    def _forward(self, encoder_token_ids, decoder_token_ids, encoder_padding_mask=None, decoder_padding_mask=None):
        """Logits (B, T, V)."""
        return self.project(
            self._hidden(encoder_token_ids, decoder_token_ids, encoder_padding_mask, decoder_padding_mask)
        )

    def _hidden(self, encoder_token_ids, decoder_token_ids, encoder_padding_mask=None, decoder_padding_mask=None):
        context, context_mask = self.encode(encoder_token_ids, encoder_padding_mask)
        positions = self.token_positions(decoder_token_ids, padding_mask=decoder_padding_mask)
        x = self.decoder_embedding(decoder_token_ids, positions=positions)
        return self.decoder(x, positions=positions, context=context, context_mask=context_mask)

    def encode(self, token_ids: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder attends to.

        Args:
            token_ids: int32 (B, S), of sources.
            padding_mask: bool (B, S), True = a real token. Default: all are.

        Returns:
            The pair (float (B, S, D), bool (B, S), True = a real token).
        """
        positions = self.token_positions(token_ids, padding_mask=padding_mask)
        x = self.encoder_embedding(token_ids, positions=positions)
        return self.encoder(x, positions=positions), ops.greater_equal(positions, 0)

    def init_state(
        self,
        batch_size: int | Tensor,
        max_sequence_length: int | Tensor,
        dtype: str | None = None,
        encoder_token_ids: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
    ) -> DecodingState:
        """What the model remembers before it writes: its sources, as keys and values of each block; room for targets.

        Args:
            batch_size: int, or int32 () where traced: rows that are written, a multiple of the P sources. Those of a
                source are side by side and share it.
            max_sequence_length: int, or int32 (): the start token and new tokens of a row.
            dtype: "int8" for a quarter of float32's memory and rounded keys and values. Default: the compute dtype.
            encoder_token_ids: int32 (P, S). Without them nothing can be read with the state.
            encoder_padding_mask: bool (P, S), True = a real token. Default: all are.
        """
        context = {}
        if encoder_token_ids is not None:
            context = dict(
                zip(("context", "context_mask"), self.encode(encoder_token_ids, encoder_padding_mask), strict=True)
            )
        memories = self.decoder.init_cache(batch_size, max_sequence_length, dtype, **context)
        return DecodingState(ops.zeros((batch_size,), "int32"), memories)

    def begin(
        self, token_ids: Tensor, padding_mask: Tensor, num_slots: int | Tensor, dtype: str | None = None
    ) -> tuple[Tensor, Tensor, DecodingState]:
        """See `LanguageModel`: reads the sources, and gives the start tokens to read next."""
        num_rows = size(token_ids, 0)
        state = self.init_state(num_rows, num_slots + 1, dtype, token_ids, padding_mask)
        start = ops.full((num_rows, 1), self.start_token_id, dtype="int32")
        return start, ops.ones((num_rows, 1), "bool"), state

    def read_logits(self, encoder_token_ids: Tensor, decoder_token_ids: Tensor) -> Tensor:
        """The logits (B, T, V) of a forward pass, by way of a cache; see `CausalLM.read_logits`.

        Args:
            encoder_token_ids: int32 (B, S). decoder_token_ids: int32 (B, T).
        """
        batch, length = ops.shape(decoder_token_ids)
        state = self.init_state(batch, length, encoder_token_ids=encoder_token_ids)
        return self.project(self.read(decoder_token_ids, state)[0])

    def _read(self, token_ids, padding_mask, state: DecodingState):
        positions = self.token_positions(token_ids, padding_mask=padding_mask, num_tokens=state.num_tokens)
        x = self.decoder_embedding(token_ids, positions=positions)
        hidden, memories = self.decoder(x, positions=positions, cache=state.memories)
        return hidden, state.after(positions, memories)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "encoder_embedding": serialize(self.encoder_embedding),
            "encoder": serialize(self.encoder),
            "decoder": serialize(self.decoder),
            "decoder_embedding": self._decoder_embedding_config(),
            "head": serialize(self.head),
            "start_token_id": self.start_token_id,
        }

    def _decoder_embedding_config(self):
        if self.decoder_embedding is self.encoder_embedding:
            return None
        config: Any = serialize(self.decoder_embedding)
        if self.decoder_embedding.embedding is self.encoder_embedding.embedding:
            config["config"]["table"] = _ENCODERS
        return config


def _decoder_embedding(part, encoder_embedding) -> TokenEmbedding:
    """The embedding of the target, with the table of the source's where its config says so."""
    if part is None:
        return encoder_embedding
    if isinstance(part, dict) and part["config"].get("table") == _ENCODERS:
        part = {**part, "config": {**part["config"], "table": encoder_embedding.embedding}}
    return as_embedding(part, "decoder_embedding")


def _check_decoder(decoder) -> None:
    for i, block in enumerate(getattr(decoder, "blocks", ())):
        if getattr(block, "cross_attention", None) is None:
            raise ValueError(
                "The blocks of `decoder` must have a `cross_attention`, by which they read the source. "
                f"Received: none in block {i}. Pass `cross_attention=MultiHeadCrossAttention(...)` to the block."
            )
