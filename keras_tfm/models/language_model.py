"""What models that write share: reading in pieces, generating, a loss over chunks, weights in fewer bits."""

import functools
import statistics
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_tfm import compat
from keras_tfm.arguments import check_rank
from keras_tfm.generation.options import MOST_NEW_TOKENS, Generation, GenerationOptions
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.layers.cache import LONGEST_APPEND
from keras_tfm.layers.composite import forget_compiled
from keras_tfm.layers.embeddings import PositionEmbedding
from keras_tfm.layers.weights import Projection, RoundedWeight, projections_within
from keras_tfm.losses.chunked_cross_entropy import HeadWeights
from keras_tfm.models import inference
from keras_tfm.models.chunked_loss_model import ChunkedLossModel
from keras_tfm.models.inspection import Inspection
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.positions import last_real
from keras_tfm.ops.tensors import is_compiled_by_xla, slice_update
from keras_tfm.samplers import Sampler
from keras_tfm.types import Config, DTypeLike, Tensor

_WEIGHT_DTYPES = ("int8", "w8a8", "int4", "bfloat16")


class LanguageModel(ChunkedLossModel):
    """Base class of models that write token by token: `CausalLM` and `Seq2SeqLM`.

    A subclass says which of its parts write (`writing_embedding`, `writing_stack`, `head`), how it reads tokens with
    what it remembers (`_read`), and what it makes of a prompt (`prompt_vocabulary_size`, `most_new_tokens`, `begin`).

    Args:
        inputs, parts, dtype, **kwargs: as in `TokenModel`.
        weight_dtype: "int8", "w8a8", "int4" or "bfloat16", as `quantize_for_generation` makes weights. Default: as the
            parts say.
    """

    untraced_attributes = (*ChunkedLossModel.untraced_attributes, "generation_runner")
    reads_sources = False  # whether prompts are sources, which a target is written of, and never empty
    what_must_fit: str  # the beginning of a sentence: "... fit the model's 512 positions"

    def __init__(
        self,
        inputs: dict,
        parts: dict,
        dtype: DTypeLike | None = None,
        weight_dtype: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(inputs, parts, dtype, **kwargs)
        self.weight_dtype: str | None = None
        if weight_dtype is not None:
            if weight_dtype not in _WEIGHT_DTYPES:
                raise ValueError(f"`weight_dtype` must be None or of {_WEIGHT_DTYPES}. Received: {weight_dtype!r}.")
            self.quantize_for_generation(weight_dtype)

    @property
    def writing_embedding(self) -> Any:
        """The `TokenEmbedding` of the tokens that are written."""
        raise NotImplementedError(f"{type(self).__name__} must define `writing_embedding`.")

    @property
    def writing_stack(self) -> Any:
        """The `TransformerStack` that reads the tokens that are written."""
        raise NotImplementedError(f"{type(self).__name__} must define `writing_stack`.")

    def _hidden(self, *args: Any, **inputs: Any) -> Tensor:
        """Hidden states (B, T, D) of the model's inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define `_hidden`.")

    def _read(self, token_ids, padding_mask, state: DecodingState):
        """The pair (hidden states (B, T, D), new state)."""
        raise NotImplementedError(f"{type(self).__name__} must define `_read`.")

    @property
    def prompt_vocabulary_size(self) -> int:
        """Number of tokens that prompts are made of."""
        raise NotImplementedError(f"{type(self).__name__} must define `prompt_vocabulary_size`.")

    def _whole_texts(self, prompts: list, written: list) -> dict:
        """The model's inputs for rows of prompts and of what was written of them, lists of token ids."""
        raise NotImplementedError(f"{type(self).__name__} must define `_whole_texts`.")

    def most_new_tokens(self, num_prompt: int | Tensor, num_positions: int | Tensor) -> int | Tensor:
        """How many new tokens so many positions hold beside a prompt of so many tokens; negative if not even that fits.

        All are int, or int32 () where traced.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `most_new_tokens`.")

    def begin(
        self, token_ids: Tensor, padding_mask: Tensor, num_slots: int | Tensor, dtype: str | None = None
    ) -> tuple[Tensor, Tensor, DecodingState]:
        """What writing begins with.

        Args:
            token_ids: int32 (B, P), the prompts. padding_mask: bool (B, P), True = a real token.
            num_slots: int, or int32 () where traced, room for what comes after.
            dtype: of the cache; "int8", or None for the compute dtype.

        Returns:
            (token_ids int32 (B, T) that the model reads next, their padding mask, `DecodingState`).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `begin`.")

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V that can be written."""
        return self.writing_embedding.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """Width D of the residual stream."""
        return self.writing_embedding.hidden_dim

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that learned positions allow; None if nothing limits it."""
        longest = longest_of(self.writing_embedding)
        return None if longest is None else longest - self.num_virtual_tokens

    @property
    def noted_sequence_length(self) -> int | None:
        """`max_sequence_length`, else `max_position_embeddings` of the checkpoint that it was loaded from, or None."""
        if self.max_sequence_length is not None:
            return self.max_sequence_length
        noted = self.checkpoint.get("notes", {}).get("max_position_embeddings")
        is_length = isinstance(noted, int) and not isinstance(noted, bool) and 1 <= noted <= MOST_NEW_TOKENS
        return noted if is_length else None

    @property
    def num_virtual_tokens(self) -> int:
        """How many learned vectors are read before each prompt; see `keras_tfm.adapters.add_virtual_tokens`."""
        return 0

    def head_weights(self, trained: bool = False) -> HeadWeights:
        """The weights that project hidden states, adapters beside the head in them; floats where they are in 8 bits.

        Args:
            trained: bool, whether a loss of them is to train adapters.

        Raises:
            ValueError: if the head is another layer than a dense one, quantized by Keras, or has an adapter beside it
                that is not linear or, where they are trained, has dropout.
        """
        layer = self.writing_embedding.embedding if self.head is None else self.head
        is_table = self.head is None or type(layer) is keras.layers.Dense or isinstance(layer, Projection)
        if not is_table or layer.quantization_mode is not None:
            raise ValueError(
                "The head of a model with a chunked loss must be its token embedding, or a dense layer, which Keras "
                f"has not quantized. Received: {layer!r:.80}. Use "
                "`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
            )
        if self.head is None:
            embedding = self.writing_embedding
            table = layer.rounded.floats(layer.output_dim) if layer.rounded else ops.convert_to_tensor(layer.embeddings)
            table = table if embedding.logit_scale == 1.0 else table * embedding.logit_scale
            return HeadWeights(table, embedding.bias, embedding.logit_cap, layer.compute_dtype)
        if not isinstance(layer, Projection):
            return HeadWeights(ops.transpose(layer.kernel), layer.bias, None, layer.compute_dtype)
        kernel, bias = layer.kernel_values(), layer.bias
        for adapter in (one for one in layer.adapters if one.is_active):
            if not adapter.is_linear or (trained and adapter.dropout):
                raise ValueError(
                    "Adapters beside a head with a chunked loss must be linear and without dropout, since its weights "
                    f'must tell of them. Received: {adapter.name!r}, a {type(adapter).__name__}. Leave "head" out of '
                    "`targets`, or use `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
                )
            kernel, bias = adapter.merged_with(kernel, bias)
        return HeadWeights(ops.transpose(kernel), bias, None, layer.compute_dtype)

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

        hidden = ops.zeros((batch, length, self.hidden_dim), self.writing_stack.compute_dtype)
        _, hidden, state = ops.while_loop(
            lambda start, hidden, state: start < length, read_piece, (ops.zeros((), "int32"), hidden, state)
        )
        return hidden, state

    def project(self, hidden: Tensor) -> Tensor:
        """Logits (B, T, V) of hidden states (B, T, D)."""
        return self.writing_embedding(hidden, reverse=True) if self.head is None else self.head(hidden)

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
            **options: seed, stops, several texts for a prompt, guidance, log-probabilities, `attention=True` for the
                attention weights of prompts and new tokens (by one more pass, `inspection`), ...: see
                `keras_tfm.generation.GenerationOptions`.

        Returns:
            `Generation`: `token_ids`, int32 (R, max_new_tokens), -1 after a row's end, `num_tokens`, int32 (R,),
            `finish_reasons` and more; R = B x `num_return_sequences`.

        Raises:
            ValueError: for ids outside the vocabulary, or a prompt that with its new tokens exceeds the learned
                positions; before any work. Also for NaN logits.
            RuntimeError: on torch; `prefill` and `decode_step` run on all backends.

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

    def inspect_written(self, prompts: list[list[int]], generation: Generation) -> Inspection:
        """What the model computes of prompts and what it has written of them; see `generate(..., attention=True)`.

        Args:
            prompts: token ids of each of B prompts, none of them empty.
            generation: R rows, R / B for each prompt.
        """
        rows_per_prompt = len(generation.token_ids) // len(prompts)
        prompts = [prompt for prompt in prompts for _ in range(rows_per_prompt)]
        written = [
            ids[:number].tolist() for ids, number in zip(generation.token_ids, generation.num_tokens, strict=True)
        ]
        return self.inspect(self._whole_texts(prompts, written))

    def quantize_for_generation(self, dtype: str = "int8", calibration: Any = None) -> None:
        """Rounds the weights of all projections and the token table, in place; they do not train any more.

        In 8 bits they take a quarter of float32's memory, and a step at batch 1, which reads them all, a fraction of
        the time; sums stay in the compute dtype. Beyond 8 rows it is no faster. In 4 bits, groups of 32 weights with a
        scale of their own, they take a seventh; what meets the vocabulary, the token table and the head, is kept in 8
        bits there. The model saves, reloads and exports as it is, and adapters may be trained beside it (QLoRA).

        With "w8a8" (weights and activations in 8 bits), what is multiplied with the weights is rounded as well, each
        token's by its own scale. Where the processor has VNNI or AMX and there are so many rows that it pays, two of
        GPT-2's shape, eight of a model half as wide, TensorFlow with oneDNN writes instead of XLA. Which of the two
        writes changes no more than the order of sums does. Rounding activations costs quality, little of it with a
        `calibration`: half of what makes channels large then moves into the weights.

        With "bfloat16" weights take half the memory. Where the processor multiplies it (AVX-512 bfloat16 or AMX, on
        Linux), oneDNN writes from eight rows of GPT-2's shape on, more of a smaller one, and rounds inputs and results
        of products as well; XLA does not.

        Args:
            dtype: "int8", "w8a8", "int4" or "bfloat16".
            calibration: for "w8a8", some texts of the kind that it is to write, 32 of 128 tokens do: token ids, a list
                of lists of any lengths, or inputs as the model is called with. Default: channels stay as they are.

        Raises:
            ValueError: for another dtype, a model that is rounded already, or a calibration for weights alone.

        Example:
            >>> model.quantize_for_generation("w8a8", calibration=[[5, 7, 3], [2, 4]])

        Reference: Dettmers et al. 2022, "LLM.int8()", section 2.1 (vector-wise absmax), https://arxiv.org/abs/2208.07339;
            Xiao et al. 2022, "SmoothQuant", https://arxiv.org/abs/2211.10438; Dettmers et al. 2023, "QLoRA",
            https://arxiv.org/abs/2305.14314
        """
        if dtype not in _WEIGHT_DTYPES:
            raise ValueError(f"`dtype` must be of {_WEIGHT_DTYPES}. Received: dtype={dtype!r}.")
        if self.weight_dtype not in (None, dtype):
            raise ValueError(
                f"A model must be rounded once only. Received: dtype={dtype!r}, and weights in {self.weight_dtype}. "
                "Begin with the model that is not."
            )
        spreads = self._spreads(dtype, calibration)
        for layer in compat.all_layers(self):
            if not isinstance(layer, RoundedWeight):
                continue
            if dtype == "int4" and isinstance(layer, Projection) and layer is not self.head:
                layer.to_int4()
            elif dtype == "w8a8":
                layer.to_w8a8(spreads.get(layer))
            elif dtype == "bfloat16":
                layer.to_bfloat16()
            else:
                layer.to_int8()
        self.weight_dtype = dtype
        forget_compiled(self)

    def _spreads(self, dtype, calibration) -> dict:
        """What to multiply the inputs of projections with before they are rounded, where a calibration says so."""
        if calibration is None:
            return {}
        if dtype != "w8a8" or self.weight_dtype is not None:
            raise ValueError(
                '`calibration` must be given with "w8a8", which alone rounds activations, while weights are floats. '
                f"Received: dtype={dtype!r}, and weights in {self.weight_dtype or 'floats'}."
            )
        observed = inference.observed_kernels(self, projections_within(self), inference.rows_of(calibration))
        return {projection: kernel.spread() for projection, kernel in observed.items()}

    def quantize_for_inference(self, *args: Any, **options: Any) -> None:
        """For models that read only; here it raises, since XLA, which writes, has no such products."""
        raise NotImplementedError(
            "`quantize_for_inference` is for encoders, such as `Bert` and the models on top of it. "
            f"Received: {self.name!r}, a {type(self).__name__}. Use `quantize_for_generation()`."
        )

    @functools.cached_property
    def generation_runner(self) -> GenerationRunner:
        """The cache of this model's compiled loops."""
        return GenerationRunner(self)

    def mean_matrix_size(self) -> float:
        """How many numbers a matrix of the blocks that write has, in the mean; 0 if blocks have no `Projection`."""
        projections = projections_within(self.writing_stack)
        sizes = [projection.input_spec.axes[-1] * projection.units for projection in projections]
        return statistics.fmean(sizes or [0.0])

    def get_config(self) -> Config:
        return {**super().get_config(), "weight_dtype": self.weight_dtype}


def longest_of(embedding: Any) -> int | None:
    """How many positions an embedding has learned; None if nothing limits them."""
    position = embedding.position
    return position.max_sequence_length if isinstance(position, PositionEmbedding) else None
